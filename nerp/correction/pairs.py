"""Where class pairs come from, and what each source has looked at.

A source scores each two classes by how confusable they look. Each class is then paired with its
strongest partners (NERP.PAIRS_NEIGHBOURS); pairs that score below a quantile are left out
(NERP.PAIRS_QUANTILE). A source is a function of `Clues` that returns `Scores`, registered under its
name in NERP.PAIRS. A bundle lists pairs instead, and all of them are used.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.registry import PAIR_SOURCES
from nerp.correction.bundle import (
    bundle_key,
    bundle_pairs,
    counted,
    entries,
    looked_at,
    match_names,
    read_bundle,
)
from nerp.correction.looked_at import (
    NOTHING,
    TEST_IMAGES,
    TEST_LABELS,
    TRAINING_IMAGES,
    TRAINING_LABELS,
)


@dataclass(frozen=True)
class Pairs:
    """Confusable classes.

    Attributes:
        index: [n, 2] class indices.
        source: the name in NERP.PAIRS.
        looked_at: what was used to find them (`nerp.correction.looked_at`).
        note: a line for the log.
    """

    index: Tensor
    source: str
    looked_at: str
    note: str


@dataclass(frozen=True)
class Scores:
    """A source's scores: how confusable each two classes are.

    Attributes:
        matrix: [C, C], symmetric, on the CPU; -inf where two classes cannot be a pair.
        looked_at: as in `nerp.correction.looked_at`. how: the scores in words, for the log.
        listed: whether the finite scores are exactly the pairs of a list.
    """

    matrix: Tensor
    looked_at: str
    how: str
    listed: bool = False


@dataclass(frozen=True)
class Labelled:
    """A model's logits [N, C] on N images of known labels [N], and the C classes' names."""

    logits: Tensor
    labels: Tensor
    classnames: list[str]


def not_at_hand() -> NoReturn:
    """A function for `Clues` without images: it raises NerpError."""
    raise NerpError("this needs images, and none are at hand here")


@dataclass
class Clues:
    """The inputs of pair sources. Expensive inputs are functions, called only if needed.

    Attributes:
        settings: the config node NERP. dataset, task: for a bundle's key.
        classnames: C names in label order.
        class_features: frozen CLIP's class features [C, D], normalised.
        orders: logits [C] of tuned and frozen model for each probe (reference image, prompt).
        training: the model on the labelled few-shot images, of the classes it was trained on.
        test_logits: logits [N, C] of the images under test. test_labels: their labels [N].
    """

    settings: CfgNode
    dataset: str
    task: str
    classnames: list[str]
    class_features: Callable[[], Tensor] = field(repr=False)
    orders: Callable[[], list[tuple[Tensor, Tensor]]] = field(repr=False, default=not_at_hand)
    training: Callable[[], Labelled] = field(repr=False, default=not_at_hand)
    test_logits: Callable[[], Tensor] = field(repr=False, default=not_at_hand)
    test_labels: Callable[[], Tensor] = field(repr=False, default=not_at_hand)


def find_pairs(clues: Clues) -> Pairs:
    """The pairs that NERP.PAIRS asks for. Raises NerpError for an unknown source."""
    settings = clues.settings
    count, quantile = settings.PAIRS_NEIGHBOURS, settings.PAIRS_QUANTILE
    if count < 0 or not 0 <= quantile < 1 or not (count or quantile):
        raise NerpError(f"NERP.PAIRS_NEIGHBOURS {count}, NERP.PAIRS_QUANTILE {quantile}: give a "
                        "number of partners, a quantile below 1, or both")
    scores = PAIR_SOURCES[settings.PAIRS](clues)
    note = scores.how
    if scores.listed:
        index = strongest_pairs(scores.matrix, 0)
    else:
        index = strongest_pairs(scores.matrix, count, quantile)
        kept = [f"each class with its {count} strongest"] if count else []
        kept += [f"scores above the {quantile:g} quantile"] if quantile else []
        note += f" ({', '.join(kept)})"
    return Pairs(index, settings.PAIRS, scores.looked_at, f"{counted(len(index))}, {note}")


def strongest_pairs(scores: Tensor, neighbours: int, quantile: float = 0.0) -> Tensor:
    """Each class with its highest-scoring partners, as [n, 2] with i < j, no repeats.

    Args:
        scores: [C, C], symmetric; -inf where two classes cannot be a pair; diagonal unread.
        neighbours: partners per class; 0: all above the quantile.
        quantile: pairs scoring below this quantile of all finite scores are left out.
    """
    classes = len(scores)
    first, second = torch.triu_indices(classes, classes, offset=1)
    upper = scores[first, second]
    keep = upper.isfinite()
    if quantile and keep.any():
        keep &= upper >= float(np.quantile(upper[keep].numpy(), quantile))
    if neighbours:
        partners = scores.clone().fill_diagonal_(float("-inf"))
        near = partners.topk(min(neighbours, classes - 1), dim=1).indices
        chosen = torch.zeros(classes, classes, dtype=torch.bool).scatter_(1, near, True)
        keep &= (chosen | chosen.t())[first, second]
    return torch.stack([first[keep], second[keep]], dim=1)


@PAIR_SOURCES.register("text")
def text_scores(clues: Clues) -> Scores:
    """Cosine similarity of frozen CLIP's class features; it needs no image and no label."""
    features = clues.class_features()
    return Scores(features @ features.t(), NOTHING, "nearest by frozen text features")


