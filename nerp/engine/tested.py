"""The model and the images of a test, opened as they are needed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.base.log import say
from nerp.base.registry import TRAINERS
from nerp.clip.model import Clip, build_clip, pick_device
from nerp.clip.open_clips import other_architecture
from nerp.data.benchmark import Benchmark, Item, comparable, open_benchmark
from nerp.data.digests import Seen, images_state, seen_images
from nerp.data.doubts import name_doubts
from nerp.data.selection import class_half, select_run
from nerp.engine.built_on import completed
from nerp.engine.cache import Kept, built, cache_file, cached_features, cached_logits, logits_key
from nerp.engine.checkpoint import Checkpoint, checkpoint_file, load_trainer, read_checkpoint
from nerp.engine.evaluate import compute_logits, encode_images
from nerp.engine.open_world import base_classes, batches_of, is_open, stands_for
from nerp.files.yaml_file import load_yaml
from nerp.settings.cards import find_card
from nerp.settings.defaults import KEYS
from nerp.settings.protocols import NERP_SUFFIX, plain_name, training_task
from nerp.settings.resolve import Resolved
from nerp.settings.tree import DEFAULT, merge
from nerp.trainers.base import Trainer
from nerp.trainers.texts import Classes

CD_SOURCE = "ImageNet"  # the source of a checkpoint that does not name its own


class Tested:
    """The model that a request tests, and the images it is tested on.

    Checkpoint and lists are read at once; backbone, trainer and logits when first needed.

    Attributes:
        resolved: the resolved request. cfg: its configuration.
        directory: the run's folder, for files that cannot be kept beside the data.
        bench: the run's classes and images. items: the tested ones. labels: [N].
        source: the dataset that the model was trained on. source_card: the keys of its card that
            the checkpoint has.
        base: [C] whether a class was trained on, in the open world; otherwise None.

    Raises NerpError if a checkpoint or dataset is not available or a split is empty; in the open
    world also if base and novel classes cannot be told apart.
    """

    def __init__(self, resolved: Resolved):
        self.resolved = resolved
        self.cfg = cfg = resolved.cfg
        self.directory = directory = resolved.directory
        self.checkpoint = open_checkpoint(resolved)
        self.source = (self.checkpoint and self.checkpoint.source) or CD_SOURCE
        self.source_card = self.checkpoint.card if self.checkpoint else {}
        self.bench = run_benchmark(cfg, directory)
        self.items = tested_items(self.bench, cfg)
        self.labels = np.array([item.label for item in self.items])
        self.base = base_classes(cfg, self.bench, self.checkpoint) if is_open(cfg) else None

    @cached_property
    def trainer(self) -> Trainer:
        """The trainer with the checkpoint's tensors, or one that learns nothing."""
        clip = open_clip_model(self.resolved)
        classes = class_set(self.cfg, self.bench, self.as_trained)
        if self._is_variant:
            classes = replace(classes, within=self.bench.within)
        notes: list[str] = []

        def make() -> Trainer:
            if self.checkpoint is None:
                trainer: Trainer = TRAINERS[plain_name(self.cfg.TRAINER.NAME)](
                    self.cfg, clip, classes)
                return trainer
            trainer, said = load_trainer(
                self.resolved, clip, classes, self.checkpoint)
            notes.extend(said)
            return trainer

        trainer, self._inputs = built(make, self.cfg)
        if self.checkpoint is None:
            return trainer
        for note in notes:
            say(note)
        if self.checkpoint.substitute:
            say(f"trained with a substitute: {self.checkpoint.substitute}")
        if trainer.test_substitute:
            say(f"{trainer.test_substitute}")
        return trainer

    @cached_property
    def images(self) -> Seen:
        """The state and the content of the tested images, as they are when first asked for."""
        return seen_images(self.items, self.bench.image_dir)

    @property
    def as_trained(self) -> bool:
        """Whether the method predicts the classes in the way in which it predicts trained
        classes."""
        if is_open(self.cfg):
            return bool(self.cfg.TEST.AS_TRAINED)
        return self.is_seen

    @property
    def is_seen(self) -> bool:
        """Whether the tested classes are those that were trained on. The names in the checkpoint
        decide; without names, or if training read no labels, the protocol decides."""
        return is_seen(self.cfg, self.source) != bool(self.contradiction)

    @cached_property
    def contradiction(self) -> str:
        """How the names of the trained classes contradict the protocol, in words; "" if they do
        not, or if they are not known."""
        trained = self.checkpoint.classnames if self.checkpoint else ()
        names_decide = trained and TRAINERS[self.resolved.method].reads_labels
        if not names_decide or is_open(self.cfg) or self._is_elsewhere:
            return ""
        known = set(map(comparable, trained))
        seen = all(comparable(name) in known for name in self.bench.classnames)
        if seen == is_seen(self.cfg, self.source):
            return ""
        which = "" if seen else "not "
        return (f"by the names in the checkpoint, {which}all of the tested classes were trained "
                f"on, which is not what TASK {self.cfg.TASK} with "
                f"DATASET.SUBSAMPLE_CLASSES {self.cfg.DATASET.SUBSAMPLE_CLASSES} means")

    @property
    def _is_elsewhere(self) -> bool:
        """Whether the test is of another dataset than the training, as in cross-dataset tests.
        Class names that both datasets share do not change this."""
        return bool(self.cfg.TASK == "CD") and self.source != self.cfg.DATASET.NAME

    @property
    def _is_variant(self) -> bool:
        """Whether the tested dataset is a variant of the training dataset."""
        return self._is_elsewhere and bool(self.source == self.cfg.DATASET.REFERENCE)

    @property
    def is_corrected(self) -> bool:
        """Whether NeRP corrects the tested classes: the trainer's name must end in _NeRP; classes
        that were trained on also need NERP.ON_BASE."""
        named = bool(self.cfg.TRAINER.NAME.endswith(NERP_SUFFIX))
        return named and (bool(self.cfg.NERP.ON_BASE) or not self.is_seen)

    @property
    def substitute(self) -> str:
        """What replaced files that were not given, in training or in the test, in words."""
        if not self.checkpoint:
            return ""
        return self.checkpoint.substitute or self.trainer.test_substitute

    @property
    def also_seen(self) -> str:
        """What training has seen beyond labelled images, in words. The checkpoint says it; without
        that, it follows from method and classes."""
        if not self.checkpoint:
            return ""
        said = self.checkpoint.also_seen
        return TRAINERS[self.resolved.method].seen_besides(self.cfg) if said is None else said

    @cached_property
    def logits(self) -> Tensor:
        """[N, C] in float32 on the CPU."""

        trainer, bench, items, cfg = self.trainer, self.bench, self.items, self.cfg
        if not self.resolved.request.use_cache:
            return self._computed(cached=False)
        images, digest = self.images.state, self.checkpoint.digest if self.checkpoint else ""
        key = logits_key(trainer, digest, self._inputs, bench.image_dir, images, cfg)
        return cached_logits(
            self._kept, key, (len(items), len(bench.classnames)),
            lambda: self._computed(cached=True),
        )

    def _computed(self, cached: bool) -> Tensor:
        """`logits`, computed; with `cached`, from kept frozen image features."""
        trainer, image_dir = self.trainer, self.bench.image_dir
        rows = torch.empty(len(self.items), len(self.bench.classnames))
        for cfg, bench, places in batches_of(self.cfg, self.bench):
            items = tested_items(bench, cfg)
            images = images_state(items, image_dir)
            keep = partial(cached_features, bench, items, images, cfg, trainer.clip, self.directory)
            given = (keep,) if cached else ()
            rows[places] = compute_logits(trainer, items, image_dir, cfg, *given)
        return rows

    def trained_scores(self) -> npt.NDArray[np.float64] | None:
        """The method's own scores [N] for each tested image showing a trained class; None if the
        method has no such scores."""
        trainer = self.trainer
        with torch.inference_mode(), trainer.clip.autocast():
            score = trainer.trained_score()
            if score is None:
                return None
            found = np.empty(len(self.items))
            for cfg, bench, places in batches_of(self.cfg, self.bench):
                outputs = encode_images(trainer.clip.image_output, trainer.clip,
                                        tested_items(bench, cfg), bench.image_dir, cfg)
                found[places] = score(trainer.from_frozen(outputs)).cpu().numpy()
        return found

    @cached_property
    def seen_bench(self) -> tuple[CfgNode, Benchmark]:
        """`seen_benchmark` of the model; in the open world, the classes that the checkpoint
        names."""
        if self.base is not None:
            return self.cfg.DATASET, self.bench.select(np.flatnonzero(self.base).tolist())
        trained = self.checkpoint.classnames if self.checkpoint else ()
        try:
            return seen_benchmark(self.cfg, self.source, self.source_card, trained)
        except NerpError as error:
            if not self._is_elsewhere:
                raise
            raise NerpError(
                f"{error}. It is wanted because the model was trained on {self.source}, and these "
                "settings of NERP look at its training images; NERP.REFERENCES text or image, "
                "with NERP.PAIRS text, do without") from None

    @property
    def reference_name(self) -> str:
        """The name of the dataset whose mean training image is the reference."""
        return str(self.cfg.DATASET.REFERENCE or self.cfg.DATASET.NAME)

    @cached_property
    def reference_bench(self) -> Benchmark:
        """The dataset of the reference image, with all of its images."""
        return open_benchmark(other_dataset(self.cfg, self.reference_name))

    @property
    def _kept(self) -> Kept:
        """The place of the kept logits: beside the checkpoint, or in the plain trainer's test."""
        if self.checkpoint:
            folder = self.checkpoint.path.parent
            given = Path(self.resolved.request.model_dir).expanduser()
            return cache_file(folder, folder if given.is_file() else given, self.cfg)
        name = self.cfg.TRAINER.NAME
        folder = Path(*(plain_name(p) if p == name else p for p in self.directory.parts))
        return cache_file(folder, folder, self.cfg)


