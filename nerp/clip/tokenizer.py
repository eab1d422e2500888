"""Prompts as token ids: cut at the longest end-of-text, with their common start marked."""

import functools
import importlib.util
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from nerp.base.errors import NerpError
from nerp.clip.device import send

CONTEXT_LENGTH = 77
VOCABULARY = 49408
CONTEXT_POSITIONS = ("end", "middle", "front")


@dataclass(frozen=True)
class Tokenizer:
    """The conversion of a text encoder's texts to token ids.

    Attributes:
        encode: text -> its ids, without start-of-text and end-of-text. start, end: the ids of
            these. length: the most tokens that the encoder reads, both included.
        name: the model that it belongs to, for messages.
    """

    encode: Callable[[str], list[int]]
    start: int
    end: int
    length: int
    name: str = "CLIP"


@functools.cache
def open_clips() -> ModuleType:
    """open_clip's module of tokenizers, loaded from its file because importing the package takes
    seconds."""
    package = importlib.util.find_spec("open_clip")
    assert package is not None and package.submodule_search_locations  # it is a dependency
    (folder,) = package.submodule_search_locations
    spec = importlib.util.spec_from_file_location(
        f"{__name__}.open_clip", Path(folder) / "tokenizer.py"
    )
    assert spec is not None and spec.loader is not None  # every .py file has both
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def clip_tokenizer() -> Tokenizer:
    """CLIP's byte-pair tokenizer."""
    bpe = open_clips().SimpleTokenizer()
    return Tokenizer(bpe.encode, bpe.sot_token_id, bpe.eot_token_id, CONTEXT_LENGTH)


def encode(text: str) -> list[int]:
    """CLIP's byte-pair ids of `text`, without start and end."""
    return clip_tokenizer().encode(text)


def tokenize(text: str, cut: bool = False, tokenizer: Tokenizer | None = None) -> list[int]:
    """The ids of start-of-text, `text` and end-of-text. A text with more tokens than the encoder
    reads (CLIP: 77) raises NerpError, or is cut there with `cut`."""
    tokenizer = tokenizer or clip_tokenizer()
    inner = tokenizer.encode(text)
    if cut:
        inner = inner[: tokenizer.length - 2]
    ids = [tokenizer.start, *inner, tokenizer.end]
    if len(ids) > tokenizer.length:
        raise NerpError(f"a prompt has {len(ids)} tokens, {tokenizer.name} reads "
                        f"{tokenizer.length}: {text!r}")
    return ids


@dataclass(frozen=True)
class Prompts:
    """C token sequences, one per class.

    Nothing after end-of-text can influence CLIP's text feature (the mask is causal), so the
    sequences are cut at the longest one. For the same reason the states of a start that all
    sequences share need computing only once; `shared` is its length.

    Attributes:
        ids: [C, L] token ids, zero after end-of-text.
        slots: [C, L] index of the learned context vector at each position; -1 for none.
        eot: [C] position of end-of-text.
        shared: length of the common start. A single sequence is all start.
        slots_in_ends: whether there are slots after the common start. It is stored, because
            reading it from the tensor would make the host wait for the device.
        name: the tokenizer's name.
    """

    ids: Tensor
    slots: Tensor
    eot: Tensor
    shared: int
    slots_in_ends: bool
    name: str = "CLIP"

    def to(self, device: torch.device) -> "Prompts":
        return replace(
            self, ids=send(self.ids, device), slots=send(self.slots, device),
            eot=send(self.eot, device),
        )


def build_prompts(
    texts: Sequence[str],
    *,
    n_ctx: int = 0,
    slots_at: Sequence[Sequence[int]] = (),
    names: Sequence[str] = (),
    position: str = "end",
    class_specific: bool = False,
    min_length: int = 0,
    cut: bool = False,
    tokenizer: Tokenizer | None = None,
) -> Prompts:
    """Tokenise `texts`; with `n_ctx`, positions 1..n_ctx are slots for learned context vectors.

    Args:
        texts: C prompts. With `n_ctx`, each begins with n_ctx placeholder tokens.
        slots_at: instead of `n_ctx`: for each text, the positions of vectors 0, 1, ...
            (see `beside_name`).
        names: the class names in the prompts, needed if `position` is not "end".
        position: the place of the name: after the context ("end"), between its halves ("middle"),
            or before it ("front"). (CoOp, section 3.1.)
        class_specific: slots number C * n_ctx vectors instead of n_ctx shared ones.
        min_length: the least length of the sequences. They always reach the last slot, even if a
            text ends before it.
        cut: see `tokenize`. tokenizer: by default CLIP's.
    """
    tokenizer = tokenizer or clip_tokenizer()
    if position not in CONTEXT_POSITIONS:
        raise NerpError(f"context position {position!r}: one of {', '.join(CONTEXT_POSITIONS)}")
    rows, slots, eot = [], [], []
    for c, text in enumerate(texts):
        ids = tokenize(text, cut, tokenizer)
        eot.append(len(ids) - 1)
        places = slots_at[c] if slots_at else range(1, 1 + n_ctx)
        ids += [0] * (max(min_length, 1 + max(places, default=0)) - len(ids))
        row_slots = [-1] * len(ids)
        first = c * len(places) if class_specific else 0
        for slot, place in enumerate(places, first):
            row_slots[place] = slot
        if position != "end":
            order = _order(len(ids), n_ctx, len(tokenizer.encode(names[c])), position)
            ids, row_slots = [ids[i] for i in order], [row_slots[i] for i in order]
        rows.append(ids)
        slots.append(row_slots)
    shared = _shared(rows, slots, eot)
    in_ends = any(slot >= 0 for row_slots in slots for slot in row_slots[shared:])
    return Prompts(_pad(rows, 0), _pad(slots, -1), torch.tensor(eot), shared, in_ends,
                   tokenizer.name)


def beside_name(before: int, name: str, after: int = 0) -> list[int]:
    """The positions of `before` vectors in front of `name` and of `after` vectors behind it. The
    text must have `before` tokens in front of the name."""
    behind = 1 + before + len(encode(name))
    return [*range(1, 1 + before), *range(behind, behind + after)]


def _order(length: int, n_ctx: int, n_name: int, position: str) -> list[int]:
    """The tokens' order for a position of the name, as indices into the sequence start, context,
    name, rest."""
    context, name = range(1, 1 + n_ctx), range(1 + n_ctx, 1 + n_ctx + n_name)
    before = n_ctx // 2 if position == "middle" else 0
    rest = range(1 + n_ctx + n_name, length)
    return [0, *context[:before], *name, *context[before:], *rest]


def _pad(rows: list[list[int]], filler: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [filler] * (longest - len(row)) for row in rows])


def _shared(rows: list[list[int]], slots: list[list[int]], eot: list[int]) -> int:
    if len(rows) == 1:
        return len(rows[0])
    columns = (
        {(row[i], slot[i]) for row, slot in zip(rows, slots, strict=True)} for i in range(min(eot))
    )
    return sum(1 for _ in itertools.takewhile(lambda column: len(column) == 1, columns))
