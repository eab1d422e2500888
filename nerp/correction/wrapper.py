"""NeRP around any trainer: collects what the rule needs, sets its strengths, and corrects."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.log import say
from nerp.base.registry import REFERENCES, RULES
from nerp.clip.device import in_float32
from nerp.correction.calibrate import Calibration, adjustable, calibrate
from nerp.correction.correction import Correction, CorrectionRule, Extra, Run, carry_out
from nerp.correction.looked_at import TRAINING_LABELS, most
from nerp.correction.pairs import Clues, Labelled, Pairs, find_pairs
from nerp.correction.references import (
    Openness,
    Prior,
    Probe,
    Shown,
    Unsuited,
    image_for,
)
from nerp.correction.sweep import Saved
from nerp.trainers.base import Trainer

PUBLISHED = ("text", "image")
# References and pair sources that use no mean image, unless class features depend on an image.
_WITHOUT_MEAN = ("text", "gap", "others")
_PAIRS_WITHOUT_MEAN = ("text", "train", "unlabelled", "labels", "bundle")
# Pair sources that use no training image.
_WITHOUT_TRAINING = ("text", "reference", "unlabelled", "labels", "bundle")


@dataclass(frozen=True)
class NeRP:
    """A trained model's priors and pairs with the rule that uses them, ready to correct logits.

    Attributes: priors: by reference. extra: the rule's other inputs.
    """

    rule: CorrectionRule
    priors: Mapping[str, Prior]
    pairs: Pairs
    calibration: Calibration | None = None
    extra: Extra = field(default_factory=Extra)

    def correct(self, logits: Tensor) -> Correction:
        """The correction of the logits [B, C] of the model that the priors are from."""
        return carry_out(self.rule, logits, values(self.priors), self.pairs.index, self.extra)

    @property
    def looked_at(self) -> str:
        """What the correction has looked at, all in all."""
        parts = [self.rule.has_looked_at, *(self.priors[n].looked_at for n in self.rule.references)]
        if self.rule.uses_pairs:
            parts.append(self.pairs.looked_at)
        if self.calibration:
            parts.append(TRAINING_LABELS)
        return most(parts)


def values(priors: Mapping[str, Prior]) -> dict[str, Tensor]:
    """The values [C] of priors, by reference."""
    return {name: prior.values for name, prior in priors.items()}


@dataclass
class Material:
    """The images that NeRP, or a pair source, may look at; each is fetched only if asked for.

    Attributes:
        reference: the reference image [1, 3, H, W] after the test transform, normalised.
        seen: the trainer for the classes it was trained on.
        shown: their few-shot training images as the model sees them.
        frozen_shown: the same as frozen CLIP sees them.
        shown_logits: the logits [N, C] of a trainer, for its classes, on those images.
        training, validation: `seen`'s logits on their few-shot training and validation images.
        test_logits: [N, C] on the images under test; test_labels: [N].
        extra: the rule's other inputs, by the fields of `Extra`.
        openness: for a test in the open world.
    """

    reference: Callable[[], Tensor]
    seen: Callable[[], Trainer]
    shown: Callable[[], Shown]
    shown_logits: Callable[[Trainer], Tensor]
    training: Callable[[], Labelled]
    validation: Callable[[], Labelled]
    test_logits: Callable[[], Tensor]
    test_labels: Callable[[], Tensor]
    frozen_shown: Callable[[], Shown] | None = None
    extra: Callable[[tuple[str, ...]], Extra] = lambda needs: Extra()
    openness: Openness | None = None


@torch.no_grad()
def find_priors(
    trainer: Trainer, settings: CfgNode, material: Material, names: tuple[str, ...]
) -> dict[str, Prior]:
    """The priors of the references in `names` that suit the trainer's classes.

    Args: settings: the config node NERP.
    """
    probe = Probe(trainer, settings, material.reference, material.shown,
                  lambda: material.shown_logits(trainer), material.openness,
                  material.frozen_shown)
    priors = {}
    with trainer.clip.autocast():
        for name in names:
            try:
                priors[name] = REFERENCES[name](probe)
            except Unsuited as error:
                say(f"NeRP: the reference {name} is left out: {error}")
    return priors


@torch.no_grad()
def priors(trainer: Trainer, reference: Tensor, settings: CfgNode) -> tuple[Tensor, Tensor]:
    """The published priors, text and image, [C] each, of a trained model, on the CPU.

    Args:
        reference: [1, 3, H, W], the reference image after the test transform, normalised.
        settings: the config node NERP.
    """
    probe = Probe(trainer, settings, lambda: reference)
    with trainer.clip.autocast():
        return tuple(REFERENCES[name](probe).values for name in PUBLISHED)


@torch.no_grad()
def class_orders(trainer: Trainer, reference: Tensor) -> list[tuple[Tensor, Tensor]]:
    """How the tuned and the frozen model order the classes before any evidence.

    Returns, for the reference image and then for the neutral prompt, the two models' logits [C].
    """
    with trainer.clip.autocast():
        tuned = trainer.reference_class_features(reference)
        frozen = trainer.frozen_class_features(reference)
        _, tuned_image = trainer.reference_logits(reference)
        frozen_image = trainer.similarity(trainer.frozen_clip.image_features(reference), frozen)[0]
        frozen_neutral, tuned_neutral = trainer.neutral_features(reference)
        with in_float32(frozen.device):
            tuned_text, frozen_text = (tuned * tuned_neutral).sum(-1), frozen @ frozen_neutral
    probes = [(tuned_image, frozen_image), (tuned_text, frozen_text)]
    return [(a.float().cpu(), b.float().cpu()) for a, b in probes]


def make_clues(trainer: Trainer, cfg: CfgNode, material: Material) -> Clues:
    """The inputs of pair sources for the classes of `trainer`."""
    return Clues(
        settings=cfg.NERP,
        dataset=cfg.DATASET.NAME,
        task=cfg.TASK,
        classnames=list(trainer.classes.names),
        class_features=lambda: trainer.frozen_class_features(
            image_for(trainer, material.reference)).cpu(),
        orders=lambda: class_orders(trainer, material.reference()),
        training=material.training,
        test_logits=material.test_logits,
        test_labels=material.test_labels,
    )


def build_nerp(trainer: Trainer, cfg: CfgNode, material: Material) -> NeRP:
    """Priors (NERP.REFERENCES), pairs (NERP.PAIRS) and rule (NERP.RULE) for the classes under
    test, calibrated if NERP.THRESHOLDS asks for it.

    Raises NerpError for references or pairs that are not available.
    """
    kind = RULES[cfg.NERP.RULE]
    wanted = _wanted(cfg.NERP)
    priors = find_priors(trainer, cfg.NERP, material, _kept(cfg.NERP, trainer.text_by_image))
    run = Run(cfg.NERP, trainer.classes.names, cfg.SEED,
              lambda: float(material.shown_logits(trainer).std(dim=1, correction=0).mean()))
    rule = kind.from_config(cfg.NERP, strengths(wanted, priors)).settled(run)
    for key, name, others in (("STREAM", "stream", "anchored or batch"),
                              ("SHARES", "shares", "match, sinkhorn or transport")):
        if cfg.NERP[key] and not hasattr(rule, name):
            raise NerpError(f"NERP.{key} is {cfg.NERP[key]}, and the rule {rule.name} reads none; "
                            f"leave it out, or take NERP.RULE {others}")
    pairs = find_pairs(make_clues(trainer, cfg, material))
    calibration = None
    if cfg.NERP.THRESHOLDS == "calibrated":
        calibration = _calibrate(cfg, material, rule)
        rule = calibration.rule
    extra = material.extra(rule.needs) if rule.needs else Extra()
    return NeRP(rule, priors, pairs, calibration, extra)


def looks_at_training(settings: CfgNode) -> bool:
    """Whether the correction may look at training images, or at the validation images beside them:
    for references, pairs or a calibration. True for references and sources of plug-ins.

    Args: settings: the config node NERP.
    """
    kind = RULES[settings.RULE]
    weighed = {*kind.weighed(settings)}
    return bool(not weighed <= {*PUBLISHED} or kind.needs
                or settings.PAIRS not in _WITHOUT_TRAINING or settings.THRESHOLDS == "calibrated")


def looks_at_reference(settings: CfgNode, text_by_image: bool) -> bool:
    """Whether the correction looks at the reference image. True for references of plug-ins.

    Args: settings: the config node NERP. text_by_image: whether class features depend on an image.
    """
    return (text_by_image or not _references(settings) <= {*_WITHOUT_MEAN}
            or settings.PAIRS not in _PAIRS_WITHOUT_MEAN)


def _references(settings: CfgNode) -> set[str]:
    """The references whose priors the rule needs, for any strengths."""
    kind = RULES[settings.RULE]
    fixed = kind.references if isinstance(kind.references, tuple) else ()
    return {*fixed, *kind.weighed(settings)}


def _kept(settings: CfgNode, text_by_image: bool) -> tuple[str, ...]:
    """The references whose priors a run keeps: those that its rule needs, and the published ones if
    they need no further images."""
    needed = _references(settings)
    free = PUBLISHED if looks_at_reference(settings, text_by_image) else PUBLISHED[:1]
    return *free, *sorted(needed - {*free})


def _wanted(settings: CfgNode) -> dict[str, float | None]:
    """Weighed reference -> its strength (NERP.STRENGTH); None: the automatic strength."""
    names = RULES[settings.RULE].weighed(settings)
    if settings.STRENGTH == "auto" or not names:
        return dict.fromkeys(names)
    try:
        numbers = [float(part) for part in settings.STRENGTH.strip("[]()").split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, len(names)):
        raise NerpError(f"NERP.STRENGTH is {settings.STRENGTH!r}; it is auto, a number, or a "
                        f"number for each of {len(names)} references ({', '.join(names)}), such "
                        "as 0.5,0.1")
    return dict(zip(names, numbers * (len(names) // len(numbers)), strict=True))


def strengths(
    wanted: Mapping[str, float | None], priors: Mapping[str, Prior]
) -> dict[str, float]:
    """The factor of each wanted prior that is available. Raises NerpError if none is."""
    found = {
        name: priors[name].strength if number is None else number
        for name, number in wanted.items() if name in priors
    }
    if wanted and not found:
        raise NerpError(f"NERP.REFERENCES: none of {', '.join(wanted)} suits these classes")
    return found


def _calibrate(cfg: CfgNode, material: Material, rule: CorrectionRule) -> Calibration:
    """The rule calibrated on the trained classes, with their pairs from the same source.

    A source that has no pairs of them (a bundle of the classes under test), or that looks at test
    images, is replaced by text.
    """
    adjustable(rule)  # refuses before any image is encoded
    seen = material.seen()
    held = material.validation()
    if not len(held.labels):
        raise NerpError("NERP.THRESHOLDS calibrated: there are no validation images")
    source = cfg.NERP.PAIRS if cfg.NERP.PAIRS in ("text", "reference", "train") else "text"
    settings = cfg.NERP.clone()
    settings.defrost()
    settings.PAIRS = source
    clues = replace(make_clues(seen, cfg, material), settings=settings)
    index = find_pairs(clues).index
        # For a reference that does not suit these classes, the prior is 0.
    arrays = {name: np.zeros(len(seen.classes.names), np.float32) for name in rule.references}
    for name, prior in values(find_priors(seen, cfg.NERP, material, rule.references)).items():
        arrays[name] = prior.numpy()
    return calibrate(Saved(held.logits.numpy(), held.labels.numpy(), arrays, index.numpy()), rule)