def open_checkpoint(resolved: Resolved) -> Checkpoint | None:
    """The checkpoint under test; None for a method that learns nothing."""
    request, method = resolved.request, TRAINERS[resolved.method]
    if not method.folder:
        return None
    if not request.model_dir:
        raise NerpError(f"{request.trainer} needs --model-dir, the --output-dir of its training "
                        "run")
    published = method.published_file(resolved.cfg)
    file = checkpoint_file(request.model_dir, method.folder, request.load_epoch, published)
    return completed(read_checkpoint(file, resolved.method), resolved.cfg)


def tested_items(bench: Benchmark, cfg: CfgNode) -> list[Item]:
    """The items of TEST.SPLIT. Raises NerpError if there are none."""
    items: list[Item] = getattr(bench, cfg.TEST.SPLIT)
    if not items:
        raise NerpError(f"{bench.name}: the split {cfg.TEST.SPLIT} is empty")
    return items


def run_benchmark(cfg: CfgNode, directory: Path) -> Benchmark:
    """The images and classes of a run. directory: the run's folder."""
    bench = open_benchmark(cfg)
    for line in name_doubts(bench.classnames):
        say(f"{bench.name}: {line}")
    classes = cfg.DATASET.SUBSAMPLE_CLASSES
    if cfg.DATASET.LAYOUT == "imagenet" and cfg.DATASET.NUM_SHOTS > 0 and bench.train \
            and not cfg.DATASET.FEW_SHOT_FILE:
        say(f"{bench.name}: the draw is not CoOp's, whose code lists each class folder in the file "
            "system's order; DATASET.FEW_SHOT_FILE FILE takes a published draw")
    return select_run(bench, cfg.DATASET.NUM_SHOTS, cfg.SEED, classes, directory,
                      cfg.DATASET.FEW_SHOT_FILE)


