"""TEST.FINAL_MODEL best_val: the best epoch on validation images is kept beside the last."""

import json
from contextlib import contextmanager

import pytest
import torch
from conftest import BOOSTING, LEARNING, eurosat_classes, golden_config, write_eurosat

from nerp.base.registry import TRAINERS
from nerp.data.benchmark import open_benchmark
from nerp.engine.train import TrainingRun

LABELLED = [name for name in LEARNING if TRAINERS[name].reads_labels]
EPOCHS = 4


@pytest.fixture
def train(train):
    """Trains a small CoOp in `tmp_path / folder`, where the best epoch is kept."""

    def keeping_the_best(folder, *opts):
        return train(folder, "OPTIM.MAX_EPOCH", EPOCHS, "TRAIN.CHECKPOINT_FREQ", "1",
                     "TEST.FINAL_MODEL", "best_val", *opts)

    return keeping_the_best


@contextmanager
def measured(*right):
    """So many of the validation images are right after each epoch."""
    left = list(right)

    def logits(trainer, items, image_dir, cfg, keep):
        count = left.pop(0)
        labels = torch.tensor([item.label for item in items])
        wrong = (labels + 1) % 5
        return torch.nn.functional.one_hot(
            torch.cat([labels[:count], wrong[count:]]), 5).float()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nerp.engine.best.compute_logits", logits)
        yield left


def read(folder, name):
    return torch.load(folder / "prompt_learner" / name, weights_only=True)


def test_the_first_of_the_best_epochs_is_kept_and_tested(train, nerp, tmp_path, small_run):
    with measured(1, 3, 3, 2):
        status, said, error = train("run")
    assert status == 0, error
    assert "after epoch 2: validation accuracy 30.00 %, the best so far" in said
    run = tmp_path / "run"
    best, second, last = (read(run, f"model{end}") for end in
                          ("-best.pth.tar", ".pth.tar-2", f".pth.tar-{EPOCHS}"))
    assert best["epoch"] == 2 and last["epoch"] == EPOCHS
    assert torch.equal(best["state_dict"]["ctx"], second["state_dict"]["ctx"])
    assert not torch.equal(best["state_dict"]["ctx"], last["state_dict"]["ctx"])
    record = json.loads((run / "result.json").read_text())
    assert record["final_model"] == {"name": "best_val", "epoch": 2, "of_epochs": EPOCHS,
                                     "val_accuracy": 30.0, "val_images": 10}
    assert (record["epoch"], record["checkpoint"]) == (2, "prompt_learner/model-best.pth.tar")
    assert "val" in record["identity"]["images"]

    flags, opts = small_run
    test = ["test", "--trainer", "CoOp", *flags, "--model-dir", run, *opts[:2]]
    tested = []
    for number, extra in enumerate(([], ["--load-epoch", EPOCHS])):
        out = tmp_path / f"test{number}"
        assert nerp(*test, *extra, "--output-dir", out, "DATASET.SUBSAMPLE_CLASSES", "base")[0] == 0
        tested.append(json.loads((out / "result.json").read_text()))
    assert [of_test["epoch"] for of_test in tested] == [2, EPOCHS]
    assert tested[0]["accuracy"] == record["accuracy"]
    assert tested[0]["identity"]["checkpoint"] != tested[1]["identity"]["checkpoint"]


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_an_interrupted_training_keeps_the_same_best(after, train, tmp_path, monkeypatch):
    right = (1, 3, 3, 2)
    with measured(*right):
        assert train("whole")[0] == 0
    save = TrainingRun._save_state

    def interrupt(run, tensors):
        save(run, tensors)
        if run.done.stretches == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, measured(*right):
        patch.setattr(TrainingRun, "_save_state", interrupt)
        assert train("cut")[0] == 130
    with measured(*right[min(after, EPOCHS - 1):]) as left:
        status, _, error = train("cut")
    assert status == 0 and not left, error
    whole, cut = ((tmp_path / name / "prompt_learner" / "model-best.pth.tar").read_bytes()
                  for name in ("whole", "cut"))
    assert whole == cut


