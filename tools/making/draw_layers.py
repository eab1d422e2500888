"""The drawing of docs/architecture.md: the layers of the package, and who imports whom.

    python tools/making/draw_layers.py --output-dir docs

`LAYERS` is what a test holds: a module imports from its own layer and from those below it alone,
wherever in the module the import stands. The lines are the imports that there are.
"""

import argparse
import ast
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from nerp.results.plots import SETTINGS, save_figure

PACKAGE = Path(__file__).resolve().parents[2] / "nerp"
# From the top; a part is a package or a module of nerp. `nerp` itself is its version.
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


@cache
def imports() -> dict[str, set[str]]:
    """Part -> the other parts that its modules import, at their beginning or within."""
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
    """nerp.clip.model -> clip; what is no module of the package is from nerp itself."""
    inner = names[1] if len(names) > 1 else ""
    return inner if (PACKAGE / inner).is_dir() and inner or (PACKAGE / f"{inner}.py").is_file() \
        else "nerp"


def draw() -> Figure:
    """The layers from top to bottom, and a line for each import."""
    figure = Figure(figsize=(7, 8.5))
    axes = figure.add_subplot()
    places = {part: ((i + 1) / (len(layer) + 1), -row)
              for row, layer in enumerate(LAYERS) for i, part in enumerate(layer)}
    for part, others in sorted(imports().items()):
        for other in sorted(others):
            (x, y), (x2, y2) = places[part], places[other]
            axes.plot([x, x2], [y, y2], color="#9ab", linewidth=0.6, zorder=1)
    for part, (x, y) in places.items():
        axes.text(x, y, part, ha="center", va="center", fontsize=10, zorder=2,
                  bbox={"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": "#345"})
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
