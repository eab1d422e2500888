"""MoCoOp's templates, grouped per dataset, and each template's words around a class name."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TypedDict, cast

import torch
from torch import Tensor
from yacs.config import CfgNode

from nerp.base.errors import NerpError
from nerp.clip.model import Clip, normalise
from nerp.clip.tokenizer import Prompts, beside_name, build_prompts, tokenize
from nerp.files.json_file import read_json
from nerp.trainers.gated import PICKED

_TEMPLATES = Path(__file__).with_name("mocoop_templates.json")
SIDES = ("before", "after")  # the class name
_GENERAL = "SUN397"  # a dataset without its own list uses the templates of this one


class _Templates(TypedDict):
    PROMPTS: list[str]
    GROUPS: list[int]


@cache
def published_templates() -> dict[str, _Templates]:
    """Dataset -> PROMPTS and GROUPS of the published code."""
    return cast(dict[str, _Templates], read_json(_TEMPLATES))  # a shipped file, so not checked


def settled(settings: CfgNode, node: str, dataset: str) -> CfgNode:
    """The method's settings. If they name no PROMPTS and GROUPS, those are the dataset's published
    ones. Raises NerpError if the groups do not fit the prompts."""
    settings = settings.clone()
    settings.defrost()
    if not settings.PROMPTS:
        own = published_templates().get(dataset, published_templates()[_GENERAL])
        settings.PROMPTS, settings.GROUPS = own["PROMPTS"], settings.GROUPS or own["GROUPS"]
    settings.freeze()
    groups, count = settings.GROUPS, len(settings.PROMPTS)
    if len(groups) < PICKED or sum(groups) != count:
        raise NerpError(f"TRAINER.{node}.GROUPS is {groups}; it takes the sizes of at least "
                        f"{PICKED} groups, {count} in all, as many as TRAINER.{node}.PROMPTS")
    return settings


def first_of_groups(words: Sequence["Words"], groups: Sequence[int]) -> list["Words"]:
    """The first template of each group. groups: the groups' sizes."""
    return [words[sum(groups[:g])] for g in range(len(groups))]


def group_means(
    clip: Clip, words: Sequence["Words"], groups: Sequence[int], names: Sequence[str]
) -> Tensor:
    """Prototypes P [G, A, D] of A names: for each group, the normalised mean of frozen CLIP's
    normalised features over its templates. Each prompt ends in a full stop."""
    features = [
        normalise(clip.text_features([own.around(name, ".") for name in names])) for own in words
    ]
    parts = torch.stack(features).split(list(groups))
    return torch.stack([normalise(part.mean(0)) for part in parts])


class Words:
    """The words around the name in a template, without its full stops.

    Attributes: sides: the words before and after the name, by `SIDES`. The words after it include
        their initial space or comma.
    """

    def __init__(self, template: str):
        before, after = template.replace(".", "").split("{}")
        self.sides = dict(zip(SIDES, (before[:-1], after), strict=True))

    @property
    def pieces(self) -> tuple[int, int]:
        """The numbers of learned vectors before and after the name. There is one vector for each
        piece between single spaces. Pieces are not tokens."""
        before, after = (len(part.split(" ")) if part else 0 for part in self.sides.values())
        return before, after

    def first_ids(self, device: torch.device) -> dict[str, Tensor]:
        """For each of `SIDES`, the token ids [n] whose embeddings its n vectors start from. If
        there are more vectors than tokens, end-of-text and then padding follow."""
        found = {}
        for side, count in zip(SIDES, self.pieces, strict=True):
            ids = (tokenize(self.sides[side])[1:] + [0] * count)[:count]
            found[side] = torch.tensor(ids, dtype=torch.long, device=device)
        return found

    def around(self, name: str, end: str = "") -> str:
        """The prompt for a name. The frozen references use the `end` "."."""
        return f"{self.sides['before']} {name}{self.sides['after']}{end}"

    def prompts(self, names: Sequence[str], end: str = "") -> Prompts:
        """Prompts `around` each name, with slots for the vectors. Slots move no other token. If
        pieces and tokens are not equally many, a slot may replace a token of the name or
        end-of-text."""
        before, after = self.pieces
        places = [beside_name(before, name, after) for name in names]
        return build_prompts([self.around(name, end) for name in names], slots_at=places)
