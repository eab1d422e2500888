"""CLIP's two transformers, run block by block, with one interface for a method's changes.

A method can change a frozen transformer in these ways: other input embeddings; tokens at the input
of a layer, shared by all classes or one set per class; a branch added to a layer's output; low-rank
terms on its attention matrices; its own norms; an adapter behind the output. An `Edit` describes
the changes. The same code runs the tuned and the frozen model. Layers are numbered from 1.

Every speed-up is exact. Text is cut at the longest end-of-text, and a start shared by all prompts
is computed once (`tokenizer.Prompts`). Layers below the first edited one are computed once for the
tuned and the frozen model, for text only once in all (`advance`). The last layer is computed only
at the positions whose output is used, without keys and values.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nerp.clip.layers import (
    Affine,
    Norms,
    add_linear,
    hidden_layer,
    layer_norm,
    layer_scale,
    weighed,
)
from nerp.clip.low_rank import LowRank
from nerp.clip.modules import CLIP, Block
from nerp.clip.state import State, ends_mask, fill, join
from nerp.clip.tokenizer import Prompts


class Edit:
    """A method's changes to an encoder; this base class changes nothing.

    Attributes:
        first_layer: the first layer whose input or output changes; all lower layers are frozen.
        keep: how many leading vision tokens the method reads after the last layer.
        shift: by how many positions inserted tokens move end-of-text.
    """

    first_layer: int = 1
    keep: int = 1
    shift: int = 0

    def enter(self, layer: int, x: Tensor) -> Tensor:
        """The input of `layer`. x: vision [B, N, W]; text, the shared start [G, P, W]."""
        return x

    def by_class(self, layer: int) -> Tensor | None:
        """For text: tokens [C, K, W], K per class, that replace positions 1..K of the input of
        `layer`; None for no change."""
        return None

    def branch(self, layer: int, h: Tensor) -> Tensor | None:
        """The addition [T, W] to the output of `layer`, from its input h [T, W] after `ln_1`."""
        return None

    def low_rank(self, layer: int) -> LowRank | None:
        """The terms that are added to the attention matrices of `layer`."""
        return None

    def norms(self, layer: int) -> Norms | None:
        """Weights and biases [W] that replace those of `ln_1` and `ln_2` of `layer`."""
        return None

    def output(self, u: Tensor) -> Tensor:
        """The adapted features [..., D] of the encoder's projected ones u; not normalised."""
        return u


FROZEN = Edit()


@dataclass(frozen=True)
class TokenGroup:
    """Tokens, layer -> [K, W] or [N, K, W], and the position of the first; a negative position
    counts from the sequence's end."""

    tokens: Mapping[int, Tensor]
    place: int


class PromptTokens(Edit):
    """Learned tokens at K positions of the input of some layers, or several groups of them.

    Args:
        tokens: layer -> [K, W], or [N, K, W] if each of N sequences has its own.
        at_end: whether they are at the end of the sequence; otherwise after its first token.
        beside: further groups, each with its own places and layers.
        insert: whether the tokens add positions at the first of all those layers. Otherwise, and
            at every later layer, they replace the values at their positions.
        keep_share: s; tokens that replace values x become (1 - s) tokens + s x.
        keep, shift, output: see Edit.
    """

    def __init__(
        self,
        tokens: Mapping[int, Tensor],
        *,
        at_end: bool = False,
        beside: Sequence[TokenGroup] = (),
        insert: bool = True,
        keep_share: float = 0.0,
        keep: int = 1,
        shift: int = 0,
        output: Callable[[Tensor], Tensor] | None = None,
    ):
        count = next((group.shape[-2] for group in tokens.values()), 0)
        groups = [TokenGroup(tokens, -count if at_end else 1), *beside]
        self.groups = sorted(groups, key=lambda g: (g.place < 0, g.place))  # as they stand
        self.insert = insert
        self.keep_share = keep_share
        self.keep = keep
        self.shift = shift
        self._output = output
        self.first_layer = min((layer for group in groups for layer in group.tokens), default=1)

    def output(self, u: Tensor) -> Tensor:
        return self._output(u) if self._output else u

    def enter(self, layer: int, x: Tensor) -> Tensor:
        entering = [(g.place, g.tokens[layer]) for g in self.groups if layer in g.tokens]
        if not entering:
            return x
        insert = self.insert and layer == self.first_layer
        length = x.shape[1] + insert * sum(tokens.shape[-2] for _, tokens in entering)
        parts, read, position = [], 0, 0  # of x; of what comes out
        for place, tokens in entering:
            begin = place % length
            parts.append(x[:, read : read + begin - position])
            read += begin - position
            position = begin + tokens.shape[-2]
            tokens = tokens.to(x.dtype).expand(x.shape[0], -1, -1)
            if not insert:
                there = x[:, read : read + tokens.shape[1]]
                read += tokens.shape[1]
                if self.keep_share:
                    tokens = (1 - self.keep_share) * tokens + self.keep_share * there
            parts.append(tokens)
        return torch.cat([*parts, x[:, read:]], dim=1)


