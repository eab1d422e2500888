"""The facts for `nerp explain`: what NeRP did in a finished run, computed from its saved arrays.
`explain_page` makes the page."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.paths import is_inside
from nerp.correction.correction import (
    ENTROPY,
    MARGIN,
    PROB,
    REASONS,
    SHIFT,
    CorrectionRule,
    Extra,
    Rescored,
    carry_out,
)
from nerp.correction.flipping import PROB_THRES, Rule, top_entropy
from nerp.correction.shifting import Shifted
from nerp.correction.significance import sign_test
from nerp.data.benchmark import dataset_folder, distinct
from nerp.data.decode import open_image
from nerp.engine.metrics import (
    Asymmetry,
    Integers,
    accuracy_record,
    asymmetry,
    confusion_matrix,
    flip_effect,
)
from nerp.engine.saved import SavedRun, load_run
from nerp.files.yaml_file import load_yaml, mapping
from nerp.settings.defaults import default_config
from nerp.settings.protocols import CONFIG_FILE, PREDICTIONS_FILE
from nerp.settings.tree import merge, put

KINDS = ("helped", "hurt", "neutral")
# Keys that are looked up in a registry. They are not needed, and may name unregistered user code.
_REGISTERED = ("LAYOUT", "PAIRS", "REFERENCES", "RULE")
_THUMBNAIL = 96  # pixels, the longer side


@dataclass(frozen=True)
class When:
    """The predictions before or after the correction.

    Attributes: predictions [N]; confusion [C, C], rows: true classes; accuracy, macro_f1 in
    percent.
    """

    predictions: Integers
    confusion: Integers
    accuracy: float
    macro_f1: float
    asymmetry: Asymmetry


@dataclass(frozen=True)
class ClassRow:
    """A class before and after: accuracy in percent, None without images; and the rule's preference
    for the class, in logits minus the mean over the classes, by parts and in total."""

    name: str
    images: int
    accuracy_before: float | None
    accuracy_after: float | None
    gained: int  # change of the number of correctly predicted images
    predicted_before: int
    predicted_after: int
    parts: tuple[float, ...]
    total: float


@dataclass(frozen=True)
class FlippedRow:
    """The flips that share a pair of classes or a reason; gap: the prior preference, in logits."""

    label: tuple[str, ...]
    flips: int
    helped: int
    hurt: int
    neutral: int
    gap: float


@dataclass(frozen=True)
class ConfusedRow:
    """Two classes, and the confusions (first predicted as second, second predicted as first)."""

    first: str
    second: str
    before: tuple[int, int]
    after: tuple[int, int]


@dataclass(frozen=True)
class Flip:
    """One flipped image. p_source, p_target: probabilities before the correction; reasons: the
    signs of weak evidence that held, with their numbers; picture: a data URI, "" without one."""

    path: str
    kind: str
    truth: str
    source: str
    target: str
    p_source: float
    p_target: float
    margin: float
    gap: float
    reasons: list[str]
    picture: str


class Explanation:
    """The facts about a corrected run.

    Attributes:
        result: the content of result.json. cfg: the run's nodes DATASET, MODEL and NERP.
        classnames: C names. labels: [N]. before, after: predictions and accuracies.
        correction: the F flips. kind: [F] index of each flip into KINDS.
        parts: reference -> [C], the part of its prior that the rule uses: for a flip the prior
            itself, for a shift the part that is subtracted from the logits. preference: [C], the
            sum of the parts; or the bias; or the mean of what is subtracted (`by_image`).
        effect: the numbers of flips, helped, hurt and neutral.
    """

    def __init__(self, directory: str | Path, root: str = ""):
        """Args: directory: of a NeRP test with --save-logits. root: the folder of its data now.

        Raises NerpError for a folder without such a run, for arrays that do not agree, or if the
        correction differs from the saved one.
        """
        run = load_run(directory)
        self.result, self.rule = run.result, run.rule
        self.cfg = _read_config(run.directory / CONFIG_FILE, root)
        _check_arrays(run)
        arrays = run.arrays
        self.classnames = distinct([_encodable(name) for name in arrays["classnames"]])
        self.paths, self.labels = arrays["paths"], arrays["labels"]
        self.logits, self.pairs = (torch.from_numpy(arrays[n]) for n in ("logits", "pairs"))
        self.priors = {n: torch.from_numpy(x) for n, x in run.saved.priors.items()}
        self.correction = carry_out(
            self.rule, self.logits, self.priors, self.pairs,
            Extra(**{name: torch.from_numpy(x) for name, x in run.saved.extra.items()}))
        self.parts, self.preference = self._preference()
        saved = arrays["corrected_logits"].argmax(1)
        different = int((saved != self.correction.predictions.numpy()).sum())
        if different:
            raise NerpError(f"{run.directory}: with the rule in result.json {different} of "
                            f"{len(saved)} predictions are not those in {PREDICTIONS_FILE}: the "
                            "two are of different runs; nerp test --overwrite makes them anew")
        self.before = self._when(self.logits.argmax(1).numpy())
        self.after = self._when(saved)
        self.effect = flip_effect(self.labels, self.before.predictions, self.after.predictions)
        truth = self.labels[self.correction.images.numpy()]
        self.source, self.target = (x.numpy() for x in (self.correction.source,
                                                        self.correction.target))
        self.kind = np.where(truth == self.target, 0, np.where(truth == self.source, 1, 2))

    def _when(self, predictions: Integers) -> When:
        confusion = confusion_matrix(self.labels, predictions, len(self.classnames))
        numbers = accuracy_record(confusion)
        return When(predictions, confusion, numbers["accuracy"], numbers["macro_f1"],
                    asymmetry(confusion))

    def _preference(self) -> tuple[dict[str, Tensor], Tensor]:
        """`parts` and `preference`."""
        if isinstance(self.correction, Shifted):
            parts = {name: strength * self.priors[name]
                     for name, strength in getattr(self.rule, "strengths", {}).items()}
            total = self.correction.bias
        elif self.by_image:
            parts, total = {}, (self.logits - self.corrected_logits).mean(0)
        else:
            parts = {name: self.priors[name] for name in self.rule.references}
            total = sum(parts.values(), torch.zeros(len(self.classnames)))
        return {name: _centred(part) for name, part in parts.items()}, _centred(total)

    @property
    def by_image(self) -> bool:
        """Whether the correction changes each image's logits differently, and so has no bias."""
        return isinstance(self.correction, Rescored)

    @property
    def corrected_logits(self) -> Tensor:
        """[N, C]; their softmax are the probabilities after the correction."""
        return self.correction.apply(self.logits)

    @property
    def sign_test(self) -> float:
        """The `significance.sign_test` of the helped and hurt flips."""
        return sign_test(self.effect["helped"], self.effect["hurt"])

    @property
    def image_dir(self) -> Path:
        """The folder that the images' paths are relative to."""
        return dataset_folder(self.cfg) / str(self.cfg.DATASET.IMAGE_FOLDER)

    def classes(self) -> list[ClassRow]:
        """Every class, in label order."""
        images = self.before.confusion.sum(1)
        right = [when.confusion.diagonal() for when in (self.before, self.after)]
        predicted = [when.confusion.sum(0) for when in (self.before, self.after)]
        accuracy = [[100 * float(r) / int(n) if n else None for r, n in zip(x, images, strict=True)]
                    for x in right]
        columns = (self.classnames, images.tolist(), *accuracy, (right[1] - right[0]).tolist(),
                   *(x.tolist() for x in predicted),
                   zip(*(x.tolist() for x in self.parts.values()), strict=True)
                   if self.parts else [()] * len(self.classnames),
                   self.preference.tolist())
        return [ClassRow(*row) for row in zip(*columns, strict=True)]

    def flipped_pairs(self) -> list[FlippedRow]:
        """The flips of each (from, to), most frequent first."""
        return self._flipped(
            self.source * len(self.classnames) + self.target,
            lambda key: tuple(self.classnames[c] for c in divmod(key, len(self.classnames))),
        )

    def flipped_by_reason(self) -> list[FlippedRow]:
        """The flips for each set of signs of weak evidence, most frequent first; their mean gap."""
        return self._flipped(
            self.correction.reason.numpy(),
            lambda bits: tuple(name for bit, name in REASONS.items() if bits & bit),
        )

    def _flipped(
        self, keys: Integers, label: Callable[[int], tuple[str, ...]]
    ) -> list[FlippedRow]:
        found, group, flips = np.unique(keys, return_inverse=True, return_counts=True)
        kinds = np.bincount(group * 3 + self.kind, minlength=3 * len(found)).reshape(-1, 3)
        gaps = np.bincount(group, self.correction.gap.double().numpy(), len(found)) / flips
        return [
            FlippedRow(label(key), count, helped, hurt, neutral, gap)
            for count, (helped, hurt, neutral), gap, key in sorted(
                zip(flips.tolist(), kinds.tolist(), gaps.tolist(), found.tolist(), strict=True),
                key=lambda row: -row[0],
            )
        ]

    def confused_pairs(self, most: int) -> list[ConfusedRow]:
        """The `most` pairs with the most confusions before the correction."""
        pairs, counts = self.before.asymmetry.pairs, self.before.asymmetry.counts
        order = np.argsort(-counts.sum(1), kind="stable")[:most]
        later = self.after.confusion
        return [
            ConfusedRow(self.classnames[i], self.classnames[j], (there, back),
                        (int(later[i, j]), int(later[j, i])))
            for (i, j), (there, back) in zip(pairs[order].tolist(), counts[order].tolist(),
                                             strict=True)
        ]

    def sample(self, most: int) -> list[Flip]:
        """At most `most` flips with their pictures, chosen by `fair_sample`."""
        chosen = torch.from_numpy(fair_sample(self.kind, most))
        found = self.correction
        images, source, target = found.images[chosen], found.source[chosen], found.target[chosen]
        logits = self.logits[images]
        probability = logits.softmax(dim=1)
        rows = torch.arange(len(chosen))
        entropy = top_entropy(logits).tolist()
        columns = (chosen, images, source, target, probability[rows, source],
                   probability[rows, target], found.margin[chosen], found.gap[chosen],
                   found.reason[chosen])
        return [
            Flip(
                path=_encodable(self.paths[image]),
                kind=KINDS[self.kind[place]],
                truth=self.classnames[self.labels[image]],
                source=self.classnames[i],
                target=self.classnames[j],
                p_source=p,
                p_target=q,
                margin=margin,
                gap=gap,
                reasons=_reasons(self.rule, bits, margin, gap, entropy[row], p),
                picture=self._picture(str(self.paths[image])),
            )
            for row, (place, image, i, j, p, q, margin, gap, bits) in enumerate(
                zip(*(column.tolist() for column in columns), strict=True))
        ]


    def _picture(self, path: str) -> str:
        """`thumbnail` of an image in the image folder. A path that leads out of this folder, as in
        a run from a stranger, is not shown."""
        return thumbnail(self.image_dir / path) if is_inside(path) else ""


