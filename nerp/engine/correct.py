"""NeRP in a run: the images it may look at, and the record of what it did."""

from dataclasses import replace
from functools import cache, partial
from statistics import fmean, pstdev
from typing import TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nerp.base.distributed import main_first
from nerp.base.errors import NerpError
from nerp.base.log import say
from nerp.correction.correction import REASONS, Correction
from nerp.correction.looked_at import with_caveat
from nerp.correction.matched import Streaming
from nerp.correction.pairs import Labelled
from nerp.correction.references import Openness, Shown, image_for
from nerp.correction.running import ordered
from nerp.correction.wrapper import Material, NeRP, build_nerp
from nerp.data.benchmark import Item, distinct
from nerp.data.images import Normalise, eval_transform
from nerp.data.reference import cached_mean_image, load_reference
from nerp.engine.evaluate import compute_logits, encode_images
from nerp.engine.extra import gather_extra
from nerp.engine.metrics import Integers, asymmetry, confusion_matrix, flip_effect
from nerp.engine.open_world import is_open
from nerp.engine.tested import Tested
from nerp.settings.protocols import NERP_SUFFIX
from nerp.trainers.base import Trainer
from nerp.trainers.texts import Classes

# The most training images that a reference is made of: more hardly change their mean.
_MOST_SHOWN = 1024
_ORDERS, _FIRST = 5, 50  # of a stream: number of orders, and of images that are its start


def open_nerp(tested: Tested) -> NeRP | None:
    """Priors, pairs and rule for the classes under test; None if nothing is to be corrected.

    Raises NerpError if a reference image or pairs are not available.
    """
    cfg, trainer = tested.cfg, tested.trainer
    if not cfg.TRAINER.NAME.endswith(NERP_SUFFIX):
        return None
    if not tested.is_corrected:
        say("NeRP: these classes were trained on, so nothing is corrected (NERP.ON_BASE True does)")
        return None
    nerp = build_nerp(trainer, cfg, gather_material(tested))
    for line in _account(nerp):
        say(f"NeRP: {line}")
    return nerp


def _account(nerp: NeRP) -> list[str]:
    """Lines about the rule, its priors and pairs, and the data that they looked at."""
    lines = [f"{nerp.rule.note}; has looked at {with_caveat(nerp.looked_at)}"]
    if nerp.rule.uses_pairs:
        lines.append(f"{nerp.pairs.note}; looked at {nerp.pairs.looked_at}")
    if nerp.calibration:
        lines.append(nerp.calibration.note)
    return lines


