"""PLOT and PLOT++: the transport alone, a ResNet's places, words, stages, epochs by shots."""

import json

import numpy as np
import pytest
import torch
from conftest import GOLDEN, eurosat_classes, golden_config, golden_options
from scripts.test_docs import REPO
from tiny_clip import random_resnet
from trainers.test_golden import FEATURE, LOGIT, PLAN, build, golden, tensors

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.clip.loading import load_model
from nerp.clip.model import Clip, normalise
from nerp.experiments.plan import Selection, plan
from nerp.settings.resolve import Request, resolve
from nerp.trainers.plot import transport_plan, transported
from nerp.trainers.plotpp import WORDS, dataset_words
from nerp.trainers.texts import Classes

PUBLISHED = json.loads((REPO / "tests/published/configs_dept_decoop_plot.json").read_text())


@pytest.mark.parametrize("method", ["PLOT", "PLOTPP"])
@pytest.mark.parametrize("kind", ["function", "spread"])
def test_the_transport_alone(method, kind):
    z = golden(method)
    local, prompts = (torch.tensor(z[f"{kind}/{name}"]) for name in ("local", "prompts"))
    cosines = torch.einsum("mbd,ncd->bcmn", normalise(local), normalise(prompts))
    plan = transport_plan(cosines, together=True)
    torch.testing.assert_close(plan, torch.tensor(z[f"{kind}/plan"]), **PLAN)
    value = transported(local, prompts, together=True)
    torch.testing.assert_close(value, torch.tensor(z[f"{kind}/value"]), **PLAN)


def test_an_image_has_the_plan_that_it_has_alone():
    torch.manual_seed(0)
    cosines = torch.rand(5, 3, 4, 2) * 2 - 1
    alone = torch.cat([transport_plan(own[None], together=True) for own in cosines])
    assert torch.equal(transport_plan(cosines, together=False), alone)


def test_a_plan_may_end_with_those_of_other_classes():
    """So the methods are not `independent`, though cosines of real features hardly show it."""
    torch.manual_seed(0)
    cosines = torch.rand(5, 6, 4, 2) * 2 - 1
    some = transport_plan(cosines[:, :3], together=False)
    assert not torch.allclose(transport_plan(cosines, together=False)[:, :3], some)


def test_a_plan_has_no_gradient(golden_clip, inputs):
    prompts = torch.randn(2, 3, 8, requires_grad=True)
    local = torch.randn(4, 1, 8)
    transported(local, prompts, together=True).sum().backward()
    unit = prompts.detach().clone().requires_grad_()
    cosines = torch.einsum("mbd,ncd->bcmn", normalise(local), normalise(unit))
    (transport_plan(cosines, together=True) * cosines).sum().backward()
    torch.testing.assert_close(prompts.grad, unit.grad)


@pytest.mark.parametrize("method", ["PLOT", "PLOTPP"])
def test_the_first_gradients(method, golden_clip, inputs):
    trainer = build(method, golden_clip, "base")
    trainer.loss(inputs[0][:4], inputs[1][:4]).backward()
    for name, wanted in tensors(method, "train/first_gradient").items():
        torch.testing.assert_close(trainer.parameter(name).grad, wanted, atol=1e-4, rtol=0)


def test_where_the_pooled_features_count(golden_clip, inputs):
    cfg = golden_config()
    cfg.TRAINER.PLOTPP.TRADE_OFF = True
    summed = build("PLOTPP", golden_clip, "base", cfg)
    names = eurosat_classes("base")
    of_imagenet = Classes(names.names, names.template, names.neutral, dataset="ImageNet")
    plot = build("PLOT", golden_clip, "base").for_classes(of_imagenet)
    for trainer in (summed, plot):
        with torch.no_grad():
            logits = trainer.logits(inputs[0])
        wanted = torch.tensor(golden(type(trainer).__name__)["sum/logits"])
        torch.testing.assert_close(logits, wanted, **LOGIT)


