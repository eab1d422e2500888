"""A step and an evaluation batch ask for no number on the host, which a GPU would be waited for.

What makes the host wait, by operation: a tensor's value as a Python number, and results whose size
depends on values. The same operations run on every device, so a CPU shows them.
"""

import pytest
import torch
from conftest import LEARNING, eurosat_classes, golden_config
from torch.utils._python_dispatch import TorchDispatchMode

from nerp.base.registry import TRAINERS
from nerp.trainers.teacher import Teacher

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2"}


class Watch(TorchDispatchMode):
    """Notes the operations that would make the host wait for the device."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        by_mask = name == "index" and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name in WAITING or by_mask:
            self.seen.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("wait", [
    lambda x: x.sum().item(),
    lambda x: bool((x > 0).all()),
    lambda x: x[x > 0],
    lambda x: x.nonzero(),
])
def test_the_watch_sees_what_waits(wait):
    with Watch() as watch:
        wait(torch.ones(3))
    assert watch.seen


@pytest.mark.parametrize("method", TRAINERS.names())
def test_an_evaluation_batch(method, golden_clip, inputs):
    trainer = TRAINERS[method](golden_config(), golden_clip, eurosat_classes("base"))
    with torch.inference_mode():
        classify = trainer.classifier()
        with Watch() as watch:
            classify(inputs[0])
    assert watch.seen == []


@pytest.mark.parametrize("method", LEARNING)
def test_a_loss_and_its_gradients(method, golden_clip, inputs):
    images, labels, _ = inputs
    trainer = TRAINERS[method](golden_config(), golden_clip, eurosat_classes("base"))
    trainer.teacher = Teacher(golden_clip, trainer.classes)  # CasPL's
    trainer.loss(images, labels % 5)  # what is computed once a run
    with Watch() as watch:
        trainer.loss(images, labels % 5).backward()
    assert watch.seen == []
