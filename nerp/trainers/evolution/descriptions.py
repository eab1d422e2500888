"""The second stage: synonyms and descriptions for some classes, in templates that are fixed."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nerp.trainers.evolution.draws import Draws
from nerp.trainers.evolution.groups import make_groups
from nerp.trainers.evolution.population import Population, Record, Stock
from nerp.trainers.evolution.score import coarse, measure, worst_drop
from nerp.trainers.evolution.settings import Settings
from nerp.trainers.evolution.states import States
from nerp.trainers.evolution.texts import Encoded, Pair, all_labels, drawn_starts, own_pairs

Trace = list[tuple[tuple[Pair, ...], float]]


@dataclass
class Search:
    """The prompts that every class has now, and what the groups so far leave for the next ones.

    Attributes:
        now: by class. text: the class features [C, D] of them. baseline: their score.
        owner: of each specific prompt, the class that brought it first; its place is its order.
        searched: classes that were in a searched group, in order. records: the best of the last.
    """

    names: Sequence[str]
    descriptions: Mapping[str, Sequence[str]]
    synonyms: Mapping[str, Sequence[str]]
    encoded: Encoded
    scale: float
    features: Tensor
    labels: Tensor
    settings: Settings
    draws: Draws
    now: list[tuple[Pair, ...]] = field(default_factory=list)
    trace: Trace = field(default_factory=list)
    owner: dict[Pair, int] = field(default_factory=dict)
    searched: dict[int, None] = field(default_factory=dict)
    records: list[Record[Pair]] = field(default_factory=list)

    def of_class(self, c: int) -> tuple[str, Sequence[str], Sequence[str]]:
        """Its name, descriptions and synonyms."""
        name = self.names[c]
        return name, self.descriptions.get(name, ()), self.synonyms.get(name, (name,))

    def measured(self, changed: Mapping[int, Sequence[Pair]]) -> dict[str, float]:
        """The score where some classes have other prompts than now."""
        text, logits = self.text, self.logits
        if changed:
            places = list(changed)
            text, logits = text.clone(), logits.clone()
            text[places] = torch.stack([self.encoded.feature(p) for p in changed.values()])
            logits[:, places] = self.scale * self.features @ text[places].t()
        return measure(logits, self.labels, text, self.settings.of_descriptions)

    def settle(self, now: Sequence[Sequence[Pair]]) -> None:
        """Let the classes have these prompts."""
        self.now = [tuple(pairs) for pairs in now]
        self.encoded.prepare(pair for pairs in self.now for pair in pairs)
        self.text = torch.stack([self.encoded.feature(pairs) for pairs in self.now])
        self.logits = self.scale * self.features @ self.text.t()
        self.baseline = self.measured({})

    def start(self) -> None:
        """Begin with the best of drawn descriptions, the first of equals, or the names alone."""
        if self.settings.sample_descriptions:
            best = -math.inf
            for candidate in drawn_starts(self.names, self.descriptions, self.draws.python):
                self.settle(candidate)
                if self.baseline["fitness"] > best:
                    best, chosen = self.baseline["fitness"], self.now
        else:
            chosen = [((name.lower(), None),) for name in self.names]
        self.settle(chosen)

    def run(self, clusters: Callable[[Tensor], Tensor]) -> dict[str, list[Pair]]:
        """Search the groups of every outer epoch; the prompts of each class after the last one."""
        self.start()
        for _ in range(self.settings.outer):
            self.baseline = coarse(self.measured({}), self.settings.of_descriptions)
            gain = self.gain if self.settings.importance else None
            groups = make_groups(self.logits, self.labels, clusters(self.text).tolist(), gain)
            for number in range(self.settings.groups):
                if len(groups.get(number, ())) > 1:
                    self.search(groups[number])
        return {name: list(pairs) for name, pairs in zip(self.names, self.now, strict=True)}

    def gain(self, c: int) -> float:
        """What the fitness would gain if a class had all its texts."""
        return self.measured({c: all_labels(*self.of_class(c))})["fitness"] - \
            self.baseline["fitness"]

    def search(self, group: Sequence[int]) -> None:
        """Search one group. (Section 3.3.)"""
        self._enter(group)
        scores = self._insertable(group)
        if not scores and self.records:
            return
        base = tuple(pair for c in group for pair in self.now[c])
        self._own(group)
        places = {pair: place for place, pair in enumerate(self.owner)}
        members = set(group)
        gains = None
        if self.settings.sample == "weighted":
            gains = [score - self.baseline["fitness"] + 1 for score in scores.values()]
        stock = Stock(list(scores), gains, places, lambda pair: self.owner[pair] in members,
                      base, grouped=True)
        states = States(self)
        population = Population(
            self._first_records(group, stock, scores, states), stock,
            states.fitness, self.draws, self.settings,
        )
        for epoch in range(self.settings.inner):
            population.rank()
            if epoch > len(scores):
                break
            population.generate(epoch)
        self.trace += population.trace
        self.records = population.rank()[: self.settings.top]
        now = list(self.now)
        for c, pairs in self.by_class(self.records[0].prompts).items():
            now[c] = tuple(pairs)
        self.searched.update(dict.fromkeys(group))
        self.settle(now)

    def _enter(self, group: Sequence[int]) -> None:
        """Enter the prompts that a group may be given; the first class to bring one keeps it."""
        self._own(self.searched)
        for c in group:
            for pair in own_pairs(*self.of_class(c)):
                self.owner.setdefault(pair, c)

    def _own(self, classes: Iterable[int]) -> None:
        """Enter the prompts that classes have now."""
        for c in classes:
            for pair in self.now[c]:
                self.owner.setdefault(pair, c)

    def _insertable(self, group: Sequence[int]) -> dict[Pair, float]:
        """The prompts that may be put in, with the fitness of each beside what there is now."""
        new = [(pair, c) for pair, c in self.owner.items()
               if c in group and pair not in self.now[c]]
        self.encoded.prepare(pair for pair, _ in new)
        found = {}
        for pair, c in new:
            score = self.measured({c: (*self.now[c], pair)})
            if self.baseline["top1"] - score["top1"] < worst_drop(len(self.names)):
                found[pair] = score["fitness"]
        return found

    def _first_records(
        self, group: Sequence[int], stock: Stock[Pair], scores: Mapping[Pair, float],
        states: States,
    ) -> list[Record[Pair]]:
        """What a group begins with: what there is now, and either that with one more prompt each,
        or what the last group left."""
        base = stock.base
        if not self.records:
            count = min(self.settings.top, len(scores))
            drawn = self.draws.python.sample(list(scores), count)
            # The baseline is of 2 decimals; a candidate that changes nothing is measured finely.
            return [Record(base, self.baseline["fitness"]),
                    *(Record((*base, pair), scores[pair]) for pair in drawn)]
        states.keep(base, self.records[0].fitness)
        records = [Record(base, self.records[0].fitness)]
        for record in self.records[1:]:
            prompts = record.prompts
            for c in group:
                if c not in self.by_class(prompts):
                    prompts += self.now[c]
            records.append(Record(prompts, states.fitness(prompts)))
            self.trace.append((prompts, records[-1].fitness))
        return records

    def by_class(self, prompts: Sequence[Pair]) -> dict[int, list[Pair]]:
        """The prompts of each class that has any of these."""
        found: dict[int, list[Pair]] = {}
        for pair in prompts:
            found.setdefault(self.owner[pair], []).append(pair)
        return found
