"""What a training run does where numbers go wrong, and in which precision it runs."""

import csv
import json
from functools import partial
from pathlib import Path

import pytest
import torch

from nerp.clip.model import PRECISIONS, build_clip, pick_device, usable_precision
from nerp.engine.tested import open_clip_model
from nerp.settings.defaults import default_config
from nerp.settings.resolve import Request, Resolved
from nerp.settings.tree import COMMAND_LINE, Origin


@pytest.fixture
def train(train):
    """Trains a small CoOp in `tmp_path / "run"`: (status, printed, error)."""
    return partial(train, "run", "OPTIM.MAX_EPOCH", "3")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_what_was_good(
    value, train, tmp_path, monkeypatch
):
    from nerp.trainers.coop import CoOp

    steps = []

    def loss(self, images, labels):
        steps.append(len(images))
        good = torch.nn.functional.cross_entropy(self.logits(images), labels)
        return good * value if len(steps) == 4 else good  # the second step of epoch 2

    monkeypatch.setattr(CoOp, "loss", loss)
    status, _, error = train("TRAIN.PRINT_FREQ", "1")
    assert status == 1 and len(error.splitlines()) == 1
    assert "epoch 2, step 2" in error and "learning rate 0.002" in error
    assert "TRAINER.COOP.PREC amp" in error
    assert "With either it is another run: --overwrite, or another --output-dir" in error
    run = tmp_path / "run"
    assert not (run / "result.json").exists() and not (run / "prompt_learner").exists()
    state = torch.load(run / "training_state.pt", weights_only=True)
    assert all(tensor.isfinite().all() for tensor in _tensors(state))

    status, _, error = train("TRAIN.PRINT_FREQ", "1")
    assert status == 0, error
    assert len(steps) == 4 + 2 * 2  # epoch 1 is not trained again
    assert json.loads((run / "result.json").read_text())["accuracy"] >= 0
    with open(run / "metrics.csv", newline="") as file:  # a loss of one's own need not say it
        assert {row["accuracy"] for row in csv.DictReader(file)} == {""}


def _tensors(tree):
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, dict | list | tuple):
        for item in tree.values() if isinstance(tree, dict) else tree:
            yield from _tensors(item)


def test_the_remedy_for_such_a_loss_runs_in_the_same_folder(train, monkeypatch):
    from nerp.trainers.coop import CoOp

    steps = []

    def loss(self, images, labels):
        steps.append(len(images))
        return self.cross_entropy(self.logits(images), labels) / (len(steps) < 4)

    with monkeypatch.context() as patch:
        patch.setattr(CoOp, "loss", loss)
        assert train()[0] == 1
    remedy = ("OPTIM.LR", "0.001")
    status, _, error = train(*remedy)
    assert status == 1 and "holds an interrupted run of something else" in error
    assert train(*remedy, "--overwrite")[0] == 0


def test_a_schedule_is_not_extended(train):
    assert train()[0] == 0
    status, _, error = train("OPTIM.MAX_EPOCH", "5")
    assert status == 1 and "OPTIM.MAX_EPOCH: 3 -> 5; a schedule cannot be extended" in error
    assert "give another --output-dir, or --overwrite" in error


@pytest.mark.parametrize("precision", ["fp16", "amp"])
def test_on_a_cpu_half_precision_becomes_fp32_and_one_line_says_so(precision, golden_weights):
    clip, notes = build_clip("", str(golden_weights), "auto", precision, torch.device("cpu"))
    assert clip.precision.weights == torch.float32
    assert [note for note in notes if "precision" in note] == [
        f"precision {precision} is not computed on this CPU: the run is in fp32"
    ]


def resolved(cfg, **named):
    """A configuration as if it came from a command line that gives the keys `named`."""
    origins = {key: Origin(COMMAND_LINE) for key in named}
    return Resolved(Request("CoOp"), cfg, Path(), None, Path(), "CoOp", origins)


@pytest.mark.parametrize(("name", "said"), [
    ("RN50", "is a ResNet, D = 1024,"),
    ("ViT-B/32", "is 12/12 layers, patches of 32 pixels, D = 512,"), ("", None),
])
def test_a_name_beside_a_file_of_another_architecture_is_mentioned(
    name, said, golden_weights, caplog
):
    cfg = default_config()
    cfg.TRAINER.NAME, cfg.MODEL.BACKBONE.PATH = "CoOp", str(golden_weights)
    cfg.MODEL.BACKBONE.NAME = name or cfg.MODEL.BACKBONE.NAME
    given = {"MODEL.BACKBONE.NAME": name} if name else {}
    assert open_clip_model(resolved(cfg, **given)).image.depth == 4
    assert ("holds another architecture" in caplog.text) == bool(said)
    assert not said or said in caplog.text


def test_half_precision_is_for_cuda_and_not_for_apples_gpu():
    for precision in PRECISIONS:
        assert usable_precision(precision, torch.device("cuda")) == precision
        assert usable_precision(precision, torch.device("mps")) == "fp32"


@pytest.mark.parametrize(("cuda", "mps", "wanted", "found"), [
    (True, True, True, "cuda"), (False, True, True, "mps"), (False, False, True, "cpu"),
    (True, True, False, "cpu"),
])
def test_an_accelerator_is_taken_where_there_is_one(cuda, mps, wanted, found, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: mps)
    assert pick_device(wanted).type == found


@pytest.mark.parametrize("size, said", [((224, 224), False), ((64, 64), False), ((96, 96), True)])
def test_a_size_that_was_asked_for_and_does_not_fit_the_backbone_is_mentioned(size, said, caplog):
    cfg = default_config()
    cfg.TRAINER.NAME, cfg.MODEL.BACKBONE.NAME, cfg.INPUT.SIZE = "CoOp", "tiny", size
    assert open_clip_model(resolved(cfg)).size == 64
    assert (f"INPUT.SIZE {size} gives way to the backbone's 64 pixels" in caplog.text) == said


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_what_a_cpu_can_do_is_done(precision, dtype, golden_weights):
    clip, notes = build_clip("", str(golden_weights), "auto", precision, torch.device("cpu"))
    assert clip.precision.weights == dtype and len(notes) == 1


def test_bf16_trains_on_a_cpu_to_nearly_the_same_model(train, tmp_path, golden_weights):
    results = []
    for precision in ("fp32", "bf16"):
        out = tmp_path / precision
        status, _, error = train("TRAINER.COOP.PREC", precision, "--output-dir", out)
        assert status == 0, error
        saved = torch.load(out / "prompt_learner" / "model.pth.tar-3", weights_only=True)
        results.append(saved["state_dict"]["ctx"])
    assert torch.allclose(*results, atol=2e-3)
    assert not torch.equal(*results)