@PAIR_SOURCES.register("reference")
def reference_scores(clues: Clues) -> Scores:
    """Classes that the tuned and the frozen model put in opposite order before any evidence.

    For each probe (reference image, neutral prompt) the logits of both models are standardised. If
    two classes' gaps have opposite signs, they score |gap_tuned| + |gap_frozen|, summed over the
    probes. The reference image is a mean of training images.
    """
    exchanged = []
    for probe in clues.orders():
        tuned, frozen = ((x - x.mean()) / x.std().clamp(min=1e-12) for x in probe)
        gap, frozen_gap = (x[:, None] - x[None, :] for x in (tuned, frozen))
        exchanged.append((gap.abs() + frozen_gap.abs()) * (gap * frozen_gap < 0))
    return Scores(_positive(reduce(torch.add, exchanged)), TRAINING_IMAGES,
                  "put in opposite order by the tuned and the frozen model")


@PAIR_SOURCES.register("train")
def training_scores(clues: Clues) -> Scores:
    """Classes that the model's probabilities mix up on its own labelled few-shot images.

    The score of two classes is the mean probability that images of each give to the other. The
    images are of the classes that were trained on; other classes have no pairs.
    """
    training = clues.training()
    classes = len(training.classnames)
    mass = torch.zeros(classes, classes)
    mass.index_add_(0, training.labels, training.logits.softmax(dim=1))
    mass /= training.labels.bincount(minlength=classes).clamp(min=1)[:, None]
    known = {name: i for i, name in enumerate(training.classnames)}
    scores = torch.full((len(clues.classnames),) * 2, float("-inf"))
    shared = [(i, known[name]) for i, name in enumerate(clues.classnames) if name in known]
    if len(shared) < 2:
        raise NerpError("NERP.PAIRS train has pairs only of the classes that were trained on, and "
                        "other classes are tested; use text, reference or a bundle")
    mine, theirs = (torch.tensor(column) for column in zip(*shared, strict=True))
    both = mass + mass.t()
    scores[mine[:, None], mine[None, :]] = both[theirs[:, None], theirs[None, :]]
    return Scores(scores, TRAINING_LABELS, "mixed up on training images")


@PAIR_SOURCES.register("unlabelled")
def unlabelled_scores(clues: Clues) -> Scores:
    """How often two classes are first and second on the unlabelled test images. Transductive."""
    first, second = clues.test_logits().topk(2, dim=1).indices.t()
    counts = _counts(first, second, len(clues.classnames))
    return Scores(counts, TEST_IMAGES, "first and second on the test images")


@PAIR_SOURCES.register("labels")
def label_scores(clues: Clues) -> Scores:
    """Confusions on the test set, counted with its labels. An upper bound, not a result."""
    predicted, labels = clues.test_logits().argmax(dim=1), clues.test_labels()
    wrong = predicted != labels
    counts = _counts(labels[wrong], predicted[wrong], len(clues.classnames))
    return Scores(counts, TEST_LABELS, "confused on the test set")


@PAIR_SOURCES.register("bundle")
def bundled_scores(clues: Clues) -> Scores:
    """The pairs in NERP.PAIRS_FILE, a published bundle or a bundle of nerp's."""
    file = clues.settings.PAIRS_FILE
    if not file:
        raise NerpError("NERP.PAIRS bundle needs NERP.PAIRS_FILE (class_pairs.json.gz)")
    return listed_scores(file, clues)


def listed_scores(file: str, clues: Clues) -> Scores:
    """A score of 1 or more for each pair that a bundle lists for these classes.

    Raises NerpError if the bundle lists none.
    """
    content = read_bundle(file)
    key = bundle_key(clues.dataset, clues.task)
    matched = match_names(bundle_pairs(content, key, file), clues.classnames)
    note = f"from {file}, entry {key}"
    if matched.unknown:
        examples = ", ".join(matched.unknown[:3])
        note += f"; names that match no class: {len(matched.unknown)} ({examples})"
    if not matched.pairs:
        raise NerpError(f"{file}: entry {key} has no pair of these classes "
                        f"({', '.join(clues.classnames[:3])}, ...); {entries(content)}")
    says = looked_at(content, key)
    first, second = torch.tensor(matched.pairs).t()
    matrix = _counts(first, second, len(clues.classnames))
    return Scores(matrix, says, note, listed=True)


def _counts(first: Tensor, second: Tensor, classes: int) -> Tensor:
    """[C, C] how often two classes occur together, in either order; -inf for never."""
    cells = torch.bincount(first * classes + second, minlength=classes**2).view(classes, classes)
    return _positive((cells + cells.t()).float())


def _positive(scores: Tensor) -> Tensor:
    """Scores without the zeros, which become -inf: such classes are no pair."""
    return scores.masked_fill(scores <= 0, float("-inf"))
