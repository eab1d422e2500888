"""A scaled step that overflows is as if it had not been, in every optimiser that a GPU fuses."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import eurosat_classes, golden_config

from nerp.base.registry import TRAINERS
from nerp.data.benchmark import Benchmark, Item
from nerp.engine import train
from nerp.engine.optim import build_optimizer
from nerp.engine.train import TrainingRun

OPTIMISERS = ["sgd", "adam", "adamw"]
OVERFLOWING = 3e38  # the scale of a loss


@pytest.fixture
def begin(golden_clip, tmp_path, monkeypatch):
    """A run of MMA as a GPU would do it in amp, with memory that is not what it should be."""
    monkeypatch.setattr(train, "build_optimizer", partial(build_optimizer, fused=True))
    monkeypatch.setattr(torch, "empty_like", lambda t: torch.full_like(t, float("nan")))
    golden_clip.precision = replace(golden_clip.precision, scaled=True)

    def begin(name, momentum=0.9):
        cfg = golden_config(OPTIM={"NAME": name, "MOMENTUM": momentum, "MAX_EPOCH": 4})
        cfg.TRAINER.NAME = "MMA"
        names = eurosat_classes("base").names
        items = [Item(f"{label}.jpg", label, name) for label, name in enumerate(names)]
        bench = Benchmark("EuroSAT", tmp_path, tmp_path, items, [], items, list(names))
        torch.manual_seed(0)
        trainer = TRAINERS["MMA"](cfg, golden_clip, eurosat_classes("base"))
        return TrainingRun(trainer, bench, cfg, tmp_path, {"of": name})

    return begin


def step(run, scale):
    generator = torch.Generator().manual_seed(1)
    size = run.trainer.clip.size
    pixels = torch.randint(256, (4, 1, 3, size, size), generator=generator).byte()
    run.scaler.scale(torch.ones(()))  # which is when it gets a scale
    run.scaler.update(scale)
    run._step(*run.shown.on_device(pixels, torch.arange(4)), 4)
    return {name: tensor.clone() for name, tensor in run.trainer.learned.state_dict().items()}


def equal(found, wanted):
    assert found.keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.items())


@pytest.mark.parametrize("momentum", [0.9, 0.0])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_first_step_that_overflows(name, momentum, begin):
    run = begin(name, momentum)
    before = {name: tensor.clone() for name, tensor in run.trainer.learned.state_dict().items()}
    equal(step(run, OVERFLOWING), before)
    assert run.scaler.get_scale() == pytest.approx(OVERFLOWING / 2)
    other = begin(name, momentum)
    for _ in range(2):
        after = step(run, 1024.0)
        equal(after, step(other, 1024.0))
    assert not torch.equal(*(t["shared_adapter.2.0.weight"] for t in (before, after)))


@pytest.mark.parametrize("steps", [[OVERFLOWING], [OVERFLOWING, 1024.0], [1024.0]])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_and_is_resumed_from(name, steps, begin):
    run = begin(name)
    for scale in steps:
        step(run, scale)
    run._finish(run.stretches[0])
    resumed = begin(name)
    resumed.resume()
    assert resumed.done.stretches == 1
    for _ in range(2):
        equal(step(resumed, 1024.0), step(run, 1024.0))


def test_a_state_without_momentum_is_gone_on_from(begin):
    """As it is left by a run whose optimiser makes it with the first step that counts."""
    run = begin("sgd")
    run.optimizer.state.clear()
    run._finish(run.stretches[0])
    resumed = begin("sgd")
    resumed.resume()
    equal(step(resumed, OVERFLOWING), resumed.trainer.learned.state_dict())
    assert all(tensor.isfinite().all() for tensor in step(resumed, 1024.0).values())
