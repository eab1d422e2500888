"""Makes the calibrator of a test (TEST.CALIBRATION)."""

import torch
from torch import Tensor

from nerp.base.errors import NerpError
from nerp.base.log import say
from nerp.clip.model import normalise
from nerp.correction.looked_at import TRAINING_IMAGES
from nerp.engine.calibrators import Calibrator, Distance, Temperature, distance_factors, least_nll
from nerp.engine.correct import labelled, reference_pixels, seen_trainer
from nerp.engine.tested import Tested
from nerp.trainers.base import Trainer


def open_calibrator(tested: Tested) -> Calibrator | None:
    """The calibrator that TEST.CALIBRATION asks for; None for none.

    Raises NerpError if a temperature is wanted and there are no validation images.
    """
    calibrator = _CALIBRATORS[tested.cfg.TEST.CALIBRATION](tested)
    if calibrator:
        say(f"calibrated by {calibrator.note}; has looked at {calibrator.looked_at}")
    return calibrator


def _temperature(tested: Tested) -> Temperature:
    held = labelled(tested, "val")
    if not len(held.labels):
        raise NerpError("TEST.CALIBRATION temperature: there are no validation images of the "
                        "classes trained on; dac needs none")
    return Temperature(least_nll(held.logits, held.labels), len(held.labels))


@torch.inference_mode()
def _distance(tested: Tested) -> Distance:
    """DAC. If a method's text depends on the image, it uses the text for the mean training
    image."""
    trainer, seen = tested.trainer, seen_trainer(tested)
    image = reference_pixels(tested) if trainer.text_by_image else None
    with trainer.clip.autocast():
        base, asked = (_features(each, image) for each in (seen, trainer))
    factors = distance_factors(base[0], asked[0], base[1], asked[1])
    return Distance(factors, TRAINING_IMAGES if image is not None else Distance.looked_at)


def _features(trainer: Trainer, image: Tensor | None) -> tuple[Tensor, Tensor]:
    """The class features [C, D] of frozen CLIP with the dataset's template, and the tuned ones."""
    text = trainer.class_features() if image is None else trainer.reference_class_features(image)
    frozen = normalise(trainer.frozen_clip.text_features(trainer.classes.prompts))
    return frozen.float().cpu(), text.float().cpu()


_CALIBRATORS = {"none": lambda tested: None, "temperature": _temperature, "dac": _distance}
