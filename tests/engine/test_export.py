"""nerp export: what it writes gives the model's logits without nerp, and what cannot is refused."""

import json
import logging
import re
import runpy
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import GOLDEN, LEARNING, ON_FEATURES, eurosat_classes, golden_config
from PIL import Image
from trainers.test_golden import build

import nerp
from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.clip.loading import load_model
from nerp.clip.model import Clip
from nerp.clip.open_clips import open_clips_files, own_arguments
from nerp.engine.export import export, obstacle, weights
from nerp.settings.defaults import default_config

LINEAR = {"CoOp", "KgCoOp", "ProGrad", "BiomedCoOp", "TCP", "TaskRes", "ZeroshotCLIP",
          "ZeroshotCLIP2"}
OF_FEATURES = {"LPpp", "ProAPO", "ATO"}


@torch.no_grad()
@pytest.mark.parametrize("method", [name for name in TRAINERS.names() if name not in ON_FEATURES])
def test_class_weights_are_the_model_or_the_method_says_why_not(method, golden_clip, inputs):
    images = inputs[0]
    trainer = build(method, golden_clip, "base") if method in LEARNING else TRAINERS[method](
        golden_config(), golden_clip, eurosat_classes("base"))
    if method in LINEAR:
        linear, folded = weights(trainer)
        found = linear.logits(golden_clip.image_features(images))
        torch.testing.assert_close(found, trainer.logits(images), atol=1e-4, rtol=0)
        assert folded is None
    elif method != "CLIPLoRA":
        with pytest.raises(NerpError, match=f"{trainer.node}: .*, so no class weights.*--onnx"):
            weights(trainer)


@pytest.mark.parametrize("method", ON_FEATURES)
def test_so_does_a_method_on_features(method, golden_clip):
    trainer = TRAINERS[method](golden_config(), golden_clip, eurosat_classes("base"))
    features = torch.nn.functional.normalize(torch.randn(6, golden_clip.embed_dim), dim=1)
    linear = trainer.linear_classifier()
    assert (linear is not None) == (method in OF_FEATURES)
    if linear is None:
        assert "image feature" in obstacle(trainer)
        return
    with torch.no_grad():
        wanted = trainer.feature_classifier()(features)
        torch.testing.assert_close(linear.logits(features), wanted, atol=1e-4, rtol=0)


def test_a_model_with_a_head_beside_clip_is_no_class_weights(golden_clip):
    for method in ("CoOp_DePT", "CLIPLoRA_DePT"):
        trainer = TRAINERS[method](golden_config(), golden_clip, eurosat_classes("base"))
        with pytest.raises(NerpError, match="so no class weights give its logits"):
            weights(trainer)


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"PARAMS": ["q", "k", "v", "o"]}, {"ENCODER": "text"}])
def test_clip_lora_is_folded_into_weights_that_open_clip_reads(
    settings, golden_clip, inputs, tmp_path
):
    import open_clip

    cfg = golden_config()
    cfg.TRAINER.CLIPLORA.update(settings)
    trainer = TRAINERS["CLIPLoRA"](cfg, golden_clip, eurosat_classes("base"))
    for name, tensor in trainer.learned.named_parameters():
        if name.endswith("w_lora_B"):  # which starts at 0
            tensor.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    wanted = trainer.logits(inputs[0])
    plain = golden_clip.image_features(inputs[0]) @ trainer.frozen_class_features().t()
    assert (wanted - 100 * plain).abs().max() > 0.1
    linear, folded = weights(trainer)
    for name, content in open_clips_files(golden_clip, "ViT-B/16", folded, cfg.INPUT).items():
        (tmp_path / name).write_bytes(content)
    model = open_clip.create_model(f"local-dir:{tmp_path}").eval()
    features = model.encode_image(inputs[0], normalize=True)
    torch.testing.assert_close(linear.logits(features), wanted, atol=1e-3, rtol=0)
    # and nerp: zero-shot CLIP with this backbone and the method's prompts is the method
    again = Clip(load_model(tmp_path / "open_clip_model.safetensors"), "fp32",
                 torch.device("cpu"), "folded")
    text = again.text_features([f"a photo of a {name}." for name in trainer.classes.names])
    text = torch.nn.functional.normalize(text, dim=1)
    found = again.scale * again.image_features(inputs[0]) @ text.t()
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("name", "path", "arguments"), [
    ("ViT-B/16", "", ["'ViT-B-16'", "pretrained='openai'", "force_quick_gelu=True"]),
    ("ViT-B-16:laion2b_s34b_b88k", "", ["'ViT-B-16'", "pretrained='laion2b_s34b_b88k'"]),
    ("ViT-B-16:dfn2b", "", ["'ViT-B-16'", "pretrained='dfn2b'", "force_quick_gelu=True"]),
    ("ViT-B/16", "own.pt", None), ("tiny", "", None),
])
def test_a_backbone_is_open_clips_own_or_written(name, path, arguments):
    backbone = default_config().MODEL.BACKBONE
    backbone.NAME, backbone.PATH = name, path
    assert own_arguments(backbone) == arguments


@pytest.fixture
def picture(tmp_path):
    """A photograph that is not square."""
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((140, 100)).save(tmp_path / "photo.jpg", quality=95)
    return tmp_path / "photo.jpg"


def run_page(folder, picture, monkeypatch):
    """What the code on the page of an exported folder computes."""
    shutil.copy(picture, folder / "photo.jpg")
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]
    (folder / "page.py").write_text(code)
    monkeypatch.chdir(folder)
    return runpy.run_path(str(folder / "page.py"))["logits"]