def fair_sample(kind: Integers, most: int) -> Integers:
    """At most `most` indices into `kind` [F]: an equal share for each kind, evenly spaced.

    The unused share of one kind goes to the others. Returns the indices, sorted by kind.
    """
    groups = [np.flatnonzero(kind == k) for k in range(len(KINDS))]
    share = [0] * len(groups)
    left = most
    for waiting, k in zip((3, 2, 1), sorted(range(3), key=lambda k: len(groups[k])), strict=True):
        share[k] = min(len(groups[k]), left // waiting)
        left -= share[k]
    return np.concatenate([group[np.arange(n) * len(group) // max(n, 1)]
                           for group, n in zip(groups, share, strict=True)])


def thumbnail(path: Path) -> str:
    """The image as a small JPEG in a data URI; "" if it is missing or cannot be decoded."""
    try:
        image = open_image(path)
    except NerpError:
        return ""
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def _reasons(
    rule: CorrectionRule, bits: int, margin: float, gap: float, entropy: float, p: float
) -> list[str]:
    """Each sign of weak evidence, with its number."""
    if bits & SHIFT:
        return [f"shift {gap:.2f} > margin {margin:.2f}"]
    if not isinstance(rule, Rule):  # a user's rule, whose thresholds are not known
        return [name for bit, name in REASONS.items() if bits & bit]
    texts = {
        MARGIN: f"margin {margin:.2f} ≤ {rule.thres:g}",
        ENTROPY: f"entropy {entropy:.2f} ≥ {rule.entropy_thres:g}",
        PROB: f"probability {p:.2f} < {PROB_THRES:g}",
    }
    return [text for bit, text in texts.items() if bits & bit]


def _centred(values: Tensor) -> Tensor:
    """`values` minus their mean, which affects no comparison of two classes."""
    return values.double() - values.double().mean()


def _read_config(file: Path, root: str) -> CfgNode:
    saved = load_yaml(file)
    cfg = default_config()
    # The methods' own nodes are not needed.
    for name in ("DATASET", "MODEL", "NERP"):
        node = mapping(saved.get(name, {}), f"{file}: {name}")
        merge(cfg, {name: {k: v for k, v in node.items() if k not in _REGISTERED}}, str(file))
    if root:
        put(cfg, "DATASET.ROOT", root, "command line")
    return cfg


def _check_arrays(run: SavedRun) -> None:
    missing = [n for n in ("corrected_logits", "paths", "classnames") if n not in run.arrays]
    if missing:
        raise NerpError(f"{run.directory / PREDICTIONS_FILE}: no {', '.join(missing)}; nerp test "
                        "--overwrite --save-logits makes it anew")


def _encodable(text: str) -> str:
    """A text without lone surrogates, which file names may contain and UTF-8 cannot express."""
    return str(text).encode("utf-8", "backslashreplace").decode()
