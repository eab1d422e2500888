"""The inputs that only few rules need besides logits, priors and pairs, from the tested model."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from nerp.base.errors import NerpError
from nerp.correction.correction import Extra
from nerp.correction.references import Shown, image_for
from nerp.data.benchmark import Item
from nerp.engine.evaluate import encode_images
from nerp.engine.tested import Tested

FEATURES = ("image_features", "text_features", "image_mean", "scale")


def gather_extra(
    tested: Tested, reference: Callable[[], Tensor], shown: Callable[[], Shown],
    needs: tuple[str, ...],
) -> Extra:
    """The fields of `Extra` that a rule needs, on the CPU.

    Args: reference: the reference image, for class features that depend on an image.
    shown: the training images as the model sees them.

    Raises NerpError if labelled images of the tested classes are needed and there are none.
    """
    found: dict[str, Tensor] = {}
    with torch.inference_mode(), tested.trainer.clip.autocast():
        if {*needs} & {*FEATURES}:
            found |= _features(tested, reference, shown)
        if {*needs} - {*FEATURES}:
            found |= _labelled(tested)
    return Extra(**{name: value.float().cpu() if value.is_floating_point() else value.cpu()
                    for name, value in found.items()})


def _features(
    tested: Tested, reference: Callable[[], Tensor], shown: Callable[[], Shown]
) -> dict[str, Tensor]:
    trainer = tested.trainer
    images = encode_images(
        trainer.image_features, trainer.clip, tested.items, tested.bench.image_dir, tested.cfg
    )
    return {
        "image_features": images,
        "text_features": trainer.reference_class_features(image_for(trainer, reference)),
        "image_mean": shown().features.mean(dim=0),
        "scale": torch.tensor(trainer.scale),
    }


def _labelled(tested: Tested) -> dict[str, Tensor]:
    """Frozen CLIP's logits on the images under test and on the training images of their classes."""
    trainer, cfg = tested.trainer, tested.cfg
    _, seen = tested.seen_bench
    place = {name: i for i, name in enumerate(tested.bench.classnames)}
    items = [item for item in seen.train if item.classname in place]
    lacking = place.keys() - {item.classname for item in items}
    if lacking:
        raise NerpError(f"the rule labelled needs training images of the tested classes, and of "
                        f"{min(lacking)!r} there are none: it serves classes that were trained on "
                        "(NERP.ON_BASE True)")
    frozen, clip = trainer.frozen_class_features(), trainer.frozen_clip

    def logits(of: list[Item], image_dir: Path) -> Tensor:
        features = encode_images(clip.image_features, clip, of, image_dir, cfg)
        return clip.scale * features @ frozen.t()

    return {
        "zero_shot_logits": logits(tested.items, tested.bench.image_dir),
        "labelled_logits": logits(items, seen.image_dir),
        "labelled_labels": torch.tensor([place[item.classname] for item in items]),
    }
