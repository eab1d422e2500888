"""CLIP-LoRA: dropout, places, training counted in steps, its published file."""

import shutil

import numpy as np
import pytest
import torch
from conftest import GOLDEN, eurosat_classes, golden_config, golden_options
from trainers.test_golden import golden, tensors

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.engine import schedule
from nerp.engine.checkpoint import read_checkpoint
from nerp.engine.train import TrainingRun

FILE = "vitb16/eurosat/2shots/seed1/lora_weights.pt"


def build(clip, cfg=None):
    return TRAINERS["CLIPLoRA"](
        cfg or golden_config(), clip, eurosat_classes("base"), tensors("CLIPLoRA", "param")
    )


def test_dropout_with_its_draws_written_down(golden_clip, inputs):
    images, labels, _ = inputs
    z, trainer = golden("CLIPLoRA"), build(golden_clip)

    def dropout(name, x):
        keep = np.unpackbits(z[f"dropout/keep/{name}"], axis=-1)
        return x * torch.tensor(keep).view(x.shape) / 0.75

    trainer.learned.train()
    trainer.dropout = dropout
    loss = trainer.loss(images[:4], labels[:4])
    loss.backward()
    np.testing.assert_allclose(loss.item(), z["dropout/loss"], atol=1e-3)
    names = [key for key in z.files if key.startswith("dropout/gradient/")]
    assert names
    for key in names:
        gradient = trainer.parameter(key.removeprefix("dropout/gradient/")).grad
        np.testing.assert_allclose(gradient, z[key], atol=1e-4)


def test_dropout_acts_in_training_alone_and_repeats_with_seed_and_epoch(golden_clip, inputs):
    trainer = build(golden_clip)
    still = trainer.class_features()
    trainer.learned.train()
    trainer.start_epoch(1)
    first, second = trainer.class_features(), trainer.class_features()
    assert not torch.allclose(first, still, atol=1e-4)
    assert not torch.allclose(first, second, atol=1e-4)
    trainer.start_epoch(1)
    assert torch.equal(trainer.class_features(), first)
    trainer.learned.eval()
    assert torch.equal(trainer.class_features(), still)


def test_a_share_is_dropped_and_the_rest_scaled(golden_clip):
    trainer = build(golden_clip)
    x = torch.ones(400, 128)
    dropped = trainer.dropout("layer_0.q_proj", x)
    torch.testing.assert_close(dropped.unique(), torch.tensor([0.0, 4 / 3]))
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("settings", "text", "vision"), [
    ({}, range(1, 5), range(1, 5)),
    ({"POSITION": "bottom"}, range(1, 5), range(1, 5)),
    ({"POSITION": "half-bottom", "ENCODER": "vision"}, (), range(1, 5)),
    ({"ENCODER": "text"}, range(1, 5), ()),
])
def test_layers_by_position_and_encoder(settings, text, vision, golden_clip, inputs):
    cfg = golden_config()
    cfg.TRAINER.CLIPLORA.update(settings)
    trainer = TRAINERS["CLIPLoRA"](cfg, golden_clip, eurosat_classes("base"))
    assert [*trainer.layers["text"]] == [*text] and [*trainer.layers["vision"]] == [*vision]
    numbers = [*trainer.layers["text"].values(), *trainer.layers["vision"].values()]
    assert numbers == list(range(len(numbers)))
    trainer.loss(inputs[0], inputs[1] % 5).backward()  # also where an encoder is frozen CLIP


@pytest.mark.parametrize("position", ["mid", "up", "half-up", "top3"])
def test_a_position_that_the_encoder_does_not_have_is_refused(position, golden_clip):
    cfg = golden_config()
    cfg.TRAINER.CLIPLORA.POSITION = position
    with pytest.raises(NerpError, match=f"TRAINER.CLIPLORA.POSITION is {position}; the text"):
        TRAINERS["CLIPLoRA"](cfg, golden_clip, eurosat_classes("base"))


