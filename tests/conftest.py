"""Fixtures shared by the tests: the golden CLIP, small EuroSAT folders, the command line.

The tests' only conftest.py: they import from it by name, and a second one would hide it.
"""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from recorded import two_datasets
from tiny_clip import Sizes, open_clip_model, random_clip

from nerp import cli
from nerp.base.registry import TRAINERS
from nerp.clip.loading import load_model
from nerp.clip.model import Clip
from nerp.settings.defaults import default_config
from nerp.settings.protocols import bare_name
from nerp.trainers.texts import Classes

GOLDEN = Path(__file__).parent / "golden"
# The methods that learn something from images, and those that are built from frozen features.
WITH_DEPT = [f"{name}_DePT" for name in ("CoOp", "CoCoOp", "KgCoOp", "MaPLe")]  # as published
LEARNING = [name for name in TRAINERS.names()
            if TRAINERS[name].folder and not TRAINERS[name].on_features] + WITH_DEPT
ON_FEATURES = [name for name in TRAINERS.names() if TRAINERS[name].on_features]
# (method, classes): each on base and novel ones, but where it serves those trained on alone.
HALVES = [(name, which) for name in LEARNING for which in ("base", "new")
          if which == "base" or not TRAINERS[name].own_classes]


def asked(method: str) -> str:
    """The classes that a trained method is asked about: novel ones where it serves any."""
    return "base" if TRAINERS[method].own_classes else "new"


EUROSAT = (
    "Annual Crop Land", "Forest", "Herbaceous Vegetation Land", "Highway or Road",
    "Industrial Buildings", "Pasture Land", "Permanent Crop Land", "Residential Buildings",
    "River", "Sea or Lake",
)
TEMPLATE = "a centered satellite photo of {}."
NEUTRAL = "a centered satellite photo"

# The golden files' larger CLIP.
TEACHER = Sizes(embed=96, vision_width=256, vision_layers=3, text_width=192, text_layers=3)
TAUGHT = {"TEACHER_CHECKPOINT": str(GOLDEN / "checkpoints" / "PromptKD_teacher"),
          "TEACHER_EPOCH": 2}
BOOSTING = {"BOOSTING": str(GOLDEN / "checkpoints" / "CasPL"), "BOOSTING_EPOCH": 2}
# The settings the golden vectors were made with, where they are not the defaults.
GOLDEN_SETTINGS = {
    "CoOp": {"N_CTX": 4},
    "CoCoOp": {"CTX_INIT": "a photo of a"},
    "ProGrad": {"N_CTX": 8, "LAMBDA": 0.8, "T": 1.5},
    "PromptKD": {"N_CTX_VISION": 2, "PROMPT_DEPTH_VISION": 3, "KD_WEIGHT": 10.0, **TAUGHT},
    "PromptSRC": {"PROMPT_DEPTH_VISION": 3, "PROMPT_DEPTH_TEXT": 3},
    "MMA": {"ADAPTER_START": 2, "ADAPTER_END": 4, "ADAPTER_SCALE": 0.5},
    "MMRL": {"REP_LAYERS": [2, 3, 4], "REP_DIM": 48},
    "ANPrompt": {
        "LAYERS": [2, 3, 4], "N_TOKENS": 3, "ALPHA": 0.5, "EPSILON": 0.3, "SIM_WEIGHT": 1.0,
        "MAIN_TEXTS": str(GOLDEN / "ANPrompt_main.json"),
        "NOISE_TEXTS": str(GOLDEN / "ANPrompt_noise.json"),
    },
    "MMRLpp": {"REP_LAYERS": [2, 3, 4], "REP_DIM": 48, "BETA": 0.6, "PROJ_LORA_DIM": 8},
    "TCP": {"CLASS_LAYER": 3},
    "MaPLe": {"PROMPT_DEPTH": 3},
    "CoPrompt": {"PROMPT_DEPTH": 3},
    "CasPL": {"N_CTX_VISION": 5, "N_CTX_TEXT": 5, "PROMPT_DEPTH_VISION": 3,
              "PROMPT_DEPTH_TEXT": 3},
    "CasPL_CoOp": {"N_CTX": 6, **BOOSTING},
    "CasPL_CoCoOp": {"CTX_INIT": "a photo of a", **BOOSTING},
    "CasPL_MaPLe": {"N_CTX": 3, "PROMPT_DEPTH": 2, **BOOSTING},
    "CasPL_PromptSRC": {"N_CTX_VISION": 3, "PROMPT_DEPTH_VISION": 3, "PROMPT_DEPTH_TEXT": 3,
                        "GPA_MEAN": 2.0, **BOOSTING},
    "BiomedCoOp": {
        "N_CTX": 2, "N_PROMPTS": 7, "TAU": 0.76, "SCCM_LAMBDA": 40.0, "KDSP_LAMBDA": 1.5,
        "TEXTS": str(GOLDEN / "BiomedCoOp_texts.json"),
    },
    "RESTORE": {"PROMPT_DEPTH": 3, "TEXT_CALIB_R": 0.3, "VIS_CALIB_R": 0.2, "FS_LOSS_R": 0.7},
    "CLIPLoRA": {"RANK": 3, "ALPHA": 2.0, "N_ITERS": 3},
    "PLOT": {"N": 3, "N_CTX": 4},
    "DeCoOp": {"N_CTX": 4, "DETECTOR_EPOCHS": 1},
    "PLOTPP": {"N": 3, "WORDS": ["a centered satellite photo of", "a centered satellite picture of",
                                 "this is centered satellite photo of"]},
    "MoCoOp": {
        "PROMPTS": [
            "{} texture.", "a photo of the large {}.", "a photo of a large {}.",
            "a photo of a  {}.", "a {} in a video game.", "a close-up photo of the {}.",
            "a low resolution photo of the {}.", "a pixelated photo of a {}.",
            "a photo of a {}, a type of land.",
        ],
        "GROUPS": [1, 2, 1, 1, 3, 1], "GATE_LOSS_WEIGHT": 1.5,
    },
}


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The tests run in several processes; more threads than cores only get in each other's way."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden_weights(tmp_path_factory, golden_teacher_weights) -> Path:
    """The golden CLIP as a plain state dict file."""
    path = tmp_path_factory.mktemp("clip") / "tiny.pt"
    torch.save(random_clip(0), path)
    GOLDEN_SETTINGS["CasPL"]["TEACHER_PATH"] = str(path)  # for runs whose teacher does not matter
    GOLDEN_SETTINGS["PromptKD"]["TEACHER_PATH"] = str(golden_teacher_weights)
    return path


