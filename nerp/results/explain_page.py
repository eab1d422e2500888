"""The facts of `explain` as one HTML page that fetches nothing; its layout is explain_page.html."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import jinja2
import numpy as np
from PIL import Image
from torch import Tensor

from nerp.correction.flipping import PROB_THRES
from nerp.correction.looked_at import CAVEATS, SEEN_IMAGES, TEST_IMAGES, TEST_LABELS, UNKNOWN
from nerp.engine.confidence import BINS, judge
from nerp.engine.metrics import Integers, confusion_matrix
from nerp.results.explain import KINDS, ClassRow, Explanation, Flip
from nerp.settings.protocols import protocol

# Up to this number of classes, the matrix and the bars show every class.
FEW_CLASSES = 40
_ENDS = 15  # with more classes, the number shown at each end of an order
_PAIRS = 20  # rows of the tables of pairs
_OVERVIEW = 100  # cells per side of the overview of a large matrix
# Okabe and Ito's blue and vermilion: distinct for colour-blind readers, on light and on dark.
_BLUE, _ORANGE = (0, 114, 178), (213, 94, 0)

_WARNINGS = {
    SEEN_IMAGES: "each image was corrected with the test images that came before it, without their "
                 "labels. The numbers depend on the order: compare them with others of streams.",
    TEST_IMAGES: "the correction was found with the test images themselves, without their "
                 "labels. Compare these numbers only with others that were allowed the same.",
    TEST_LABELS: "the class pairs were found with the test labels. These numbers are no result of "
                 "the method; they say how far it goes with the answers in hand.",
    UNKNOWN: "the class pairs come from a file that does not say what they were found with. If "
             "that was test data, these numbers are no fair result.",
}
_CLASSES = {"all": "all classes", "base": "base classes", "new": "novel classes"}
_THRESHOLDS = {
    "published": "the published settings for this method, protocol and dataset",
    "default": "the defaults",
    "calibrated": "calibrated without test images",
}
_REFERENCES = {
    "text": "the class features against a neutral prompt",
    "image": "the logits of the mean training image",
    "others": "the mean logits of the training images, which show other classes",
    "trained": "1 for the classes that were trained on",
    "trained_ceiling": "1 for the classes that were trained on",
    "matched": "the bias that would make the mean prediction of the training images, which show "
               "other classes, uniform",
    "gap": "the class features against what training images share that their classes do not "
           "explain",
}
_DRAWN = {
    "tiny": "a tiny CLIP trained on drawn images: good for trying things, no evidence about CLIP",
    "tiny-biased": "a tiny CLIP trained on drawn images so that class frequencies bias it: a "
                   "positive control, not evidence about CLIP",
}


class Matrix(TypedDict):
    """Shades of both confusion matrices, and the share of the darkest shade."""

    shades: dict[str, list[list[float]]]
    largest: float


class Overview(TypedDict):
    """Pictures of both matrices, and their counts. Each cell of a picture stands for `block` x
    `block` cells of the matrix."""

    block: int
    count: dict[str, int]
    largest: int
    most_changed: int
    pictures: dict[str, str]


class Strip(TypedDict):
    """SVG path data."""

    total: str
    parts: list[str]


def explain_page(facts: Explanation, flips: Sequence[Flip]) -> str:
    """The page as HTML.

    Args:
        flips: the flips that are shown with pictures, in the order of KINDS.
    """
    result, looked_at = facts.result, facts.result["nerp"]["looked_at"]
    classes = facts.classes()
    few = len(classes) <= FEW_CLASSES
    by_prior = sorted(classes, key=lambda row: -row.total)
    limit = max(abs(prior) for r in classes for prior in (*r.parts, r.total)) or 1.0
    by_gain = sorted(classes, key=lambda row: -row.gained)
    return _template().render(
        facts=facts,
        record=result["nerp"],
        nerp=facts.cfg.NERP,
        rule=facts.rule,
        prob_thres=PROB_THRES,
        title=f"{result['trainer']} on {result['dataset']}, {_CLASSES[result['classes']]}, seed "
              f"{result['seed']}",
        protocol=protocol(result["task"]).name.replace("_", "-"),
        summary=summary(facts),
        caveat=CAVEATS.get(looked_at, "unknown origin"),
        warning=_WARNINGS.get(looked_at, ""),
        thresholds=_THRESHOLDS,
        references=_REFERENCES,
        backbone=facts.cfg.MODEL.BACKBONE,
        drawn=_DRAWN,
        few=few,
        bins=BINS,
        reliability=[(when, *_reliability(logits, facts.labels)) for when, logits in
                     (("before", facts.logits), ("after", facts.corrected_logits))],
        moments=(("before", facts.before), ("after", facts.after)),
        matrix=_matrix(facts) if few else None,
        overview=None if few else _overview(facts),
        confused=facts.confused_pairs(_PAIRS),
        by_prior=by_prior if few else by_prior[:_ENDS] + by_prior[-_ENDS:],
        prior_limit=limit,
        strip=None if few else _strip(by_prior, limit),
        pairs=facts.flipped_pairs(),
        most_pairs=_PAIRS,
        reasons=facts.flipped_by_reason(),
        classes=classes,
        changed=by_gain if few else _changed(by_gain),
        kinds=KINDS,
        flips=flips,
        missing=sum(not flip.picture for flip in flips),
    )


def summary(facts: Explanation) -> str:
    """The effect of the correction, in plain words."""
    effect, n = facts.effect, len(facts.labels)
    before, after = facts.before.accuracy, facts.after.accuracy
    if not effect["flips"]:
        return (f"The correction changed none of the {n:,} predictions; accuracy stays "
                f"{_percent(before)}.")
    net = effect["helped"] - effect["hurt"]
    verdict = "helped" if net > 0 else "did harm" if net < 0 else "made no difference to accuracy"
    return (
        f"On these images the correction {verdict}: accuracy went from {_percent(before)} to "
        f"{_percent(after)} ({_signed(after - before)} points). It changed {effect['flips']:,} of "
        f"{n:,} predictions: {effect['helped']:,} became right (helped), {effect['hurt']:,} became "
        f"wrong (hurt) and {effect['neutral']:,} went from one wrong class to another (neutral)."
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )
    environment.filters |= {
        "filename": lambda path: Path(path).name,
        "count": lambda value: f"{value:,}",
        "signed": _signed,
        "change": lambda value: _signed(value, 0),
        "plain": lambda value: f"{value:g}".replace("-", "−"),
        "percent": _percent,
        "share": lambda value: "–" if value is None else f"{value:.3f}",
    }
    return environment.get_template("explain_page.html")


def _signed(value: float, digits: int = 2) -> str:
    value = round(value, digits) or 0  # no minus before a zero
    return f"{value:{'+' if value else ''},.{digits}f}".replace("-", "−")


def _percent(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}\u202f%"


def _changed(by_gain: list[ClassRow]) -> list[ClassRow]:
    """If there are many classes, those that gained and lost most; otherwise all."""
    return ([row for row in by_gain[:_ENDS] if row.gained > 0]
            + [row for row in by_gain[-_ENDS:] if row.gained < 0])


def _reliability(logits: Tensor, labels: Integers) -> tuple[float, list[dict[str, float]]]:
    """The expected calibration error, and the bars of a reliability diagram in a box of 100 x 100.
    For each bin with images: left edge, width, accuracy and confidence (from below), and the number
    of images."""
    bins = judge(logits, labels).equal_width(BINS)
    widths = 100 * np.diff(bins.edges)
    bars = [
        {"left": 100 * left, "width": width, "right": 100 * right, "sure": 100 * sure,
         "images": int(images)}
        for left, width, right, sure, images in zip(
            bins.edges[:-1].tolist(), widths.tolist(), bins.accuracy.tolist(),
            bins.confidence.tolist(), bins.images.tolist(), strict=True)
        if images
    ]
    return bins.error, bars


def _matrix(facts: Explanation) -> Matrix:
    """Shades from 0 to 1 of both matrices. Correct cells: the share of the class's images.
    Confusions: their share, relative to the largest share in either matrix."""
    images = np.maximum(facts.before.confusion.sum(1, keepdims=True), 1)
    shares = [when.confusion / images for when in (facts.before, facts.after)]
    wrong = ~np.eye(len(images), dtype=bool)
    largest = max(float((share * wrong).max()) for share in shares)
    shades = [np.where(wrong, share / (largest or 1), share).tolist() for share in shares]
    return {"shades": dict(zip(("before", "after"), shades, strict=True)), "largest": largest}


def _overview(facts: Explanation) -> Overview:
    """Pictures of a large matrix, with neighbouring classes summed: the confusions before, those
    that the correction removed, and those that it added. Removed and added ones are separate:
    neighbours are often confused, so their difference would cancel. Only misclassified images
    count."""
    classes = len(facts.classnames)
    block = -(-classes // _OVERVIEW)
    before, after = facts.before.predictions, facts.after.predictions
    changed = before != after
    wrong = ~np.eye(classes, dtype=bool)
    shown = {
        name: _blocks(confusion_matrix(facts.labels[of], predictions[of], classes) * wrong, block)
        for name, of, predictions in (("before", slice(None), before), ("removed", changed, before),
                                      ("added", changed, after))
    }
    most_changed = max(int(shown[name].max()) for name in ("removed", "added"))
    return {
        "block": block,
        "count": {name: int(sums.sum()) for name, sums in shown.items()},
        "largest": int(shown["before"].max()),
        "most_changed": most_changed,
        "pictures": {
            "before": _picture(shown["before"], _ORANGE, int(shown["before"].max())),
            "removed": _picture(shown["removed"], _BLUE, most_changed),
            "added": _picture(shown["added"], _ORANGE, most_changed),
        },
    }


def _blocks(matrix: Integers, block: int) -> Integers:
    """Sums of `block` x `block` cells; the last blocks may be smaller."""
    edges = np.arange(0, len(matrix), block)
    return np.add.reduceat(np.add.reduceat(matrix, edges, 0), edges, 1)


def _picture(counts: Integers, colour: tuple[int, int, int], largest: int) -> str:
    """A PNG in a data URI, one pixel per cell. A larger count is more opaque: by its square root,
    from a fifth upwards, so that a count of 1 is visible. A count of 0 is transparent."""
    share = np.sqrt(counts / max(largest, 1))
    pixels = np.empty((*counts.shape, 4), np.uint8)
    pixels[..., :3] = colour
    pixels[..., 3] = np.round(255 * np.where(counts > 0, 0.2 + 0.8 * share, 0))
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def _strip(by_prior: list[ClassRow], limit: float) -> Strip:
    """SVG path data for the preferences of many classes, in the order of their sum, in a box of
    1000 x 200 that spans ±limit: `total` as a line, each of `parts` as one dot per class."""
    xs = np.linspace(0, 1000, len(by_prior))

    def points(values: Sequence[float]) -> list[str]:
        return [f"{x:.0f} {100 - 100 * y / limit:.1f}" for x, y in zip(xs, values, strict=True)]

    return {
        "total": "M" + "L".join(points([row.total for row in by_prior])),
        "parts": ["".join(f"M{point}h0" for point in points(values))
                  for values in zip(*(row.parts for row in by_prior), strict=True)],
    }
