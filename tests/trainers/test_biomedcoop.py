"""BiomedCoOp: its sentences, which of them count on a batch, the files it is told from."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import GOLDEN, eurosat_classes, golden_config, golden_options
from settled import settled
from trainers.test_golden import build

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.engine.checkpoint import checkpoint_file, load_trainer, read_checkpoint
from nerp.files.tensors import load_inert

Z = np.load(GOLDEN / "BiomedCoOp.npz")
FILE = checkpoint_file(GOLDEN / "checkpoints" / "BiomedCoOp", "prompt_learner")


def test_the_published_scores_and_which_sentences_are_kept(golden_clip, inputs):
    trainer = build("BiomedCoOp", golden_clip, "base")
    for step, batch in enumerate((slice(0, 4), slice(4, 8))):
        scores = trainer.scores(trainer.image_features(inputs[0][batch]))
        np.testing.assert_allclose(scores, Z["train/scores"][step], atol=1e-3)
        assert trainer.kept(scores).tolist() == Z["train/kept"][step].tolist()


def test_the_published_gradient_of_the_first_step(golden_clip, inputs):
    trainer = build("BiomedCoOp", golden_clip, "base")
    trainer.loss(inputs[0][:4], inputs[1][:4]).backward()
    wanted = Z["train/first_gradient/prompt_learner.ctx"]
    found = trainer.parameter("prompt_learner.ctx").grad
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize(("scores", "tau", "kept"), [
    ([1.0, 1.0, 1.0], 1.0, [True, True, True]),     # no deviation
    ([1.0], 1.0, [True]),                           # one sentence
    ([0.0, 2.0], 0.5, [True, True]),                # none within
    ([0.0, 0.0, 0.0, 9.0], 1.0, [True, True, True, False]),
])
def test_where_nothing_would_be_kept_everything_is(scores, tau, kept, golden_clip, recwarn):
    trainer = build("BiomedCoOp", golden_clip, "base")
    trainer.settings.TAU = tau
    assert trainer.kept(torch.tensor(scores)).tolist() == kept
    assert not recwarn


def own_texts(tmp_path, content):
    file = tmp_path / "texts.json"
    file.write_text(json.dumps(content))
    return file


def with_texts(golden_clip, file, count=2):
    cfg = golden_config()
    cfg.TRAINER.BIOMEDCOOP.update(TEXTS=str(file), N_PROMPTS=count)
    classes = replace(eurosat_classes("base"), names=("glioma tumor", "normal brain CT"))
    return TRAINERS["BiomedCoOp"](cfg, golden_clip, classes)


def test_the_first_sentences_of_a_class_are_used_as_written(golden_clip, tmp_path):
    texts = {"Glioma_Tumor": ["one.", "two.", "three."], "normal brain CT": ["four.", "five."]}
    trainer = with_texts(golden_clip, own_texts(tmp_path, texts))
    assert trainer.sentences() == [["one.", "two."], ["four.", "five."]]
    assert trainer.substitute == ""


@pytest.mark.parametrize(("texts", "said"), [
    ({"glioma tumor": ["one.", "two."]}, "has no sentences for the class 'normal brain CT'"),
    ({"glioma tumor": ["one.", "two."], "normal brain CT": ["three."]},
     "1 sentences for the class 'normal brain CT', TRAINER.BIOMEDCOOP.N_PROMPTS is 2"),
])
def test_a_class_without_enough_sentences_is_named(texts, said, golden_clip, tmp_path):
    with pytest.raises(NerpError, match=f"TRAINER.BIOMEDCOOP.TEXTS: .*{said}"):
        with_texts(golden_clip, own_texts(tmp_path, texts)).prepare_training()


def test_a_training_without_its_sentences_writes_nothing(nerp, small_run, tmp_path):
    flags, opts = small_run
    status, _, error = nerp("train", "--trainer", "BiomedCoOp", *flags, "--output-dir",
                            tmp_path / "run", *opts, "TRAINER.BIOMEDCOOP.TEXTS", tmp_path / "no")
    assert status == 1 and f"TRAINER.BIOMEDCOOP.TEXTS: no file or folder {tmp_path}/no" in error
    assert not (tmp_path / "run" / "prompt_learner").exists()


@pytest.mark.parametrize(("count", "most"), [(7, 7), (200, 60)])
def test_templates_stand_in_for_sentences(count, most, golden_clip):
    cfg = golden_config()
    cfg.TRAINER.BIOMEDCOOP.update(TEXTS="", N_PROMPTS=count)
    trainer = TRAINERS["BiomedCoOp"](cfg, golden_clip, eurosat_classes("base"))
    assert [len(own) for own in trainer.sentences()] == [most] * 5
    assert trainer.sentences()[1][0] == "a photo of a Forest."
    assert "no file was given" in trainer.substitute


@pytest.mark.parametrize(("name", "which", "said"), [
    ("BiomedCoOp", "new", False),
    ("BiomedCoOp_NeRP", "base", False),
    ("BiomedCoOp_NeRP", "new", True),
])
def test_at_test_time_only_nerp_needs_sentences(name, which, said, golden_clip):
    cfg = golden_config()
    cfg.TRAINER.NAME, cfg.TRAINER.BIOMEDCOOP.TEXTS = name, ""
    trainer = TRAINERS["BiomedCoOp"](cfg, golden_clip, eurosat_classes(which))
    assert bool(trainer.test_substitute) == said


def shortened(tmp_path, keep=lambda name: True, **more):
    state = {n: t for n, t in load_inert(FILE)["state_dict"].items() if keep(n)}
    path = tmp_path / "model.pth.tar-2"
    torch.save({"state_dict": {**state, **more}, "epoch": 2}, path)
    return path


def test_a_shortened_file_is_that_of_the_method_which_is_asked_for(tmp_path):
    path = shortened(tmp_path, lambda name: "ZS_image_encoder" not in name)
    found = {wanted: read_checkpoint(path, wanted).trainer for wanted in ("", "CoOp", "BiomedCoOp")}
    assert found == {"": "BiomedCoOp", "CoOp": "CoOp", "BiomedCoOp": "BiomedCoOp"}


def test_the_whole_file_is_nothing_elses(tmp_path, golden_clip):
    assert read_checkpoint(FILE, "CoOp").trainer == "BiomedCoOp"
    other = {"image_encoder.VPT": torch.zeros(4, 192)}
    assert read_checkpoint(shortened(tmp_path, **other)).trainer == "PromptSRC"


@pytest.mark.parametrize("beside", [
    {"prompt_learner.ctx": torch.zeros(4, 768), "text_encoder.model.proj.0.weight": torch.ones(1)},
    {"prompt_learner.ctx": torch.zeros(4, 768)},
])
def test_a_file_of_biomedclips_form_is_refused_with_that_reason(beside, tmp_path, golden_clip):
    checkpoint = read_checkpoint(shortened(tmp_path, **beside))
    cfg = golden_config()
    cfg.TRAINER.NAME = "BiomedCoOp"
    with pytest.raises(NerpError, match="model.pth.tar-2: .*trained over BiomedCLIP"):
        load_trainer(settled(cfg), golden_clip, eurosat_classes("base"), checkpoint)


def test_options_of_the_release_are_taken(nerp, small_run, tmp_path):
    flags, opts = small_run
    status, _, error = nerp("train", "--trainer", "BiomedCoOp", *flags, "--output-dir", tmp_path,
                            *opts, *golden_options("BiomedCoOp"), "OPTIM.MAX_EPOCH", "1",
                            "TRAINER.BIOMEDCOOP.CSC", "True",
                            "TRAINER.BIOMEDCOOP.CLASS_TOKEN_POSITION", "middle")
    assert status == 0, error
    state = torch.load(tmp_path / "prompt_learner" / "model.pth.tar-1")["state_dict"]
    assert state["prompt_learner.ctx"].dim() == 2
