"""Steps, rates and batches of a training: by epochs, or counted in steps."""

import math

import pytest
import torch
from torch import nn

from nerp.base.errors import NerpError
from nerp.data.images import EpochBatches
from nerp.engine.optim import build_optimizer, take_step
from nerp.engine.schedule import LONGEST_STRETCH, make_schedule
from nerp.settings.defaults import default_config


def optim(**settings):
    node = default_config().OPTIM
    node.update(settings)
    return node


def test_a_training_by_epochs_is_its_epochs():
    schedule = make_schedule(optim(MAX_EPOCH=3), 5, None)
    assert schedule.steps == 15
    assert [tuple(stretch) for stretch in schedule.stretches()] == [
        (epoch, 0, 5, True) for epoch in range(3)]


def test_a_training_counted_in_steps_ends_in_the_middle_of_an_epoch():
    schedule = make_schedule(optim(LR_SCHEDULER="cosine_iterations"), 5, 12)
    assert schedule.epochs == 3
    assert [tuple(stretch) for stretch in schedule.stretches()] == [
        (0, 0, 5, True), (1, 0, 5, True), (2, 0, 2, True)]


def test_a_long_epoch_is_interrupted_by_states():
    steps = 2 * LONGEST_STRETCH + 3
    schedule = make_schedule(optim(LR_SCHEDULER="cosine_iterations"), 10 * steps, steps)
    assert schedule.epochs == 1
    assert [tuple(stretch) for stretch in schedule.stretches()] == [
        (0, 0, LONGEST_STRETCH, False), (0, LONGEST_STRETCH, 2 * LONGEST_STRETCH, False),
        (0, 2 * LONGEST_STRETCH, steps, True)]


def test_a_rate_by_step_is_a_half_cosine_over_all_steps_with_a_floor():
    settings = optim(LR_SCHEDULER="cosine_iterations", LR=2e-4, LR_MIN=1e-6)
    schedule = make_schedule(settings, 5, 12)
    for step in range(12):
        wanted = 1e-6 + 0.5 * (2e-4 - 1e-6) * (1 + math.cos(math.pi * step / 12))
        assert schedule.rate(step // 5, step % 5) == pytest.approx(wanted, abs=1e-15)


def test_a_factor_of_the_rate_does_not_act_in_the_warm_up():
    schedule = make_schedule(optim(LR=0.1, MAX_EPOCH=4, WARMUP_EPOCH=1), 5, None)
    assert schedule.rate(0, 0, 6.5) == schedule.rate(0, 4) == 1e-5
    assert schedule.rate(2, 0, 6.5) == pytest.approx(6.5 * schedule.rate(2, 0), rel=1e-12)


@pytest.mark.parametrize(("settings", "steps", "said"), [
    ({}, 12, "OPTIM.LR_SCHEDULER is cosine"),
    ({"LR_SCHEDULER": "cosine_iterations", "WARMUP_EPOCH": 1}, 12, "OPTIM.WARMUP_EPOCH is 1"),
    ({"LR_SCHEDULER": "cosine_iterations", "WARMUP_EPOCH": 1}, None, "OPTIM.WARMUP_EPOCH is 1"),
])
def test_a_rate_that_does_not_go_with_the_count_is_refused(settings, steps, said):
    with pytest.raises(NerpError, match=said):
        make_schedule(optim(**settings), 5, steps)


def test_the_last_batch_is_kept_where_it_is_asked_for():
    kept = EpochBatches(11, 4, seed=1, keep_last=True)
    assert [len(batch) for batch in kept] == [4, 4, 3] == [kept.size(step) for step in range(3)]
    assert sorted(index for batch in kept for _, index in batch) == list(range(11))
    assert [len(batch) for batch in EpochBatches(11, 4, seed=1)] == [4, 4]


def test_chosen_steps_are_those_of_the_whole_epoch():
    batches = EpochBatches(11, 4, seed=1, keep_last=True)
    batches.choose(2, 0, 3)
    whole = list(batches)
    parts = []
    for first, last in ((0, 1), (1, 3)):
        batches.choose(2, first, last)
        assert len(batches) == last - first
        parts += list(batches)
    assert parts == whole


def test_an_incomplete_batch_has_an_image_for_each_process():
    with pytest.raises(NerpError, match="batches of 1 images"):
        EpochBatches(9, 4, seed=1, processes=2, keep_last=True)


@pytest.mark.parametrize(("norm", "clip_norm", "moved"), [(5, 0, 5), (5, 1, 1), (0.5, 1, 0.5)])
def test_gradients_are_cut_together_to_a_norm(norm, clip_norm, moved):
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3))
    optimizer = build_optimizer(
        [{"params": [a]}, {"params": [b]}], optim(LR=1.0, MOMENTUM=0.0, WEIGHT_DECAY=0.0))
    direction = norm * torch.tensor([0.6, 0, 0, 0.8, 0])
    scaler = torch.amp.GradScaler("cpu", enabled=True, init_scale=1024.0)
    take_step(optimizer, scaler, (torch.cat([a, b]) * direction).sum(), clip_norm)
    found = torch.cat([a, b]).detach().norm()
    torch.testing.assert_close(found, torch.tensor(float(moved)), rtol=1e-5, atol=1e-6)
