"""SAR on the methods it fits: its numbers (tests/golden/SAR_CoOp.npz), names, runs, refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import EUROSAT, GOLDEN, TEMPLATE, eurosat_classes, golden_config
from plain_methods import plain_alignment
from test_golden import FEATURE, LOGIT, OPTIM, tensors

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.clip.model import normalise
from nerp.clip.templates import ENSEMBLE_7
from nerp.engine.optim import build_optimizer, learning_rate
from nerp.settings.defaults import default_config
from nerp.settings.protocols import plain_name, trained_name
from nerp.trainers import sar
from nerp.trainers.sar_names import SHIPPED, novel_names

Z = np.load(GOLDEN / "SAR_CoOp.npz")
OTHERS = Z["others/methods"].tolist()


def sar_config(**settings):
    cfg = golden_config(OPTIM={"MAX_EPOCH": 3, **OPTIM["CoOp"]}, DATASET={"NAME": "EuroSAT"})
    cfg.TRAINER.SAR.update({"WEIGHT": 0.5, "SAMPLES": 6, "N_NOVEL": 12, **settings})
    return cfg


def build(method, clip, cfg=None):
    return TRAINERS[f"{method}_SAR"](
        cfg or sar_config(), clip, eurosat_classes("base"), tensors(method, "param")
    )


def given(monkeypatch, steps=range(6)):
    """The golden sets in place of drawn ones."""
    sets = iter(torch.tensor(Z["sar/indices"])[list(steps)])
    monkeypatch.setattr(sar, "draw", lambda classes, samples, generator: next(sets))


def test_the_term_and_its_gradient():
    learned = torch.tensor(Z["function/learned"], requires_grad=True)
    frozen, indices = (torch.tensor(Z[f"function/{name}"]) for name in ("frozen", "indices"))
    value = sar.alignment(learned, frozen, indices, float(Z["function/scale"]))
    value.backward()
    np.testing.assert_allclose(value.item(), Z["function/value"], atol=1e-3)
    np.testing.assert_allclose(learned.grad, Z["function/gradient"], atol=1e-3)
    plain = plain_alignment(learned.detach(), frozen, indices, float(Z["function/scale"]))
    np.testing.assert_allclose(value.item(), plain.item(), rtol=1e-5)


def test_names_and_features(golden_clip):
    trainer = build("CoOp", golden_clip)
    assert list(trainer.novel.names) == Z["sar/novel_classnames"].tolist()
    with torch.no_grad():
        features = trainer.everyone.class_features()
        everyone = sar.draw(17, 99, trainer.generator)
        value = sar.alignment(features, trainer.frozen, everyone, golden_clip.scale)
    for found, name in ((features, "text_features"), (trainer.frozen, "frozen_text_features")):
        torch.testing.assert_close(found, torch.tensor(Z[f"sar/{name}"]), **FEATURE)
    torch.testing.assert_close(value, torch.tensor(Z["sar/all_others"]), **LOGIT)


@pytest.mark.parametrize("method", [name for name in OTHERS if name in TRAINERS.names()])
def test_other_methods(method, golden_clip, monkeypatch):
    trainer = build(method, golden_clip)
    with torch.no_grad():
        features = trainer.everyone.class_features()
        first = torch.tensor(Z["sar/indices"][0])
        value = sar.alignment(features, trainer.frozen, first, golden_clip.scale)
    torch.testing.assert_close(
        features, torch.tensor(Z[f"others/{method}/text_features"]), **FEATURE
    )
    torch.testing.assert_close(value, torch.tensor(Z[f"others/{method}/value"]), **LOGIT)


def test_six_training_steps(golden_clip, inputs, monkeypatch):
    images, labels, _ = inputs
    cfg = sar_config()
    trainer = build("CoOp", golden_clip, cfg)
    given(monkeypatch)
    optimizer = build_optimizer(trainer.parameters(), cfg.OPTIM)
    losses, first = [], None
    for epoch in range(3):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(cfg.OPTIM, epoch)
        for batch in (slice(0, 4), slice(4, 8)):
            loss = trainer.loss(images[batch], labels[batch])
            optimizer.zero_grad()
            loss.backward()
            first = trainer.parameter("ctx").grad.clone() if first is None else first
            optimizer.step()
            losses.append(loss.item())
    np.testing.assert_allclose(losses, Z["train/losses"], atol=1e-3)
    np.testing.assert_allclose(first, Z["train/first_gradient"], atol=1e-3)
    trained = torch.tensor(Z["trained/prompt_learner.ctx"])
    torch.testing.assert_close(trainer.parameter("ctx").detach(), trained, **FEATURE)


@pytest.mark.parametrize("method", ["CoOp", "MMRL"])
def test_a_methods_own_loss_sees_the_trained_classes_alone(
    method, golden_clip, inputs, monkeypatch
):
    images, labels, _ = inputs
    given(monkeypatch)
    trainer = build(method, golden_clip)
    own = TRAINERS[method](
        sar_config(), golden_clip, eurosat_classes("base"), tensors(method, "param")
    )
    with torch.no_grad():
        features = trainer.everyone.class_features()
        term = sar.alignment(features, trainer.frozen, torch.tensor(Z["sar/indices"][0]),
                             golden_clip.scale)
        torch.testing.assert_close(
            trainer.loss(images, labels), own.loss(images, labels) + 0.5 * term, **LOGIT
        )


def test_without_weight_a_step_is_the_methods_own(golden_clip, inputs):
    images, labels, _ = inputs
    own = TRAINERS["CoOp"](
        sar_config(), golden_clip, eurosat_classes("base"), tensors("CoOp", "param")
    )
    trainer = build("CoOp", golden_clip, sar_config(WEIGHT=0.0))
    assert torch.equal(trainer.loss(images, labels), own.loss(images, labels))


def test_a_draw_is_of_others_and_repeats():
    sets = sar.draw(50, 8, torch.Generator().manual_seed(3))
    assert sets.shape == (50, 8)
    for i, row in enumerate(sets.tolist()):
        assert i not in row and len(set(row)) == 8 and max(row) < 50
    assert torch.equal(sets, sar.draw(50, 8, torch.Generator().manual_seed(3)))
    generator = torch.Generator().manual_seed(3)
    state = generator.get_state()
    everyone = sar.draw(5, 64, generator)
    assert everyone.tolist() == [[j for j in range(5) if j != i] for i in range(5)]
    assert torch.equal(generator.get_state(), state)


def test_an_epoch_has_sets_of_its_own_that_no_other_randomness_changes(golden_clip):
    trainer = build("CoOp", golden_clip)

    def sets(epoch):
        torch.rand(epoch)
        trainer.start_epoch(epoch)
        return sar.draw(17, 6, trainer.generator)

    first, second = sets(0), sets(1)
    assert torch.equal(first, sets(0)) and not torch.equal(first, second)
    wanted = torch.Generator().manual_seed(1 * 1000003 + 1)
    assert torch.equal(second, sar.draw(17, 6, wanted))


@pytest.mark.parametrize(("name", "trained", "plain"), [
    ("CoOp", "CoOp", "CoOp"), ("CoOp_NeRP", "CoOp", "CoOp"), ("CoOp_SAR", "CoOp_SAR", "CoOp"),
    ("MaPLe_SAR_NeRP", "MaPLe_SAR", "MaPLe"),
])
def test_names_of_a_method(name, trained, plain):
    assert (trained_name(name), plain_name(name)) == (trained, plain)


def test_the_registry_makes_it_of_any_name():
    assert TRAINERS.canonical("MultiModalAdapter_SAR") == "MMA_SAR"
    assert TRAINERS["MMA_SAR"] is TRAINERS["MultiModalAdapter_SAR"]
    assert not any(name.endswith("_SAR") for name in TRAINERS.names())


@pytest.mark.parametrize(("name", "reason"), [
    ("ZeroshotCLIP_SAR", "there is no ZeroshotCLIP_SAR: ZeroshotCLIP learns nothing"),
    ("CoCoOp_SAR", "no feature of its own, only one for each image"),
    ("CoOq_SAR", "unknown trainer 'CoOq_SAR'"),
])
def test_what_it_does_not_fit(name, reason):
    with pytest.raises(NerpError, match=reason):
        TRAINERS[name]


def test_class_specific_contexts_do_not_serve_novel_names(golden_clip):
    cfg = sar_config()
    cfg.TRAINER.COOP.CSC = True
    with pytest.raises(NerpError, match="TRAINER.COOP.CSC: SAR needs a context that serves any"):
        TRAINERS["CoOp_SAR"](cfg, golden_clip, eurosat_classes("base"))


def test_every_shipped_list_keeps_two_hundred_names():
    listed = json.loads(SHIPPED.read_text())
    for dataset, names in listed.items():
        cfg = default_config()
        cfg.DATASET.NAME = dataset
        found = novel_names(cfg, [])
        assert len(found.names) == min(200, len(names))
        assert found.source == f"the shipped list, {dataset}"


def names_of(file, trained=(), **settings):
    cfg = sar_config(NOVEL_FILE=str(file), N_NOVEL=3, **settings)
    return novel_names(cfg, trained).names


def test_trained_names_and_repetitions_are_left_out(tmp_path):
    file = tmp_path / "names.json"
    file.write_text(json.dumps({
        "EuroSAT": ["annual-crop land", "Dry Lake", "dry_lake", "Moor", "Heath", "Bog"]
    }))
    assert names_of(file, EUROSAT[:5]) == ("Dry Lake", "Moor", "Heath")
    text = tmp_path / "names.txt"
    text.write_text("Forest\n\n  Moor\nBog\n")
    assert names_of(text, EUROSAT[:5]) == ("Moor", "Bog")


def test_a_dataset_without_a_list_has_the_trained_classes_alone(golden_clip, caplog):
    cfg = sar_config()
    cfg.DATASET.NAME = "ImageNetV2"
    with caplog.at_level("INFO", "nerp"):
        trainer = TRAINERS["CoOp_SAR"](cfg, golden_clip, eurosat_classes("base"))
    assert "no novel names for ImageNetV2" in caplog.text
    assert trainer.everyone.class_features().shape == (5, 64)


@pytest.mark.parametrize(("content", "reason"), [
    ("{", "not a readable JSON file"),
    ("[1]", "not an object"),
    ('{"EuroSAT": "Moor"}', "has 'Moor' for EuroSAT; it takes a list of class names"),
    ('{"EuroSAT": ["Moor", 3]}', "it takes a list of class names"),
    ('{"EuroSAT": []}', "it takes a list of class names"),
])
def test_files_that_are_no_lists(content, reason, tmp_path):
    file = tmp_path / "names.json"
    file.write_text(content)
    with pytest.raises(NerpError, match=reason) as raised:
        names_of(file)
    assert "TRAINER.SAR.NOVEL_FILE" in str(raised.value) and "\n" not in str(raised.value)


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(NerpError, match="no such file"):
        names_of(tmp_path / "names.txt")


@pytest.mark.parametrize(("dataset", "template"), [
    ("EuroSAT", TEMPLATE), ("FGVCAircraft", "a photo of an aircraft {}."),
    ("DescribableTextures", "a photo of a {}, a type of texture."),
])
def test_the_references_have_a_template_of_the_dataset(dataset, template, golden_clip):
    cfg = sar_config(N_NOVEL=0)
    classes = replace(eurosat_classes("base"), dataset=dataset)
    trainer = TRAINERS["CoOp_SAR"](cfg, golden_clip, classes)
    sums = sum(
        normalise(golden_clip.text_features([t.format(name) for name in classes.names]))
        for t in (*ENSEMBLE_7, template)
    )
    torch.testing.assert_close(trainer.frozen, normalise(sums), **FEATURE)
