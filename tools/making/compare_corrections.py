"""Which correction when: NeRP's rules beside their peers, where the assumptions hold and where not.

    python tools/making/choose_shift.py collect --world 311 --backbone tiny   # once for each
    python tools/making/compare_corrections.py output/choice docs

Of every model that `collect` kept it tries each correction on all novel test images, on test sets
whose classes follow Zipf's law, on few images, and in streams. Writes study/corrections.md and
corrections.png and .svg into the folder that is named.
"""

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command `nerp` does

import matplotlib
import numpy as np
import torch
from choose_shift import Model
from matplotlib.figure import Figure
from tabulate import tabulate
from torch import Tensor

from nerp.base.paths import write_text
from nerp.correction import (
    Running,
    anchored_bias,
    batch_bias,
    contextual_bias,
    normalise_distribution,
    sinkhorn,
    stationary_bias,
    transport,
    uniform_bias,
)
from nerp.correction.matched import LIMIT_OF_SPREAD, WIDTH_OF_SPREAD
from nerp.correction.matching import guard
from nerp.correction.references import GAP_STRENGTH
from nerp.correction.running import in_order, ordered
from nerp.results.plots import SETTINGS, STYLES, save_figure

EXPONENTS = (0.0, 0.5, 1.0, 2.0)
SIZES = (20, 50, 200)
FIRST = 50
ALL = -1

# By an exponent or a number of images, of each model the gain of each correction.
Gains = dict[float, list[dict[str, float]]]
Predict = Callable[[Model, Tensor, Tensor], Tensor]  # a model, rows, its logits of them -> classes


def less(bias: Callable[[Model, Tensor], Tensor]) -> Predict:
    """A correction that takes a bias off."""
    return lambda model, rows, z: (z - bias(model, z)).argmax(1)


def running(kind: str) -> Predict:
    def predict(model: Model, rows: Tensor, z: Tensor) -> Tensor:
        width, limit = WIDTH_OF_SPREAD * model.spread, LIMIT_OF_SPREAD * model.spread
        stream = Running(kind, z.shape[1], model.automatic(), width, limit)
        return in_order(stream, z, 1).predictions

    return predict


def guarded(model: Model, z: Tensor) -> Tensor:
    width, limit = WIDTH_OF_SPREAD * model.spread, LIMIT_OF_SPREAD * model.spread
    return guard(z, model.automatic(), width, limit).bias


def dn(model: Model, rows: Tensor, z: Tensor) -> Tensor:
    return normalise_distribution(
        model.features[rows], model.text, model.image_mean, model.text.mean(0)
    ).argmax(1)


# A name, what it has looked at, and what it does.
CORRECTIONS: dict[str, tuple[str, Predict]] = {
    "match": ("†", less(lambda m, z: uniform_bias(z))),
    "anchored match": ("†", less(lambda m, z: anchored_bias(
        z, m.automatic(), WIDTH_OF_SPREAD * m.spread))),
    "guarded anchored match": ("†", less(guarded)),
    "Sinkhorn, uniform": ("†", lambda m, rows, z: sinkhorn(z).argmax(1)),
    "transport (OTTER), uniform": ("†", lambda m, rows, z: transport(z)),
    "batch calibration": ("†", less(lambda m, z: batch_bias(z))),
    "stationary bias (Frolic)": ("†", less(lambda m, z: stationary_bias(z))),
    "guarded anchored match, stream": ("s", running("guarded")),
    "shift, automatic": ("", less(lambda m, z: m.automatic())),
    "DN 0.25": ("", dn),
    "contextual, neutral prompt": ("", less(lambda m, z: contextual_bias(m.priors["text"][None]))),
    "contextual, mean image": ("", less(lambda m, z: contextual_bias(m.priors["image"][None]))),
}
STRENGTHS_TRIED: dict[str, Callable[[Model], Tensor]] = {
    "before: (⅓ + slope) / 2 gap + 0.05 image": Model.earlier,
    "1.25 times that, + 0.1 match on other classes":
        lambda m: 1.25 * m.earlier() + 0.1 * m.others,
    "(0.7 · ⅔ + 0.3 slope) gap + 0.075 image":
        lambda m: m.gap(2 / 3, 0.3) + 0.075 * m.priors["image"],
    "the frozen model's slope averaged in":
        lambda m: m.gap(GAP_STRENGTH, 0.5, frozen=True) + 0.05 * m.priors["image"],
    "the second and the fourth together (automatic)": Model.automatic,
}
FIGURED = ("shift, automatic", "guarded anchored match", "match", "transport (OTTER), uniform",
           "batch calibration", "guarded anchored match, stream")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what choose_shift.py collect kept")
    parser.add_argument("output", type=Path, help="the folder docs")
    args = parser.parse_args()
    models = [Model(file) for file in sorted(args.folder.glob("world*/*/demo_*/*.npz"))]
    if not models:
        raise SystemExit(f"nothing has been collected below {args.folder}")
    by_exponent: Gains = {e: [gains(m, unequal(m, e)) for m in models] for e in EXPONENTS}
    by_size: Gains = {n: [gains(m, few(m, n)) for m in models] for n in SIZES}
    alarms = {e: [guard_of(m, unequal(m, e)) for m in models] for e in EXPONENTS}
    save_figure(figure(by_exponent, by_size), args.output, "corrections")
    page = args.output / "study" / "corrections.md"
    worlds = sorted({(m.backbone, m.world.removeprefix("world")) for m in models})
    write_text(page, PAGE.format(
        count=len(models),
        worlds=", ".join(f"`{name}` on the world of seed {world}" for name, world in worlds),
        accuracy=f"{np.mean([m.plain for m in models]):.1f}",
        ceiling=f"{np.mean([m.ceiling() for m in models]):+.2f}",
        balanced=balanced(by_exponent[0.0]),
        exponents=table(by_exponent, "Zipf exponent"),
        sizes=table({**by_size, ALL: by_exponent[0.0]}, "images"),
        strengths=strength_table(models), limits=limit_table(models),
        alarm=alarm_table(alarms), start=f"{first(by_size):+.2f}",
    ))
    print(page)