@pytest.fixture(scope="session")
def golden_teacher_weights(tmp_path_factory) -> Path:
    """The golden files' larger CLIP, for methods with a teacher."""
    path = tmp_path_factory.mktemp("clip") / "teacher.pt"
    torch.save(random_clip(7, TEACHER), path)
    return path


@pytest.fixture(scope="session")
def golden_teacher(golden_teacher_weights) -> Clip:
    return Clip(load_model(golden_teacher_weights), "fp32", torch.device("cpu"), "teacher")


@pytest.fixture(scope="session")
def golden_model(golden_weights):
    """The golden CLIP as an open_clip model."""
    return open_clip_model(random_clip(0))


@pytest.fixture
def golden_clip(golden_weights) -> Clip:
    return Clip(load_model(golden_weights), "fp32", torch.device("cpu"), "golden")


@pytest.fixture
def inputs():
    """Golden images [8, 3, 32, 32], labels [8] and the reference image (uint8)."""
    z = np.load(GOLDEN / "inputs.npz")
    return torch.tensor(z["images"]), torch.tensor(z["labels"]), z["mean_image"]


def golden_config(**changes):
    """The defaults with the golden settings; changes: NODE={KEY: value}."""
    cfg = default_config()
    for name, settings in GOLDEN_SETTINGS.items():
        cfg.TRAINER[TRAINERS[name].node].update(settings)
    cfg.TRAINER.DEPT.WEIGHT = 0.6
    cfg.TRAINER.W = 2.0  # CoPrompt's
    for node, settings in changes.items():
        cfg[node].update(settings)
    return cfg


def eurosat_classes(which: str) -> Classes:
    """EuroSAT's base, novel ("new") or all classes; the novel ones count as not trained on."""
    names = {"base": EUROSAT[:5], "new": EUROSAT[5:], "all": EUROSAT}[which]
    return Classes(names, TEMPLATE, NEUTRAL, seen=which != "new")


