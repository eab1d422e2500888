"""Candidates, each a list of prompts, and how new ones are made of those that score best."""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from nerp.trainers.evolution.draws import Draws
from nerp.trainers.evolution.settings import Settings

P = TypeVar("P", bound=Hashable)
_SPARE = 64  # draws that may meet a composition already tried


@dataclass(frozen=True)
class Candidate(Generic[P]):
    """Attributes: prompts: in order, one perhaps twice. places: of those it counts as having, its
    composition."""

    prompts: tuple[P, ...]
    places: frozenset[int]


@dataclass(frozen=True)
class Record(Generic[P]):
    prompts: tuple[P, ...]
    fitness: float


@dataclass
class Stock(Generic[P]):
    """What candidates are made of.

    Attributes:
        prompts: that may be put in. gains: what each scores alone, less the baseline, plus 1; None:
            all are drawn alike.
        places: of every prompt that a candidate may have.
        inside: whether a prompt may be taken out. base: what a mutation starts from.
        grouped: whether it is of a group of classes: what is taken out is then drawn alike, and a
            crossover may draw one prompt.
    """

    prompts: Sequence[P]
    gains: Sequence[float] | None
    places: Mapping[P, int]
    inside: Callable[[P], bool] = lambda prompt: True
    base: tuple[P, ...] = ()
    grouped: bool = False

    def candidate(self, prompts: Sequence[P]) -> Candidate[P]:
        return Candidate(tuple(prompts), frozenset(self.places[prompt] for prompt in prompts))


@dataclass
class Population(Generic[P]):
    """Records in the order in which they stand, and the compositions that were tried."""

    records: list[Record[P]]
    stock: Stock[P]
    score: Callable[[tuple[P, ...]], float]
    draws: Draws
    settings: Settings
    trace: list[tuple[tuple[P, ...], float]] = field(default_factory=list)
    tried: set[frozenset[int]] = field(default_factory=set)

    def rank(self) -> list[Record[P]]:
        """The records in descending fitness, equal ones as they stood."""
        self.records.sort(key=lambda record: -record.fitness)
        return self.records

    def generate(self, epoch: int) -> None:
        """Add the candidates of one epoch, of ranked records. (Section 3.2.)"""
        settings, top = self.settings, self.settings.top
        parents = [self.stock.candidate(record.prompts) for record in self.records[:top]]
        if len(parents) < top:
            parents = self.draws.python.choices(parents, k=top)
        for parent in parents:
            self._vary(parent)
        mutations = settings.mutate // 2 if self.stock.grouped else settings.mutate
        self._attempt(mutations, lambda: self._mutated(2 + epoch))
        if settings.crossover == "quick":
            parents = [self.stock.candidate(record.prompts) for record in self.records[:top]]
        self._attempt(settings.cross, lambda: self._crossed(parents))

    def _attempt(self, count: int, draw: Callable[[], Candidate[P] | None]) -> None:
        made = 0
        for _ in range(count + _SPARE):
            candidate = draw()
            if candidate is None or candidate.places in self.tried:
                continue
            self.tried.add(candidate.places)
            fitness = self.score(candidate.prompts)
            self.records.append(Record(candidate.prompts, fitness))
            self.trace.append((candidate.prompts, fitness))
            made += 1
            if made == count:
                return

    def _vary(self, parent: Candidate[P]) -> None:
        """Add one to a parent, remove one, replace one."""
        stock, settings = self.stock, self.settings
        rest = [i for i, prompt in enumerate(stock.prompts) if prompt not in parent.prompts]
        inside = [prompt for prompt in parent.prompts if stock.inside(prompt)]
        if not rest and not stock.grouped:
            return
        self.tried.add(parent.places)
        if rest:
            self._attempt(settings.add, lambda: self._with(parent, rest))
        if len(inside) > 2:
            self._attempt(settings.remove, lambda: self._without(parent, inside))
        if rest and inside:
            self._attempt(
                settings.replace, lambda: self._with(self._without(parent, inside), rest)
            )

    def _with(self, parent: Candidate[P], rest: Sequence[int]) -> Candidate[P]:
        (place,) = self._pick(rest, 1)
        return self.stock.candidate((*parent.prompts, self.stock.prompts[place]))

    def _without(self, parent: Candidate[P], inside: Sequence[P]) -> Candidate[P]:
        """Without the first of one. Where that stands twice it counts as gone all the same, until
        the candidate is changed again: the published code clears its place."""
        gains = None
        if self.stock.gains is not None:
            alone = dict(zip(self.stock.prompts, self.stock.gains, strict=True))
            gains = [1.0 if self.stock.grouped else alone[prompt] for prompt in inside]
        (prompt,) = self.draws.pick(inside, 1, gains, least=True)
        left = list(parent.prompts)
        left.remove(prompt)
        return Candidate(tuple(left), parent.places - {self.stock.places[prompt]})

    def _mutated(self, count: int) -> Candidate[P] | None:
        if count > len(self.stock.prompts):
            return None
        picked = self._pick(range(len(self.stock.prompts)), count)
        drawn = [self.stock.prompts[place] for place in picked]
        return self.stock.candidate([*drawn, *self.stock.base])

    def _pick(self, places: Sequence[int], count: int) -> list[int]:
        gains = self.stock.gains
        return self.draws.pick(places, count, gains and [gains[place] for place in places])

    def _crossed(self, parents: Sequence[Candidate[P]]) -> Candidate[P] | None:
        counts = Counter(prompt for parent in parents for prompt in parent.prompts)
        common = [prompt for prompt, count in counts.items() if count == self.settings.top]
        other = [prompt for prompt, count in counts.items() if count != self.settings.top]
        grouped, inside = self.stock.grouped, self.stock.inside
        least = sum(not inside(prompt) for prompt in other) if grouped else 1
        if len(other) < (1 if grouped else 2):
            return None
        count = self.draws.python.randint(least, len(other))
        picked = self.draws.pick(other, count, [counts[prompt] for prompt in other])
        return self.stock.candidate([*picked, *common])
