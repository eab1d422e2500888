"""Records of runs made by hand, and the tables of a folder of them."""

import json
from pathlib import Path

from nerp.results.published import rows_of
from nerp.results.records import collect
from nerp.results.tables import AVERAGE, build_tables


def write(output, trainer, dataset, classes, seed, accuracy, *, task="B2N", kind="test", shots=16,
          config="vit_b16", looked_at=None, on_base=False, **more):
    """One run's result.json; more: what else stands in it."""
    folder = Path(output, task, f"{kind}_{classes}", dataset, f"shots_{shots}", trainer, config,
                  f"seed{seed}")
    folder.mkdir(parents=True)
    content = {"trainer": trainer, "dataset": dataset, "task": task, "classes": classes,
               "shots": shots, "seed": seed, "kind": kind, "accuracy": accuracy,
               **more}
    if looked_at:
        content["nerp"] = {"pairs": "x", "looked_at": looked_at, "on_base": on_base}
    (folder / "result.json").write_text(json.dumps(content))
    return folder


def complete(folder, trainer, shots=16, **more):
    """Base 80 and novel 70 on the eleven datasets; more: what else stands in the records."""
    for dataset in rows_of("base_to_novel", "MMRL")["ANPrompt Table I"].keys() - {AVERAGE}:
        for part, accuracy in (("base", 80.0), ("new", 70.0)):
            write(folder, trainer, dataset, part, 1, accuracy, shots=shots, **more)


BASE = {("EuroSAT", 1): 90.0, ("EuroSAT", 2): 94.0, ("UCF101", 1): 80.0, ("UCF101", 2): 82.0}
NOVEL = {("EuroSAT", 1): 60.0, ("EuroSAT", 2): 80.0, ("UCF101", 1): 70.0, ("UCF101", 2): 71.0}


def two_datasets(folder):
    """MMRL on two datasets with two seeds, as `BASE` and `NOVEL` have it: `folder`."""
    for (dataset, seed), accuracy in BASE.items():
        write(folder, "MMRL", dataset, "base", seed, accuracy)
        write(folder, "MMRL", dataset, "new", seed, NOVEL[dataset, seed])
    return folder


def tables(folder, **settings):
    return build_tables(collect([folder]), **settings)


def row(table, label):
    return next(row for row in table.rows if row.label == label)
