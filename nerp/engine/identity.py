"""Digests of everything that a run's numbers depend on. They identify a finished run.

`config` covers the configuration's keys, `inputs` the files that keys name, `code` the user's own
methods and the like, `images` the lists of images with the content of each. Nothing depends on the
machine or on the folder that holds the data.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import yaml
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.registry import LAYOUTS, PAIR_SOURCES, REFERENCES, RULES, TRAINERS
from nerp.clip.loading import SHIPPED
from nerp.clip.wordpiece import vocabulary_beside
from nerp.correction.wrapper import looks_at_reference, looks_at_training
from nerp.data.benchmark import Benchmark, split_digest
from nerp.data.digests import images_digest
from nerp.data.sentences import input_digest
from nerp.engine.best import BEST_VAL
from nerp.engine.built_on import built_on_files
from nerp.engine.tested import Tested, known_names, tested_items
from nerp.files.digest import content_digest
from nerp.files.opening import reading
from nerp.files.yaml_file import load_yaml
from nerp.settings.defaults import key
from nerp.settings.protocols import (
    CONFIG_FILE,
    NERP_SUFFIX,
    TRAINING_SUFFIXES,
    plain_name,
    training_node,
)
from nerp.settings.tree import get, keys

# The keys that do not change a run's numbers; they are left out of its digest.
_VOLATILE = (
    "OUTPUT_DIR",
    "USE_CUDA",
    "DATASET.ROOT",
    "DATALOADER.NUM_WORKERS",
    "DATALOADER.CACHE_MB",
    "DATALOADER.FEATURES_MB",
    "TRAIN.PRINT_FREQ",
    "TRAIN.CHECKPOINT_FREQ",
    "TRAIN.TENSORBOARD",
    "TRAIN.WANDB",
    "DATASET.CITATION",
    "DATASET.LICENCE",
    "DATASET.SOURCES",
)
Config = Mapping[str, object]  # a CfgNode, or the mapping read from a file
_INPUTS, _CODE, _IMAGES = "inputs", "code", "images"
_MOST_NAMED = 3
# The entries of an identity in words.
_WORDS = {
    "classes": "the class names",
    "checkpoint": "the checkpoint's content",
    "images.train": "the training images",
    "images.val": "the validation images",
    "images.test": "the tested images",
    "images.reference": "the images whose mean is the reference",
    "images.shown": "the images trained on, which the correction looks at",
}


def training_identity(cfg: CfgNode, bench: Benchmark) -> dict[str, object]:
    """The identity of a training on `bench`, the selection that `cfg` asks for. Raises NerpError,
    naming the file, for a missing image or a file that cannot be read."""
    images = {"train": images_digest(bench.train, bench.image_dir)}
    by_val = cfg.TEST.FINAL_MODEL == BEST_VAL
    if by_val or TRAINERS[plain_name(cfg.TRAINER.NAME)].on_features:
        images["val"] = images_digest(bench.val, bench.image_dir)
    if not cfg.TEST.NO_TEST:
        images["test"] = images_digest(tested_items(bench, cfg), bench.image_dir)
    return {
        "config": digest(cfg),
        **_inputs(cfg, [cfg.DATASET.NAME]),
        **_code(cfg),
        "classes": split_digest(known_names(cfg, bench) or bench.classnames),
        _IMAGES: images,
    }


def test_identity(tested: Tested) -> dict[str, object]:
    """The identity of a test and its correction. Raises NerpError as `training_identity`."""
    cfg, bench = tested.cfg, tested.bench
    datasets = [cfg.DATASET.NAME]
    images = {"test": tested.images.content}
    corrected, calibrated = tested.is_corrected, cfg.TEST.CALIBRATION != "none"
    if corrected or calibrated:
        datasets.append(tested.source)
    by_image = TRAINERS[plain_name(cfg.TRAINER.NAME)].text_by_image
    looks = corrected and looks_at_reference(cfg.NERP, by_image)
    if (looks or _calibrates_by_image(cfg)) and not cfg.NERP.REFERENCE_IMAGE:
        mean = tested.reference_bench
        images["reference"] = images_digest(mean.train, mean.image_dir)
    if calibrated or corrected and looks_at_training(cfg.NERP):
        _, seen = tested.seen_bench
        images["shown"] = images_digest([*seen.train, *seen.val], seen.image_dir)
    return {
        "config": digest(cfg),
        **_inputs(cfg, datasets),
        **_code(cfg),
        "classes": split_digest(bench.classnames),
        "checkpoint": tested.checkpoint.digest if tested.checkpoint else "",
        _IMAGES: images,
    }


def _calibrates_by_image(cfg: Config) -> bool:
    """Whether a calibration needs class features for a reference image."""
    method = TRAINERS[plain_name(str(get(cfg, "TRAINER.NAME")))]
    return bool(method.text_by_image and get(cfg, "TEST.CALIBRATION") == "dac")


def _inputs(cfg: CfgNode, datasets: list[str]) -> dict[str, dict[str, str]]:
    """{"inputs": {key: digest}} for the files that keys name, or {}. For a folder of sentence files
    the digest covers the files for `datasets`, since only these are read."""
    files = _input_files(cfg)
    files |= {name: str(file) for name, file in built_on_files(cfg).items()} | _shipped(cfg)
    digests = {name: input_digest(file, datasets) for name, file in files.items()}
    weights = files.get("MODEL.BACKBONE.PATH")
    if weights and (vocabulary := vocabulary_beside(Path(weights).expanduser())):
        digests["MODEL.BACKBONE.PATH"] += f" {content_digest(vocabulary)}"
    return {_INPUTS: digests} if digests else {}


def _shipped(cfg: CfgNode) -> dict[str, str]:
    """Key -> file of each backbone with a shipped name, including the teacher's."""
    node = TRAINERS[plain_name(cfg.TRAINER.NAME)].node
    method, backbone = cfg.TRAINER[node], cfg.MODEL.BACKBONE
    named = {
        "MODEL.BACKBONE.NAME": (backbone.NAME, backbone.PATH),
        **{f"TRAINER.{node}.{name}": (method.get(name), method.get("TEACHER_PATH"))
           for name in ("TEACHER", "TEACHER_NAME")},
    }
    return {key: str(SHIPPED[name]) for key, (name, path) in named.items()
            if not path and name in SHIPPED}


