"""The classes that a model predicts, and the prompts that methods make from their names."""

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
    """The classes that a model predicts.

    Attributes:
        names: C class names in label order, with spaces instead of underscores.
        template: the dataset's prompt, with one {}. neutral: the dataset's prompt without a class.
        seen: whether the model was trained on these classes.
        dataset: the dataset's registry name, for methods with their own prompts per dataset.
        written: the names as they are on disk, with underscores; () if that is not known.
        everyone: all of the dataset's names in label order, if only base classes are trained and
            the method uses the other names too (`Method.learns_names`); else ().
        within: for a variant of the training dataset (ImageNet-A of ImageNet), the indices of these
            classes among the trained ones; else None.
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
        """The names with underscores, or `names` if the former are not known."""
        return self.written or self.names

    @property
    def prompts(self) -> list[str]:
        return [self.template.format(name) for name in self.names]


def context_words(words: str) -> str:
    """CTX_INIT as text, with spaces instead of underscores."""
    return words.replace("_", " ").strip()


def context_start(clip: Clip, words: str, n_ctx: int) -> Tensor:
    """The token embeddings [n_ctx, W_t] of the first n_ctx tokens of `words`."""
    ids = torch.tensor(clip.tokenizer.encode(words)[:n_ctx], device=clip.device)
    return clip.text.token_embedding(ids).float()


def context_prompts(classes: Classes, prefix: str, **layout: Any) -> Prompts:
    """Prompts "{prefix} {name}." of the classes. layout: arguments of `build_prompts`."""
    texts = [f"{prefix} {name}." for name in classes.names]
    return build_prompts(texts, names=classes.names, **layout)


def mean_of_normalised(clip: Clip, names: Sequence[str], templates: Iterable[str]) -> Tensor:
    """Frozen features [C, D] of C names: the normalised mean over the templates' normalised
    features."""
    texts = ([template.format(name) for name in names] for template in templates)
    return normalise(reduce(torch.add, (normalise(clip.text_features(t)) for t in texts)))


def mean_outputs(clip: Clip, texts: Sequence[Sequence[str]]) -> Tensor:
    """For each of C classes, the mean [C, D] of the text encoder's outputs for its texts, not
    normalised. A text that is too long is cut."""
    features = clip.text_features([text for own in texts for text in own], cut=True)
    return torch.stack([own.mean(0) for own in features.split([len(own) for own in texts])])


def mean_templates(classes: Classes, templates: Iterable[str]) -> list[list[str]]:
    """For each class, the prompts with its name in every template."""
    return [[template.format(name) for template in templates] for name in classes.names]
