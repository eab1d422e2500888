"""Which numbers of a record a table is of: a metric, and the parts of an open-world test."""

from nerp.engine.metrics import harmonic_mean
from nerp.engine.record_file import RunRecord, number

ACCURACY = "accuracy"
# --metric -> what stands below a table; of all but the first two less is better.
METRICS = {
    ACCURACY: "Accuracy in percent",
    "macro_f1": "Macro F1 in percent",
    "ece": "Expected calibration error (ECE) in percent, {bins} bins of equal width",
    "adaptive_ece": "Adaptive ECE in percent, {bins} bins of equally many images",
    "mce": "Maximum calibration error in percent, {bins} bins of equal width",
    "nll": "Negative log-likelihood in nats",
    "brier": "Brier score, 0 to 2",
}
MORE_IS_BETTER = (ACCURACY, "macro_f1")

# The parts of an open-world test: either half with its own classes alone as answers, then all
# images with all classes.
BASE_ALONE, NOVEL_ALONE, H_ALONE = "Base alone", "Novel alone", "H alone"
OPEN, OPEN_BASE, OPEN_NOVEL, OPEN_H = "Accuracy", "Base", "Novel", "H"
AUROC, OPENWORLD_AUC = "AUROC", "OpenworldAUC"
ALONE = (BASE_ALONE, NOVEL_ALONE, H_ALONE)
OPEN_PARTS = (OPEN, OPEN_BASE, OPEN_NOVEL, OPEN_H, AUROC, OPENWORLD_AUC)
_FIELDS = {
    BASE_ALONE: "base_alone", NOVEL_ALONE: "novel_alone", OPEN: ACCURACY, OPEN_BASE: "base",
    OPEN_NOVEL: "novel", OPEN_H: "h", AUROC: "auroc", OPENWORLD_AUC: "openworld_auc",
}
# The harmonic mean of each pair of parts.
MEANS = {H_ALONE: (BASE_ALONE, NOVEL_ALONE), OPEN_H: (OPEN_BASE, OPEN_NOVEL)}
# A half as DATASET.SUBSAMPLE_CLASSES has it -> the part with its number.
HALVES = {"base": BASE_ALONE, "new": NOVEL_ALONE}
_OF_HALVES = {BASE_ALONE: "base", NOVEL_ALONE: "novel"}


def open_parts(content: RunRecord, metric: str) -> dict[str, float]:
    """Part -> number of an open-world record; of another metric than the accuracy the parts that
    it is there for."""
    if metric == ACCURACY:
        parts = {part: value for part, name in _FIELDS.items()
                 if (value := number(content, name)) is not None}
        if parts.keys() >= set(MEANS[H_ALONE]):
            parts[H_ALONE] = harmonic_mean(*(parts[part] for part in MEANS[H_ALONE]))
        return parts
    halves = content.get("alone", {})
    parts = {part: float(halves[half][metric]) for part, half in _OF_HALVES.items()
             if metric in halves.get(half, {})}
    overall = number(content, metric)
    return parts if overall is None else {**parts, OPEN: overall}
