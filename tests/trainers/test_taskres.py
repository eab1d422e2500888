"""TaskRes: its base features, and whose classes a model serves."""

import json

import pytest
import torch
from conftest import GOLDEN, eurosat_classes, golden_config
from settled import settled
from trainers.test_golden import build, golden

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.clip.model import normalise
from nerp.data.benchmark import Within
from nerp.engine.checkpoint import load_trainer, read_checkpoint, save_checkpoint
from nerp.files.yaml_file import load_yaml
from nerp.settings.cards import find_card
from nerp.settings.published import own_setting
from nerp.trainers.taskres import TaskRes
from nerp.trainers.texts import Classes

DATASETS = [key.split("/")[1] for key in golden("TaskRes") if key.startswith("templates/")
            and key.endswith("/base_text_features")]
PUBLISHED = GOLDEN / "checkpoints/TaskRes/prompt_learner/model.pth.tar-2"


@pytest.mark.parametrize("dataset", DATASETS)
def test_base_features_have_the_templates_of_a_dataset_and_names_as_they_are_on_disk(
    dataset, golden_clip
):
    z = golden("TaskRes")
    card = load_yaml(find_card(dataset))["DATASET"]
    written = tuple(z["templates/classnames"].tolist())
    names = tuple(name.replace("_", " ") for name in written)
    assert names != written
    classes = Classes(names, card["TEMPLATE"], card["NEUTRAL"], dataset=dataset, written=written)
    found = TaskRes(golden_config(), golden_clip, classes).base_features()
    wanted = torch.tensor(z[f"templates/{dataset}/base_text_features"])
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@pytest.fixture
def saved(golden_clip, tmp_path):
    """A checkpoint of the base classes in another order than they are asked about."""
    cfg = golden_config(TRAINER={"NAME": "TaskRes"})
    trainer = build("TaskRes", golden_clip, "base", cfg)
    names = eurosat_classes("base").names
    trainer.classes = Classes(names[::-1], trainer.classes.template, trainer.classes.neutral)
    path, _ = save_checkpoint(tmp_path, trainer, trainer.learned.state_dict(), 2, cfg)
    return path


def load(clip, path, names, within=None):
    classes = eurosat_classes("base")
    asked = Classes(tuple(names), classes.template, classes.neutral, within=within)
    cfg = golden_config(TRAINER={"NAME": "TaskRes"})
    return load_trainer(settled(cfg), clip, asked, read_checkpoint(path))[0]


def test_a_class_has_the_row_of_its_name(golden_clip, saved):
    names = eurosat_classes("base").names
    trainer = load(golden_clip, saved, names[1:3])
    whole = build("TaskRes", golden_clip, "base").class_features()
    assert torch.equal(trainer.class_features(), whole[[3, 2]])
    base = torch.tensor(golden("TaskRes")["base/base_text_features"])
    torch.testing.assert_close(trainer.frozen_class_features(), normalise(base[[3, 2]]))
    assert torch.equal(trainer.for_classes(eurosat_classes("base")).class_features(), whole.flip(0))


@pytest.mark.parametrize("names", [("River",), ("Forest", "River", "Glacier", "Moor", "Sea")])
def test_a_class_that_was_not_trained_on_is_refused_by_name(names, golden_clip, saved):
    with pytest.raises(NerpError, match="each of the 5 classes .* not trained on .*River"):
        load(golden_clip, saved, names)


def test_a_published_file_serves_as_many_classes_or_those_of_a_variant_of_imagenet(golden_clip):
    names = eurosat_classes("base").names
    whole = load(golden_clip, PUBLISHED, names).class_features()
    assert torch.equal(load(golden_clip, PUBLISHED, "ABCDE").class_features(), whole)
    variant = load(golden_clip, PUBLISHED, "XY", Within(5, (1, 4)))
    assert torch.equal(variant.class_features(), whole[[1, 4]])
    with pytest.raises(NerpError, match="5 classes .* not trained on X, Y"):
        load(golden_clip, PUBLISHED, "XY")


def test_rows_that_do_not_belong_together_are_refused(golden_clip, saved, tmp_path):
    content = torch.load(saved, weights_only=True)
    content["state_dict"]["base_text_features"] = torch.zeros(4, 64)
    torch.save(content, tmp_path / "model.pth.tar-2")
    with pytest.raises(NerpError, match="residuals do not belong to its class features"):
        load(golden_clip, tmp_path / "model.pth.tar-2", eurosat_classes("base").names)


def test_another_projection_of_the_text_encoder(golden_clip, tmp_path):
    file, cfg = tmp_path / "base.pth", golden_config()
    own = golden_clip.model.text_projection
    torch.save({"state_dict": {"weight": (2 * own.t()).half()}}, file)  # float16 holds it exactly
    plain = TaskRes(cfg, golden_clip, eurosat_classes("base")).base_features()
    cfg.TRAINER.TASKRES.ENHANCED_BASE = str(file)
    found = TaskRes(cfg, golden_clip, eurosat_classes("base")).base_features()
    torch.testing.assert_close(found, 2 * plain, atol=1e-5, rtol=0)
    assert golden_clip.model.text_projection is own
    torch.save({"state_dict": {"weight": torch.zeros(3, 128)}}, file)
    with pytest.raises(NerpError, match="base.pth"):
        TaskRes(cfg, golden_clip, eurosat_classes("base"))


def test_sar_has_nothing_to_hold():
    for name in ("TaskRes", "CLIPAdapter"):
        with pytest.raises(NerpError, match=f"there is no {name}_SAR: {name} learns nothing of"):
            TRAINERS[f"{name}_SAR"]


@pytest.mark.parametrize(("key", "value", "means"), [
    ("TaskRes.RESIDUAL_SCALE", 1.0, ("TRAINER.TASKRES.RESIDUAL_SCALE", 1.0)),
    ("TaskRes.ENHANCED_BASE", "none", ("TRAINER.TASKRES.ENHANCED_BASE", "")),
    ("TaskRes.N_CTX", 16, None), ("TaskRes.CLASS_TOKEN_POSITION", "end", None),
])
def test_published_keys(key, value, means):
    assert own_setting(TaskRes, f"TRAINER.{key}", value, "here", False) == means


def test_a_run_is_tested_on_the_classes_that_it_was_trained_on_alone(nerp, small_run, tmp_path):
    flags, opts = small_run
    status, _, error = nerp("train", "--trainer", "TaskRes", *flags, "--output-dir",
                            tmp_path / "train", *opts, "DATASET.SUBSAMPLE_CLASSES", "base")
    assert status == 0, error
    for which, wanted in (("base", 0), ("new", 1)):
        status, _, error = nerp(
            "test", "--trainer", "TaskRes_NeRP", *flags, "--model-dir", tmp_path / "train",
            "--output-dir", tmp_path / which, *opts, "NERP.ON_BASE", "True",
            "DATASET.SUBSAMPLE_CLASSES", which)
        assert status == wanted, error
    assert "TaskRes has a residual for each of the 5 classes" in error
    assert not (tmp_path / "new").exists()
    assert json.loads((tmp_path / "base" / "result.json").read_text())["nerp"]
