"""What a search has found, as it stands in a checkpoint: texts, and nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nerp.base.printable import is_printable
from nerp.trainers.evolution.texts import Pair, fill
from nerp.trainers.votes import plain_name

_LONGEST = 2000  # characters of a text
_MOST = 200  # texts of a class


@dataclass(frozen=True)
class Written:
    """Templates for all classes, and by class name the labels and descriptions put in them."""

    templates: Sequence[str]
    specific: Mapping[str, Sequence[Pair]]

    def texts(self, name: str) -> list[str]:
        """The texts of a class, template by template; one without prompts has its name."""
        named = {plain_name(own): pairs for own, pairs in self.specific.items()}
        pairs = named.get(plain_name(name))
        if not pairs:
            return [template.format(name) for template in self.templates]
        return [fill(template, pair) for template in self.templates for pair in pairs]

    def plain(self) -> dict[str, object]:
        """For `read_written`."""
        return {
            "templates": list(self.templates),
            "specific": {name: [[label, description or ""] for label, description in pairs]
                         for name, pairs in self.specific.items()},
        }


def read_written(plain: Mapping[str, object]) -> Written:
    """What `Written.plain` gave, from a file. Raises ValueError where it is not that."""
    templates, specific = plain.get("templates"), plain.get("specific")
    if not isinstance(templates, list) or not isinstance(specific, dict):
        raise ValueError("it has no templates, or no specific prompts")
    if not 0 < len(templates) <= _MOST or not all(map(_is_template, templates)):
        raise ValueError("its templates are none")
    for name, pairs in specific.items():
        if not _is_text(name) or not isinstance(pairs, list) or len(pairs) > _MOST:
            raise ValueError("the prompts of a class are no list")
        if not all(isinstance(pair, list) and len(pair) == 2 and all(map(_is_text, pair))
                   for pair in pairs):
            raise ValueError("a prompt is no label with a description")
    return Written(templates, {
        name: [(label, description or None) for label, description in pairs]
        for name, pairs in specific.items()
    })


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST and is_printable(value)


def _is_template(value: object) -> bool:
    return _is_text(value) and isinstance(value, str) and value.count("{}") == 1 and \
        not set("{}") & set(value.replace("{}", ""))