def seen_benchmark(
    cfg: CfgNode, source: str, source_card: Mapping[str, object] = MappingProxyType({}),
    trained: Sequence[str] = (),
) -> tuple[CfgNode, Benchmark]:
    """The card and the few-shot selection of the classes that the model was trained on.

    Base-to-novel: the dataset's base classes; few-shot: all classes; cross-dataset: the source's.
    Args: trained: the names of those classes. They decide if they are a part of the dataset's.
    """
    name = cfg.DATASET.NAME
    cfg = other_dataset(cfg, source, source_card) if cfg.TASK == "CD" else cfg
    bench = open_benchmark(cfg)
    classes = "base" if training_task(cfg.TASK) == "B2N" else "all"
    for part in ("base", "new", "all"):
        labels = class_half(len(bench.classnames), part)
        if [bench.classnames[label] for label in labels] == list(trained):
            classes = part
    file = cfg.DATASET.FEW_SHOT_FILE if name == cfg.DATASET.NAME else ""
    return cfg.DATASET, select_run(bench, cfg.DATASET.NUM_SHOTS, cfg.SEED, classes, file=file)


def other_dataset(
    cfg: CfgNode, name: str, card: Mapping[str, object] = MappingProxyType({})
) -> CfgNode:
    """The configuration with the card of the dataset called `name`, below the same root.

    Args: card: the keys of a card, used if it has that name; otherwise a shipped card is used.
    """
    if name == cfg.DATASET.NAME:
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    if card.get("NAME") == name:
        merge(cfg, {"DATASET": card}, f"the checkpoint's card of {name}")
    else:
        file = find_card(name)
        merge(cfg, load_yaml(file), str(file))
    return cfg


