"""The part of a record about probabilities: confidence, and the open world."""

import numpy as np
import numpy.typing as npt
from torch import Tensor

from nerp.engine.calibrators import Calibrator
from nerp.engine.confidence import BINS, judge, measures
from nerp.engine.measures import METRICS, OPEN_WORLD
from nerp.engine.metrics import harmonic_mean, open_world

HALVES = ("base", "novel")
_OPEN = tuple(name for name in OPEN_WORLD if name != "accuracy")  # every record has the accuracy


def of_probabilities(
    logits: Tensor, labels: npt.NDArray[np.int64], base: npt.NDArray[np.bool_] | None,
    calibrator: Calibrator | None,
) -> dict[str, float]:
    """The metrics of the confidence of logits [N, C], after calibration. In the open world, where
    `base` [C] says which classes were trained on, also its metrics except the accuracy. In percent,
    except nll and brier."""
    logits = calibrated(logits, calibrator)
    record = confidence_record(logits, labels)
    if base is None:
        return record
    numbers = open_world(logits, labels, base)
    record |= {name: 100 * numbers[name] for name in _OPEN}
    # Computed from counts, as any accuracy in percent: equal to the last digit to a half's own
    # test.
    for half, shown in zip(HALVES, (base[labels], ~base[labels]), strict=True):
        images = int(shown.sum())
        record |= {name: 100 * round(numbers[name] * images) / images
                   for name in (half, f"{half}_alone")}
    return record | {"h": harmonic_mean(*(record[half] for half in HALVES))}


def of_halves(
    logits: Tensor, labels: npt.NDArray[np.int64], base: npt.NDArray[np.bool_],
    calibrator: Calibrator | None,
) -> dict[str, dict[str, float]]:
    """The metrics of confidence for the images of base and of novel classes, each with only the
    classes of its own kind as answers."""
    found = {}
    for half, classes in zip(HALVES, (base, ~base), strict=True):
        columns = np.flatnonzero(classes)
        shown = classes[labels]
        alone = logits[shown][:, columns]
        among = calibrator.among(columns) if calibrator else None
        place = np.searchsorted(columns, labels[shown])
        found[half] = confidence_record(calibrated(alone, among), place)
    return found


def confidence_record(logits: Tensor, labels: npt.NDArray[np.int64]) -> dict[str, float]:
    """The metrics of confidence for a record: in percent, except nll and brier."""
    found = measures(judge(logits, labels), BINS)
    return {name: value * (100 if METRICS[name].percent else 1) for name, value in found.items()}


def calibrated(logits: Tensor, calibrator: Calibrator | None) -> Tensor:
    """Logits [N, C] after the calibrator, if there is one."""
    return calibrator.apply(logits) if calibrator else logits