@pytest.mark.parametrize("which", ["base", "new"])
def test_plot_on_a_resnet(which, tmp_path, inputs):
    z = golden("PLOT_RN")
    torch.save(random_resnet(0), tmp_path / "resnet.pt")
    clip = Clip(load_model(tmp_path / "resnet.pt"), "fp32", torch.device("cpu"), "resnet")
    seed = int(z["images/seed"])
    images = torch.tensor(
        np.random.RandomState(seed).standard_normal((8, 3, 64, 64)).astype(np.float32))
    trainer = build("PLOT", clip, which)
    with torch.no_grad():
        image, text = trainer.local_images(images), trainer.local_texts()
        logits = trainer.logits(images)
    torch.testing.assert_close(logits, torch.tensor(z[f"{which}/logits"]), **LOGIT)
    for found, name in ((image.locals, "local_features"), (image.pooled, "image_features"),
                        (text.locals, "prompt_features")):
        torch.testing.assert_close(normalise(found), torch.tensor(z[f"{which}/{name}"]), **FEATURE)
    plain = clip.image_output(images)
    torch.testing.assert_close(image.pooled, plain, atol=1e-5, rtol=0)
    loss = trainer.loss(images[:4], inputs[1][:4])
    if which == "base":
        np.testing.assert_allclose(loss.item(), z["train/losses"][0], atol=1e-3)


@pytest.mark.parametrize("dataset", PUBLISHED["PLOTPP_WORDS"])
def test_the_published_words_as_they_start(dataset, golden_clip):
    z, words = golden("PLOTPP"), PUBLISHED["PLOTPP_WORDS"][dataset]
    assert [text.strip() for text in words] == list(WORDS[dataset])
    cfg = golden_config()
    cfg.TRAINER.PLOTPP.update({"N": 4, "WORDS": []})
    classes = Classes(("River", "annual crop land"), "{}", "a", dataset=dataset)
    trainer = TRAINERS["PLOTPP"](cfg, golden_clip, classes)
    wanted = torch.tensor(z[f"fresh/{dataset}/ctx"])
    assert torch.equal(trainer.parameter("prompt_learner.ctx"), wanted)
    prompts = normalise(trainer.local_texts().locals).detach()
    wanted = torch.tensor(z[f"fresh/{dataset}/prompt_features"])
    torch.testing.assert_close(prompts, wanted, **FEATURE)


def test_other_datasets_have_others_words():
    assert dataset_words("ImageNetV2") == WORDS["ImageNet"]
    assert dataset_words("DemoObjects") == WORDS["Caltech101"]


@pytest.mark.parametrize(("words", "count"), [(["a", "b"], 2), (["a", "", "b"], 2)])
def test_each_context_has_words(words, count, golden_clip):
    cfg = golden_config()
    cfg.TRAINER.PLOTPP.WORDS = words
    with pytest.raises(NerpError, match=f"TRAINER.PLOTPP.WORDS has {count} texts; it takes one fo"):
        TRAINERS["PLOTPP"](cfg, golden_clip, eurosat_classes("base"))


def test_the_first_stage_leaves_the_context_as_it_is(golden_clip, inputs):
    z, (images, labels, _) = golden("PLOTPP"), inputs
    cfg = golden_config()
    cfg.TRAINER.PLOTPP.update({"MODEL_UPD": "vision", "TRADE_OFF": True})
    trainer = build("PLOTPP", golden_clip, "base", cfg)
    first = trainer.loss(images[:4], labels[:4])
    first.backward()
    np.testing.assert_allclose(first.item(), z["vision/losses"][0], atol=1e-3)
    assert trainer.parameter("prompt_learner.ctx").grad is None
    assert trainer.parameter("prompt_learner.ctx_vision").grad is not None


