"""The figure of docs/nerp.md: neutral references, their priors, and a corrected prediction.

    python tools/making/draw_method.py --output-dir docs

All its numbers are measured: zero-shot CLIP with the shipped backbone on the novel classes of the
shipped benchmark of drawn land cover, corrected by the automatic shift.
"""

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nerp.correction.shifting import Shift
from nerp.data.decode import open_image
from nerp.engine.run import run_test
from nerp.results.explain import KINDS, Explanation
from nerp.results.plots import SETTINGS, STYLES, save_figure
from nerp.settings.cards import find_method_file
from nerp.settings.resolve import Request

DATASET, FOLDER = "demo_landcover", "demo_landcover/images"
SHOWN = 6  # training images in a row
_COLOURS = {"text": STYLES[2][0], "image": STYLES[1][0], "gap": STYLES[5][0]}
_BEFORE, _AFTER = "#999999", STYLES[3][0]
_TITLES = {
    "text": "a prompt that names no class (text)",
    "image": "the mean training image (image)",
    "gap": "what training images of other\nclasses have in common (gap)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output-dir", type=Path, default=Path("docs"))
    parser.add_argument("--root", default="data", help="data folder; first use draws")
    parser.add_argument("--run", type=Path, default=Path("output/method"), help="run directory")
    args = parser.parse_args()
    directory = run_test(
        Request(
            trainer="ZeroshotCLIP_NeRP", dataset=DATASET, root=args.root, output_dir=str(args.run),
            config_file=str(find_method_file("configs/trainers/ZeroshotCLIP/tiny.yaml")),
            opts=["TASK", "B2N", "DATASET.SUBSAMPLE_CLASSES", "new"],
        ),
        save_logits=True, overwrite=True,
    )
    with matplotlib.rc_context(SETTINGS):
        figure = draw(Explanation(directory), Path(args.root))
    for path in save_figure(figure, args.output_dir, "nerp"):
        print(path)


def draw(facts: Explanation, root: Path) -> Figure:
    """Three columns: the references, their priors [C], one image before and after."""
    assert isinstance(facts.rule, Shift)  # the default rule
    strengths = facts.rule.strengths
    figure = Figure(figsize=(8.6, 4.5), layout="constrained")
    (left, middle, right), = figure.subfigures(
        1, 3, squeeze=False, width_ratios=[1, 1.25, 1.35], wspace=0.04)
    left.suptitle("1  shows no tested class", fontsize=9, fontweight="bold")
    middle.suptitle("2  what the model prefers anyway", fontsize=9, fontweight="bold")
    right.suptitle("3  that much is taken off", fontsize=9, fontweight="bold")
    panels = zip(_TITLES, left.subplots(3, 1), middle.subplots(3, 1), strict=True)
    for name, shown, bars in panels:
        shown.set_title(_TITLES[name], fontsize=7)
        shown.axis("off")
        _show(shown, name, facts, root)
        prior = facts.priors[name].numpy()
        weight = f"s = {strengths[name]:.2f}" if name in strengths else "not used by default"
        _bars(bars, facts.classnames, [(prior - prior.mean(), _COLOURS[name])])
        bars.set_title(f"π − mean π, in logits; {weight}", fontsize=7)
    picture, logits = right.subplots(2, 1, height_ratios=[1, 1.5])
    _correction(picture, logits, facts)
    return figure


def _show(axes: Axes, name: str, facts: Explanation, root: Path) -> None:
    """Draw the model's references."""
    if name == "text":
        axes.text(0.5, 0.5, f"“{facts.cfg.DATASET.NEUTRAL}”", ha="center", va="center", fontsize=8)
    elif name == "image":
        (file,) = (root / DATASET).glob("*_train_image_mean-*.png")
        axes.imshow(open_image(file))
    else:
        split = json.loads((root / DATASET / "split_zhou_DemoLandcover.json").read_text())["train"]
        paths = {label: path for path, label, name in split if name not in facts.classnames}
        row = [np.asarray(open_image(root / FOLDER / path)) for _, path in sorted(paths.items())]
        axes.imshow(np.concatenate(row[:SHOWN], axis=1))


def _bars(axes: Axes, names: list[str], series: list[tuple[np.ndarray, str]]) -> None:
    """Horizontal bars, one group per class."""
    height = 0.8 / len(series)
    for i, (values, colour) in enumerate(series):
        axes.barh(np.arange(len(names)) + (i - (len(series) - 1) / 2) * height, values, height,
                  color=colour)
    axes.axvline(0, color="black", linewidth=0.6)
    axes.set_yticks(range(len(names)), names, fontsize=6)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="x", labelsize=6)


def _correction(picture: Axes, bars: Axes, facts: Explanation) -> None:
    """The first image that the shift helped, and its logits before and after."""
    flip = next(flip for flip in facts.sample(len(facts.kind)) if flip.kind == KINDS[0])
    image = list(map(str, facts.paths)).index(flip.path)
    picture.imshow(open_image(facts.image_dir / flip.path))
    picture.axis("off")
    picture.set_title(f"{flip.truth}: taken for {flip.source}\nbefore, right after", fontsize=7)
    before = facts.logits[image].numpy()
    after = facts.correction.apply(facts.logits)[image].numpy()
    _bars(bars, facts.classnames, [(x - before.mean(), c) for x, c in
                                   ((before, _BEFORE), (after, _AFTER))])
    bars.set_title("z (grey), z − Σ s (π − mean π) (green)", fontsize=7)


if __name__ == "__main__":
    main()
