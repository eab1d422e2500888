"""Compare NeRP's rules with their peers, where their assumptions hold and where they do not.

    python tools/making/choose_shift.py collect --world 313 --backbone tiny   # once for each
    python tools/making/compare_corrections.py measure corrections --worlds 313 314
    python tools/making/compare_corrections.py measure untaken --worlds 313 314
    python tools/making/compare_corrections.py report docs --worlds 313 314
    python tools/making/compare_corrections.py measure constants --worlds 311 312
    python tools/making/compare_corrections.py choice docs --worlds 311 312

`measure corrections` tries each correction on every model that `collect` kept: on all novel test
images, on test sets whose classes follow Zipf's law, on few images, in streams. `measure constants`
tries the shift's strengths and the anchored match's width and limit. Results are kept beside the
model; as long as they exist, they are not measured again. `report` writes study/corrections.md, the
figure corrections.png and .svg, and the section of nerp.md on which correction to use when.
`choice` writes the section of study/choice.md on the choices made on other worlds.
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command `nerp` does

import not_taken
import torch
from choose_shift import Model
from corrections_pages import (
    FIRST,
    GUARDED,
    KNOWN_SHARES,
    MATCH,
    SHIFT,
    STREAM,
    Measures,
    write_choice,
    write_report,
)
from not_taken import Floats
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
from nerp.correction.gap import between_halves
from nerp.correction.matched import LIMIT_OF_SPREAD, WIDTH_OF_SPREAD
from nerp.correction.matching import guard
from nerp.correction.references import GAP_STRENGTH
from nerp.correction.running import ordered, run

EXPONENTS = (0.0, 0.5, 1.0, 2.0)
SIZES = (20, FIRST, 200)
DRAWS = 5  # draws of few images, and orders of a stream
WIDTHS = (0.06, 0.125, 0.25)
LIMITS = (0.08, 0.12, 0.16, 0.24)

Predict = Callable[[Model, Tensor, Tensor], Tensor]  # a model, rows, its logits of them -> classes


def less(bias: Callable[[Model, Tensor], Tensor]) -> Predict:
    """A correction that subtracts a bias from the logits."""
    return lambda model, rows, z: (z - bias(model, z)).argmax(1)


def anchored(model: Model, z: Tensor, width: float = WIDTH_OF_SPREAD) -> Tensor:
    return anchored_bias(z, model.automatic(), width * model.spread)


def guarded(model: Model, z: Tensor) -> Tensor:
    width, limit = WIDTH_OF_SPREAD * model.spread, LIMIT_OF_SPREAD * model.spread
    return guard(z, model.automatic(), width, limit).bias


def known_shares(model: Model, rows: Tensor, z: Tensor) -> Tensor:
    """Predictions of the match to the class shares of the test labels."""
    counts = torch.from_numpy(model.labels)[rows].bincount(minlength=z.shape[1])
    shares = counts.double().clamp(min=0.5)
    return (z - uniform_bias(z, shares / shares.sum())).argmax(1)


def dn(model: Model, rows: Tensor, z: Tensor) -> Tensor:
    return normalise_distribution(
        model.features[rows], model.text, model.image_mean, model.text.mean(0)
    ).argmax(1)


STREAMS = {STREAM: "guarded", "batch calibration, stream": "batch"}
CORRECTIONS: dict[str, Predict] = {
    MATCH: less(lambda m, z: uniform_bias(z)),
    KNOWN_SHARES: known_shares,
    "anchored match": less(anchored),
    GUARDED: less(guarded),
    "Sinkhorn, uniform": lambda m, rows, z: sinkhorn(z).argmax(1),
    "transport (OTTER), uniform": lambda m, rows, z: transport(z),
    "batch calibration": less(lambda m, z: batch_bias(z)),
    "stationary bias (Frolic)": less(lambda m, z: stationary_bias(z)),
    SHIFT: less(lambda m, z: m.automatic()),
    "DN 0.25": dn,
    "contextual, neutral prompt": less(lambda m, z: contextual_bias(m.priors["text"][None])),
    "contextual, mean image": less(lambda m, z: contextual_bias(m.priors["image"][None])),
}
# The corrections of not_taken.py as functions of logits, image features, class features and scale.
NOT_TAKEN: dict[str, Callable[[Floats, Floats, Floats, float], Floats]] = {
    "TDA": lambda z, f, t, scale: not_taken.tda(z, f),
    "BCA": lambda z, f, t, scale: not_taken.bca(f, t, scale),
    "DOTA": lambda z, f, t, scale: not_taken.dota(z, f),
    "OnZeta": lambda z, f, t, scale: not_taken.onzeta(z, f, t),
    "TransCLIP": lambda z, f, t, scale: not_taken.transclip(z, f, t),
    "StatA": lambda z, f, t, scale: not_taken.stata(z, f, t),
    "InMaP": lambda z, f, t, scale: f @ not_taken.inmap(
        sinkhorn(torch.from_numpy(z)).numpy(), f, t).T,
}
STRENGTHS_TRIED: dict[str, Callable[[Model], Tensor]] = {
    "before: (⅓ + slope) / 2 gap + 0.05 image": Model.earlier,
    "1.25 × that + 0.1 matched": lambda m: 1.25 * m.earlier() + 0.1 * m.others,
    "(0.7 · ⅔ + 0.3 slope) gap + 0.075 image":
        lambda m: m.gap(2 / 3, 0.3) + 0.075 * m.priors["image"],
    "before, the frozen model's slope averaged in":
        lambda m: m.gap(GAP_STRENGTH, 0.5, frozen=True) + 0.05 * m.priors["image"],
    "automatic: 1.25 × the last + 0.1 matched": Model.automatic,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure", help="measure on every model")
    measuring.add_argument("what", choices=MEASURES)
    writing = [commands.add_parser("report", help="write the study and its summary"),
               commands.add_parser("choice", help="write how the constants were chosen")]
    for command in writing:
        command.add_argument("docs", type=Path, help="the folder of the pages")
    for command in (measuring, *writing):
        command.add_argument("--worlds", type=int, nargs="+", required=True)
        command.add_argument("--folder", type=Path, default=Path("output/choice"),
                             help="what choose_shift.py collect kept")
    args = parser.parse_args()
    files = [file for world in args.worlds
             for file in sorted(args.folder.glob(f"world{world}/*/demo_*/*.npz"))]
    if not files:
        raise SystemExit(f"nothing has been collected of these worlds below {args.folder}")
    if args.command == "measure":
        for file in files:
            beside = _beside(file, args.what)
            if not beside.is_file():
                write_text(beside, json.dumps(MEASURES[args.what](Model(file)), indent=1))
                print(beside, flush=True)
    elif args.command == "report":
        files = [file for file in files if _beside(file, "corrections").is_file()]
        write_report(_kept(files, "corrections"), _kept(files, "untaken"), args.docs)
    else:
        write_choice(_kept(files, "constants"), args.docs)


def _kept(files: list[Path], what: str) -> list[Measures]:
    """The measurements of this kind that exist for these models."""
    beside = (_beside(file, what) for file in files)
    return [json.loads(file.read_text()) for file in beside if file.is_file()]


def _beside(file: Path, what: str) -> Path:
    return file.with_suffix(f".{what}.json")


def corrections(model: Model) -> Measures:
    """The gain of each correction on a model's test sets, in points."""
    sets = {f"{e:g}": unequal(model, e) for e in EXPONENTS}
    exponents = {exponent: gains(model, draws) for exponent, draws in sets.items()}
    sizes = {f"{n}": gains(model, [few(model, n, draw) for draw in range(1, DRAWS + 1)])
             for n in SIZES}
    orders = {name: [streamed(model, kind, order) for order in range(1, DRAWS + 1)]
              for name, kind in STREAMS.items()}
    for name, found in orders.items():
        for n in SIZES:
            sizes[f"{n}"][name] = fmean(gains_of_first[f"{n}"] for gains_of_first in found)
    all_images = {**exponents["0"], **{name: fmean(each["all"] for each in found)
                                       for name, found in orders.items()}}
    guards = {exponent: [guard(model.logits[rows], model.automatic(),
                               WIDTH_OF_SPREAD * model.spread, LIMIT_OF_SPREAD * model.spread)
                         for rows in draws] for exponent, draws in sets.items()}
    return {
        **_named(model), "accuracy": model.plain, "ceiling": model.ceiling(),
        "exponents": exponents, "sizes": {**sizes, "all": all_images},
        "orders": {name: [gains_of_first["all"] for gains_of_first in found]
                   for name, found in orders.items()},
        "strengths": {name: model.gain(bias(model)) for name, bias in STRENGTHS_TRIED.items()},
        "distances": {e: median(each.distance for each in found) for e, found in guards.items()},
        "kept": {e: fmean(each.uneven for each in found) for e, found in guards.items()},
    }


