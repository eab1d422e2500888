"""Count the published settings of the flip by their options, as a table in Markdown.

    python tools/making/published_flips.py
"""

from collections.abc import Callable

from tabulate import tabulate
from yacs.config import CfgNode

from nerp.base.paths import shipped
from nerp.files.yaml_file import load_yaml, mapping
from nerp.settings.defaults import default_config

# What is counted, in words -> whether a row's settings (the config node NERP) have it.
COUNTS: dict[str, Callable[[CfgNode], bool]] = {
    "TAU ≤ −1: the priors may prefer the partner by a logit or more": lambda s: s.TAU <= -1,
    "TAU ≤ −4: and by four": lambda s: s.TAU <= -4,
    "TAU > 0: the priors must prefer the predicted class": lambda s: s.TAU > 0,
    "THRES ≤ 0.2: by margin only near-ties flip": lambda s: s.THRES <= 0.2,
    "THRES ≥ 1": lambda s: s.THRES >= 1,
    "the entropy test is on": lambda s: s.FLIP_BY_ENTROPY,
    "the probability test is on": lambda s: s.FLIP_BY_PROB,
    "the text prior is a residual": lambda s: s.RESIDUAL_TEXT_PRIOR,
    "the image prior is a residual": lambda s: s.RESIDUAL_IMAGE_PRIOR,
    "TAU ≤ −1 and THRES ≤ 0.2": lambda s: s.TAU <= -1 and s.THRES <= 0.2,
    "TAU ≤ −1, and the entropy test is on": lambda s: s.TAU <= -1 and s.FLIP_BY_ENTROPY,
}


def published_rows() -> dict[tuple[str, str, str], CfgNode]:
    """(method, protocol, dataset) -> the config node NERP with that row's settings."""
    rows = {}
    for file in sorted((shipped("configs") / "nerp").glob("*/*.yaml")):
        for dataset, row in load_yaml(file).items():
            settings = default_config().NERP
            settings.update(mapping(row, f"{file}: {dataset}")["NERP"])
            rows[file.parent.name, file.stem, dataset] = settings
    return rows


def main() -> None:
    rows = published_rows()
    protocols = sorted({protocol for _, protocol, _ in rows})
    groups = {name: [s for (_, p, _), s in rows.items() if p == name] for name in protocols}
    columns = {"all": list(rows.values()), **groups}
    heads = ["rows", *(name.replace("_", "-") for name in columns)]
    table = [["published", *map(len, columns.values())]]
    table += [[words, *(sum(map(test, column)) for column in columns.values())]
              for words, test in COUNTS.items()]
    print(tabulate(table, heads, tablefmt="github"))
    lowest = min(rows, key=lambda key: rows[key].TAU)
    print(f"\nThe lowest TAU is {rows[lowest].TAU:g}: {lowest[0]} on {lowest[2]}, "
          f"{lowest[1].replace('_', '-')}.")


if __name__ == "__main__":
    main()
