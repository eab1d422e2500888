"""What a search over prompts is asked to do."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Settings:
    """The keys of TRAINER.PROAPO that a search reads, under their names in lower case.

    Attributes:
        epochs: of the search over templates; inner: of a group's. outer: how often groups are made
            anew; groups: how many of them are searched each time.
        top: parents a generation. add, remove, replace, mutate, cross: new candidates that each is
            to give; a group's mutation gives half as many.
        max: templates kept in the library, 0: all. sample: "mean" draws them alike, "weighted" by
            what they score alone.
        crossover: "slow" mixes the parents, "quick" the records that stand first.
        importance: whether the classes that gain most have groups of their own.
        sample_descriptions: whether the descriptions to start from are drawn.
        weights, weights2: of top1, top5, redundancy and entropy in the fitness, of templates and of
            descriptions; () for weights2: the same.
    """

    epochs: int = 8
    top: int = 4
    add: int = 8
    remove: int = 8
    replace: int = 8
    mutate: int = 8
    cross: int = 16
    max: int = 0
    sample: str = "mean"
    crossover: str = "slow"
    outer: int = 3
    inner: int = 4
    groups: int = 4
    importance: bool = True
    sample_descriptions: bool = False
    weights: tuple[float, ...] = (0.1, 0.1, 0.05, 10.0)
    weights2: tuple[float, ...] = ()

    @classmethod
    def read(cls, given: "Settings | Mapping[str, object] | object") -> "Settings":
        """Of a configuration node, or whatever else has such keys in upper case; one that is not
        there has its default."""
        if isinstance(given, Settings):
            return given
        node: Mapping[str, Any] = given if isinstance(given, Mapping) else vars(given)
        named = {field.name: node[field.name.upper()] for field in fields(cls)
                 if field.name.upper() in node}
        for name in ("weights", "weights2"):
            if name in named:
                named[name] = tuple(named[name])
        return cls(**named)

    @property
    def of_descriptions(self) -> tuple[float, ...]:
        """The weights of the fitness in the search over descriptions."""
        return self.weights2 or self.weights
