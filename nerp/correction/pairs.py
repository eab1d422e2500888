"""Where class pairs come from, and what each source has looked at.

A source is a function of `Clues`; it is registered under the name that NERP.PAIRS takes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.correction.bundle import bundle_key, bundle_pairs, match_names, read_bundle
from nerp.errors import NerpError
from nerp.registry import PAIR_SOURCES


@dataclass(frozen=True)
class Pairs:
    """Confusable classes.

    Attributes:
        index: [n, 2] class indices.
        source: the name in NERP.PAIRS.
        looked_at: what was used to find them: "nothing", "training labels", "test images",
            "test labels", or "unknown" for a file that does not say.
        note: a line for the log.
    """

    index: Tensor
    source: str
    looked_at: str
    note: str


@dataclass
class Clues:
    """What a pair source may ask for; what is expensive is a function, called only if asked.

    Attributes:
        settings: the config node NERP. dataset, task: for a bundle's key.
        classnames: C names in label order.
        class_features: frozen CLIP's class features [C, D], normalised.
    """

    settings: CfgNode
    dataset: str
    task: str
    classnames: list[str]
    class_features: Callable[[], Tensor] = field(repr=False)


def find_pairs(clues: Clues) -> Pairs:
    """The pairs that NERP.PAIRS asks for. Raises NerpError for an unknown source."""
    return PAIR_SOURCES[clues.settings.PAIRS](clues)


def nearest_pairs(features: Tensor, neighbours: int) -> Tensor:
    """Each class with its `neighbours` nearest ones by cosine, as [n, 2] with i < j, no repeats.

    Args:
        features: [C, D], normalised.
    """
    similarity = features @ features.t()
    similarity.fill_diagonal_(float("-inf"))
    count = min(neighbours, len(features) - 1)
    near = similarity.topk(count, dim=1).indices
    mine = torch.arange(len(features), device=near.device)[:, None].expand_as(near)
    pairs = torch.stack([mine, near], dim=2).reshape(-1, 2)
    return pairs.sort(dim=1).values.unique(dim=0)


@PAIR_SOURCES.register("text")
def text_pairs(clues: Clues) -> Pairs:
    """Nearest neighbours among frozen CLIP's class features: no image and no label is needed."""
    count = clues.settings.PAIRS_NEIGHBOURS
    if count < 1:
        raise NerpError(f"NERP.PAIRS_NEIGHBOURS is {count}; it must be at least 1")
    index = nearest_pairs(clues.class_features(), count)
    note = f"{len(index)} pairs, each class with its {count} nearest by frozen text features"
    return Pairs(index, "text", "nothing", note)


@PAIR_SOURCES.register("bundle")
def bundled_pairs(clues: Clues) -> Pairs:
    """The pairs in NERP.PAIRS_FILE, a published bundle or one of our own."""
    file = clues.settings.PAIRS_FILE
    if not file:
        raise NerpError("NERP.PAIRS bundle needs NERP.PAIRS_FILE (class_pairs.json.gz)")
    content = read_bundle(file)
    key = bundle_key(clues.dataset, clues.task)
    matched = match_names(bundle_pairs(content, key, file), clues.classnames)
    note = f"{len(matched.pairs)} pairs from {file}, entry {key}"
    if matched.unknown:
        examples = ", ".join(matched.unknown[:3])
        note += f"; {len(matched.unknown)} names match no class ({examples})"
    if not matched.pairs:
        raise NerpError(f"{file}: entry {key} has no pair of these classes "
                        f"({', '.join(clues.classnames[:3])}, ...)")
    index = torch.tensor(matched.pairs)
    return Pairs(index, "bundle", "unknown", note)
