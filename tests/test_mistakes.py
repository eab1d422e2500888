"""What is wrong with a command line or its files: one clear line, and nothing left behind."""

import json

import pytest
import torch
from conftest import EUROSAT, GOLDEN, write_eurosat
from tiny_clip import Sizes, random_clip

from nerp.base.errors import NerpError


@pytest.fixture
def mistake(nerp, small_run, tmp_path):
    """Run `nerp test` with something wrong: the one line it prints. Nothing may be left behind."""

    def run(*args, trainer="ZeroshotCLIP", command="test", flags=None):
        out = tmp_path / "out"
        status, _, error = nerp(
            command, "--trainer", trainer, *(small_run[0] if flags is None else flags),
            "--output-dir", out, *args,
        )
        assert status == 1 and error.startswith("nerp: error: ")
        assert len(error.strip().splitlines()) == 1
        assert not out.exists()
        return error

    return run


def test_unknown_names(mistake, nerp):
    assert "unknown trainer 'MMLR'. Did you mean MMRL? There are: " in mistake(trainer="MMLR")
    assert "--import the module that registers it" in mistake(trainer="Mine")
    assert "unknown dataset 'eurosta'. Did you mean eurosat?" in mistake(
        flags=["--dataset", "eurosta"]
    )
    assert "unknown configuration key 'DATASET.SHOTS'" in (line := mistake("DATASET.SHOTS", "4"))
    assert "DATASET.NUM_SHOTS" in line
    assert "unknown configuration key 'OPTIMS.LR'. Did you mean OPTIM?" in mistake("OPTIMS.LR", "4")
    assert "expected KEY VALUE pairs" in mistake("OPTIM.LR")
    assert "OPTIM.LR is 'fast'; it takes a number" in mistake("OPTIM.LR", "fast")
    assert nerp("tarin")[0] == 1


def test_wrong_sentences(mistake, small_run, tmp_path):
    file = tmp_path / "texts.json"
    texts = {name: [f"{name}.", "a place."] for name in EUROSAT}
    for changes, views, message in (
        ({"River": ["a river."]}, 2, "1 sentences for the class 'River', 2 for "),
        ({"River": None}, 2, "has no sentences for the class 'River'"),
        ({}, 1, "DATALOADER.K_TRANSFORMS is 1; CoPrompt learns from 2 views of an image"),
    ):
        kept = {name: own for name, own in (texts | changes).items() if own}
        file.write_text(json.dumps(kept))
        assert message in mistake(*small_run[1], "TRAINER.CoPrompt.TEXTS", file,
                                  "TRAINER.CoPrompt.PROMPT_DEPTH", "3",
                                  "DATALOADER.K_TRANSFORMS", views, trainer="CoPrompt",
                                  command="train")


def test_wrong_files(mistake, tmp_path, small_run, golden_weights):
    assert "no folder" in mistake(flags=["--root", tmp_path, "--dataset", "eurosat"])
    (tmp_path / "eurosat").mkdir()
    flags = ["--root", tmp_path, "--dataset", "eurosat"]
    assert "split_zhou_EuroSAT.json; DATASETS.md says where" in mistake(flags=flags)
    split = tmp_path / "eurosat" / "split_zhou_EuroSAT.json"
    for content, message in (
        ("{", "not a readable JSON file"),
        ('{"train": 3}', "must be a list of [path, label, class name]"),
        ('{"train": [["a.jpg", 0, "A"]], "val": [], "test": []}', "1 classes"),
        ('{"train": [["a.jpg", 0, "A"], ["b.jpg", 0, "B"]], "val": [], "test": []}', "both"),
    ):
        split.write_text(content)
        assert message in mistake(flags=flags)
    assert "no file" in mistake("MODEL.BACKBONE.PATH", tmp_path / "none.pt")
    assert "no such method configuration" in mistake(
        flags=[*small_run[0], "--config-file", "configs/trainers/MMRL/none.yaml"]
    )
    (tmp_path / "bad.yaml").write_text("a: [")
    assert "not a readable YAML file" in mistake(
        flags=[*small_run[0], "--config-file", tmp_path / "bad.yaml"]
    )
    assert "needs --model-dir" in mistake(trainer="CoOp")
    assert "NeRP trains nothing" in mistake(trainer="CoOp_NeRP", command="train")
    assert "learns nothing" in mistake(command="train")


def test_wrong_checkpoints(mistake, golden_weights, tmp_path):
    backbone = ["MODEL.BACKBONE.PATH", golden_weights]
    checkpoints = GOLDEN / "checkpoints"
    test = {"trainer": "MMRL"}
    assert "no checkpoint" in mistake(*backbone, "--model-dir", tmp_path, **test)
    assert "no checkpoint of epoch 9; there are: 2" in mistake(
        *backbone, "--model-dir", checkpoints / "MMRL", "--load-epoch", "9", **test
    )
    line = mistake(*backbone, "--model-dir", checkpoints / "CoOp" / "prompt_learner", **test)
    assert "a checkpoint of CoOp, the trainer is MMRL" in line
    small = tmp_path / "small.pt"
    torch.save(random_clip(0, Sizes(vision_width=64, text_width=64)), small)
    line = mistake("MODEL.BACKBONE.PATH", small, "--model-dir", checkpoints / "CoOp",
                   trainer="CoOp")
    assert "ctx is (4, 128), this run needs (4, 64)" in line
    content = torch.load(checkpoints / "MMRL" / "MultiModalRepresentationLearner" /
                         "model.pth.tar-2", weights_only=False)
    del content["state_dict"]["representation_learner.compound_rep_tokens_r2tproj.1.bias"]
    torch.save({"state_dict": content["state_dict"]}, tmp_path / "model.pth.tar-3")
    line = mistake(*backbone, "--model-dir", tmp_path, "TRAINER.MMRL.REP_LAYERS", "[2,3,4]", **test)
    assert "lacks representation_learner.compound_rep_tokens_r2tproj.1.bias" in line


def test_an_image_that_cannot_be_decoded_is_named(nerp, tmp_path, golden_weights):
    root = write_eurosat(tmp_path / "data", per_class=4)
    broken = root / "eurosat" / "2750" / "River" / "River_4.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    status, _, error = nerp(
        "test", "--trainer", "ZeroshotCLIP", "--root", root, "--dataset", "eurosat", "--output-dir",
        tmp_path / "out", "MODEL.BACKBONE.PATH", golden_weights,
    )
    assert status == 1 and "River_4.jpg: cannot be decoded" in error
    assert not (tmp_path / "out" / "result.json").exists()


def test_debug_shows_the_traceback(nerp):
    with pytest.raises(NerpError):
        nerp("test", "--debug", "--trainer", "None", "--dataset", "eurosat")


def test_help_and_version(nerp):
    status, text, _ = nerp("--help")
    assert status == 0 and "methods" in text
    assert nerp("help") == (0, text, "")
    assert nerp("--version")[1].startswith("nerp ")


def test_help_explains_a_command(nerp, capsys):
    for words in (["help", "pairs"], ["pairs", "--help"]):
        with pytest.raises(SystemExit) as end:
            nerp(*words)
        assert end.value.code == 0
        assert "usage: nerp pairs" in (text := capsys.readouterr().out) and "audit" in text
    status, _, error = nerp("help", "tarin")
    assert status == 1 and "unknown command 'tarin'. Did you mean train?" in error
