"""Which correction when: NeRP's rules beside their peers, where the assumptions hold and where not.

    python tools/making/choose_shift.py collect --world 311 --backbone tiny   # once for each
    python tools/making/compare_corrections.py output/choice docs

Of every model that `collect` kept it tries each correction on all novel test images, on test sets
whose classes follow Zipf's law, on few images, and in streams. Writes study/corrections.md and
corrections.png and .svg into the folder that is named.
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command `nerp` does

import matplotlib
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
DRAWS = 4
LIMITS = (0.12, 0.16, 0.2, 0.24)
STREAM = "guarded anchored match, stream"

Results = list[dict[str, Any]]
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
    STREAM: ("s", running("guarded")),
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
           "batch calibration", STREAM)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what choose_shift.py collect kept")
    parser.add_argument("output", type=Path, help="the folder docs")
    args = parser.parse_args()
    files = sorted(args.folder.glob("world*/*/demo_*/*.npz"))
    if not files:
        raise SystemExit(f"nothing has been collected below {args.folder}")
    found = [kept(file) for file in files]
    save_figure(figure(found), args.output, "corrections")
    page = args.output / "study" / "corrections.md"
    worlds = sorted({(each["backbone"], each["world"]) for each in found})
    write_text(page, PAGE.format(
        count=len(found),
        worlds=", ".join(f"`{name}` on the world of seed {world}" for name, world in worlds),
        accuracy=f"{fmean(each['accuracy'] for each in found):.1f}",
        ceiling=f"{fmean(each['ceiling'] for each in found):+.2f}",
        balanced=balanced(found),
        exponents=table(found, "exponents", "Zipf exponent"), sizes=table(found, "sizes", "images"),
        strengths=strength_table(found), limits=limit_table(found),
        alarm=distance_table(found), width=WIDTH_OF_SPREAD, draws=DRAWS,
        start=f"{fmean(each['sizes'][f'{FIRST}'][STREAM] for each in found):+.2f}",
    ))
    print(page)


def kept(file: Path) -> dict[str, Any]:
    """`measure` of a kept model, kept beside it."""
    beside = file.with_suffix(".corrections.json")
    if not beside.is_file():
        write_text(beside, json.dumps(measure(Model(file))))
        print(beside, flush=True)
    content: dict[str, Any] = json.loads(beside.read_text())
    return content


def measure(model: Model) -> dict[str, Any]:
    """What each correction gains on a model's test sets, in points."""
    sets = {f"{e:g}": [unequal(model, e, draw) for draw in range(DRAWS)] for e in EXPONENTS}
    alarms, limits = {}, {}
    for exponent, draws in sets.items():
        for limit in LIMITS:
            gained, alarms[exponent] = [], []
            for rows in draws:
                found = guard(model.logits[rows], model.automatic(), WIDTH_OF_SPREAD * model.spread,
                              limit * model.spread)
                alarms[exponent].append([found.distance, found.uneven])
                gained.append(gain_of(model, rows, (model.logits[rows] - found.bias).argmax(1)))
            limits[f"{limit:g} {exponent}"] = [fmean(gained),
                                               fmean(uneven for _, uneven in alarms[exponent])]
    exponents = {exponent: gains(model, draws) for exponent, draws in sets.items()}
    sizes = {f"{n}": gains(model, [few(model, n, draw) for draw in range(DRAWS)]) for n in SIZES}
    return {
        "world": model.world.removeprefix("world"), "backbone": model.backbone,
        "dataset": model.dataset.removeprefix("demo_"), "method": model.method,
        "accuracy": model.plain, "ceiling": model.ceiling(), "exponents": exponents,
        "sizes": {**sizes, "all": exponents["0"]}, "limits": limits,
        "distances": {e: median(distance for distance, _ in found) for e, found in alarms.items()},
        "strengths": {name: model.gain(bias(model)) for name, bias in STRENGTHS_TRIED.items()},
    }


def unequal(model: Model, exponent: float, draw: int) -> Tensor:
    """The rows of a test set whose classes, in a drawn order, follow Zipf's law."""
    generator = torch.Generator().manual_seed(draw)
    labels = torch.from_numpy(model.labels)
    kept = []
    for rank, c in enumerate(torch.randperm(model.logits.shape[1], generator=generator).tolist()):
        (mine,) = (labels == c).nonzero(as_tuple=True)
        mine = mine[torch.randperm(len(mine), generator=generator)]
        kept.append(mine[: max(1, round(len(mine) / (rank + 1) ** exponent))])
    return torch.cat(kept)


def few(model: Model, count: int, draw: int) -> Tensor:
    """The rows of so many test images."""
    return ordered(len(model.labels), draw)[:count]


def gain_of(model: Model, rows: Tensor, predictions: Tensor) -> float:
    """How much more of these test images are right, in points."""
    labels = torch.from_numpy(model.labels)[rows]
    before, after = ((each == labels).double().mean()
                     for each in (model.logits[rows].argmax(1), predictions))
    return 100 * float(after - before)


def gains(model: Model, draws: list[Tensor]) -> dict[str, float]:
    """What each correction changes of the accuracy on test sets, in the mean; a stream's only
    where they are small."""
    return {name: fmean(gain_of(model, rows, predict(model, rows, model.logits[rows]))
                        for rows in draws)
            for name, (mark, predict) in CORRECTIONS.items()
            if mark != "s" or len(draws[0]) <= SIZES[-1]}


