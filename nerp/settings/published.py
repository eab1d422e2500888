"""Reads keys and values as published settings files and scripts write them.

Names differ from this project's in two ways. Some codebases put a method's settings below another
method's node, or spell the node differently (`Method.published`). Dassl has keys for choices that
are fixed here; a file with such a key is accepted if it makes the same choice.
"""

import re
from collections.abc import Collection, Mapping
from typing import Protocol

from nerp.base.errors import NerpError
from nerp.base.printable import brief
from nerp.base.registry import TRAINERS
from nerp.settings.options import METHOD_NODES
from nerp.settings.protocols import TRAINING_SUFFIXES


class Reader(Protocol):
    """The part of a method that is used here; see `nerp.trainers.method.Method`."""

    node: str
    published: tuple[str, ...]
    settled: Mapping[str, Collection[str]]
    defaults: Mapping[str, object]

    @classmethod
    def published_values(cls, key: str, value: object) -> dict[str, object]: ...

    @classmethod
    def disregards(cls, name: str, value: object) -> str | None: ...


# Dassl's keys for choices that are fixed here -> the values that ask for the same, as text without
# spaces. For what does not exist here (a second loader, other methods) these are the defaults.
_NOTHING = ("()", "[]")
_SETTLED: dict[str, Collection[str]] = {
    "VERSION": ("1",),
    "VERBOSE": ("True", "False"),
    "RESUME": ("",),
    "TRAIN.COUNT_ITER": ("train_x",),
    "DATALOADER.RETURN_IMG0": ("False",),
    "DATALOADER.TRAIN_X.SAMPLER": ("RandomSampler",),
    "DATALOADER.TRAIN_X.N_DOMAIN": ("0",),
    "DATALOADER.TRAIN_X.N_INS": ("16",),
    "DATALOADER.TRAIN_U.SAME_AS_X": ("True",),
    "DATALOADER.TRAIN_U.SAMPLER": ("RandomSampler",),
    "DATALOADER.TRAIN_U.BATCH_SIZE": ("32",),
    "DATALOADER.TRAIN_U.N_DOMAIN": ("0",),
    "DATALOADER.TRAIN_U.N_INS": ("16",),
    "DATALOADER.TEST.SAMPLER": ("SequentialSampler",),
    "TEST.EVALUATOR": ("Classification",),
    "TEST.COMPUTE_CMAT": ("False",),
    "TEST.PER_CLASS_RESULT": ("False",),
    "OPTIM.STAGED_LR": ("False",),
    "OPTIM.NEW_LAYERS": _NOTHING,
    "OPTIM.BASE_LR_MULT": ("0.1",),
    "OPTIM.STEPSIZE": ("(-1,)", "[-1]"),
    "OPTIM.GAMMA": ("0.1",),
    "OPTIM.RMSPROP_ALPHA": ("0.99",),
    "OPTIM.SGD_DAMPNING": ("0", "0.0"),
    "OPTIM.SGD_NESTEROV": ("False",),
    "OPTIM.WARMUP_RECOUNT": ("True",),
    "OPTIM.WARMUP_MIN_LR": ("1e-05", "1e-5"),
    "INPUT.NO_TRANSFORM": ("False",),
    "INPUT.CROP_PADDING": ("4",),
    "MODEL.INIT_WEIGHTS": ("",),
    "MODEL.BACKBONE.PRETRAINED": ("True",),
    "MODEL.HEAD.NAME": ("",),
    "MODEL.HEAD.ACTIVATION": ("relu",),
    "MODEL.HEAD.BN": ("True",),
    "MODEL.HEAD.DROPOUT": ("0.0",),
    "MODEL.HEAD.HIDDEN_LAYERS": _NOTHING,
    # If a split file has a validation split, none is drawn from the training images.
    "DATASET.VAL_PERCENT": ("0.1",),
    "DATASET.SOURCE_DOMAINS": _NOTHING,
    "DATASET.TARGET_DOMAINS": _NOTHING,
    "DATASET.NUM_LABELED": ("-1",),
    "DATASET.ALL_AS_UNLABELED": ("False",),
}


# Keys for which a method's own files may have another value (`Method.settled`).
BY_METHOD = ("OPTIM.STAGED_LR", "OPTIM.BASE_LR_MULT", "OPTIM.NEW_LAYERS")


