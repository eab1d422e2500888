"""Methods built from frozen features, or trained on them: whole runs, other classes, checkpoints;
no label of a tested image reaches any of it."""

import json
import random
import shutil

import pytest
import torch
from conftest import EUROSAT, ON_FEATURES, eurosat_classes, golden_config
from settled import settled

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.clip.model import normalise
from nerp.clip.templates import published_templates
from nerp.engine.checkpoint import load_trainer, read_checkpoint, save_checkpoint
from nerp.engine.kept_texts import KeptTexts
from nerp.engine.training_features import TrainingFeatures
from nerp.files.tensors import load_inert
from nerp.trainers.evolution.clusters import k_means
from nerp.trainers.votes import columns_by_name

SHORT = {
    "TIPADAPTER.AUGMENT": 2, "TIPADAPTER.STEPS": "[4, 3]", "TFUP.WARMUP_EPOCH": 1,
    "PROAPO.EPOCHS": 1, "PROAPO.ADD": 1, "PROAPO.REMOVE": 1, "PROAPO.REPLACE": 1,
    "PROAPO.MUTATE": 2, "PROAPO.CROSS": 1, "PROAPO.OUTER": 1, "PROAPO.INNER": 1, "PROAPO.GROUPS": 1,
}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Files of descriptions and synonyms for ProAPO."""
    folder = tmp_path_factory.mktemp("words")
    for name, texts in (("d", "It is seen from above, like {}."), ("s", "{} area")):
        (folder / f"{name}.json").write_text(json.dumps({c: [texts.format(c)] for c in EUROSAT}))
    return {"PROAPO.TEXTS": folder / "d.json", "PROAPO.SYNONYMS": folder / "s.json"}


@pytest.fixture
def run(nerp, small_run, words, tmp_path, monkeypatch):
    """Train a method shortly, ProAPO with twelve templates; its folder and the arguments to test it
    with."""
    few = published_templates()[:12]
    monkeypatch.setattr("nerp.trainers.proapo.published_templates", lambda: few)

    def train(name, out="train", root=None, classes="base", *more):
        flags, opts = small_run
        flags = flags if root is None else ["--root", root, *flags[2:]]
        keys = {f"TRAINER.{key}": value for key, value in {**SHORT, **words}.items()
                if key.startswith(f"{TRAINERS[name].node}.")}
        opts = [*opts, *(str(part) for pair in keys.items() for part in pair), *more]
        folder = tmp_path / out
        status, _, error = nerp("train", "--trainer", name, *flags, "--output-dir", folder, *opts,
                                "DATASET.SUBSAMPLE_CLASSES", classes)
        assert status == 0, error
        return folder, flags, opts

    return train


def wanted(name):
    return settled(golden_config(TRAINER={"NAME": name}))


def checkpoint_of(folder):
    (note,) = folder.glob("*/checkpoint")
    return note.parent / note.read_text().strip()


@pytest.fixture
def passes(monkeypatch):
    """How many passes over images drawn at random trainings say that they make, and the numbers of
    those that they make."""
    said, made, draw = set(), set(), TrainingFeatures.drawn

    def drawn(features, number, *args):
        said.add(features._passes)
        made.add(number)
        return draw(features, number, *args)

    monkeypatch.setattr(TrainingFeatures, "drawn", drawn)
    return said, made


@pytest.mark.parametrize("name", ON_FEATURES)
def test_a_run_on_base_classes_is_tested_on_novel_ones_with_and_without_nerp(
    name, nerp, run, passes, tmp_path
):
    folder, flags, opts = run(name)
    said, made = passes
    assert said == ({len(made)} if made else set())
    record = json.loads((folder / "result.json").read_text())
    assert (folder / record["checkpoint"]).is_file()
    assert record["checkpoint"].endswith(f"-{record['epoch']}")
    for trainer in (name, f"{name}_NeRP"):
        status, text, error = nerp(
            "test", "--trainer", trainer, *flags, "--model-dir", folder, "--output-dir",
            tmp_path / trainer, *opts, "DATASET.SUBSAMPLE_CLASSES", "new")
        assert status == 0, error
        if name in ("TipAdapter", "TipAdapterF", "TFUP", "LPpp"):
            assert "the logits are zero-shot CLIP's" in text + error


@pytest.mark.parametrize("name", ["TipAdapter", "TipAdapterF", "LPpp"])
def test_on_novel_classes_the_logits_are_zero_shot_clips(name, run, golden_clip):
    folder, *_ = run(name)
    trainer, _ = load_trainer(wanted(name), golden_clip,
                              eurosat_classes("new"), read_checkpoint(checkpoint_of(folder)))
    features = normalise(torch.randn(5, golden_clip.embed_dim))
    found = trainer.feature_classifier()(features)
    assert torch.equal(found, 100 * features @ trainer.frozen_class_features().t())


@pytest.mark.parametrize("name", ON_FEATURES)
def test_shuffled_test_labels_leave_the_checkpoint_as_it_is(name, run, eurosat_root, tmp_path):
    before, *_ = run(name, "before", None, "all")
    root = tmp_path / "shuffled"
    shutil.copytree(eurosat_root, root, ignore=shutil.ignore_patterns("features_cache"))
    (split,) = root.glob("eurosat/split_zhou_*.json")
    lists = json.loads(split.read_text())
    labels = [item[1:] for item in lists["test"]]
    random.Random(0).shuffle(labels)
    lists["test"] = [[item[0], *label]
                     for item, label in zip(lists["test"], labels, strict=True)]
    split.write_text(json.dumps(lists))
    after, *_ = run(name, "after", root, "all")
    first, second = (load_inert(checkpoint_of(folder)) for folder in (before, after))
    assert {key: first[key] for key in first if key != "state_dict"} == {
        key: second[key] for key in second if key != "state_dict"}
    for key, tensor in first["state_dict"].items():
        assert torch.equal(tensor, second["state_dict"][key]), key
    images = [json.loads((folder / "result.json").read_text())["identity"]["images"]
              for folder in (before, after)]
    assert images[0]["test"] != images[1]["test"]
    assert {**images[0], "test": ""} == {**images[1], "test": ""}


def test_a_second_run_encodes_no_image(run, monkeypatch):
    run("TipAdapterF")
    monkeypatch.setattr("nerp.engine.training_features.encode_set",
                        lambda *args, **kwargs: pytest.fail("an image is encoded"))
    run("TipAdapterF", "again")


def test_validation_images_that_are_tested_choose_nothing(run, eurosat_root, tmp_path, caplog):
    root = tmp_path / "root"
    shutil.copytree(eurosat_root, root, ignore=shutil.ignore_patterns("*cache", "split_fewshot"))
    (split,) = root.glob("eurosat/split_zhou_*.json")
    lists = json.loads(split.read_text())
    split.write_text(json.dumps({**lists, "val": lists["test"]}))
    folder, *_ = run("TipAdapter", "train", root)
    state = load_inert(checkpoint_of(folder))["state_dict"]
    assert (float(state["beta"]), float(state["alpha"])) == (1.0, 2.0)  # EuroSAT's start


def test_tfup_of_tested_images_says_so(nerp, run, tmp_path):
    folder, flags, opts = run("TFUP", "train", None, "base", "TRAINER.TFUP.SOURCE", "test")
    status, _, error = nerp(
        "test", "--trainer", "TFUP", *flags, "--model-dir", folder, "--output-dir",
        tmp_path / "new", *opts, "DATASET.SUBSAMPLE_CLASSES", "new")
    assert status == 0, error
    record = json.loads((tmp_path / "new" / "result.json").read_text())
    assert record["substitute"].startswith("†")


def test_lpps_rows_and_zero_shot_clip_have_no_common_scale(run, golden_clip):
    folder, *_ = run("LPpp")
    checkpoint = read_checkpoint(checkpoint_of(folder))
    classes = eurosat_classes("base")
    mixed = type(classes)((*classes.names[:2], "River"), classes.template, classes.neutral)
    with pytest.raises(NerpError, match="no common scale"):
        load_trainer(wanted("LPpp"), golden_clip, mixed, checkpoint)


def test_proapos_texts_give_the_features_of_its_checkpoint(run, golden_clip):
    folder, *_ = run("ProAPO")
    checkpoint = read_checkpoint(checkpoint_of(folder))
    trainer, _ = load_trainer(wanted("ProAPO"), golden_clip,
                              eurosat_classes("base"), checkpoint)
    torch.testing.assert_close(trainer.class_features(), checkpoint.tensors["text_features"],
                               atol=1e-5, rtol=0)
    assert set(checkpoint.plain["specific"]) == set(EUROSAT[:5])


@pytest.mark.parametrize(("name", "value"), [
    ("templates", []), ("templates", ["{} {}"]), ("templates", ["a {0.x}"]),
    ("templates", ["x" * 3000 + "{}"]), ("specific", {"Forest": [["a"]]}),
    ("specific", {"Forest": [["a\x1b", ""]]}), ("specific", {"Forest": [["a", ""]] * 201}),
])
def test_texts_in_a_file_that_are_none_are_refused(name, value, run, golden_clip, tmp_path):
    folder, *_ = run("ATO")
    content = load_inert(checkpoint_of(folder))
    path = tmp_path / "model.pth.tar-0"
    torch.save({**content, name: value}, path)
    with pytest.raises(NerpError, match="model.pth.tar-0"):
        load_trainer(wanted("ATO"), golden_clip, eurosat_classes("base"),
                     read_checkpoint(path))


def test_without_a_file_the_second_stage_is_refused(golden_clip):
    trainer = TRAINERS["ProAPO"](golden_config(), golden_clip, eurosat_classes("base"))
    with pytest.raises(NerpError, match="TRAINER.PROAPO.TEXTS"):
        trainer.prepare_training()


def test_a_checkpoint_without_class_names_is_refused(golden_clip, tmp_path):
    cfg = golden_config(TRAINER={"NAME": "TFUP"})
    trainer = TRAINERS["TFUP"](cfg, golden_clip, eurosat_classes("base"))
    path, _ = save_checkpoint(tmp_path, trainer, trainer.learned.state_dict(), 0, cfg)
    content = load_inert(path)
    del content["classnames"]
    torch.save(content, path)
    with pytest.raises(NerpError, match="does not name the classes"):
        load_trainer(wanted("TFUP"), golden_clip, eurosat_classes("base"), read_checkpoint(path))


def test_classes_are_found_by_name_however_it_is_written():
    labels = torch.tensor([2, 0, 1, 0])
    found = columns_by_name(labels, ["Sea-or_Lake", "Forest", "River"], ["river", "sea or lake"])
    assert found.tolist() == [0, 1, -1, 1]


def test_clusters_are_those_that_lie_together_or_one():
    far = torch.cat([torch.randn(4, 8) * 0.01 + 5, torch.randn(4, 8) * 0.01 - 5])
    found = k_means(far, 0)
    assert len(set(found[:4].tolist())) == len(set(found[4:].tolist())) == 1
    assert found[0] != found[4]
    assert k_means(torch.ones(6, 8), 0).tolist() == [0] * 6


def test_an_interrupted_search_encodes_no_text_again(golden_clip, tmp_path):
    texts = [f"a photo of {i}" for i in range(300)]
    done = []

    def encode(texts):
        done.append(len(texts))
        return normalise(golden_clip.text_features(texts))

    first = KeptTexts(golden_clip, tmp_path).encode(texts, encode)
    again = KeptTexts(golden_clip, tmp_path)
    assert torch.equal(again.encode(texts, encode), first) and done == [300]
    again.forget()
    assert not list(tmp_path.iterdir())