def open_clip_model(resolved: Resolved, precision: str = "") -> Clip:
    """The backbone, by default in the method's precision. The log gets notes about it."""
    cfg = resolved.cfg
    method = TRAINERS[plain_name(cfg.TRAINER.NAME)]
    backbone = cfg.MODEL.BACKBONE
    clip, notes = build_clip(
        backbone.NAME,
        backbone.PATH,
        backbone.ACTIVATION,
        precision or cfg.TRAINER[method.node].PREC,
        pick_device(cfg.USE_CUDA),
        size=_interpolated_size(cfg),
    )
    for note in notes:
        say(note)
    named = resolved.origin("MODEL.BACKBONE.NAME").kind != DEFAULT
    if named and backbone.PATH and (other := other_architecture(backbone.NAME, clip)):
        say(f"MODEL.BACKBONE.NAME {backbone.NAME} is {other}, and {backbone.PATH} holds another "
            "architecture: what the file holds counts")
    if backbone.INTERPOLATE:
        say(f"position embeddings for {clip.size} x {clip.size} pixels, interpolated where the "
            "weights are for others (MODEL.BACKBONE.INTERPOLATE)")
    elif cfg.INPUT.SIZE not in ((clip.size, clip.size), KEYS["INPUT.SIZE"].default):
        say(f"INPUT.SIZE {cfg.INPUT.SIZE} gives way to the backbone's {clip.size} pixels; "
            "MODEL.BACKBONE.INTERPOLATE True would fit the backbone to it")
    return clip


def _interpolated_size(cfg: CfgNode) -> int:
    """The pixels to which position embeddings are interpolated; 0: they are not."""
    if not cfg.MODEL.BACKBONE.INTERPOLATE:
        return 0
    height, width = cfg.INPUT.SIZE
    if height != width:
        raise NerpError(f"INPUT.SIZE is {cfg.INPUT.SIZE}; images are square here")
    return int(height)


def class_set(cfg: CfgNode, bench: Benchmark, seen: bool) -> Classes:
    """The benchmark's classes with its prompts. seen: whether they were trained on."""
    node = cfg.DATASET
    return Classes(tuple(bench.classnames), node.TEMPLATE, node.NEUTRAL, seen, node.NAME,
                   written=tuple(bench.written))


def known_names(cfg: CfgNode, bench: Benchmark) -> tuple[str, ...]:
    """All class names of the dataset if base classes are trained on and the method uses the names
    of the other classes too; otherwise ()."""
    method = TRAINERS[plain_name(cfg.TRAINER.NAME)]
    if not method.learns_names or cfg.DATASET.SUBSAMPLE_CLASSES != "base":
        return ()
    return tuple(open_benchmark(cfg).classnames)


def is_seen(cfg: CfgNode, source: str) -> bool:
    """Whether the tested classes are the trained classes, by the protocol. False for a method that
    learns nothing, and in the open world, where some classes are novel."""
    if not TRAINERS[plain_name(cfg.TRAINER.NAME)].folder:
        return False
    if cfg.TASK == "CD":
        return source == str(cfg.DATASET.NAME)
    return not is_open(cfg) and str(cfg.DATASET.SUBSAMPLE_CLASSES) != "new"


def open_record(tested: Tested) -> dict[str, object]:
    """The node "open_world" of result.json: which classes are base, how all classes are predicted,
    and which base-to-novel tests the numbers stand for."""
    names, cfg = tested.bench.classnames, tested.cfg
    assert tested.base is not None  # true in every test of the open world
    return {
        "base_classes": [name for name, base in zip(names, tested.base, strict=True) if base],
        "predicted_as": "trained" if tested.as_trained else "novel",
        "stands_for": stands_for(cfg, tested.as_trained, tested.base),
    }