class ClassTokens(Edit):
    """Each class's own text tokens, which replace positions 1..K of the input of one layer.

    Args: tokens: [C, K, W].
    """

    def __init__(self, tokens: Tensor, layer: int):
        self.tokens = tokens
        self.first_layer = layer

    def by_class(self, layer: int) -> Tensor | None:
        return self.tokens if layer == self.first_layer else None


class Tower:
    """A frozen transformer: the code that the text and the image encoder share."""

    def __init__(self, blocks: nn.ModuleList, causal: bool):
        self.blocks = cast(Sequence[Block], blocks)  # a ModuleList does not say of what
        self.depth = len(blocks)
        self.causal = causal
        self.heads: int = self.blocks[0].attn.num_heads
        self.width: int = self.blocks[0].attn.embed_dim

    def advance(self, state: State, layer: int) -> State:
        """The input of `layer`: the frozen layers before it are applied, without a gradient."""
        with torch.no_grad():
            while state.layer < layer:
                state = self._layer(state, FROZEN)
        return state

    def run(self, state: State, edit: Edit) -> Tensor:
        """The last layer's output at the used positions: vision [B, keep, W]; text [G, M, W]."""
        while state.layer < self.depth:
            state = self._layer(state, edit)
        return self._last_layer(state, edit)

    def _layer(self, state: State, edit: Edit) -> State:
        state = self._enter(state, edit)
        block = self.blocks[state.layer - 1]
        h = layer_norm(block.ln_1, state.x, _norm(edit, state.layer, 0))
        low = edit.low_rank(state.layer)
        out = self._attend(block, state, h, low)
        x = self._finish(block, state.layer, state.x, out, h, edit, low)
        return replace(state, x=x, layer=state.layer + 1)

    def _attend(self, block: Block, state: State, h: Tensor, low: LowRank | None) -> Tensor:
        """The concatenated outputs [T, W] of the heads, for the inputs h [T, W] of all rows."""
        qkv = F.linear(h, block.attn.in_proj_weight, block.attn.in_proj_bias)
        if low:
            qkv = low.add_to_inputs(qkv, h)
        groups, start, ends, length = state.sizes
        cut = groups * start
        q, k, v = self._split(qkv[:cut].view(groups, start, -1))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        out = out.transpose(1, 2).reshape(cut, -1)
        if not ends:
            return out
        mask = ends_mask(start, length, h.device)
        q2, k2, v2 = self._split(qkv[cut:].view(groups * ends, length, -1))
        k2, v2 = join(k, k2, ends), join(v, v2, ends)
        tail = F.scaled_dot_product_attention(q2, k2, v2, attn_mask=mask)
        return torch.cat([out, tail.transpose(1, 2).reshape(qkv.shape[0] - cut, -1)])

    def _last_layer(self, state: State, edit: Edit) -> Tensor:
        """The last layer's output at the rows that are read; the others are not computed."""
        state = self._enter(state, edit)
        block = self.blocks[state.layer - 1]
        h = layer_norm(block.ln_1, state.x, _norm(edit, state.layer, 0))
        rows = self._rows(state, edit)
        h_rows, x_rows = h[rows.flatten()], state.x[rows.flatten()]
        low = edit.low_rank(state.layer)
        if low and low.drop:  # then one merged matrix cannot serve all positions
            out = self._attend(block, state, h, low)[rows.flatten()]
        else:
            weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
            seen, mask = self._seen(state, h, edit)
            query_rows = h_rows.view(seen.shape[0], -1, self.width)
            out = self._read(low.merged(weight) if low else weight, bias, query_rows, seen, mask)
        x = self._finish(block, state.layer, x_rows, out, h_rows, edit, low)
        return x.view(*rows.shape, -1)

    def _seen(self, state: State, h: Tensor, edit: Edit) -> tuple[Tensor, Tensor | None]:
        """The values [N, L, W] that each sequence's read rows attend to, and their mask
        [N, 1, L]."""
        groups, start, ends, length = state.sizes
        cut = groups * start
        seen = h[:cut].view(groups, start, -1)
        if ends:
            own = h[cut:].view(groups, ends, length, -1)
            seen = torch.cat([seen[:, None].expand(-1, ends, -1, -1), own], 2).flatten(0, 1)
        if not self.causal:
            return seen, None
        reach = torch.arange(seen.shape[1], device=h.device)
        mask = reach <= (state.text_ends + edit.shift)[..., None]
        return seen, mask.expand(groups, -1, -1).flatten(0, 1)[:, None]

    def _read(
        self, weight: Tensor, bias: Tensor, rows: Tensor, seen: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Attention outputs [N * R, W] of rows [N, R, W] to `seen` [N, L, W] under mask [N, 1, L],
        for R far below L. weight [3 W, W] and bias [3 W] are those of queries, keys and values.

        Keys and values at all L positions are never computed. A head's score of s is
        q (A s + b) = (A^T q) s + q b, and q b cancels in the softmax. The head's output is
        sum_s p_s (B s + c) = B (sum_s p_s s) + c. It is enough to compute the attention of R rows
        per head to `seen` itself.
        """
        parts = torch.unflatten(weight, 0, (3, self.heads, -1))
        query, key, value = parts.unbind(0)  # each [heads, W / heads, W]
        q = F.linear(rows, query.flatten(0, 1), bias[: self.width])
        q = q.view(-1, self.heads, key.shape[1]).transpose(0, 1) @ key  # [heads, N * R, W]
        q = torch.unflatten(q, 1, (seen.shape[0], -1)).transpose(0, 1).flatten(1, 2)
        sums = weighed(q, seen, mask, key.shape[1] ** -0.5)
        sums = torch.unflatten(sums, 1, (self.heads, -1)).transpose(0, 1).flatten(1, 2)
        return (sums @ value.mT).transpose(0, 1).flatten(1) + bias[-self.width :]

    def _enter(self, state: State, edit: Edit) -> State:
        before = state.starts()
        after = edit.enter(state.layer, before)
        state = state if after is before else state.with_starts(after)
        tokens = edit.by_class(state.layer)
        return state if tokens is None else state.with_class_tokens(tokens)

    def _rows(self, state: State, edit: Edit) -> Tensor:
        """Indices of the rows of state.x that are read after the last layer: vision [B, keep], text
        [G, M]."""
        groups, start, ends, length = state.sizes
        device = state.x.device
        group = torch.arange(groups, device=device)[:, None]
        if not self.causal:
            return group * start + torch.arange(edit.keep, device=device)
        position = state.text_ends + edit.shift
        if not ends:
            return group * start + position
        end = torch.arange(ends, device=device)
        return groups * start + (group * ends + end) * length + (position - start)

    def _finish(
        self,
        block: Block,
        layer: int,
        x: Tensor,
        out: Tensor,
        h: Tensor,
        edit: Edit,
        low: LowRank | None,
    ) -> Tensor:
        gamma = layer_scale(block, "ls_1")
        x = add_linear(x, out, block.attn.out_proj, gamma)
        if low:
            x = low.add_to_stream(x, out, gamma)
        hidden, factor = hidden_layer(block.mlp, layer_norm(block.ln_2, x, _norm(edit, layer, 1)))
        x = add_linear(x, hidden, block.mlp.c_proj, layer_scale(block, "ls_2"), factor)
        branch = edit.branch(layer, h)
        return x if branch is None else x + branch

    def _split(self, x: Tensor) -> tuple[Tensor, ...]:
        """[N, L, n * W] -> n times [N, heads, L, W / heads]."""
        parts = torch.unflatten(x, 2, (-1, self.heads, self.width // self.heads))
        return parts.permute(2, 0, 3, 1, 4).unbind(0)


def _norm(edit: Edit, layer: int, which: int) -> Affine | None:
    return norms[which] if (norms := edit.norms(layer)) else None


class TextTower(Tower):
    """CLIP's text transformer."""

    kind = "CLIP's transformer"

    def __init__(self, model: CLIP):
        super().__init__(model.transformer.resblocks, causal=True)
        self.model = model

    def token_embedding(self, ids: Tensor) -> Tensor:
        """Token embeddings [..., W] of ids [...], without positions."""
        embeddings: Tensor = self.model.token_embedding(ids)
        return embeddings

    def embed(self, prompts: Prompts, dtype: torch.dtype, ctx: Tensor | None = None) -> State:
        """The input of layer 1, with context vectors in their slots.

        Args:
            prompts: C sequences.
            dtype: the type of the stream of activations.
            ctx: [slots, W], or [G, slots, W] if each of G groups has its own context (then only the
                shared start may have slots).
        """
        cut = prompts.shared
        x = self.token_embedding(prompts.ids).to(dtype)
        position = self.model.positional_embedding[: x.shape[1]].to(dtype)
        start, end = x[0, :cut], x[:, cut:]
        if ctx is not None:
            start = fill(start, prompts.slots[0, :cut], ctx)
            if prompts.slots_in_ends:
                end = fill(end, prompts.slots[:, cut:], ctx)
        start = start.view(-1, cut, self.width) + position[:cut]
        groups, count, length = start.shape[0], *end.shape[:2]
        if not length:
            return State(start.flatten(0, 1), (groups, cut, 0, 0), eot=prompts.eot[None])
        end = (end + position[cut:]).expand(groups, -1, -1, -1)
        x = torch.cat([start.flatten(0, 1), end.flatten(0, 2)])
        return State(x, (groups, cut, count, length), eot=prompts.eot[None])

    def features(self, state: State, edit: Edit = FROZEN) -> Tensor:
        """Text features [G, C, D] at end-of-text, not normalised."""
        x = layer_norm(self.model.ln_final, self.run(state, edit))
        return edit.output(x @ self.model.text_projection)


class VisionTower(Tower):
    """CLIP's vision transformer."""

    kind = "CLIP's vision transformer"

    def __init__(self, model: CLIP):
        self.visual = model.visual
        super().__init__(self.visual.transformer.resblocks, causal=False)

    @torch.no_grad()
    def embed(self, images: Tensor) -> State:
        """The input of layer 1, after `ln_pre`. images: [B, 3, H, W] normalised."""
        visual = self.visual
        # The patch embedding as a product: a convolution would run in TF32 on a GPU.
        size = visual.conv1.kernel_size[0]
        patches = images.unfold(2, size, size).unfold(3, size, size)  # [B, 3, g, g, p, p]
        patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
        patches = F.linear(patches, visual.conv1.weight.flatten(1))
        token = visual.class_embedding.to(patches.dtype).expand(images.shape[0], 1, -1)
        x = torch.cat([token, patches], dim=1) + visual.positional_embedding.to(patches.dtype)
        x = self.entering(x)
        return State(x.flatten(0, 1), (*x.shape[:2], 0, 0))

    def entering(self, x: Tensor) -> Tensor:
        """Tokens [..., W] as they enter layer 1: after `ln_pre`, if there is one."""
        ln = self.visual.ln_pre
        return x if isinstance(ln, nn.Identity) else layer_norm(ln, x)

    def tokens(self, state: State, edit: Edit = FROZEN) -> Tensor:
        """The leading `edit.keep` tokens [B, keep, W] after `ln_post`; the first is the class."""
        return layer_norm(self.visual.ln_post, self.run(state, edit))

    def features(self, state: State, edit: Edit = FROZEN) -> Tensor:
        """Image features [B, D] of the class token, not normalised."""
        return edit.output(self.tokens(state, edit)[:, 0] @ self.visual.proj)

    @torch.no_grad()
    def all_features(self, images: Tensor) -> Tensor:
        """Frozen features [B, 1 + M, D] of the class token and of the M patches, not normalised."""
        tokens = self.advance(self.embed(images), self.depth + 1).starts()
        return layer_norm(self.visual.ln_post, tokens) @ self.visual.proj
