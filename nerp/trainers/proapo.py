"""ProAPO and ATO: prompts in words, found by an evolutionary search on few-shot images."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from nerp.trainers.evolution.descriptions import Search, Trace
from nerp.trainers.evolution.draws import Draws
from nerp.trainers.evolution.score import measure
from nerp.trainers.evolution.settings import Settings
from nerp.trainers.evolution.templates import Trace as TemplateTrace
from nerp.trainers.evolution.templates import evolve_templates, library
from nerp.trainers.evolution.texts import Encode, Encoded, Pair

__all__ = ["library", "measure", "search_descriptions", "search_templates"]


def search_templates(
    names: Sequence[str], library: Sequence[str], encode: Encode, scale: float, features: Tensor,
    labels: Tensor, settings: object, seed: int,
) -> tuple[list[str], TemplateTrace]:
    """The templates found for all classes, and (templates, fitness) of each candidate in order.

    Args:
        names: C classes. library: templates, the baseline first (`library`).
        encode: of n texts, their normalised features [n, D]. scale: s = exp(logit_scale).
        features: frozen ones of training images [N, D], normalised. labels: [N].
        settings: whatever has keys of TRAINER.PROAPO; others have their defaults.
        seed: of both streams of random numbers.
    """
    return evolve_templates(names, library, encode, scale, features, labels,
                            Settings.read(settings), Draws(seed))


def search_descriptions(
    names: Sequence[str], descriptions: Mapping[str, Sequence[str]],
    synonyms: Mapping[str, Sequence[str]], templates: Sequence[str], encode: Encode, scale: float,
    features: Tensor, labels: Tensor, clusters: Callable[[Tensor], Tensor], settings: object,
    seed: int,
) -> tuple[dict[str, list[Pair]], Trace]:
    """For each class the (label, description or None) found for it, and the candidates as in
    `search_templates`.

    Args:
        descriptions, synonyms: by class name; a class without synonyms has its name alone.
        templates: what labels are put in. clusters: of class features [C, D], a number each [C].
        The others as in `search_templates`.
    """
    search = Search(names, descriptions, synonyms, Encoded(templates, encode), scale, features,
                    labels, Settings.read(settings), Draws(seed))
    return search.run(clusters), search.trace
