"""DePT on the methods it fits: where the head has a part, its losses, names, files and refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from conftest import GOLDEN, WITH_DEPT, eurosat_classes, golden_config
from scripts.test_docs import REPO
from settled import settled
from trainers.test_golden import FEATURE, LOGIT, OPTIM, TRAINING, build, golden, tensors

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.data.benchmark import Within, open_benchmark
from nerp.engine.checkpoint import checkpoint_file, load_trainer, read_checkpoint
from nerp.engine.identity import digest
from nerp.engine.optim import build_optimizer, take_step
from nerp.engine.schedule import make_schedule
from nerp.files.tensors import load_inert
from nerp.settings.cards import find_card, open_card
from nerp.settings.catalogue import config_file, config_name
from nerp.settings.protocols import bare_name, plain_name, trained_name
from nerp.settings.resolve import Request, resolve

HEAD = "linear_probe_proj.weight"
FITS = {"BiomedCoOp", "CLIPLoRA", "CasPL_CoCoOp", "CasPL_CoOp", "CasPL_MaPLe", "CasPL_PromptSRC",
        "CoCoOp", "CoOp", "CoPrompt", "KgCoOp", "MMA", "MaPLe", "PromptSRC", "RESTORE", "TCP"}


def weighted(method, clip, weight, which="base", **dept):
    cfg = golden_config(OPTIM={"MAX_EPOCH": 3, **OPTIM.get(method, {})})
    cfg.TRAINER[TRAINERS[method].node].update(TRAINING.get(method, {}))
    cfg.TRAINER.DEPT.update({"WEIGHT": weight, **dept})
    return build(method, clip, which, cfg)


def test_what_it_fits():
    assert {name.removesuffix("_DePT") for name in TRAINERS.taking("_DePT")} == FITS


@pytest.mark.parametrize(("name", "reason"), [
    ("ZeroshotCLIP_DePT", "there is no ZeroshotCLIP_DePT: DePT needs a loss with one cross"),
    ("CasPL_DePT", "there is no CasPL_DePT"),
    ("CoOp_SAR_DePT", "there is no 'CoOp_SAR_DePT': a trainer takes only one of _DePT, _SAR"),
    ("CoOp_DePT_SAR", "a trainer takes only one of _DePT, _SAR"),
    ("CoOq_DePT", "unknown trainer 'CoOq_DePT'"),
])
def test_what_it_does_not_fit(name, reason):
    with pytest.raises(NerpError, match=reason) as raised:
        TRAINERS[name]
    assert "\n" not in str(raised.value)


def test_names():
    assert TRAINERS.canonical("ExtrasLinearProbeKgCoOp") == "KgCoOp_DePT"
    assert TRAINERS["ExtrasLinearProbeMaPLe"] is TRAINERS["MaPLe_DePT"]
    assert not any(name.endswith("_DePT") for name in TRAINERS.names())
    name = "CoOp_DePT_NeRP"
    assert (trained_name(name), plain_name(name), bare_name(name)) == (
        "CoOp_DePT", "CoOp_DePT", "CoOp")


@pytest.mark.parametrize("method", WITH_DEPT)
def test_the_parts_of_the_first_loss_and_its_gradients(method, golden_clip, inputs):
    images, labels, z = inputs[0][:4], inputs[1][:4], golden(method)
    parts = {}
    for weight in (0.0, 0.6, 1.0):
        trainer = weighted(method, golden_clip, weight)
        loss = trainer.loss(images, labels)
        parts[weight] = loss.item()
        if weight == 0.6:
            loss.backward()
            for name, tensor in tensors(method, "train/first_gradient").items():
                found = trainer.learned.get_parameter(name).grad
                torch.testing.assert_close(found, tensor, atol=1e-4, rtol=0)
    own, head = z["train/cross_entropy"][0], z["train/cross_entropy_head"][0]
    besides = z["train/losses"][0] - (0.4 * own + 0.6 * head)  # KgCoOp's pull, unweighted
    np.testing.assert_allclose([parts[0.0], parts[1.0]], [own + besides, head + besides], atol=1e-3)
    factor = {weighted(method, golden_clip, 0.6).rate_factor(name): name
              for name in tensors(method, "param")}
    assert set(factor) == {1.0, 6.5}


def test_prompt_src_with_a_mean_over_epochs_that_takes_the_head_too(golden_clip, inputs):
    method, (images, labels, _) = "PromptSRC_DePT", inputs
    z = golden(method)
    cfg = golden_config(OPTIM={"MAX_EPOCH": 3, **OPTIM["PromptSRC"]})
    for which in ("base", "new"):
        with torch.no_grad():
            logits = build(method, golden_clip, which).logits(images)
        torch.testing.assert_close(logits, torch.tensor(z[f"{which}/logits"]), **LOGIT)
    trainer = build(method, golden_clip, "base", cfg)
    optimizer = build_optimizer(trainer.parameter_groups(), cfg.OPTIM)
    schedule, weights = make_schedule(cfg.OPTIM, 2, None), trainer.epoch_weights(3)
    mean = dict.fromkeys(trainer.learned.state_dict(), 0.0)
    losses, rates = [], []
    for epoch in range(3):
        for batch in (slice(0, 4), slice(4, 8)):
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(epoch, 0, group["factor"])
            rates.append([group["lr"] for group in optimizer.param_groups])
            loss = trainer.loss(images[batch], labels[batch])
            take_step(optimizer, torch.amp.GradScaler("cpu", enabled=False), loss, 0.0)
            losses.append(loss.item())
        for name, tensor in trainer.learned.state_dict().items():
            mean[name] = mean[name] + weights[epoch] * tensor
    np.testing.assert_allclose(losses, z["train/losses"], atol=1e-3)
    np.testing.assert_allclose(sorted(map(max, rates)), sorted(z["train/lrs_head"]), atol=1e-12)
    for name, tensor in tensors(method, "trained").items():
        torch.testing.assert_close(mean[name].float(), tensor, **FEATURE)


def test_the_heads_part_in_a_prediction(golden_clip, inputs):
    images, z = inputs[0], golden("CoOp_DePT")
    own, head = (torch.tensor(z[f"base/logits_{part}"]) for part in ("similarity", "head"))
    novel = replace(eurosat_classes("base"), seen=False)
    some = replace(novel, within=Within(5, (3, 1)), names=novel.names[:2])
    with torch.no_grad():
        for weight, fusion, wanted in ((0.6, True, 0.4 * own + 0.6 * head), (0.0, True, own),
                                       (0.6, False, head)):
            trainer = weighted("CoOp_DePT", golden_clip, weight, FUSION=fusion)
            torch.testing.assert_close(trainer.logits(images), wanted, **LOGIT)
            torch.testing.assert_close(trainer.for_classes(novel).logits(images), own, **LOGIT)
        variant = weighted("CoOp_DePT", golden_clip, 0.6).for_classes(some)
        mixed = 0.4 * own[:, :2] + 0.6 * head[:, [3, 1]]
        torch.testing.assert_close(variant.logits(images), mixed, **LOGIT)


def test_a_head_of_other_classes_is_refused_with_both_numbers(golden_clip):
    trainer = weighted("CoOp_DePT", golden_clip, 0.6)
    names = trainer.classes.names
    with pytest.raises(NerpError, match="has 5 classes, the test has 2: it serves"):
        trainer.for_classes(replace(trainer.classes, names=("a", "b"))).classifier()
    within = replace(trainer.classes, names=names[:2], seen=False, within=Within(1000, (0, 1)))
    with pytest.raises(NerpError, match="has 5 classes, the test has 2 of 1000: it"):
        trainer.for_classes(within).classifier()
    trainer.recall(names, {})
    some = trainer.for_classes(replace(trainer.classes, names=(names[4], names[2])))
    assert some.rows() == [4, 2]  # by name, where they are known


def loaded(path, clip, which, **dept):
    cfg = golden_config()
    cfg.TRAINER.NAME = "CoOp_DePT"
    cfg.TRAINER.DEPT.update(dept)
    return load_trainer(settled(cfg), clip, eurosat_classes(which), read_checkpoint(path))[0]


def test_a_file_without_adjustment_has_none(golden_clip, inputs, tmp_path):
    folder = GOLDEN / "checkpoints" / "CoOp_DePT"
    state = load_inert(checkpoint_file(folder, "PromptLearner"))["state_dict"]
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("film_")}
    torch.save({"state_dict": kept}, tmp_path / "model.pth.tar-2")
    trainer = loaded(tmp_path / "model.pth.tar-2", golden_clip, "base")
    assert torch.equal(trainer.learned.get_parameter("film_lp_img.scale"), torch.ones(64))
    assert torch.equal(trainer.learned.get_parameter("film_lp_text.bias"), torch.zeros(64))
    x = torch.randn(2, 64)
    weight, bias = kept[HEAD], kept["linear_probe_proj.bias"]
    torch.testing.assert_close(trainer.head("image", x).detach(), x @ weight.t() + bias)


def test_a_head_of_another_number_of_classes_than_the_tested_ones(golden_clip):
    path = checkpoint_file(GOLDEN / "checkpoints" / "CoOp_DePT", "PromptLearner")
    match = f"{path}: the linear head .*has 5 classes, the test has 10"
    with pytest.raises(NerpError, match=match):
        loaded(path, golden_clip, "all")
    assert loaded(path, golden_clip, "all", WEIGHT=0.0).rows() is None
    assert loaded(path, golden_clip, "new").rows() is None


@pytest.mark.parametrize("change", [
    {"linear_probe_proj.bias": torch.zeros(4)},
    {HEAD: torch.zeros(4, 64), "linear_probe_proj.bias": torch.zeros(4)},
])
def test_a_head_whose_parts_do_not_belong_together(change, golden_clip, tmp_path):
    folder, path = GOLDEN / "checkpoints" / "CoOp_DePT", tmp_path / "model.pth.tar-2"
    state = load_inert(checkpoint_file(folder, "PromptLearner"))["state_dict"]
    names = list(eurosat_classes("base").names)
    torch.save({"state_dict": {**state, **change}, "classnames": names}, path)
    with pytest.raises(NerpError, match=f"{path}: not a checkpoint of CoOp_DePT .*of different nu"):
        loaded(path, golden_clip, "new")


def test_places_of_a_variant_s_classes_are_those_of_their_wordnet_ids(tmp_path):
    wnids = [f"n{i:08}" for i in range(6)]
    for folder, some in (("imagenet-adversarial/imagenet-a", (4, 1)),
                         ("imagenetv2/imagenetv2-matched-frequency-format-val", ())):
        for i in some:
            (tmp_path / folder / wnids[i]).mkdir(parents=True)
            (tmp_path / folder / wnids[i] / "a.jpg").touch()
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        names = "".join(f"{wnid} sunglasses\n" for wnid in wnids)  # as two of ImageNet's are
        (tmp_path / folder).parent.joinpath("classnames.txt").write_text(names)
    cfg = open_card(find_card("imagenet_a"), str(tmp_path))
    cfg.defrost()
    cfg.DATASET.NUM_CLASSES = 2
    bench = open_benchmark(cfg)
    assert bench.within == Within(6, (1, 4)) and bench.select([1]).within == Within(6, (4,))


TREES = json.loads((REPO / "tests/published/configs_dept_decoop_plot.json").read_text())


@pytest.mark.parametrize("file", TREES["PUBLISHED_DEPT"])
def test_a_published_file_says_what_ours_does(file, tmp_path):
    tree = json.loads(json.dumps(TREES["PUBLISHED_DEPT"][file]))
    tree["OPTIM"] |= {"STAGED_LR": True, "NEW_LAYERS": ["linear_probe", "film"],
                      "BASE_LR_MULT": 1, "LR_EXP": 5.0}
    tree.setdefault("TRAINER", {}).update({
        "NAMES_TO_UPDATE": ["prompt_learner", "linear_probe", "film"],
        "FILM": {"LINEAR_PROBE": True},
        "LINEAR_PROBE": {"TYPE": "linear", "WEIGHT": 0.5, "TEST_TIME_FUSION": False},
    })
    tree["INPUT"].pop("PIXEL_MEAN")
    (tmp_path / "published.yaml").write_text(yaml.safe_dump(tree))
    trainer, stem = file.removesuffix(".yaml").split("/")
    found = resolve(Request(trainer, "eurosat", config_file=str(tmp_path / "published.yaml"))).cfg
    name = trainer.removeprefix("ExtrasLinearProbe") + "_DePT"
    ours = resolve(Request(name, "eurosat",
                           config_file=f"configs/trainers/{name}/{stem}.yaml")).cfg
    assert dict(found.TRAINER.DEPT) == {"WEIGHT": 0.5, "LR_FACTOR": 5.0, "FUSION": False}
    node = TRAINERS[name].node
    assert name == found.TRAINER.NAME and found.OPTIM == ours.OPTIM
    assert {**found.TRAINER[node], "N_CTX": 0} == {**ours.TRAINER[node], "N_CTX": 0}


@pytest.mark.parametrize(("key", "value"), [
    ("TRAINER.LINEAR_PROBE.TYPE", "similarity"), ("TRAINER.FILM.LINEAR_PROBE", "False"),
    ("OPTIM.STAGED_LR", "maybe"), ("OPTIM.BASE_LR_MULT", "2"),
])
def test_what_is_not_offered_is_refused(key, value):
    with pytest.raises(NerpError, match=f"{key}: leave it out; here it is always"):
        resolve(Request("CoOp_DePT", "eurosat", opts=[key, value]))


@pytest.mark.parametrize(("name", "task", "dataset", "file"), [
    ("CoOp_DePT", "B2N", "eurosat", "CoOp_DePT/vit_b16_ep10_bs4_lr35"),
    ("MaPLe_DePT_NeRP", "CD", "imagenet", "MaPLe_DePT/vit_b16_c2_ep10_batch4_2ctx"),
    ("PromptSRC_DePT", "B2N", "eurosat", "PromptSRC/vit_b16_c2_ep20_batch4_4+4ctx"),
    ("CoOp_DePT", "B2N", "demo_objects", "CoOp/tiny"),
])
def test_configurations(name, task, dataset, file):
    config = config_name(trained_name(name), task, dataset, 16)
    assert config_file(name, config) == f"configs/trainers/{file}.yaml"


def test_settings_of_its_own_count_for_it_alone():
    def of(trainer, *opts):
        return digest(resolve(Request(trainer, "eurosat", opts=list(opts))).cfg)

    weight = ("TRAINER.DEPT.WEIGHT", "0.2")
    assert of("CoOp") == of("CoOp", *weight) != of("CoOp_DePT") != of("CoOp_DePT", *weight)


def test_features_without_their_lengths_are_no_images(golden_clip, inputs):
    trainer = weighted("CoOp_DePT", golden_clip, 0.6)
    with pytest.raises(AssertionError, match="before they were normalised"):
        of_features = trainer.feature_classifier()
        trainer.image_features(inputs[0][:1])
        of_features(torch.zeros(1, 64))


def test_a_run_and_its_tests(nerp, small_run, tmp_path):
    flags, opts = small_run
    opts = [*opts, "TRAINER.COOP.N_CTX", "4"]
    out = tmp_path / "train"
    base, new = (["DATASET.SUBSAMPLE_CLASSES", which] for which in ("base", "new"))
    status, _, error = nerp("train", "--trainer", "CoOp_DePT", *flags, "--output-dir", out, *opts,
                            *base)
    assert status == 0, error
    saved = torch.load(out / "PromptLearner/model.pth.tar-2", weights_only=True)
    assert saved["trainer"] == "CoOp_DePT" and saved["state_dict"][HEAD].shape == (5, 64)
    found = {}
    for name, part, settings in (("base", base, []), ("new", new, []),
                                 ("own", base, ["TRAINER.DEPT.WEIGHT", "0"])):
        status, _, error = nerp("test", "--trainer", "CoOp_DePT", *flags, "--model-dir", out,
                                "--output-dir", tmp_path / name, "--save-logits", *opts, *part,
                                *settings)
        assert status == 0, error
        found[name] = np.load(tmp_path / name / "predictions.npz")["logits"]
    trained, tested = (json.loads((folder / "result.json").read_text())
                       for folder in (out, tmp_path / "base"))
    assert trained["accuracy"] == tested["accuracy"]
    assert not np.allclose(found["base"], found["own"])  # kept logits are of one weight
    status, _, error = nerp("test", "--trainer", "CoOp", *flags, "--model-dir", out,
                            "--output-dir", tmp_path / "plain", *opts, *base)
    assert status == 1 and not (tmp_path / "plain").exists()
    assert error.count("nerp: error: ") == 1