def is_settled(method: type[Reader] | None, name: str, value: object, source: object) -> bool:
    """Whether a key is one of Dassl's for a choice that is fixed here. Raises NerpError, beginning
    with `source`, if the value asks for another choice. method: whose files they are; None: any."""
    own = method.settled.get(name, ()) if method else ()
    accepted = (*own, *_SETTLED.get(name, ()))
    if not accepted:
        return False
    # The accepted value may be one word of a list.
    said = " ".join(sorted(re.findall(r"\w+", str(value)))) if own else str(value).replace(" ", "")
    if str(value) not in accepted and said not in accepted:
        does = f"here it is always {' or '.join(map(brief, accepted))}"
        raise NerpError(f"{source}: {name}: leave it out; {_ELSEWHERE.get(name, does)}")
    return True


def is_methods(name: str) -> bool:
    """Whether a method decides which values a key takes: its node's keys, and those of Dassl's that
    its files may set otherwise."""
    return name.partition(".")[0] in METHOD_NODES or name in BY_METHOD


# Keys above -> where to find what another value would ask for.
_ELSEWHERE = {
    "TEST.PER_CLASS_RESULT": "result.json of every run has the accuracy of each class "
                             "(per_class_accuracy)",
    "TEST.COMPUTE_CMAT": "nerp test --save-confusion writes the confusion matrix to confusion.csv",
}


def is_read(method: str, name: str) -> bool:
    """Whether a method reads a key: it reads every key except those below another method's node. A
    key that no method has counts as read, so that the run reports it."""
    if name.count(".") != 2 or not name.startswith("TRAINER."):
        return True
    node = name.split(".")[1]
    return node in TRAINING_SUFFIXES.values() or _means(TRAINERS[method], node) or not _owners(node)


def _means(method: type[Reader], node: str) -> bool:
    """Whether a node below TRAINER belongs to a method, by its own name or a published one."""
    return node.lower() in {method.node.lower(), *(known.lower() for known in method.published)}


def own_setting(
    method: type[Reader], name: str, value: object, source: object, lenient: bool
) -> tuple[str, object] | None:
    """The key below TRAINER and its value that `name` means for a method; None if it has no effect.

    Args:
        name: TRAINER.NODE.KEY, or another key, which stays as it is.
        lenient: whether a key of another method is accepted if it has its default, as in the whole
            configuration that a run saves.

    Raises NerpError, beginning with `source`, for a key of a node that the method does not read.
    """
    parts = name.split(".")
    if len(parts) == 2 and parts[0] in method.published:
        return _translated(method, parts[1], value, source, name)
    if len(parts) != 3 or parts[0] != "TRAINER" or parts[1] in TRAINING_SUFFIXES.values():
        return name, value
    node, leaf = parts[1:]
    if _means(method, node):
        return _translated(method, leaf, value, source, name)
    owners = _owners(node)
    if not owners:
        return name, value  # an unknown key; the error for it lists the known ones
    if lenient and leaf in TRAINERS[owners[0]].defaults and _is_default(owners[0], leaf, value):
        return None
    raise NerpError(f"{source}: {name}: {_said(method)} does not read it; "
                    f"{' and '.join(owners)} {'does' if len(owners) == 1 else 'do'}")


def _translated(
    method: type[Reader], leaf: str, value: object, source: object, name: str
) -> tuple[str, object] | None:
    means: Mapping[str, object] = method.published_values(leaf, value)
    if not means:
        if leaf in method.defaults or name.startswith(f"TRAINER.{method.node}."):
            return f"TRAINER.{method.node}.{leaf}", value
        raise NerpError(f"{source}: {name}: {_said(method)} has no {leaf}; its settings are "
                        f"{', '.join(method.defaults)}")
    ((leaf, value),) = means.items()
    return (f"TRAINER.{method.node}.{leaf}", value) if leaf else None


def _owners(node: str) -> list[str]:
    """The methods that read a node."""
    return [name for name in TRAINERS.names()
            if node.lower() == TRAINERS[name].node.lower()]


def _is_default(owner: str, leaf: str, value: object) -> bool:
    from nerp.settings.keys import as_key

    key = as_key(TRAINERS[owner].defaults[leaf])
    try:
        return bool(key.read(value, "") == key.accept(key.default))
    except (NerpError, ValueError):
        return False


def _said(method: type[Reader]) -> str:
    names = (name for name in TRAINERS.names() if TRAINERS[name] is method)
    return next(names, method.__name__)  # the class's name, for a method with a suffix
