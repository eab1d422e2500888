"""Every method as on a GPU, with tensors that hold nothing: devices, types, and where it waits."""

from pathlib import Path

import pytest
import torch
from conftest import asked, eurosat_classes, golden_config
from fake_cuda import CUDA, fake_cuda, missing

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.clip.model import Clip
from nerp.clip.modules import CLIP
from nerp.correction.wrapper import priors
from nerp.data.benchmark import Benchmark, Item
from nerp.engine.schedule import BY_STEP
from nerp.engine.train import TrainingRun
from nerp.settings.protocols import SAR_SUFFIX
from nerp.trainers.on_features import DescendsOnFeatures
from nerp.trainers.teacher import Teacher

PINS = Path(__file__).parents[2] / "scripts/lib/constraints.txt"
METHODS = TRAINERS.names()
# Where a batch waits: methods that vote by the labels of their keys look at these.
WAITS = {"TipAdapter": {"is_nonzero"}, "TFUP": {"is_nonzero"},
         "TipAdapterF": {"is_nonzero", "bincount"}}
TEXT = {"width": 128, "layers": 4, "vocab_size": 49408, "context_length": 77}


def published(method):
    return TRAINERS[method].defaults["PREC"].default


def with_sar():
    """A method with SAR's term in each of the published precisions."""
    found = {}
    for method in METHODS:
        try:
            found.setdefault(published(method), TRAINERS[method + SAR_SUFFIX].__name__)
        except NerpError:
            continue
    return found.items()


# Each in its published precision, and slowly in float32 too.
PRECISIONS = [pytest.param(method, precision,
                           marks=[pytest.mark.slow] * (precision != published(method)))
              for method in METHODS for precision in dict.fromkeys(("fp32", published(method)))]
PRECISIONS += [(method, precision) for precision, method in with_sar()]


@pytest.fixture(scope="module")
def possible():
    lack = missing()
    if lack and f"torch=={torch.__version__.partition('+')[0]}" in PINS.read_text():
        pytest.fail(lack)  # the version that is tested has it all
    if lack:
        pytest.skip(lack)


@pytest.fixture
def cuda(possible, monkeypatch):
    """Where the host waits. References are made of one template, which shows as much as sixty."""
    for kind in {TRAINERS[method] for method in (*METHODS, *(name for _, name in with_sar()))}:
        whole = kind.frozen_prompts
        monkeypatch.setattr(
            kind, "frozen_prompts",
            lambda trainer, whole=whole: [texts[:1] for texts in whole(trainer)],
        )
    # A teacher is a second backbone: the student serves as its own.
    monkeypatch.setattr("nerp.trainers.caspl.open_teacher",
                        lambda settings, node, student, classes: Teacher(student, classes))
    monkeypatch.setattr("nerp.trainers.taught.open_backbone",
                        lambda name, path, precision, student: student)
    with fake_cuda() as watch:
        yield watch


def transformer():
    vision = {"width": 192, "layers": 4, "patch_size": 8, "image_size": 32}
    return CLIP(64, vision, TEXT, quick_gelu=True)


def resnet():
    from open_clip.model import CLIP

    vision = {"layers": [1, 1, 1, 1], "width": 64, "image_size": 32}
    return CLIP(64, vision, {**TEXT, "heads": 2}, quick_gelu=True)


def build(method, model, precision):
    """A method on a backbone without numbers."""
    model = model.eval().requires_grad_(False)
    del model.logit_scale
    model.logit_scale = torch.tensor(4.6)  # this one has a value, which `Clip` reads
    clip = Clip(model, precision, CUDA, "fake")
    cfg = golden_config()
    cfg.TRAINER.PROMPTKD.TEACHER_PATH = "of the student"
    return TRAINERS[method](cfg, clip, eurosat_classes("base"))