def unequal(model: Model, exponent: float) -> Tensor:
    """The rows of a test set whose classes, in a drawn order, follow Zipf's law."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.from_numpy(model.labels)
    kept = []
    for rank, c in enumerate(torch.randperm(model.logits.shape[1], generator=generator).tolist()):
        (mine,) = (labels == c).nonzero(as_tuple=True)
        mine = mine[torch.randperm(len(mine), generator=generator)]
        kept.append(mine[: max(1, round(len(mine) / (rank + 1) ** exponent))])
    return torch.cat(kept)


def few(model: Model, count: int) -> Tensor:
    """The rows of so many test images."""
    return ordered(len(model.labels), count)[:count]


def gains(model: Model, rows: Tensor) -> dict[str, float]:
    """What each correction changes of the accuracy on these test images, in points; of a stream
    only where the images are few, NaN else."""
    z, labels = model.logits[rows], torch.from_numpy(model.labels)[rows]
    plain = (z.argmax(1) == labels).double().mean()

    def gain(mark: str, predict: Predict) -> float:
        if mark == "s" and len(rows) > SIZES[-1]:
            return math.nan
        return 100 * float((predict(model, rows, z) == labels).double().mean() - plain)

    return {name: gain(*correction) for name, correction in CORRECTIONS.items()}


def first(by_size: dict[float, list[dict[str, float]]]) -> float:
    """What a guarded stream changes of its first images, in points."""
    return float(np.mean([g["guarded anchored match, stream"] for g in by_size[FIRST]]))


def guard_of(model: Model, rows: Tensor) -> tuple[float, bool]:
    """The distance from the shift, and whether it was followed."""
    found = guard(model.logits[rows], model.automatic(), WIDTH_OF_SPREAD * model.spread,
                  LIMIT_OF_SPREAD * model.spread)
    return found.distance, found.followed


def marked(name: str) -> str:
    return name + CORRECTIONS[name][0]


def balanced(found: list[dict[str, float]]) -> str:
    rows = []
    for name in (name for name, (mark, _) in CORRECTIONS.items() if mark != "s"):
        values = np.array([gain[name] for gain in found])
        rows.append([marked(name), f"{values.mean():+.2f}",
                     f"{(values > 0.5).sum()} / {(values < -0.5).sum()}", f"{values.min():+.1f}"])
    rows.sort(key=lambda row: -float(row[1]))
    return github(rows, ["correction", "mean", "better / worse by > 0.5", "worst"])


def table(found: Gains, what: str) -> str:
    heads = [what, *("all" if value == ALL else f"{value:g}" for value in found)]
    rows = [[marked(name), *(number(float(np.mean([gain[name] for gain in gains])))
                             for gains in found.values())] for name in CORRECTIONS]
    return github(rows, heads)


def github(rows: list[list[str]], heads: list[str]) -> str:
    return str(tabulate(rows, heads, tablefmt="github", disable_numparse=True))


def number(mean: float) -> str:
    return "" if math.isnan(mean) else f"{mean:+.2f}"


def strength_table(models: list[Model]) -> str:
    """Automatic strengths that were tried: each one's gain, and its difference from the first."""
    rows, first = [], np.zeros(0)
    for name, bias in STRENGTHS_TRIED.items():
        found = np.array([model.gain(bias(model)) for model in models])
        first = found if not len(first) else first
        more = found - first
        error = more.std(ddof=1) / len(more) ** 0.5
        places = [(m.world.removeprefix("world"), m.dataset.removeprefix("demo_")) for m in models]
        apart = [f"{found[[p == place for p in places]].mean():+.2f}"
                 for place in sorted(set(places))]
        rows.append([name, f"{found.mean():+.2f}", f"{more.mean():+.2f} ± {2 * error:.2f}",
                     str((found < -0.5).sum()), *apart])
    heads = ["strengths", "mean", "more than before ± 2 s.e.", "worse by > 0.5",
             *(" ".join(place) for place in sorted(set(places)))]
    return github(rows, heads)


