"""Every metric of predictions that records hold and tables show. A new metric is a row here.

Nothing is imported at run time, since the command line needs the names.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nerp.engine.confidence import Judged


@dataclass(frozen=True)
class Metric:
    """Attributes:
        text: the line below a table of the metric; {bins} is the number of bins of confidence.
        of: computes it from judged predictions and a number of bins; None: it is computed from the
            predictions alone (`metrics.accuracy_record`).
        percent: whether records hold it in percent.
        more_is_better: whether a column's largest value is marked as best, rather than the
            smallest.
    """

    text: str
    of: "Callable[[Judged, int], float] | None" = None
    percent: bool = True
    more_is_better: bool = False


METRICS = {
    "accuracy": Metric("Accuracy in percent", more_is_better=True),
    "macro_f1": Metric("Macro F1 in percent", more_is_better=True),
    "ece": Metric("Expected calibration error (ECE) in percent, {bins} bins of equal width",
                  lambda judged, bins: judged.equal_width(bins).error),
    "adaptive_ece": Metric("Adaptive ECE in percent, {bins} bins of equally many images",
                           lambda judged, bins: judged.equal_count(bins).error),
    "mce": Metric("Maximum calibration error in percent, {bins} bins of equal width",
                  lambda judged, bins: judged.equal_width(bins).largest),
    "nll": Metric("Negative log-likelihood in nats",
                  lambda judged, bins: float(judged.nll.mean()), percent=False),
    "brier": Metric("Brier score, 0 to 2",
                    lambda judged, bins: float(judged.brier.mean()), percent=False),
}

# The numbers of an open-world test, all in percent (`metrics.open_world`) -> their headings in
# tables.
OPEN_WORLD = {
    "accuracy": "Accuracy", "base": "Base", "novel": "Novel", "h": "H",
    "base_alone": "Base alone", "novel_alone": "Novel alone", "auroc": "AUROC",
    "openworld_auc": "OpenworldAUC",
}