def marked(name: str) -> str:
    mark = CORRECTIONS[name][0]
    return f"{name} {mark}" if mark == "s" else name + mark


def shown(values: list[float]) -> str:
    return f"{fmean(values):+.2f}" if values else ""


def balanced(found: Results) -> str:
    rows = []
    for name in CORRECTIONS:
        values = gained(found, "exponents", "0", name)
        if values:
            rows.append([marked(name), shown(values),
                         f"{sum(v > 0.5 for v in values)} / {sum(v < -0.5 for v in values)}",
                         f"{min(values):+.1f}"])
    rows.sort(key=lambda row: -float(row[1]))
    return drawn_table(rows, ["correction", "mean", "better / worse by > 0.5", "worst"])


def gained(found: Results, kind: str, place: str, name: str) -> list[float]:
    """A correction's gain on every model, on one kind of test set."""
    return [each[kind][place][name] for each in found if name in each[kind][place]]


def table(found: Results, kind: str, what: str) -> str:
    places = list(found[0][kind])
    rows = [[marked(name), *(shown(gained(found, kind, place, name)) for place in places)]
            for name in CORRECTIONS]
    return drawn_table([row for row in rows if any(row[1:])], [what, *places])


def strength_table(found: Results) -> str:
    """Automatic strengths that were tried: each one's gain, and its difference from the first."""
    rows = []
    before = [each["strengths"][next(iter(STRENGTHS_TRIED))] for each in found]
    places = sorted({(each["world"], each["dataset"]) for each in found})
    for name in STRENGTHS_TRIED:
        mine = [each["strengths"][name] for each in found]
        more = [new - old for new, old in zip(mine, before, strict=True)]
        apart = [shown([each["strengths"][name] for each in found
                        if (each["world"], each["dataset"]) == place]) for place in places]
        rows.append([name, shown(mine), f"{shown(more)} ± {2 * stdev(more) / len(more)**0.5:.2f}",
                     str(sum(gain < -0.5 for gain in mine)), *apart])
    return drawn_table(rows, ["strengths", "mean", "more than before ± 2 s.e.", "worse by > 0.5",
                              *map(" ".join, places)])


def limit_table(found: Results) -> str:
    """The guarded anchored match by its limit, and how often it keeps the shift, by exponent."""
    rows = []
    for limit in LIMITS:
        cells = []
        for exponent in EXPONENTS:
            gained, uneven = zip(*(each["limits"][f"{limit:g} {exponent:g}"] for each in found),
                                 strict=True)
            cells.append(f"{fmean(gained):+.2f} ({100 * fmean(uneven):.0f} %)")
        rows.append([f"{limit:g}", *cells])
    return drawn_table(rows, ["limit", *(f"exponent {e:g}" for e in EXPONENTS)])


def distance_table(found: Results) -> str:
    rows = [[exponent, f"{median(each['distances'][exponent] for each in found):.2f}"]
            for exponent in found[0]["distances"]]
    return drawn_table(rows, ["Zipf exponent", "distance, median"])


def drawn_table(rows: list[list[str]], heads: list[str]) -> str:
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True)


def figure(found: Results) -> Figure:
    """Gain against Zipf's exponent, and against the number of images."""
    with matplotlib.rc_context(SETTINGS):
        drawn = Figure(figsize=(7.2, 3.2), layout="constrained")
        panels = zip(drawn.subplots(1, 2, sharey=True), ("exponents", "sizes"),
                     ("Zipf exponent of the test labels", "test images, equally frequent classes"),
                     strict=True)
        for axes, kind, label in panels:
            places = list(found[0][kind])
            for name, (colour, marker) in zip(FIGURED, STYLES, strict=False):
                points = {i: fmean(values) for i, place in enumerate(places)
                          if (values := gained(found, kind, place, name))}
                axes.plot(list(points), list(points.values()), color=colour, marker=marker,
                          label=marked(name))
            axes.set_xticks(range(len(places)), places)
            axes.set_xlabel(label)
            axes.axhline(0, color="black", linewidth=0.8)
        axes.set_ylim(-12, 6)
        drawn.axes[0].set_ylabel("points gained")
        drawn.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return drawn


PAGE = """\
# NeRP's rules beside their peers

Made by `python tools/making/compare_corrections.py`, from what `choose_shift.py collect` keeps: \
{count} models ({worlds}), seed 1, 16 shots, novel classes; accuracy {accuracy}, the most that any \
class bias gains {ceiling}‡. The shift's strengths and the anchored match's width and limit were \
chosen with models of these worlds ([choice.md](choice.md)); the figures of the study are of others.

Mean change of accuracy in points. † looked at the test images, s at those already seen, ‡ at the \
test labels; the rest at training data alone. Smaller test sets are means over {draws} draws.

## All test images, classes equally frequent

{balanced}

## Classes by Zipf's law

{exponents}

## Few test images

{sizes}

In the first 50 images of a stream the guarded anchored match gains {start} points in the mean.

## The alarm

How far the bias that the test images ask for lies from the shift's, in logits:

{alarm}

## How the constants were chosen

The automatic strengths of the shift, with the mean by benchmark:

{strengths}

The guarded anchored match at width {width:g}, by its limit, and in brackets how often it kept the \
shift; both are multiples of how far an image's logits lie apart:

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
