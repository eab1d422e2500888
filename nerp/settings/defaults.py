"""Every configuration key: its default, type and range, in the words of `nerp.settings.keys`.

A method's own keys stand in its class (`Trainer.defaults`), below TRAINER.<node>.
"""

from typing import Any

from yacs.config import CfgNode as CN

from nerp.base.registry import LAYOUTS, PAIR_SOURCES, REFERENCES, RULES, TRAINERS
from nerp.settings.backbones import BACKBONE_KEY, DEFAULT_BACKBONE
from nerp.settings.keys import (
    Key,
    as_key,
    choice,
    file,
    flag,
    inside,
    listing,
    logits,
    mapping,
    name,
    number,
    path,
    registered,
    shares,
    strength,
    template,
    text,
    whole,
)
from nerp.settings.protocols import task

_PIXELS = whole(224, 1, 4096)
_IMAGES_AT_ONCE = 65536

# What a dataset card may say.
_DATASET = {
    "DATASET.NAME": name(""),
    "DATASET.ROOT": path("data"),
    "DATASET.NUM_SHOTS": whole(16, -1, 10**6),  # 0 or -1: every training image
    "DATASET.SUBSAMPLE_CLASSES": choice("all", "base", "new"),
    "DATASET.FEW_SHOT_FILE": file(""),  # a published selection, split_fewshot/shot_<k>-seed_<s>.pkl
    "DATASET.DIRECTORY": inside(""),
    "DATASET.LAYOUT": registered("json_split", LAYOUTS),
    "DATASET.IMAGE_FOLDER": inside(""),
    "DATASET.SPLIT_FILE": inside(""),
    "DATASET.CLASS_FILE": inside(""),  # names the classes, in layouts that list them apart
    "DATASET.NUM_CLASSES": whole(0, 0),  # 0: not stated
    "DATASET.SPLIT_SIZES": listing([0, 0, 0], whole(0, 0), 3, 3),  # train, val, test
    "DATASET.TEMPLATE": template("a photo of a {}."),
    "DATASET.NEUTRAL": text("a photo of an object."),
    "DATASET.REFERENCE": name(""),  # dataset of NeRP's mean training image; "": this one
    "DATASET.CITATION": text(""),
    "DATASET.LICENCE": text(""),
    "DATASET.SOURCES": listing([], mapping({})),  # see nerp/data/sources.py
}

