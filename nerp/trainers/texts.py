"""The classes a model is asked about, and the prompts that methods make of their names."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from nerp.clip.model import Clip, normalise
from nerp.clip.tokenizer import Prompts, build_prompts
from nerp.data.benchmark import Within


@dataclass(frozen=True)
class Classes:
    """The classes a model is asked about.

    Attributes:
        names: C class names in label order, underscores already spaces.
        template: the dataset's prompt, with one {}. neutral: its prompt that names no class.
        seen: whether the model was trained on these classes.
        dataset: its registry name, for methods with prompts of their own a dataset.
        written: the names as they are on disk, with their underscores; () where that is not known.
        everyone: all of the dataset's names in label order, where only base classes are trained on
            and the method makes use of the others' names (`Method.learns_names`); else ().
        within: where they stand among the classes that were trained on, of a variant of the
            dataset (ImageNet-A of ImageNet); else None.
    """

    names: tuple[str, ...]
    template: str
    neutral: str
    seen: bool = True
    dataset: str = ""
    everyone: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    within: Within | None = None

    @property
    def as_written(self) -> tuple[str, ...]:
        """The names with their underscores, as far as they are known."""
        return self.written or self.names

    @property
    def prompts(self) -> list[str]:
        return [self.template.format(name) for name in self.names]


def context_words(words: str) -> str:
    """CTX_INIT as text: underscores are spaces."""
    return words.replace("_", " ").strip()


def context_start(clip: Clip, words: str, n_ctx: int) -> Tensor:
    """The token embeddings [n_ctx, W_t] of the first n_ctx tokens of `words`."""
    ids = torch.tensor(clip.tokenizer.encode(words)[:n_ctx], device=clip.device)
    return clip.text.token_embedding(ids).float()


def context_prompts(classes: Classes, prefix: str, **layout: Any) -> Prompts:
    """Prompts "{prefix} {name}." (layout: see `build_prompts`)."""
    texts = [f"{prefix} {name}." for name in classes.names]
    return build_prompts(texts, names=classes.names, **layout)


def mean_of_normalised(clip: Clip, names: Sequence[str], templates: Iterable[str]) -> Tensor:
    """Frozen features [C, D] of C names: each template's normalised, their mean normalised."""
    texts = ([template.format(name) for name in names] for template in templates)
    return normalise(reduce(torch.add, (normalise(clip.text_features(t)) for t in texts)))


def mean_outputs(clip: Clip, texts: Sequence[Sequence[str]]) -> Tensor:
    """For each of C classes the mean [C, D] of its texts' frozen features, as the text encoder
    gives them; a text that is too long is cut."""
    features = clip.text_features([text for own in texts for text in own], cut=True)
    return torch.stack([own.mean(0) for own in features.split([len(own) for own in texts])])


def mean_templates(classes: Classes, templates: Iterable[str]) -> list[list[str]]:
    """For each class, its name in every template."""
    return [[template.format(name) for template in templates] for name in classes.names]