def limit_table(models: list[Model]) -> str:
    """The guarded anchored match by its width and limit, in multiples of the logits' spread."""
    rows = []
    for width in (WIDTH_OF_SPREAD / 2, WIDTH_OF_SPREAD, 2 * WIDTH_OF_SPREAD):
        for limit in (0.12, LIMIT_OF_SPREAD, 0.2):
            means = []
            for exponent in EXPONENTS:
                found = []
                for model in models:
                    kept = unequal(model, exponent)
                    z, labels = model.logits[kept], torch.from_numpy(model.labels)[kept]
                    bias = guard(z, model.automatic(), width * model.spread,
                                 limit * model.spread).bias
                    right = [(each.argmax(1) == labels).double().mean() for each in (z, z - bias)]
                    found.append(100 * float(right[1] - right[0]))
                means.append(f"{np.mean(found):+.2f}")
            rows.append([f"{width:.3g}", f"{limit:.3g}", *means])
    heads = ["width", "limit", *(f"exponent {e:g}" for e in EXPONENTS)]
    return github(rows, heads)


def alarm_table(found: dict[float, list[tuple[float, bool]]]) -> str:
    rows = [[f"{exponent:g}", f"{np.median([d for d, _ in guards]):.2f}",
             f"{100 * np.mean([followed for _, followed in guards]):.0f} %"]
            for exponent, guards in found.items()]
    return github(rows, ["Zipf exponent", "distance, median", "followed"])


def figure(by_exponent: Gains, by_size: Gains) -> Figure:
    """Gain against Zipf's exponent, and against the number of images."""
    with matplotlib.rc_context(SETTINGS):
        drawn = Figure(figsize=(7.2, 3.2), layout="constrained")
        left, right = drawn.subplots(1, 2, sharey=True)
        sizes = {**by_size, ALL: by_exponent[0.0]}
        for name, (colour, marker) in zip(FIGURED, STYLES, strict=False):
            for axes, found in ((left, by_exponent), (right, sizes)):
                axes.plot(range(len(found)), [np.mean([g[name] for g in gains])
                                              for gains in found.values()],
                          color=colour, marker=marker, label=marked(name))
        for axes, found, label in ((left, by_exponent, "Zipf exponent of the test labels"),
                                   (right, sizes, "test images, classes equally frequent")):
            axes.set_xticks(range(len(found)),
                            ["all" if v == ALL else f"{v:g}" for v in found])
            axes.set_xlabel(label)
            axes.axhline(0, color="black", linewidth=0.8)
        left.set_ylabel("points gained")
        left.set_ylim(-12, 7)
        drawn.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return drawn


PAGE = """\
# NeRP's rules beside their peers

Made by `python tools/making/compare_corrections.py`, from what `choose_shift.py collect` keeps: \
{count} models ({worlds}), seed 1, 16 shots, novel classes; accuracy {accuracy}, the most that any \
class bias gains {ceiling}‡. The shift's strengths and the anchored match's width and limit were \
chosen with models of these worlds ([choice.md](choice.md)); the figures of the study are of others.

Mean change of accuracy in points. † looked at the test images, s at those already seen, ‡ at the \
test labels; the rest at training data alone.

## All test images, classes equally frequent

{balanced}

## Classes by Zipf's law

{exponents}

## Few test images

{sizes}

In the first 50 images of a stream the guarded anchored match gains {start} points in the mean.

## The alarm

How far the bias that the test images ask for lies from the shift's, in logits, and how often the \
guarded anchored match followed them:

{alarm}

## How the constants were chosen

The automatic strengths of the shift, with the mean by benchmark:

{strengths}

The guarded anchored match; width and limit are multiples of how far an image's logits lie apart:

{limits}

The spread of the labelled bias between halves of the trained classes was to be their unit. It \
does not say how far a model's own bias lies from the shift's: over these models the two do not \
rise together, and of few classes it is mostly noise. An image's logits scale as biases do, and \
their spread is nearly the same for all methods of a backbone.

## Also tried

On 45 drawn models TDA, BCA, DOTA, OnZeta, TransCLIP, StatA and InMaP lay between −11 and +0.7 \
points or answer another question than class preference, so none is a rule here.
"""


if __name__ == "__main__":
    main()
