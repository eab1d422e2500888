"""A model's features of a split, for probes and plots of one's own."""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from nerp.base.log import say
from nerp.base.paths import replacing
from nerp.correction.references import image_for
from nerp.engine.checkpoint import check_finite
from nerp.engine.correct import reference_pixels
from nerp.engine.evaluate import encode_images
from nerp.engine.tested import Tested
from nerp.settings.resolve import Resolved


def save_features(file: Path, resolved: Resolved) -> Path:
    """Write a model's features to an npz file, and return its path.

    It holds image_features [N, D], class_features and frozen_class_features [C, D], all of length 1
    (except MoCoOp's class features, which mix two: at most 1), labels [N], paths [N] and classnames
    [C]. If class features depend on the image, they are those for the reference image. If a method
    does not predict from the cosines of these features, the file also has its `logits` [N, C], and
    `reproduces` is False.

    Raises NerpError if the model or dataset is not available.
    """
    tested = Tested(resolved)
    trainer, cfg = tested.trainer, tested.cfg
    images = encode_images(
        trainer.image_features, trainer.clip, tested.items, tested.bench.image_dir, cfg
    )
    with torch.inference_mode(), trainer.clip.autocast():
        reference = image_for(trainer, partial(reference_pixels, tested))
        text = trainer.reference_class_features(reference)
        frozen = trainer.frozen_class_features(reference)
    features = {"image_features": images, "class_features": text, "frozen_class_features": frozen}
    for name, tensor in features.items():
        check_finite(name, tensor, "the features")
    arrays = {
        **{name: tensor.float().cpu().numpy() for name, tensor in features.items()},
        "labels": tested.labels,
        "paths": np.array([item.path for item in tested.items]),
        "classnames": np.array(tested.bench.classnames),
    }
    arrays["reproduces"] = np.array(trainer.is_cosine())
    if not trainer.is_cosine():
        arrays["logits"] = tested.logits.numpy()
        say(f"{cfg.TRAINER.NAME} does not predict by the cosine of image_features and "
            f"class_features alone: {file} has its logits beside them")
    with replacing(file) as unfinished, open(unfinished, "wb") as content:
        np.savez_compressed(content, **arrays)  # type: ignore[arg-type]  # none is called allow_pickle
    say(f"{file}: {len(tested.items)} images, {len(tested.bench.classnames)} classes, "
        f"D = {images.shape[1]}")
    return file
