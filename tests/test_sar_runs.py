"""A method with SAR from the command line: training, its record, tests under either name, plans."""

import json

import numpy as np
import pytest
import torch

from nerp.base.errors import NerpError
from nerp.engine.identity import digest
from nerp.experiments.plan import plan
from nerp.experiments.selection import Selection
from nerp.settings.catalogue import config_name
from nerp.settings.resolve import Request, resolve


@pytest.fixture
def command(nerp, eurosat_root, golden_weights):
    """Run `nerp train` or `nerp test` on the small EuroSAT: status and what it printed."""

    def run(phase, trainer, out, *args):
        status, text, error = nerp(
            phase, "--root", eurosat_root, "--dataset", "eurosat", "--trainer", trainer,
            "--output-dir", out, "MODEL.BACKBONE.PATH", golden_weights, "DATASET.NUM_SHOTS", "4",
            "OPTIM.MAX_EPOCH", "2", "DATALOADER.TRAIN_X.BATCH_SIZE", "8", "TRAINER.COOP.N_CTX", "4",
            *args,
        )
        return status, text + error

    return run


BASE, NEW = (["DATASET.SUBSAMPLE_CLASSES", which] for which in ("base", "new"))


def test_a_run_from_training_to_its_corrected_test(command, tmp_path):
    novel = tmp_path / "names.txt"
    novel.write_text("Forest\nRiver\nBog\nHeath\n")  # trained on, under test, neither
    out = tmp_path / "train"
    status, text = command("train", "CoOp_SAR", out, *BASE, "TRAINER.SAR.NOVEL_FILE", novel)
    assert status == 0, text
    record = json.loads((out / "result.json").read_text())
    assert record["trainer"] == "CoOp_SAR"
    assert record["sar"] == {
        "weight": 1.0, "samples": 7, "novel_list": f"{novel}, EuroSAT", "novel_names": 3,
        "equal_to_a_test_class": 1,
    }
    saved = torch.load(out / "prompt_learner/model.pth.tar-2", weights_only=True)
    assert saved["trainer"] == "CoOp" and set(saved["state_dict"]) == {"ctx"}
    logits = []
    for name in ("CoOp", "CoOp_SAR", "CoOp_SAR_NeRP"):
        test = tmp_path / name
        status, text = command("test", name, test, *NEW, "--model-dir", out, "--save-logits")
        assert status == 0, text
        assert json.loads((test / "result.json").read_text())["trainer"] == name
        logits.append(np.load(test / "predictions.npz")["logits"])
    assert np.array_equal(logits[0], logits[1]) and np.array_equal(logits[0], logits[2])


def test_an_interrupted_run_goes_on_with_the_same_sets(command, tmp_path, monkeypatch):
    from nerp.engine.train import TrainingRun

    finish = TrainingRun._finish

    def interrupt(run, stretch):
        finish(run, stretch)
        raise KeyboardInterrupt

    args = [*BASE, "TRAINER.SAR.SAMPLES", "5"]
    assert command("train", "CoOp_SAR", tmp_path / "whole", *args)[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "_finish", interrupt)
        assert command("train", "CoOp_SAR", tmp_path / "cut", *args)[0] == 130
    assert command("train", "CoOp_SAR", tmp_path / "cut", *args)[0] == 0
    whole, cut = (
        torch.load(tmp_path / name / "prompt_learner/model.pth.tar-2")["state_dict"]["ctx"]
        for name in ("whole", "cut")
    )
    assert torch.equal(whole, cut)


@pytest.mark.parametrize(("trainer", "args", "reason"), [
    ("CoCoOp_SAR", [], "only one for each image"),
    ("CoOp_SAR_NeRP", [], "NeRP trains nothing: train CoOp_SAR, then test CoOp_SAR_NeRP"),
    ("CoOp_SAR", ["TRAINER.COOP.CSC", "True"], "SAR needs a context that serves any name"),
    ("CoOp_SAR", ["TRAINER.SAR.NOVEL_FILE", "none.json"], "no such file"),
    ("CoOp_SAR", ["TRAINER.SAR.SAMPLES", "0"], "TRAINER.SAR.SAMPLES is 0; it takes a whole number"),
])
def test_what_cannot_be_done_is_one_line(trainer, args, reason, command, tmp_path):
    status, text = command("train", trainer, tmp_path / "out", *BASE, *args)
    errors = [line for line in text.splitlines() if line.startswith("nerp: error: ")]
    assert status == 1 and len(errors) == 1 and reason in errors[0]
    assert text.endswith(errors[0] + "\n") and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("method", "dataset", "shots", "weight"), [
    ("CoOp", "eurosat", 16, 0.5), ("CoOp", "ucf101", 16, 0.5), ("CoOp", "food101", 16, 0.1),
    ("CoOp", "food101", 4, 1.0), ("CoOp", "demo_objects", 16, 0.1), ("MMRL", "eurosat", 16, 0.75),
    ("MMRL", "dtd", 16, 0.5), ("MMRL", "dtd", 4, 0.5), ("PromptSRC", "imagenet", 16, 0.1),
])
def test_weights_are_by_method_dataset_and_shots(method, dataset, shots, weight):
    options = ["DATASET.NUM_SHOTS", str(shots)]
    given = [*options, "TRAINER.SAR.WEIGHT", "0.3"]
    found, of_command_line = (
        resolve(Request(f"{method}_SAR", dataset, opts=opts)).cfg.TRAINER.SAR.WEIGHT
        for opts in (options, given)
    )
    assert (found, of_command_line) == (weight, 0.3)


def test_its_settings_decide_about_its_own_runs_alone():
    def of(trainer, *opts):
        return digest(resolve(Request(trainer, "eurosat", opts=list(opts))).cfg)

    samples = ("TRAINER.SAR.SAMPLES", "7")
    assert of("CoOp") == of("CoOp", *samples)
    assert of("CoOp_SAR") != of("CoOp_SAR", *samples)
    assert of("CoOp_SAR") != of("CoOp")


def test_a_plan_trains_it_once_for_both_its_tests():
    runs = plan(Selection("base_to_novel", methods=("CoOp_SAR", "CoOp_SAR_NeRP"),
                          datasets=("eurosat",), seeds=(1,)))
    assert [run.trainer for run in runs] == [
        "CoOp_SAR", "CoOp_SAR", "CoOp_SAR_NeRP", "CoOp_SAR", "CoOp_SAR_NeRP"
    ]
    assert all("configs/trainers/CoOp/vit_b16_ep100_ctxv1.yaml" in run.argv for run in runs)
    assert all("CoOp_SAR" in str(run.directory) for run in runs)
    assert any(path.name == "sar.yaml" for path in runs[0].inputs)
    with pytest.raises(NerpError, match="there is no CoCoOp_SAR"):
        plan(Selection("base_to_novel", methods=("CoCoOp_SAR",)))


@pytest.mark.parametrize(("name", "task", "config"), [
    ("CoOp_SAR", "B2N", "vit_b16_ep100_ctxv1"), ("CoOp_SAR", "CD", "vit_b16_ep50_ctxv1"),
    ("MMRL_SAR", "B2N", "vit_b16"),
])
def test_configurations(name, task, config):
    assert config_name(name, task, "eurosat", 16) == config
