"""What makes the host wait for a GPU is seen without one, on tensors that hold nothing."""

import pytest
import torch
from conftest import LEARNING, eurosat_classes, golden_config
from fake_cuda import CUDA, Watch, backward, fake_cuda

from nerp.base.registry import TRAINERS
from nerp.clip.device import send
from nerp.trainers.teacher import Teacher


@pytest.mark.parametrize("wait", [
    lambda x: x.sum().item(),
    lambda x: bool((x > 0).all()),
    lambda x: x[x > 0],
    lambda x: x.nonzero(),
])
def test_the_watch_sees_what_asks_for_numbers(wait):
    with Watch("cpu") as watch:
        wait(torch.ones(3))
    assert watch.seen


@pytest.mark.parametrize("wait", [
    lambda x: x.sum().item(),
    lambda x: x.cpu(),
    lambda x: torch.ones(3).to(CUDA),
    lambda x: torch.ones(3).to(CUDA, non_blocking=True),  # of memory that is not pinned
    lambda x: torch.ones(3).pin_memory().to(CUDA),
    lambda x: torch.tensor([1.0, 2.0, 3.0], device=CUDA),
    lambda x: x.copy_(torch.ones(3)),
    lambda x: x[torch.arange(2)],
    lambda x: x[[0, 1]],
])
def test_and_what_copies(wait):
    with fake_cuda() as watch:
        wait(torch.ones(3, device=CUDA))
    assert watch.seen


def test_what_does_not_wait_is_not_seen():
    with fake_cuda() as watch:
        x = send(torch.ones(3, 3), CUDA)
        (x @ x)[send(torch.arange(2), CUDA)] + torch.tensor(2.0)
        assert x.device.type == "cuda" and send(x, CUDA) is x
    assert watch.seen == []


def test_a_product_of_integers_is_none_that_a_gpu_knows():
    with fake_cuda(), pytest.raises(NotImplementedError, match="int64"):
        torch.ones(3, 2, dtype=torch.long, device=CUDA) @ send(torch.ones(2).long(), CUDA)


@pytest.mark.parametrize("method", LEARNING)
def test_gradients_without_a_driver_are_those_of_the_engine(method, golden_clip, inputs):
    trainer = TRAINERS[method](golden_config(), golden_clip, eurosat_classes("base"))
    if method == "CasPL":
        trainer.teacher = Teacher(golden_clip, trainer.classes)
    images, labels, _ = inputs
    loss = trainer.loss(images, labels % 5)
    loss.backward(retain_graph=True)
    wanted = {name: p.grad for name, p in trainer.learned.named_parameters()}
    trainer.learned.zero_grad()
    backward(loss)
    for name, parameter in trainer.learned.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name])