class Features:
    """Of ten training images, and of no validation images; see `on_features.Images`."""

    validates_on_tested = False

    def plain(self, split):
        return torch.zeros(10 if split == "train" else 0, 64, device=CUDA)

    def drawn(self, number, which=None, split="train"):
        return torch.zeros(10 if which is None else len(which), 64, device=CUDA)

    def labels(self, split):
        return torch.zeros(10 if split == "train" else 0, dtype=torch.long, device=CUDA)


def feature_steps(trainer):
    """Build a method that trains on features, and take the gradient of a batch. It may wait: what
    it does for each of them is little."""
    trainer.prepare_training()
    with torch.autocast("cuda", enabled=False):
        trainer.build(Features())
        trainer.feature_loss(*next(trainer.batches(Features(), 0))).backward()
    assert any(parameter.grad is not None for parameter in trainer.parameters())


def steps(trainer, watch, folder):
    """Train for two steps; the second one, where what is computed once is there, is watched."""
    cfg = trainer.cfg
    if trainer.steps is not None:
        cfg.OPTIM.LR_SCHEDULER = BY_STEP
    cfg.TRAINER.NAME, cfg.DATALOADER.K_TRANSFORMS = type(trainer).__name__, trainer.views
    names = list(trainer.classes.names)
    items = [Item(f"{name}.jpg", label, name) for label, name in enumerate(names)]
    bench = Benchmark("EuroSAT", folder, folder, items, [], items, names)
    run = TrainingRun(trainer, bench, cfg, folder, {})
    for _ in range(2):
        size = trainer.clip.size
        pixels = torch.zeros(4, trainer.views, 3, size, size, dtype=torch.uint8).pin_memory()
        labels = torch.zeros(4, dtype=torch.long).pin_memory()
        outputs = torch.zeros(4, trainer.clip.embed_dim, device=CUDA)
        of_features = (outputs,), torch.zeros(4, dtype=torch.long, device=CUDA)
        watch.seen.clear()
        shown = (of_features if trainer.learns_on_outputs
                 else run.shown.on_device(pixels, labels))
        measured = run._step(*shown, 4)
    assert watch.seen == []
    assert measured.device.type == "cuda" and measured.dtype == torch.float32
    assert any(parameter.grad is not None for parameter in trainer.parameters())


def evaluation(trainer, watch):
    """A batch, watched: it waits where `WAITS` says so, and nowhere else."""
    images = torch.zeros(4, 3, trainer.clip.size, trainer.clip.size, device=CUDA)
    with torch.inference_mode(), trainer.clip.autocast():
        classify = trainer.classifier()
        watch.seen.clear()
        logits = classify(images)
    known = WAITS.get(type(trainer).__name__, set())
    assert {operation.split(",")[0] for operation in watch.seen} <= known
    assert all(", votes.py:" in operation for operation in watch.seen)
    assert bool(watch.seen) == bool(known)
    assert logits.device.type == "cuda" and logits.dtype == torch.float32


@pytest.mark.parametrize(("method", "precision"), PRECISIONS)
def test_training_evaluation_and_priors(method, precision, cuda, tmp_path):
    trainer = build(method, transformer(), precision)
    if isinstance(trainer, DescendsOnFeatures):
        feature_steps(trainer)
    elif trainer.parameters() and not trainer.on_features:
        steps(trainer, cuda, tmp_path)
    evaluation(trainer, cuda)
    other = trainer.for_classes(eurosat_classes(asked(method)))
    reference = torch.zeros(1, 3, 32, 32, device=CUDA)
    for prior in priors(other, reference, trainer.cfg.NERP):
        assert prior.shape == (5,) and prior.device.type == "cpu" and prior.dtype == torch.float32


@pytest.mark.parametrize("method", METHODS)
def test_on_a_resnet(method, cuda, tmp_path):
    try:
        trainer = build(method, resnet(), published(method))
    except NerpError as error:
        pytest.skip(str(error))
    if trainer.parameters() and not trainer.on_features:
        steps(trainer, cuda, tmp_path)
    evaluation(trainer, cuda)