def test_the_page_of_class_weights_gives_the_models_logits(
    nerp_command, golden_weights, picture, tmp_path, monkeypatch
):
    file = GOLDEN / "checkpoints" / "CoOp" / "prompt_learner"
    pairs = ["MODEL.BACKBONE.PATH", golden_weights, "INPUT.RESIZE_MODE", "squash"]
    words = ["--classes", "River,Sea_or_Lake,Forest", "--dataset", "eurosat"]
    out = tmp_path / "out"
    status, text, error = nerp_command("export", file, out, *words, *pairs)
    assert status == 0 and "3 classes, in float32" in text, error
    options = dict(zip(pairs[::2], pairs[1::2], strict=True))
    model = nerp.load(file, ["River", "Sea_or_Lake", "Forest"], dataset="eurosat",
                      options=options, precision="fp32")
    wanted = next(model.logits(picture)).numpy()
    np.testing.assert_allclose(run_page(out, picture, monkeypatch)[0], wanted, atol=1e-3)
    with np.load(out / "class_weights.npz") as arrays:
        assert arrays["classnames"].tolist() == ["River", "Sea or Lake", "Forest"]
        assert arrays["weight"].shape == (3, 64) and arrays["bias"].tolist() == [0, 0, 0]
    from safetensors import safe_open

    with safe_open(out / "class_weights.safetensors", "np") as tensors:
        assert json.loads(tensors.metadata()["classnames"]) == list(model.classes)
        assert tensors.metadata()["method"] == "CoOp"
        assert tensors.get_tensor("scale") == pytest.approx(100, abs=1e-3)
    status, _, error = nerp_command("export", file, out, *words, *pairs)
    assert status == 1 and "not empty" in error and "--overwrite" in error
    wanted = {path.name for path in out.iterdir()} | {"notes.txt"}
    for name in ("model.onnx", "notes.txt"):  # of an earlier export, and of nobody's
        (out / name).write_text("old")
    assert nerp_command("export", file, out, *words, *pairs, "--overwrite")[0] == 0
    assert {path.name for path in out.iterdir()} == wanted


@pytest.fixture
def nerp_command(request):
    return request.getfixturevalue("nerp")


def test_a_whole_model_as_a_graph_gives_its_logits(
    nerp_command, trained, picture, tmp_path, monkeypatch
):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    folder = trained[0]
    status, _, error = nerp_command("export", folder, tmp_path / "weights")
    assert status == 1 and "MMRL: it changes the image encoder" in error and "--onnx" in error
    assert not (tmp_path / "weights").exists()
    (tmp_path / "graph").mkdir()
    for name in ("class_weights.npz", "class_weights.safetensors", "open_clip_config.json",
                 "open_clip_model.safetensors"):
        (tmp_path / "graph" / name).write_text("an earlier export's")
    logging.disable(logging.INFO)
    status, _, error = nerp_command("export", folder, tmp_path / "graph", "--onnx", "--overwrite")
    disabled = logging.root.manager.disable
    logging.disable(logging.NOTSET)
    assert status == 0, error
    assert {path.name for path in (tmp_path / "graph").iterdir()} == {"model.onnx", "README.md"}
    assert disabled == logging.INFO  # what a caller has set stays
    wanted = next(nerp.load(folder, precision="fp32").logits(picture)).numpy()
    found = run_page(tmp_path / "graph", picture, monkeypatch)
    np.testing.assert_allclose(found[0], wanted, atol=1e-3)
    page = (tmp_path / "graph" / "README.md").read_text()
    assert "opset 18" in page and "[batch, 3, 32, 32]" in page and "[batch, 5]" in page


@pytest.mark.slow
@pytest.mark.parametrize("method", LEARNING)
def test_every_method_is_a_graph_for_any_number_of_images(method, golden_clip):
    """`graph` runs it on another number than it is traced with, and compares."""
    pytest.importorskip("onnxruntime")
    from nerp.engine.export_onnx import graph

    trainer = build(method, golden_clip, "base")
    model = SimpleNamespace(trainer=trainer, classes=trainer.classes.names)
    assert graph(model, 1.0, torch.zeros(len(model.classes)))


def test_a_class_bias_and_a_temperature_are_in_bias_and_scale(nerp_command, small_run, tmp_path):
    flags, opts = small_run
    root = flags[flags.index("--root") + 1]
    status, _, error = nerp_command("train", "--trainer", "KgCoOp", *flags, "--output-dir",
                                    tmp_path / "run", *opts, "--classes", "base")
    assert status == 0, error
    names = ["River", "Pasture Land"]
    asked = {"trainer": "KgCoOp_NeRP", "root": str(root), "precision": "fp32"}
    options = {"NERP.RULE": "shift", "TEST.CALIBRATION": "temperature"}
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    of_two = {"NERP.RULE": "contextual", "NERP.REFERENCES": "['text', 'image']"}
    for number, rule in enumerate((options, options | of_two)):
        model = nerp.load(tmp_path / "run", names, **asked, options=rule)
        with torch.no_grad():
            logits = model.trainer.logits(images)
            features = model.trainer.clip.image_features(images)
        for step in model.finishing.steps(model.trainer):
            logits = step(logits)
        export(model, tmp_path / f"out{number}")
        with np.load(tmp_path / f"out{number}" / "class_weights.npz") as of:
            found = of["scale"] * features.numpy() @ of["weight"].T + of["bias"]
            assert of["scale"] != pytest.approx(100) and of["bias"].any()
        np.testing.assert_allclose(found, logits, atol=1e-4)
    for key, value in (("NERP.RULE", "flip"), ("NERP.SCOPE", "pairs"),
                       ("TEST.CALIBRATION", "dac")):
        other = nerp.load(tmp_path / "run", names, **asked, options={**options, key: value})
        with pytest.raises(NerpError, match=f"{key.split('.SCOPE')[0]}.* depends on the image"):
            export(other, tmp_path / "other")
    assert not (tmp_path / "other").exists()