def untaken(model: Model) -> Measures:
    """The gain of each correction of not_taken.py on all test images, in points."""
    return {**_named(model),
            "not taken": {name: plain_gain(model, scores) for name, scores in NOT_TAKEN.items()}}


def constants(model: Model) -> Measures:
    """The gain of each candidate setting on a model, and three scales of the model in logits: the
    spread of an image's logits, the distance of the trained classes' biases from the gap's
    prediction, and the distance of the test labels' bias from the shift's."""
    sets = {f"{e:g}": unequal(model, e) for e in EXPONENTS}
    sizes = {**{f"{n}": [few(model, n, draw) for draw in range(1, DRAWS + 1)] for n in SIZES},
             "all": sets["0"]}
    counts = torch.from_numpy(model.labels).bincount(minlength=model.logits.shape[1]).double()
    labelled = uniform_bias(model.logits, counts / counts.sum())
    halves = torch.cat([bias - model.slope * prior
                        for prior, bias in between_halves(*model.shown, model.scale)])
    return {
        **_named(model),
        "strengths": {name: model.gain(bias(model)) for name, bias in STRENGTHS_TRIED.items()},
        "widths": {f"{width:g}": {n: fmean(widened(model, rows, width) for rows in draws)
                                  for n, draws in sizes.items()} for width in WIDTHS},
        "limits": {f"{limit:g}": {e: limited(model, draws, limit) for e, draws in sets.items()}
                   for limit in LIMITS},
        "spread": model.spread, "between halves": _root_mean_square(halves),
        "off": _root_mean_square(labelled - model.automatic()),
    }