@pytest.mark.parametrize("change", [
    {"best": None}, {"best": {}}, {"best": 3}, {"best.epoch": 2}, {"best.epoch": True},
    {"best.right": 11}, {"best.right": -1}, {"best.tensors": {}}, {"best.more": 1},
])
def test_a_damaged_best_epoch_is_refused(change, train, tmp_path, monkeypatch):
    finish = TrainingRun._finish

    def stop(run, stretch):
        finish(run, stretch)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "_finish", stop)
        assert train("cut")[0] == 130
    state = tmp_path / "cut" / "training_state.pt"
    content = torch.load(state, weights_only=True)
    for name, value in change.items():
        _, _, inner = name.partition(".")
        if inner:
            content["best"][inner] = value
        else:
            content["best"] = value
    torch.save(content, state)
    status, _, error = train("cut")
    assert status == 1 and "training_state.pt" in error and len(error.splitlines()) == 1


def test_a_training_without_it_leaves_no_older_best(train, tmp_path):
    assert train("run")[0] == 0
    best = tmp_path / "run" / "prompt_learner" / "model-best.pth.tar"
    assert best.is_file()
    status, _, error = train("run", "TEST.FINAL_MODEL", "last_step")
    assert status == 1 and "TEST.FINAL_MODEL: 'best_val' -> 'last_step'" in error
    assert train("run", "TEST.FINAL_MODEL", "last_step", "--overwrite")[0] == 0
    assert not best.exists()
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert record["epoch"] == EPOCHS and "final_model" not in record


@pytest.mark.parametrize("method", LABELLED)
def test_looking_changes_nothing_that_a_method_is_trained_to(
    method, golden_clip, eurosat_root, tmp_path
):
    left = [_trained(method, name, golden_clip, eurosat_root, tmp_path / name)
            for name in ("last_step", "best_val")]
    assert left[0].keys() == left[1].keys()
    for name, tensor in left[0].items():
        assert torch.equal(tensor, left[1][name]), name


def _trained(method, final, clip, root, directory):
    """The tensors in the last checkpoint."""
    cfg = golden_config(OPTIM={"MAX_EPOCH": 2, "LR_SCHEDULER": "cosine"})
    node = TRAINERS[method].node
    cfg.TRAINER.NAME, cfg.TEST.FINAL_MODEL, cfg.DATASET.ROOT = method, final, str(root)
    cfg.DATASET.update({"NAME": "EuroSAT", "DIRECTORY": "eurosat", "IMAGE_FOLDER": "2750",
                        "SPLIT_FILE": "split_zhou_EuroSAT.json"})
    cfg.DATALOADER.update({"K_TRANSFORMS": TRAINERS[method].views, "NUM_WORKERS": 0})
    cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 5
    if "BOOSTING" in cfg.TRAINER[node]:
        cfg.TRAINER[node].update(BOOSTING)
    whole = open_benchmark(cfg).select(range(5))
    bench = type(whole)(whole.name, whole.directory, whole.image_dir, whole.train[:10],
                        whole.val[:5], whole.test[:5], whole.classnames)
    torch.manual_seed(0)
    trainer = TRAINERS[method](cfg, clip, eurosat_classes("base"))
    if trainer.steps is not None:
        cfg.OPTIM.LR_SCHEDULER = "cosine_iterations"
    run = TrainingRun(trainer, bench, cfg, directory, {"of": method})
    path = run.run()
    (last,) = (directory / trainer.folder).glob("model.pth.tar-*")
    assert path == (last.with_name("model-best.pth.tar") if final == "best_val" else last)
    return torch.load(last, weights_only=True)["state_dict"]


@pytest.mark.parametrize(("method", "reason"), [
    ("TipAdapter", "is built from frozen features"), ("CasPL", "is trained without labels"),
])
def test_where_there_is_nothing_to_choose_by_it_is_refused(
    method, reason, nerp, small_run, tmp_path, golden_weights
):
    flags, opts = small_run
    more = ["TRAINER.CASPL.TEACHER_PATH", golden_weights] if method == "CasPL" else []
    status, _, error = nerp("train", "--trainer", method, *flags, "--output-dir", tmp_path / "run",
                            *opts, *more, "TEST.FINAL_MODEL", "best_val")
    assert status == 1 and f"TEST.FINAL_MODEL best_val: {method} {reason}" in error
    assert not (tmp_path / "run").exists()


def test_without_validation_images_it_is_refused(train, tmp_path):
    root = write_eurosat(tmp_path / "data")
    file = root / "eurosat" / "split_zhou_EuroSAT.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "val": []}))
    status, _, error = train("run", "DATASET.ROOT", root)
    assert status == 1 and "EuroSAT has no validation images; leave it out" in error
    assert not (tmp_path / "run").exists()