def _code(cfg: CfgNode) -> dict[str, dict[str, str]]:
    """{"code": {name: digest}} for the user's own methods, layouts and so on in a run, or {}."""
    used = [(TRAINERS, plain_name(cfg.TRAINER.NAME)), (LAYOUTS, cfg.DATASET.LAYOUT)]
    if cfg.TRAINER.NAME.endswith(NERP_SUFFIX):
        used += [(PAIR_SOURCES, cfg.NERP.PAIRS), (RULES, cfg.NERP.RULE),
                 *((REFERENCES, name) for name in {*cfg.NERP.REFERENCES, *cfg.NERP.ANCHOR})]
    digests = {name: code for registry, name in used if (code := registry.code(name))}
    return {_CODE: digests} if digests else {}


def changes(
    directory: Path, cfg: CfgNode, old: Mapping[str, object], new: Mapping[str, object]
) -> str:
    """The differences between the identity of the run in `directory` and that of the run of `cfg`,
    in words."""
    lines = []
    before, after = _flat(old), _flat(new)
    for name in after:
        if before.get(name) == after[name]:
            continue
        if name == "config":
            lines += _settings(directory, cfg) or ["another configuration"]
        elif name.startswith(f"{_INPUTS}."):
            lines.append(f"{name.removeprefix(f'{_INPUTS}.')}: the file's content")
        elif name.startswith(f"{_CODE}."):
            lines.append(f"{name.removeprefix(f'{_CODE}.')}: its code")
        else:
            kind = " (names, labels or content)" if name.startswith(f"{_IMAGES}.") else ""
            unsaid = "" if name in before else ", of which it says nothing"
            lines.append(f"{_WORDS[name]}{kind}{unsaid}")
    more = f" and {len(lines) - _MOST_NAMED} more" if len(lines) > _MOST_NAMED else ""
    if any(line.startswith("OPTIM.MAX_EPOCH:") for line in lines):
        more += ("; a schedule cannot be extended, since every step's rate depends on its length: "
                 "more epochs are a training of their own")
    return "; ".join(lines[:_MOST_NAMED] or ["it says more of itself"]) + more


def check_unchanged(
    directory: Path, cfg: CfgNode, before: Mapping[str, object], after: Mapping[str, object]
) -> None:
    """Raise NerpError if anything that a run's numbers depend on has changed since it began."""
    if before != after:
        raise NerpError(f"{directory}: what the run depends on was changed while it was under way "
                        f"({changes(directory, cfg, before, after)}); the same command with "
                        "--overwrite runs it anew")


def _settings(directory: Path, cfg: CfgNode) -> list[str]:
    """The keys by which the configuration kept in a run's folder differs."""
    file = directory / CONFIG_FILE
    with contextlib.suppress(NerpError), reading(file, "a configuration"):
        return _difference(load_yaml(file), yaml.safe_load(cfg.dump()))
    return []


def _flat(identity: Mapping[str, object]) -> dict[str, object]:
    """The entries of an identity; entries of a node have the node's name as a prefix."""
    flat: dict[str, object] = {}
    for name, value in identity.items():
        flat |= ({f"{name}.{inner}": entry for inner, entry in value.items()}
                 if isinstance(value, Mapping) else {name: value})
    return flat


def digest(cfg: Config) -> str:
    """16 hex digits. Two configurations have equal digits if they ask for the same numbers."""
    text = json.dumps(_decisive(cfg), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _difference(old: Config, new: Config) -> list[str]:
    """`KEY: old -> new` for every key with which two configurations ask for different numbers."""
    before, after = _decisive(old), _decisive(new)
    return [
        f"{name}: {before.get(name)!r} -> {after.get(name)!r}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def _input_files(cfg: Config) -> dict[str, str]:
    """Key -> path, for every key that names a file whose content affects the numbers."""
    return {name: str(value) for name, value in _decisive(cfg).items()
            if value and key(name).is_file}


def _decisive(cfg: Config) -> dict[str, object]:
    """The keys that a run's numbers depend on. Keys of NeRP, SAR, DePT or another method are left
    out of a run that does not use them."""
    trainer = str(get(cfg, "TRAINER.NAME"))
    idle = () if trainer.endswith(NERP_SUFFIX) or _calibrates_by_image(cfg) else ("NERP.",)
    nodes = {TRAINERS[name].node for name in TRAINERS.names()} | {*TRAINING_SUFFIXES.values()}
    nodes -= {TRAINERS[plain_name(trainer)].node, training_node(trainer)}
    idle = (*idle, *(f"TRAINER.{node}." for node in nodes))
    return {
        name: get(cfg, name)
        for name in keys(cfg)
        if name not in _VOLATILE and not name.startswith(idle)
    }
