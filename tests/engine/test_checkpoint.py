"""Checkpoints: the published layouts, ours, and those that do not fit."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import (
    GOLDEN,
    HALVES,
    LEARNING,
    asked,
    eurosat_classes,
    golden_config,
)
from settled import settled

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.engine.built_on import completed
from nerp.engine.checkpoint import (
    checkpoint_file,
    load_trainer,
    methods_of_files,
    read_checkpoint,
    save_checkpoint,
)
from nerp.engine.tested import other_dataset
from nerp.files.tensors import load_inert
from nerp.settings.defaults import default_config
from nerp.trainers.tensors import tree

OF_FILES = [name for name in methods_of_files() if TRAINERS[name].folder]


def published(method):
    return read(published_file(method), method)


def read(file, method):
    """A file that may say no method (ProGrad's may be CoOp's too), and may lack its teacher."""
    cfg = golden_config()
    cfg.TRAINER.NAME = method
    return completed(read_checkpoint(file, method), cfg)


def published_file(method):
    cfg = golden_config(DATASET={"NAME": "EuroSAT", "NUM_SHOTS": 2})
    folder, own = TRAINERS[method].folder, TRAINERS[method].published_file(cfg)
    return checkpoint_file(GOLDEN / "checkpoints" / method, folder, published=own)


def expected(method, which):
    """The published logits of the golden images; fused ones where prediction is."""
    file = GOLDEN / "checkpoints" / f"expected_{method}.npz"
    prefix = "" if file.is_file() else f"{method}/"
    z = np.load(file if file.is_file() else file.with_name("expected.npz"))
    fused = f"{prefix}{which}/fusion"
    return z[fused if which == "base" and fused in z else prefix + which]


def load(method, clip, checkpoint, which="new", cfg=None):
    cfg = cfg or golden_config()
    cfg.TRAINER.NAME = method
    return load_trainer(settled(cfg), clip, eurosat_classes(which), checkpoint)


@pytest.mark.parametrize(("method", "which"), HALVES)
def test_published_checkpoints_give_the_published_logits(method, which, golden_clip, inputs):
    trainer, _ = load(method, golden_clip, published(method), which)
    with torch.no_grad():
        np.testing.assert_allclose(
            trainer.logits(inputs[0]), expected(method, which), atol=1e-3
        )


@pytest.mark.parametrize("method", LEARNING)
def test_shape_settings_come_from_a_published_checkpoint(method, golden_clip):
    cfg = default_config()
    wanted = golden_config().TRAINER[TRAINERS[method].node]
    if method in ("CoCoOp", "CoCoOp_DePT", "CasPL_CoCoOp"):
        wanted.N_CTX = 4  # the words of CTX_INIT, which outweigh it
    for key in ("ADAPTER_SCALE", "BETA", "CLASS_LAYER", "ALPHA", "EPSILON", "PROMPTS",
                "GROUPS", "TEACHER_PATH", "WORDS"):  # no tensor tells
        if key in wanted:
            cfg.TRAINER[TRAINERS[method].node][key] = wanted[key]
    if method == "CLIPLoRA":
        wanted.RANK, wanted.ALPHA = 2, 1.0  # of its published file
    trainer, notes = load(method, golden_clip, published(method), asked(method), cfg=cfg)
    for key in trainer.shape_settings:
        if key != "CTX_INIT":
            assert trainer.settings[key] == wanted[key], key
    if method != "CLIPLoRA":  # its file knows no epochs
        assert published(method).epoch == 2 and "epoch 2" in notes[0]


@pytest.mark.parametrize("method", LEARNING)
def test_ours_carry_their_settings_and_nothing_frozen(method, golden_clip, inputs, tmp_path):
    cfg = golden_config()
    cfg.TRAINER.NAME, cfg.DATASET.NAME = method, "EuroSAT"
    if method == "CoOp":
        cfg.TRAINER.COOP.CLASS_TOKEN_POSITION = "middle"
    trainer = TRAINERS[method](cfg, golden_clip, eurosat_classes("base"))
    if method == "DeCoOp":
        trainer.threshold.fill_(0.3)  # without one it is not trained to the end
    path, _ = save_checkpoint(tmp_path, trainer, trainer.learned.state_dict(), 7, cfg)
    assert path == checkpoint_file(tmp_path, trainer.folder)
    checkpoint = read_checkpoint(path)
    assert (checkpoint.trainer, checkpoint.epoch, checkpoint.source) == (method, 7, "EuroSAT")
    assert checkpoint.classnames == eurosat_classes("base").names
    assert set(checkpoint.tensors) == set(trainer.learned.state_dict())
    fresh = default_config()
    fresh.TRAINER.DEPT = cfg.TRAINER.DEPT  # in no checkpoint
    for key in ("MAIN_TEXTS", "NOISE_TEXTS", "TEXTS", "TEACHER_PATH"):  # files stay where they are
        if key in trainer.settings:
            fresh.TRAINER[trainer.node][key] = trainer.settings[key]
    again, _ = load(method, golden_clip, checkpoint, "base", fresh)
    with torch.no_grad():
        assert torch.equal(again.logits(inputs[0]), trainer.logits(inputs[0]))


@pytest.mark.parametrize("said", [None, "Forest", [], ["Forest", 3], ["Forest", ""], ["a\nb"]])
def test_class_names_that_are_none_are_not_there(said, tmp_path):
    file = tmp_path / "model.pth.tar-2"
    torch.save({"state_dict": published("CoOp").tensors, "trainer": "CoOp", "classnames": said},
               file)
    assert read_checkpoint(file).classnames == published("CoOp").classnames == ()


def test_names_with_the_whole_models_prefix(golden_clip, inputs, tmp_path):
    source = published("CoOp")
    for prefix in ("prompt_learner.", "module.prompt_learner."):
        state = {prefix + name: tensor for name, tensor in source.tensors.items()}
        state["image_encoder.proj"] = torch.zeros(2, 2)
        torch.save({"state_dict": state, "epoch": 2}, tmp_path / "model.pth.tar-2")
        trainer, _ = load("CoOp", golden_clip, read_checkpoint(tmp_path / "model.pth.tar-2",
                                                               "CoOp"))
        assert torch.equal(trainer.parameter("ctx"), source.tensors["ctx"])


@pytest.mark.parametrize("method", LEARNING)
def test_each_method_is_told_from_the_others(method, golden_clip):
    for other in LEARNING:
        if other != method:
            with pytest.raises(NerpError, match=f"a checkpoint of {method}, the trainer is"):
                load(other, golden_clip, published(method))


def test_a_checkpoint_without_an_epoch_may_be_given_as_a_file(tmp_path):
    folder = tmp_path / "my runs" / "prompt_learner"
    folder.mkdir(parents=True)
    (folder / "model.pth.tar").touch()
    with pytest.raises(NerpError, match="model.pth.tar is there: give the file itself, --model-dir "
                       f"'{folder}/model.pth.tar'"):
        checkpoint_file(folder.parent, "prompt_learner")
    assert checkpoint_file(folder / "model.pth.tar", "prompt_learner").is_file()


@pytest.mark.parametrize("method", OF_FILES)
def test_no_file_of_ours_is_taken_for_one_of_another_method_whoever_asks(
    method, golden_clip, tmp_path
):
    cfg = golden_config(TRAINER={"NAME": method})
    trainer = TRAINERS[method](cfg, golden_clip, eurosat_classes("base"))
    path, _ = save_checkpoint(tmp_path, trainer, trainer.learned.state_dict(), 1, cfg)
    for other in OF_FILES:
        if other != method:
            with pytest.raises(NerpError, match=f"checkpoint of {method}, the trainer is {other}"):
                load(other, golden_clip, read_checkpoint(path, other), "base")


def test_which_file_is_meant(tmp_path):
    folder = tmp_path / "prompt_learner"
    folder.mkdir()
    with pytest.raises(NerpError, match="no checkpoint prompt_learner/model.pth.tar-<epoch>"):
        checkpoint_file(tmp_path, "prompt_learner")
    (folder / "model-best.pth.tar").touch()
    assert checkpoint_file(tmp_path, "prompt_learner").name == "model-best.pth.tar"
    for epoch in (2, 10):
        (folder / f"model.pth.tar-{epoch}").touch()
    assert checkpoint_file(tmp_path, "prompt_learner").name == "model-best.pth.tar"
    assert checkpoint_file(tmp_path, "prompt_learner", 2).name == "model.pth.tar-2"
    (folder / "model-best.pth.tar").unlink()
    assert checkpoint_file(tmp_path, "prompt_learner").name == "model.pth.tar-10"
    (folder / "checkpoint").write_text("model.pth.tar-2\n")
    assert checkpoint_file(tmp_path, "prompt_learner").name == "model.pth.tar-2"
    assert checkpoint_file(folder, "prompt_learner").name == "model.pth.tar-2"
    assert checkpoint_file(tmp_path, "prompt_learner", 10).name == "model.pth.tar-10"
    with pytest.raises(NerpError, match="no checkpoint of epoch 3; there are: 2, 10"):
        checkpoint_file(tmp_path, "prompt_learner", 3)


@pytest.mark.parametrize("kind", [torch.int64, torch.bool])
@pytest.mark.parametrize("method", LEARNING)
def test_learned_tensors_are_floating_point_numbers(method, kind, golden_clip, tmp_path):
    whole = load_inert(published_file(method)).get("state_dict") or published(method).tensors
    state = {name: tensor.to(kind) for name, tensor in whole.items()}
    torch.save({"state_dict": state}, tmp_path / "model.pth.tar-2")
    with pytest.raises(NerpError, match=" holds (int64|bool), and no floating-point num"):
        load(method, golden_clip, read(tmp_path / "model.pth.tar-2", method), asked(method))


def test_what_is_no_checkpoint(tmp_path):
    path = tmp_path / "model.pth.tar-1"
    torch.save({"weights": 1}, path)
    with pytest.raises(NerpError, match="there is no state_dict"):
        read_checkpoint(path)
    torch.save({"state_dict": {"fc.weight": torch.zeros(1)}}, path)
    with pytest.raises(NerpError, match="not a checkpoint of a registered method.*fc.weight"):
        read_checkpoint(path)


@pytest.mark.parametrize(("task", "beta"), [("B2N", 0.6), ("FS", 0.6), ("CD", 0.3)])
def test_beta_is_the_one_trained_with_but_across_datasets(task, beta, golden_clip, tmp_path):
    cfg = golden_config()
    cfg.TRAINER.NAME, cfg.TASK = "MMRLpp", task
    trainer = TRAINERS["MMRLpp"](cfg, golden_clip, eurosat_classes("base"))
    path, _ = save_checkpoint(tmp_path, trainer, trainer.learned.state_dict(), 1, cfg)
    cfg.TRAINER.MMRLpp.BETA = 0.3
    again, _ = load("MMRLpp", golden_clip, read_checkpoint(path), cfg=cfg)
    kept = again.settings.BETA
    assert kept == beta


def test_class_specific_contexts_belong_to_their_classes(golden_clip):
    cfg = golden_config()
    cfg.TRAINER.COOP.CSC = True
    trainer = TRAINERS["CoOp"](cfg, golden_clip, eurosat_classes("base"))
    with pytest.raises(NerpError, match="belong to 5 classes; they cannot serve 2 others"):
        trainer.for_classes(replace(trainer.classes, names=("a", "b")))


def test_a_full_size_checkpoint_is_small(tmp_path):
    """CoOp under 100 KB and PromptSRC under 1 MB at the widths of ViT-B/16."""
    cfg = default_config()
    shapes = {
        "CoOp": {"ctx": (16, 512)},
        "PromptSRC": {
            "prompt_learner.ctx": (4, 512), "image_encoder.VPT": (4, 768),
            **{f"text_encoder.transformer.resblocks.{i}.VPT_shallow": (4, 512)
               for i in range(1, 9)},
            **{f"image_encoder.transformer.resblocks.{i}.VPT_shallow": (4, 768)
               for i in range(1, 9)},
        },
    }
    for method, limit in (("CoOp", 100_000), ("PromptSRC", 1_000_000)):
        learned = tree({name: torch.randn(shape) for name, shape in shapes[method].items()})
        trainer = SimpleNamespace(
            folder=TRAINERS[method].folder, shape_settings=TRAINERS[method].shape_settings,
            settings=cfg.TRAINER[TRAINERS[method].node],
            clip=SimpleNamespace(name="ViT-B/16", digest=""), substitute="",
            classes=SimpleNamespace(names=("Forest", "River")), seen_besides=lambda cfg: "",
            plain_values=dict, saved=lambda tensors: tensors,
        )
        path, _ = save_checkpoint(tmp_path, trainer, learned.state_dict(), 1, cfg)
        assert path.stat().st_size < limit


def test_a_checkpoint_tells_where_the_images_of_an_own_dataset_are(golden_clip, tmp_path):
    cfg = golden_config(DATASET={"NAME": "Birds", "DIRECTORY": "birds", "LAYOUT": "folders"})
    cfg.TRAINER.NAME = "CoOp"
    trainer = TRAINERS["CoOp"](cfg, golden_clip, eurosat_classes("base"))
    path, _ = save_checkpoint(tmp_path, trainer, trainer.learned.state_dict(), 1, cfg)
    card = read_checkpoint(path).card
    other = golden_config(DATASET={"NAME": "EuroSAT", "ROOT": "/data"})
    source = other_dataset(other, "Birds", card).DATASET
    assert (source.NAME, source.DIRECTORY, source.LAYOUT, source.ROOT) == (
        "Birds", "birds", "folders", "/data")
    with pytest.raises(NerpError, match="unknown dataset 'Bees'"):
        other_dataset(other, "Bees", card)
    with pytest.raises(NerpError, match="DIRECTORY is '../x'"):
        other_dataset(other, "Birds", {**card, "DIRECTORY": "../x"})