def gather_material(tested: Tested) -> Material:
    """The inputs of NeRP and of the pair sources in this test; images are read only if needed."""
    cfg, trainer = tested.cfg, tested.trainer
    clip = trainer.clip
    reference = cache(partial(reference_pixels, tested))
    seen = cache(partial(seen_trainer, tested))

    @cache
    def shown_items() -> list[Item]:
        """At most _MOST_SHOWN training images, spread evenly over the list and so the classes."""
        bench = tested.seen_bench[1]
        items = bench.train
        if not items:
            raise NerpError(f"{bench.name}: there are no training images to refer to")
        step = -(-len(items) // _MOST_SHOWN)
        return items[::step]

    @cache
    def shown() -> Shown:
        bench, items = tested.seen_bench[1], shown_items()
        there = sorted({item.label for item in items})
        place = {label: i for i, label in enumerate(there)}
        return Shown(
            encode_images(trainer.image_features, clip, items, bench.image_dir, cfg),
            torch.tensor([place[item.label] for item in items], device=clip.device),
            seen().reference_class_features(image_for(trainer, reference))[there],
            [bench.classnames[label] for label in there],
        )

    @cache
    def frozen_shown() -> Shown:
        mine = shown()
        bench, items = tested.seen_bench[1], shown_items()
        there = [bench.classnames.index(name) for name in mine.classnames]
        text = seen().frozen_class_features(image_for(trainer, reference))
        own = trainer.frozen_clip
        return replace(
            mine, features=encode_images(own.image_features, own, items, bench.image_dir, cfg),
            text=(text[0] if text.dim() == 3 else text)[there],
        )

    @cache
    def shown_logits(other: Trainer) -> Tensor:
        return compute_logits(other, shown_items(), tested.seen_bench[1].image_dir, cfg)

    return Material(
        reference=reference,
        seen=seen,
        shown=shown,
        frozen_shown=frozen_shown,
        shown_logits=shown_logits,
        training=lambda: labelled(tested, "train", seen()),
        validation=lambda: labelled(tested, "val", seen()),
        test_logits=lambda: tested.logits,
        test_labels=lambda: torch.from_numpy(tested.labels),
        extra=lambda needs: gather_extra(tested, reference, shown, needs),
        openness=_openness(tested),
    )


def _openness(tested: Tested) -> Openness | None:
    """The inputs of stacking, in the open world; otherwise None."""
    if tested.base is None:
        return None
    base = torch.from_numpy(tested.base)

    def held() -> Labelled:
        found = labelled(tested, "val", tested.trainer)
        (columns,) = base.nonzero(as_tuple=True)
        return replace(found, labels=columns[found.labels],
                       classnames=tested.bench.classnames)

    return Openness(
        base, held,
        lambda: Labelled(tested.logits, torch.from_numpy(tested.labels), tested.bench.classnames),
    )


def seen_trainer(tested: Tested) -> Trainer:
    """The model under test, for the classes it was trained on. Its head stays the head that is used
    in this test."""
    node, bench = tested.seen_bench
    classes = Classes(
        tuple(bench.classnames), node.TEMPLATE, node.NEUTRAL,
        seen=tested.trainer.classes.seen, dataset=node.NAME,
    )
    return tested.trainer.for_classes(classes)


def labelled(tested: Tested, split: str, trainer: Trainer | None = None) -> Labelled:
    """Logits and labels of the few-shot images "train" or "val" of the classes trained on.

    Args: trainer: whose logits; default: `seen_trainer`.

    Raises NerpError if they are test images.
    """
    bench = tested.seen_bench[1]
    items = getattr(bench, split)
    if set(items) & set(bench.test):  # ImageNet
        raise NerpError(f"{bench.name} validates on its test images, so nothing may be "
                        "calibrated on them: NERP.THRESHOLDS published or default, "
                        "TEST.CALIBRATION none or dac")
    return Labelled(
        compute_logits(trainer or seen_trainer(tested), items, bench.image_dir, tested.cfg),
        torch.tensor([item.label for item in items]),
        bench.classnames,
    )


def reference_pixels(tested: Tested) -> Tensor:
    """The reference image [1, 3, H, W] after the test transform, normalised."""
    cfg, clip = tested.cfg, tested.trainer.clip
    pixels = eval_transform(cfg, clip.size)(reference_image(tested))[None]
    return Normalise(cfg, clip.device)(pixels)


def reference_image(tested: Tested) -> Image.Image:
    """NERP.REFERENCE_IMAGE, or else the mean of the training split, computed once and kept."""
    cfg = tested.cfg
    name = tested.reference_name
    if cfg.NERP.REFERENCE_IMAGE:
        say(f"NeRP: reference image {cfg.NERP.REFERENCE_IMAGE}")
        return load_reference(cfg.NERP.REFERENCE_IMAGE, name)
    bench = tested.reference_bench
    with main_first():
        image, path = cached_mean_image(
            bench.train, bench.image_dir, name, [bench.directory, tested.directory]
        )
    say(f"NeRP: reference image {path}, the mean of {len(bench.train)} training images")
    return image


class StreamNode(TypedDict):
    """Accuracies in percent of a stream in several orders, with mean and standard deviation, and
    the mean gain on the first images, in points."""

    orders: int
    accuracies: list[float]
    mean: float
    deviation: float
    first_images: int
    first_gain: float


# The effects of a pair's flips. This is not a class, since an attribute cannot be called "from".
PairFlips = TypedDict("PairFlips", {
    "from": str, "to": str, "flips": int, "helped": int, "hurt": int, "neutral": int,
})


def correction_record(
    nerp: NeRP, correction: Correction, tested: Tested
) -> dict[str, object]:
    """The node "nerp" of result.json: the origin of all inputs, and the effect of all flips."""
    labels, classnames = tested.labels, distinct(tested.bench.classnames)
    before, after = tested.logits.argmax(1).numpy(), correction.predictions.numpy()
    classes = len(classnames)
    record: dict[str, object] = {
        "rule": {"name": nerp.rule.name, **vars(nerp.rule)},
        "references": {name: prior.looked_at for name, prior in nerp.priors.items()
                       if name in nerp.rule.references},
        "pairs": nerp.pairs.source if nerp.rule.uses_pairs else "",
        "n_pairs": len(nerp.pairs.index) if nerp.rule.uses_pairs else 0,
        "pairs_looked_at": nerp.pairs.looked_at,
        "looked_at": nerp.looked_at,
        "thresholds": tested.cfg.NERP.THRESHOLDS,  # of a flip
        "strength": tested.cfg.NERP.STRENGTH,  # of a shift
        # Whether other classes of the same model are corrected too, even if they were trained on.
        "on_base": (tested.cfg.NERP.ON_BASE or tested.checkpoint is None
                    or is_open(tested.cfg)),
        "by_pair": _by_pair(labels, correction, classnames),
        "by_class": {
            classnames[c]: flip_effect(labels[of], before[of], after[of])
            for c in range(classes)
            if ((of := labels == c) & (before != after)).any()
        },
        "by_reason": _by_reason(correction),
        "asymmetry": {
            when: asymmetry(confusion_matrix(labels, predicted, classes)).total
            for when, predicted in (("before", before), ("after", after))
        },
    }
    if nerp.calibration:
        record["calibration"] = nerp.calibration.note
    if correction.remark:
        say(f"NeRP: {correction.remark}")
    if correction.findings:
        record["findings"] = correction.findings
    if isinstance(nerp.rule, Streaming) and nerp.rule.stream:
        record["stream"] = stream_record(nerp, nerp.rule, tested)
    return record


def stream_record(nerp: NeRP, rule: Streaming, tested: Tested) -> StreamNode:
    """Accuracies in percent of a stream in several orders, since they depend on the order."""
    labels, logits = torch.from_numpy(tested.labels), tested.logits
    first = logits.argmax(1) == labels
    accuracies, starts = [], []
    for order in range(rule.order, rule.order + _ORDERS):
        right = replace(nerp, rule=replace(rule, order=order)).correct(logits).predictions == labels
        accuracies.append(100 * float(right.double().mean()))
        start = ordered(len(labels), order)[:_FIRST]
        starts.append(100 * float(right[start].double().mean() - first[start].double().mean()))
    record: StreamNode = {"orders": _ORDERS, "accuracies": accuracies, "mean": fmean(accuracies),
              "deviation": pstdev(accuracies), "first_images": _FIRST,
              "first_gain": fmean(starts)}
    say(f"NeRP: {_ORDERS} orders of the stream: {record['mean']:.2f}% +- "
        f"{record['deviation']:.2f}; the first {_FIRST} images of each: "
        f"{record['first_gain']:+.2f} points")
    return record


def _by_pair(
    labels: Integers, correction: Correction, classnames: list[str]
) -> list[PairFlips]:
    """The effects of the flips of each (from, to), most flips first."""
    source, target = correction.source.numpy(), correction.target.numpy()
    truth = labels[correction.images.numpy()]
    size = len(classnames)
    cells = source * size + target
    flips, helped, hurt = (
        np.bincount(cells[of], minlength=size**2)
        for of in (slice(None), truth == target, truth == source)
    )
    rows: list[PairFlips] = []
    for cell in flips.nonzero()[0].tolist():
        count, good, bad = int(flips[cell]), int(helped[cell]), int(hurt[cell])
        rows.append({"from": classnames[cell // size], "to": classnames[cell % size],
                     "flips": count, "helped": good, "hurt": bad, "neutral": count - good - bad})
    return sorted(rows, key=lambda row: -row["flips"])


def _by_reason(correction: Correction) -> dict[str, int]:
    bits, counts = correction.reason.unique(return_counts=True)
    return {
        "+".join(name for bit, name in REASONS.items() if value & bit): count
        for value, count in zip(bits.tolist(), counts.tolist(), strict=True)
    }
