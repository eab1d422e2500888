"""Likely mistakes in a training, reported before it begins."""

import torch
from yacs.config import CfgNode

from nerp.base.log import say
from nerp.data.benchmark import Benchmark
from nerp.data.doubts import coinciding, some
from nerp.data.selection import short_classes
from nerp.trainers.base import Trainer


def warn(trainer: Trainer, bench: Benchmark, cfg: CfgNode) -> dict[str, dict[str, int]]:
    """Warn of classes with fewer training images than shots, and of classes that the backbone
    cannot tell apart. Returns the part for the record: {} or {"fewer_images": {class name: how
    many}}."""
    shots = cfg.DATASET.NUM_SHOTS
    short = short_classes(bench, max(shots, 1))
    if short:
        named = some([f"{name} {count}" for name, count in short.items()])
        wanted = f"the {shots} of DATASET.NUM_SHOTS" if shots > 0 else "one"
        say(f"fewer training images than {wanted}: {named}")
    same = coinciding(trainer.classes.names, class_features(trainer).numpy())
    if same:
        say("the backbone has the same class features for "
            f"{some([f'{a} = {b}' for a, b in same])}: it does not know these names, and cannot "
            "tell the classes apart; tiny is for the drawn benchmarks, a real CLIP knows more "
            "(nerp backbones)")
    return {"fewer_images": short} if short else {}


@torch.no_grad()
def class_features(trainer: Trainer) -> torch.Tensor:
    """Frozen CLIP's class features [C, D] for the template alone, on the CPU in float32."""
    clip = trainer.clip
    with clip.autocast():
        features = clip.text_features(list(trainer.classes.prompts))
    return torch.nn.functional.normalize(features.float().cpu(), dim=-1)