def write_eurosat(root: Path, per_class: int = 12, size: int = 40, seed: int = 0) -> Path:
    """A EuroSAT folder in the published layout: JPEGs of noise around one colour per class."""
    rng = np.random.default_rng(seed)
    directory = root / "eurosat"
    lists = {"train": [], "val": [], "test": []}
    for label, name in enumerate(EUROSAT):
        folder = directory / "2750" / name.replace(" ", "")
        folder.mkdir(parents=True)
        colour = rng.integers(40, 215, 3)
        for i in range(per_class):
            pixels = np.clip(colour + rng.normal(0, 30, (size, size + 8, 3)), 0, 255)
            path = folder / f"{folder.name}_{i + 1}.jpg"
            Image.fromarray(pixels.astype(np.uint8)).save(path, quality=95)
            split = ("train", "train", "val", "test")[i % 4]
            lists[split].append([f"{folder.name}/{path.name}", label, name])
    shuffler = random.Random(seed)
    for items in lists.values():
        shuffler.shuffle(items)
    (directory / "split_zhou_EuroSAT.json").write_text(json.dumps(lists))
    return root


@pytest.fixture(scope="session")
def eurosat_root(tmp_path_factory) -> Path:
    """A --root that holds a small EuroSAT."""
    return write_eurosat(tmp_path_factory.mktemp("data"))


@pytest.fixture
def nerp(capsys):
    """Run a command line in this process: status, standard output, standard error."""

    def run(*args) -> tuple[int, str, str]:
        status = cli.run([str(arg) for arg in args])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def stopped(nerp, monkeypatch):
    """`nerp` of a training that is interrupted after its second epoch."""
    from nerp.engine.train import TrainingRun

    finish = TrainingRun._finish

    def interrupt(run, stretch):
        finish(run, stretch)
        if stretch.epoch == 1:
            raise KeyboardInterrupt

    def run(*args) -> tuple[int, str, str]:
        with monkeypatch.context() as patch:
            patch.setattr(TrainingRun, "_finish", interrupt)
            return nerp(*args)

    return run


def golden_options(method):
    """The golden settings of a method, and the views that it needs, as KEY VALUE pairs."""
    node = f"TRAINER.{TRAINERS[method].node}."
    settings = GOLDEN_SETTINGS.get(bare_name(method), {})
    keys = {node + key: value for key, value in settings.items()}
    keys["TRAINER.DEPT.WEIGHT"] = 0.6
    keys["DATALOADER.K_TRANSFORMS"] = TRAINERS[method].views
    if method == "MoCoOp":  # whose warm-up is longer than a short run
        keys["OPTIM.WARMUP_EPOCH"] = 0
    return [text for key, value in keys.items() for text in (key, str(value))]


@pytest.fixture
def small_run(eurosat_root, golden_weights):
    """Flags and KEY VALUE pairs of a short run on a small EuroSAT."""
    return ["--root", eurosat_root, "--dataset", "eurosat", "--seed", "1"], [
        "MODEL.BACKBONE.PATH", golden_weights, "DATASET.NUM_SHOTS", "4", "OPTIM.MAX_EPOCH", "2",
        "DATALOADER.TRAIN_X.BATCH_SIZE", "8",
    ]


@pytest.fixture
def train(nerp, eurosat_root, golden_weights, tmp_path):
    """Trains a small CoOp on base classes in `tmp_path / folder`: (status, printed, error)."""

    def train(folder, *args):
        return nerp(
            "train", "--trainer", "CoOp", "--root", eurosat_root, "--dataset", "eurosat",
            "--output-dir", tmp_path / folder, "MODEL.BACKBONE.PATH", golden_weights,
            "DATASET.NUM_SHOTS", "2", "DATASET.SUBSAMPLE_CLASSES", "base", "OPTIM.MAX_EPOCH", "1",
            "DATALOADER.TRAIN_X.BATCH_SIZE", "5", "TRAINER.COOP.N_CTX", "4", *args,
        )

    return train


@pytest.fixture
def trained(nerp, small_run, tmp_path):
    """A small MMRL run: its folder and the arguments to test it with."""
    flags, opts = small_run
    opts = [*opts, *golden_options("MMRL")]
    out = tmp_path / "train"
    status, _, error = nerp("train", "--trainer", "MMRL", *flags, "--output-dir", out,
                            *opts, "DATASET.SUBSAMPLE_CLASSES", "base")
    assert status == 0, error
    return out, flags, opts


@pytest.fixture
def output(tmp_path):
    """Records of MMRL on two datasets: the folder that holds them."""
    return two_datasets(tmp_path)