def test_both_stages(nerp, small_run, tmp_path):
    flags, opts = small_run
    opts = [*opts, *golden_options("PLOTPP"), "OPTIM.MAX_EPOCH", "1", "TEST.NO_TEST", "True"]
    common = ["--trainer", "PLOTPP", *flags]
    status, _, error = nerp("train", *common, "--output-dir", tmp_path / "one", *opts,
                            "TRAINER.PLOTPP.MODEL_UPD", "vision",
                            "TRAINER.PLOTPP.TRADE_OFF", "True")
    assert status == 0, error
    second = ["TRAINER.PLOTPP.PRETRAIN_DIR", tmp_path / "one", "OPTIM.LR", "0",
              "OPTIM.WARMUP_CONS_LR", "0"]
    status, _, error = nerp("train", *common, "--output-dir", tmp_path / "two", *opts, *second)
    assert status == 0, error
    one, two = (torch.load(tmp_path / name / "prompt_learner/model.pth.tar-1", weights_only=True)
                for name in ("one", "two"))
    for name, tensor in one["state_dict"].items():
        assert torch.equal(two["state_dict"][name], tensor)
    assert two["settings"]["WORDS"] == PUBLISHED["PLOTPP_WORDS"]["EuroSAT"][:3]
    other = GOLDEN / "checkpoints" / "CoOp"
    status, _, error = nerp("train", *common, "--output-dir", tmp_path / "three", *opts,
                            "TRAINER.PLOTPP.PRETRAIN_DIR", other)
    assert status == 1 and "a checkpoint of CoOp, not of PLOTPP" in error
    assert not (tmp_path / "three").exists()
    status, _, error = nerp("train", *common, "--output-dir", tmp_path / "three", *opts,
                            "TRAINER.PLOTPP.PRETRAIN_DIR", tmp_path / "one",
                            "TRAINER.PLOTPP.N_CTX_V", "3")
    assert status == 1 and f"PRETRAIN_DIR {tmp_path / 'one'}: its prompt_learner.ctx_vi" in error
    assert not (tmp_path / "three").exists()


@pytest.mark.parametrize(("shots", "dataset", "epochs", "batch"), [
    (1, "eurosat", 50, 128), (2, "eurosat", 100, 128), (4, "stanford_cars", 100, 32),
    (8, "fgvc_aircraft", 200, 32), (16, "oxford_flowers", 200, 32), (16, "imagenet", 50, 128),
])
@pytest.mark.parametrize("config", ["rn50", "vit_b16"])
def test_epochs_go_by_shots_and_batches_by_dataset(config, shots, dataset, epochs, batch):
    def found(*opts):
        cfg = resolve(Request("PLOT", dataset, config_file=f"configs/trainers/PLOT/{config}.yaml",
                              opts=["DATASET.NUM_SHOTS", str(shots), *opts])).cfg
        return cfg.OPTIM.MAX_EPOCH, cfg.DATALOADER.TRAIN_X.BATCH_SIZE

    assert found() == (epochs, batch) and found("OPTIM.MAX_EPOCH", "3") == (3, batch)


def test_a_sweep_trains_the_first_stage_once_for_all_seeds():
    runs = plan(Selection("few_shot", methods=("PLOTPP",), datasets=("eurosat",), shots=(4,),
                          seeds=(1, 2, 3)))
    assert [run.argv[0] for run in runs] == ["train"] * 4
    first, *second = runs
    assert first.directory.parts[-2:] == ("vit_b16_vision", "seed1")
    for seed, run in enumerate(second, 1):
        assert run.directory.parts[-2:] == ("vit_b16", f"seed{seed}")
        assert run.needs == (first.directory,)


@pytest.mark.parametrize(("key", "works", "fails"), [
    ("TRAINER.PLOT.CTX_INIT", "", "a photo of a"), ("TRAINER.PLOT.CSC", "False", "True"),
    ("TRAINER.PLOT.CLASS_TOKEN_POSITION", "end", "middle"),
])
def test_what_does_not_work_in_the_published_code_is_not_offered(key, works, fails):
    assert resolve(Request("PLOT", "eurosat", opts=[key, works])).cfg.TRAINER.PLOT.N == 4
    with pytest.raises(NerpError, match=f"unknown configuration key '{key}'"):
        resolve(Request("PLOT", "eurosat", opts=[key, fails]))


def test_a_backbone_without_places(golden_clip):
    class Whole:
        kind = "timm's vision transformer"

    golden_clip.image = Whole()
    with pytest.raises(NerpError, match="TRAINER.NAME PLOT: it matches features of an image's pl"):
        TRAINERS["PLOT"](golden_config(), golden_clip, eurosat_classes("base"))