def _named(model: Model) -> Measures:
    return {"world": model.world.removeprefix("world"), "backbone": model.backbone,
            "dataset": model.dataset.removeprefix("demo_"), "method": model.method}


def unequal(model: Model, exponent: float) -> list[Tensor]:
    """The rows of test sets whose classes follow Zipf's law. The first test set ranks the classes
    in a random order; the others rotate this order."""
    generator = torch.Generator().manual_seed(0)
    classes, labels = model.logits.shape[1], torch.from_numpy(model.labels)
    order = torch.randperm(classes, generator=generator)
    images = [rows[torch.randperm(len(rows), generator=generator)]
              for rows in ((labels == c).nonzero()[:, 0] for c in range(classes))]
    return [torch.cat([images[c][: max(1, round(len(images[c]) / (rank + 1) ** exponent))]
                       for rank, c in enumerate(order.roll(draw).tolist())])
            for draw in range(classes if exponent else 1)]


def few(model: Model, count: int, draw: int) -> Tensor:
    """The rows of `count` test images."""
    return ordered(len(model.labels), draw)[:count]


def gain_of(model: Model, rows: Tensor, predictions: Tensor) -> float:
    """The change of accuracy on these test images, in points."""
    labels = torch.from_numpy(model.labels)[rows]
    before, after = ((each == labels).double().mean()
                     for each in (model.logits[rows].argmax(1), predictions))
    return 100 * float(after - before)


def gains(model: Model, draws: list[Tensor]) -> dict[str, float]:
    """The mean change of accuracy by each correction over test sets, in points."""
    return {name: fmean(gain_of(model, rows, predict(model, rows, model.logits[rows]))
                        for rows in draws)
            for name, predict in CORRECTIONS.items()}


def streamed(model: Model, kind: str, order: int) -> dict[str, float]:
    """The gain in a stream of all test images: on the first images, and on all."""
    rows = ordered(len(model.labels), order)
    z = model.logits[rows]
    width, limit = WIDTH_OF_SPREAD * model.spread, LIMIT_OF_SPREAD * model.spread
    stream = Running(kind, z.shape[1], model.automatic(), width, limit)
    predictions = (z - run(stream, z)).argmax(1)
    return {f"{n}" if n < len(rows) else "all": gain_of(model, rows[:n], predictions[:n])
            for n in (*SIZES, len(rows))}


def widened(model: Model, rows: Tensor, width: float) -> float:
    """The gain of the unguarded anchored match with a width, in points."""
    z = model.logits[rows]
    return gain_of(model, rows, (z - anchored(model, z, width)).argmax(1))


def limited(model: Model, draws: list[Tensor], limit: float) -> tuple[float, float]:
    """The gain of the guarded match with a limit, in points, and how often it keeps the shift."""
    found = [guard(model.logits[rows], model.automatic(), WIDTH_OF_SPREAD * model.spread,
                   limit * model.spread) for rows in draws]
    return (fmean(gain_of(model, rows, (model.logits[rows] - each.bias).argmax(1))
                  for rows, each in zip(draws, found, strict=True)),
            fmean(each.uneven for each in found))


def plain_gain(model: Model, scores: Callable[[Floats, Floats, Floats, float], Floats]) -> float:
    """The gain of a correction of not_taken.py on all test images in a random order, in points."""
    rows = ordered(len(model.labels), 1)
    z, f, t = (each.double().numpy() for each in (
        model.logits[rows], model.features[rows], model.text))
    found = scores(z, not_taken.unit(f), not_taken.unit(t), model.scale)
    return gain_of(model, rows, torch.from_numpy(found).argmax(1))


def _root_mean_square(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())


MEASURES = {"corrections": corrections, "untaken": untaken, "constants": constants}

if __name__ == "__main__":
    main()
