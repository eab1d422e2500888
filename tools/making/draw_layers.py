"""The drawing of docs/architecture.md: the layers of the package.

    python tools/making/draw_layers.py --output-dir docs

`LAYERS` is what a test holds: a module imports from its own layer and from those below it alone,
wherever in the module the import stands.
"""

import argparse
import ast
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nerp.results.plots import SETTINGS, save_figure

PACKAGE = Path(__file__).resolve().parents[2] / "nerp"
# From the top. A part is a package or a module of nerp. The part `nerp` is the version.
LAYERS = (
    ("cli", "commands"),
    ("api", "demo"),
    ("results",),
    ("engine",),
    ("correction", "experiments"),
    ("trainers",),
    ("data",),
    ("settings",),
    ("clip",),
    ("files",),
    ("base", "nerp"),
)
_SHADES = ("#e3ecf4", "#f1f5f9")


@cache
def imports() -> dict[str, set[str]]:
    """Part -> the other parts that its modules import, at the top or inside functions."""
    found: dict[str, set[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        part = _part(["nerp", *file.relative_to(PACKAGE).with_suffix("").parts])
        if part in ("__main__", "__init__"):  # ways in
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            listed = [alias.name for alias in node.names]
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else listed
            if names == ["nerp"] and file.parent != PACKAGE:
                names = [f"nerp.{name}" for name in listed]
            parts = {_part(name.split(".")) for name in names if name.split(".")[0] == "nerp"}
            found.setdefault(part, set()).update(parts - {part})
    return found


def _part(names: list[str]) -> str:
    """The part of an imported name: nerp.clip.model -> clip; "nerp" for a name in nerp itself."""
    inner = names[1] if len(names) > 1 else ""
    return inner if (PACKAGE / inner).is_dir() and inner or (PACKAGE / f"{inner}.py").is_file() \
        else "nerp"


def draw() -> Figure:
    """A band per layer, from the top, with its parts; one arrow for the imports, which go down."""
    figure = Figure(figsize=(6.4, 4.6))
    axes = figure.add_axes((0, 0, 1, 1))
    for row, layer in enumerate(LAYERS):
        axes.add_patch(Rectangle((0.13, -row - 0.42), 0.85, 0.84, facecolor=_SHADES[row % 2],
                                 edgecolor="none"))
        for i, part in enumerate(layer):
            x = 0.13 + 0.85 * (i + 1) / (len(layer) + 1)
            axes.text(x, -row, part, ha="center", va="center", fontsize=12)
    axes.annotate("", (0.07, -len(LAYERS) + 0.6), (0.07, 0.4),
                  arrowprops={"arrowstyle": "-|>", "color": "#345", "linewidth": 1.5})
    axes.text(0.035, (1 - len(LAYERS)) / 2, "imports", rotation=90, ha="center", va="center",
              fontsize=11, color="#345")
    axes.set_xlim(0, 1)
    axes.set_ylim(-len(LAYERS) + 0.4, 0.6)
    axes.axis("off")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output-dir", type=Path, default=Path("docs"))
    args = parser.parse_args()
    with matplotlib.rc_context(SETTINGS):
        for path in save_figure(draw(), args.output_dir, "layers"):
            print(path)


if __name__ == "__main__":
    main()
