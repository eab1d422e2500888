"""The first stage: which templates suit all classes of a dataset."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nerp.clip.model import normalise
from nerp.trainers.evolution.draws import Draws
from nerp.trainers.evolution.population import Population, Record, Stock
from nerp.trainers.evolution.score import measure, worst_drop
from nerp.trainers.evolution.settings import Settings

FIRST = "a photo of a {}."
Encode = Callable[[list[str]], Tensor]
Trace = list[tuple[tuple[str, ...], float]]


def library(templates: Sequence[str], kinds: Sequence[str]) -> list[str]:
    """The templates, and what becomes of each by every kind of thing that the dataset shows; the
    one that CLIP is usually asked with comes first. All in lower case."""
    found = []
    for template in map(str.lower, templates):
        found.append(template)
        for kind in map(str.lower, kinds):
            found.append(template.replace(".", f", a type of {kind}."))
            found.append(template.replace(" {}", f" {kind}: {{}}"))
            if "photo" in template:
                found.append(template.replace("photo", kind))
                found.append(template.replace("photo", f"{kind} photo"))
    return sorted(found, key=lambda template: template != FIRST)


def evolve_templates(
    names: Sequence[str], library: Sequence[str], encode: Encode, scale: float, features: Tensor,
    labels: Tensor, settings: Settings, draws: Draws,
) -> tuple[list[str], Trace]:
    """The templates that were first when the last epoch began, and (templates, fitness) of every
    candidate made, in order.

    Args:
        names: C classes. library: templates, the baseline first.
        encode: of texts, their normalised features [n, D]. scale: s.
        features: of the training images [N, D], normalised; labels: [N].
    """
    alone = {template: encode([template.format(name) for name in names]) for template in library}

    def score(templates: Sequence[str]) -> dict[str, float]:
        text = normalise(torch.stack([alone[template] for template in templates]).mean(0))
        return measure(scale * features @ text.t(), labels, text, settings.weights)

    scores = {template: score([template]) for template in library}
    baseline = scores[library[0]]
    kept = [template for template in library
            if baseline["top1"] - scores[template]["top1"] < worst_drop(len(names))]
    if 0 < settings.max < len(library):
        kept = sorted(kept, key=lambda t: -scores[t]["fitness"])[: settings.max]
    gains = None
    if settings.sample == "weighted":
        gains = [scores[t]["fitness"] - baseline["fitness"] + 1 for t in kept]
    stock = Stock(kept, gains, {template: i for i, template in enumerate(kept)})

    def fitness(prompts: tuple[str, ...]) -> float:
        return (scores[prompts[0]] if len(prompts) == 1 else score(prompts))["fitness"]

    first = draws.pick(kept, min(settings.top, len(kept)))
    records = [Record((t,), scores[t]["fitness"]) for t in first]
    population = Population(records, stock, fitness, draws, settings)
    best: tuple[str, ...] = ()
    for epoch in range(settings.epochs):
        # What the last epoch makes is scored and never used: published behaviour.
        best = population.rank()[0].prompts
        population.generate(epoch)
    return list(best), population.trace