@pytest.fixture
def command(small_run):
    """A training of 12 steps, three an epoch."""
    flags, opts = small_run
    return ["train", "--trainer", "CLIPLoRA", *flags, *opts, *golden_options("CLIPLoRA"),
            "DATASET.SUBSAMPLE_CLASSES", "base"]


def test_a_training_interrupted_in_an_epoch_goes_on_to_the_same_model(
    command, nerp, tmp_path, monkeypatch
):
    monkeypatch.setattr(schedule, "LONGEST_STRETCH", 2)
    assert nerp(*command, "--output-dir", tmp_path / "whole")[0] == 0
    finish = TrainingRun._finish

    def interrupt(run, stretch):
        finish(run, stretch)
        if (stretch.epoch, stretch.last) == (1, 2):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "_finish", interrupt)
        assert nerp(*command, "--output-dir", tmp_path / "cut")[0] == 130
    status, text, _ = nerp(*command, "--output-dir", tmp_path / "cut")
    assert status == 0 and "resuming after epoch 2 of 4, step 2" in text
    whole, cut = (
        torch.load(tmp_path / name / "CLIPLoRA" / "model.pth.tar-4")["state_dict"]
        for name in ("whole", "cut")
    )
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    histories = [(tmp_path / name / "metrics.csv").read_text().splitlines()
                 for name in ("whole", "cut")]
    steps = [[line.split(",")[1] for line in lines[1:]] for lines in histories]
    assert steps[0] == steps[1] == ["2", "3", "5", "6", "8", "9", "11", "12"]


def test_the_published_file_is_found_by_backbone_dataset_shots_and_seed(nerp, small_run, tmp_path):
    flags, opts = small_run
    shutil.copytree(GOLDEN / "checkpoints" / "CLIPLoRA", tmp_path / "release")
    command = ["test", "--trainer", "CLIPLoRA", *flags, "--model-dir", tmp_path / "release",
               "--output-dir", tmp_path / "test", *opts]
    status, _, error = nerp(*command)
    assert status == 1 and "no vitb16/eurosat/4shots/seed1/lora_weights.pt" in error
    status, text, error = nerp(*command, "DATASET.NUM_SHOTS", "2", "--load-epoch", "7")
    assert status == 0, error
    assert f"CLIPLoRA from {tmp_path / 'release' / FILE}" in text


@pytest.mark.parametrize(("change", "said"), [
    ({"metadata": {}}, "not a checkpoint of CLIPLoRA"),
    ({"weights": {"layer_0": 3}}, "not a checkpoint of CLIPLoRA"),
    ({"weights": {}}, "not a checkpoint of a registered method"),
])
def test_a_damaged_published_file_is_refused_in_one_line(change, said, tmp_path):
    content = torch.load(GOLDEN / "checkpoints" / "CLIPLoRA" / FILE, weights_only=True)
    torch.save(content | change, tmp_path / "lora_weights.pt")
    with pytest.raises(NerpError, match=f"lora_weights.pt: {said}"):
        read_checkpoint(tmp_path / "lora_weights.pt")


def test_a_rank_of_0_is_refused_and_nothing_written(command, nerp, tmp_path):
    status, _, error = nerp(*command, "--output-dir", tmp_path / "run",
                            "TRAINER.CLIPLORA.RANK", "0")
    assert status == 1 and len(error.splitlines()) == 1
    assert "TRAINER.CLIPLORA.RANK is 0; it takes a whole number from 1" in error
    assert not (tmp_path / "run").exists()


def test_a_file_that_states_a_rank_of_0_is_refused_by_name(golden_clip, nerp, small_run, tmp_path):
    flags, opts = small_run
    content = torch.load(GOLDEN / "checkpoints" / "CLIPLoRA" / FILE, weights_only=True)
    content["metadata"]["r"] = 0
    file = tmp_path / "lora_weights.pt"
    torch.save(content, file)
    status, _, error = nerp("test", "--trainer", "CLIPLoRA", *flags, "--model-dir", file,
                            "--output-dir", tmp_path / "test", *opts)
    assert status == 1 and "lora_weights.pt: TRAINER.CLIPLORA.RANK is 0" in error
