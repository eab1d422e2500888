"""The numbers of a record that a table shows: a metric, and the parts of an open-world test."""

from nerp.engine.measures import OPEN_WORLD
from nerp.engine.metrics import harmonic_mean
from nerp.engine.record_file import RunRecord, number

ACCURACY = "accuracy"

# The parts of an open-world test: each half with only its own classes as answers, then all images
# with all classes.
BASE_ALONE, NOVEL_ALONE = OPEN_WORLD["base_alone"], OPEN_WORLD["novel_alone"]
H_ALONE = "H alone"
OPEN, OPEN_BASE, OPEN_NOVEL = (OPEN_WORLD[name] for name in (ACCURACY, "base", "novel"))
OPEN_H, AUROC, OPENWORLD_AUC = (OPEN_WORLD[name] for name in ("h", "auroc", "openworld_auc"))
ALONE = (BASE_ALONE, NOVEL_ALONE, H_ALONE)
OPEN_PARTS = (OPEN, OPEN_BASE, OPEN_NOVEL, OPEN_H, AUROC, OPENWORLD_AUC)
# The harmonic mean of each pair of parts.
MEANS = {H_ALONE: (BASE_ALONE, NOVEL_ALONE), OPEN_H: (OPEN_BASE, OPEN_NOVEL)}
# A half's name in DATASET.SUBSAMPLE_CLASSES -> the part with its number.
HALVES = {"base": BASE_ALONE, "new": NOVEL_ALONE}
_OF_HALVES = {BASE_ALONE: "base", NOVEL_ALONE: "novel"}


def open_parts(content: RunRecord, metric: str) -> dict[str, float]:
    """Part -> number of an open-world record. For a metric other than accuracy, only the parts that
    have it."""
    if metric == ACCURACY:
        parts = {part: value for name, part in OPEN_WORLD.items()
                 if (value := number(content, name)) is not None}
        if parts.keys() >= set(MEANS[H_ALONE]):
            parts[H_ALONE] = harmonic_mean(*(parts[part] for part in MEANS[H_ALONE]))
        return parts
    halves = content.get("alone", {})
    parts = {part: float(halves[half][metric]) for part, half in _OF_HALVES.items()
             if metric in halves.get(half, {})}
    overall = number(content, metric)
    return parts if overall is None else {**parts, OPEN: overall}