KEYS: dict[str, Key] = {
    "OUTPUT_DIR": path(""),
    "SEED": whole(1, -1, 2**63 - 1),  # -1: a seed is drawn
    "USE_CUDA": flag(True),  # CUDA, else Apple's GPU; no effect if there is neither
    "TASK": Key("B2N", "B2N, CD, FS or OW", lambda value: task(str(value))),  # see protocols.py
    **_DATASET,
    "INPUT.SIZE": listing((224, 224), _PIXELS, 2, 2),
    "INPUT.INTERPOLATION": choice("bicubic", "bilinear", "nearest"),
    "INPUT.RESIZE_MODE": choice("shortest", "squash"),  # squash: to a square, without cropping
    "INPUT.PIXEL_MEAN": listing([0.48145466, 0.4578275, 0.40821073], number(0.5), 3, 3),
    "INPUT.PIXEL_STD": listing([0.26862954, 0.26130258, 0.27577711], number(0.3, above=0), 3, 3),
    "INPUT.TRANSFORMS": listing(
        ["random_resized_crop", "random_flip", "normalize"],
        choice("random_resized_crop", "random_flip", "center_crop", "randaugment", "normalize"),
    ),
    "INPUT.RRCROP_SCALE": listing((0.08, 1.0), number(1.0, above=0, most=1), 2, 2),
    "INPUT.EXACT_JPEG": flag(True),  # False: draft decoding of test images; faster, other pixels
    "DATALOADER.TRAIN_X.BATCH_SIZE": whole(32, 1, _IMAGES_AT_ONCE),
    "DATALOADER.TEST.BATCH_SIZE": whole(100, 1, _IMAGES_AT_ONCE),
    "DATALOADER.K_TRANSFORMS": whole(1, 1, 64),  # views of a training image; 1 for most methods
    "DATALOADER.NUM_WORKERS": whole(8, 0, 1024),  # at most the machine's cores are used
    "DATALOADER.CACHE_MB": whole(4096, 0, 2**30),  # MiB of decoded training images in memory
    # MiB of frozen features of augmented training images, kept in a dataset's folder; 0: none
    "DATALOADER.FEATURES_MB": whole(2048, 0, 2**30),
    BACKBONE_KEY: text(DEFAULT_BACKBONE),
    "MODEL.BACKBONE.PATH": file(""),  # weights instead of the published ones
    # True: position embeddings are resized to INPUT.SIZE; False: INPUT.SIZE is set to the weights'
    "MODEL.BACKBONE.INTERPOLATE": flag(False),
    "MODEL.BACKBONE.ACTIVATION": choice("auto", "quick_gelu", "gelu"),
    "OPTIM.NAME": choice("sgd", "adam", "adamw"),
    "OPTIM.LR": number(0.002, least=0),
    "OPTIM.MAX_EPOCH": whole(10, 1, 10**6),
    "OPTIM.WEIGHT_DECAY": number(5e-4, least=0),
    "OPTIM.MOMENTUM": number(0.9, least=0, below=1),
    "OPTIM.ADAM_BETA1": number(0.9, least=0, below=1),
    "OPTIM.ADAM_BETA2": number(0.999, least=0, below=1),
    "OPTIM.ADAM_EPS": number(1e-8, above=0),
    "OPTIM.LR_SCHEDULER": choice("cosine", "cosine_iterations"),  # per epoch, per step
    "OPTIM.LR_MIN": number(0.0, least=0),  # the learning rate at the cosine's end
    "OPTIM.WARMUP_EPOCH": whole(0, -1),  # 0 or -1: none; at most MAX_EPOCH
    "OPTIM.WARMUP_TYPE": choice("constant", "linear"),  # linear is accepted only without a warm-up
    "OPTIM.WARMUP_CONS_LR": number(1e-5, least=0),
    "TRAIN.PRINT_FREQ": whole(10, 0),
    "TRAIN.CHECKPOINT_FREQ": whole(0, 0),
    "TRAIN.TENSORBOARD": flag(False),  # writes the history for TensorBoard too
    "TRAIN.WANDB": name(""),  # a project of Weights & Biases that receives the history
    "TEST.NO_TEST": flag(False),
    "TEST.FINAL_MODEL": choice("last_step", "best_val"),  # see nerp/engine/best.py
    "TEST.SPLIT": choice("test", "val"),
    "TEST.AS_TRAINED": flag(False),  # open world: predict novel classes as trained ones too
    "TEST.CALIBRATION": choice("none", "temperature", "dac"),  # see nerp/engine/calibrators.py
    "NERP.RULE": registered("auto", RULES, "auto"),  # auto: the published flip, else the shift
    # of a shift:
    "NERP.REFERENCES": listing(["gap", "image", "matched"], registered("", REFERENCES), 1),
    "NERP.STRENGTH": strength("auto"),  # factors of the references' priors
    "NERP.COST": number(0.02, least=0, below=1),  # share of validation images stacking may lose
    "NERP.SCOPE": choice("all", "pairs"),  # of a shift or match: to any class, or within pairs
    "NERP.MAY_SEE": choice("training", "test"),  # test: RULE auto may look at test images
    "NERP.STREAM": flag(False),  # corrects each image by the test images before it
    "NERP.SHARES": shares(),  # of the classes under test, for match, sinkhorn and transport
    "NERP.ANCHOR": listing([], registered("", REFERENCES)),  # of anchored; []: NERP.REFERENCES
    "NERP.WIDTH": logits("auto"),  # of anchored: how far biases usually lie from the references'
    "NERP.LIMIT": logits("auto"),  # distance beyond which the test classes look unbalanced
    "NERP.GUARD": flag(True),  # whether the references' bias is kept beyond that limit
    "NERP.TAU": number(0.0),  # of a flip: least prior preference for the predicted class, in logits
    "NERP.THRES": number(2.0),  # of a flip: largest logit margin that is weak evidence
    "NERP.RESIDUAL_TEXT_PRIOR": flag(False),
    "NERP.RESIDUAL_IMAGE_PRIOR": flag(False),
    "NERP.C_TEXT": number(1.0),  # coefficients of the residuals
    "NERP.C_IMAGE": number(1.0),
    "NERP.FLIP_BY_PROB": flag(False),
    "NERP.FLIP_BY_ENTROPY": flag(False),
    "NERP.ENTROPY_THRES": number(1.0),
    "NERP.FLIP_RULE": choice("OR", "AND"),
    "NERP.PAIRS": registered("text", PAIR_SOURCES),
    "NERP.PAIRS_FILE": file(""),  # for NERP.PAIRS bundle
    "NERP.PAIRS_NEIGHBOURS": whole(2, 0, 10**6),  # partners per class; 0: all above the quantile
    "NERP.PAIRS_QUANTILE": number(0.0, least=0, below=1),  # pairs scoring below it are left out
    "NERP.THRESHOLDS": choice("published", "default", "calibrated"),  # first two: of a flip only
    "NERP.REFERENCE_IMAGE": file(""),
    "NERP.ON_BASE": flag(False),  # whether trained classes are corrected too
    "TRAINER.NAME": text(""),
    "TRAINER.SAR.WEIGHT": number(0.1, least=0),  # λ of SAR (<method>_SAR)
    "TRAINER.SAR.SAMPLES": whole(64, 1, 10**6),  # other classes that each class is compared with
    "TRAINER.SAR.N_NOVEL": whole(200, 0, 10**6),
    "TRAINER.SAR.NOVEL_FILE": file(""),  # "": the shipped lists
    "TRAINER.DEPT.WEIGHT": number(0.7, least=0, most=1),  # w of DePT (<method>_DePT)
    "TRAINER.DEPT.LR_FACTOR": number(6.5, above=0),  # head's learning rate / the method's
    "TRAINER.DEPT.FUSION": flag(True),  # trained classes: both logits; False: the head's only
    "TRAINER.W": number(8.0, least=0),  # CoPrompt's; its files have these two outside its node
    "TRAINER.DISTILL": choice("cosine", "mse"),
}


def default_config() -> CN:
    """The defaults of every key, the methods' own nodes included."""
    return _tree(all_keys())


def common_config() -> CN:
    """The defaults of the keys that are no method's own."""
    return _tree(KEYS)


def dataset_defaults() -> CN:
    """The defaults of a dataset card."""
    return _tree(_DATASET).DATASET


def key(full_name: str) -> Key:
    """The key of that full name (OPTIM.LR), which must exist."""
    return KEYS.get(full_name) or _method_keys()[full_name]


def all_keys() -> dict[str, Key]:
    """Every key by its full name, the methods' own included."""
    return {**KEYS, **_method_keys()}


def _method_keys() -> dict[str, Key]:
    methods = map(TRAINERS.__getitem__, TRAINERS.names())
    return {
        f"TRAINER.{method.node}.{leaf}": as_key(default)
        for method in methods
        for leaf, default in method.defaults.items()
    }


def _tree(keys: dict[str, Key]) -> CN:
    """Full names and their defaults as nested nodes."""
    tree: dict[str, Any] = {}  # of trees and of the keys' values
    for full_name, key in keys.items():
        node = tree
        *parents, leaf = full_name.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = key.default
    return CN(tree)
