"""The pages, tables and figure that compare_corrections.py makes from its measurements."""

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import matplotlib
import numpy as np
from corrections_words import CHOICE, REPORT, WHEN
from matplotlib.figure import Figure
from tabulate import tabulate

from nerp.base.paths import write_text
from nerp.correction.matched import LIMIT_OF_SPREAD, WIDTH_OF_SPREAD
from nerp.results.plots import SETTINGS, STYLES, save_figure

Measures = dict[str, Any]
Found = list[Measures]

FIRST = 50
MATCH, SHIFT, KNOWN_SHARES = "match", "shift, automatic", "match, shares known"
GUARDED, STREAM = "guarded anchored match", "guarded anchored match, stream"
FIGURED = (SHIFT, GUARDED, MATCH, "transport (OTTER), uniform", "batch calibration", STREAM)
MARKS = {  # correction -> mark of the data that it used; others used at most training data
    SHIFT: "", "DN 0.25": "", "contextual, neutral prompt": "", "contextual, mean image": "",
    STREAM: " s", "batch calibration, stream": " s", KNOWN_SHARES: "‡",
    "TDA": " s", "BCA": " s", "DOTA": " s", "OnZeta": " s",
}
NOTICED = 0.5  # points
ADOPTED = 0.3


def write_report(found: Found, others: Found, docs: Path) -> None:
    """Write study/corrections.md, the figure, and the section of nerp.md."""
    save_figure(figure(found), docs, "corrections")
    write_text(docs / "study" / "corrections.md", REPORT.format(
        **_of_models(found), balanced=_balanced(found, "exponents", "0"),
        worlds=_by_world(found), exponents=_table(found, "exponents", "Zipf exponent"),
        sizes=_table(found, "sizes", "images"), streams=_streams(found), alarm=_alarm(found),
        strengths=_strengths(found), confirmed=_confirmed(found),
        untaken=_balanced(others, "not taken"), others=len(others)))
    put_section(docs / "nerp.md", "Which correction when", WHEN.format(
        **_of_models(found), **{name: _mean(found, kind, place, correction)
                             for name, (kind, place, correction) in QUOTED.items()},
        orders=_orders(found, STREAM), confirmed=_confirmed(found)))


def write_choice(found: Found, docs: Path) -> None:
    """Write the section of study/choice.md."""
    off = [each["off"] for each in found]
    put_section(docs / "study" / "choice.md", "Strengths, width and limit", CHOICE.format(
        **_of_models(found), width=WIDTH_OF_SPREAD, limit=LIMIT_OF_SPREAD,
        strengths=_strengths(found), off=f"{median(off):.2f}",
        widths=_settings(found, "widths", "width", "images"),
        limits=_settings(found, "limits", "limit", "Zipf exponent"),
        **{name.replace(" ", "_"): f"{_rank_correlation(off, [each[name] for each in found]):+.2f}"
           for name in ("between halves", "spread")},
        least=f"{min(each['spread'] for each in found):.1f}",
        most=f"{max(each['spread'] for each in found):.1f}"))


def put_section(page: Path, heading: str, text: str) -> None:
    """Replace the section under a heading of a page, or append it to the page."""
    before, head, after = page.read_text().partition(f"## {heading}\n")
    _, next_head, rest = after.partition("\n## ")
    separator = "" if head else "\n"
    write_text(page, f"{before}{separator}## {heading}\n\n{text}{next_head}{rest}")


def _of_models(found: Found) -> dict[str, str]:
    worlds = {each["world"]: each["backbone"] for each in found}
    methods = sorted({each["method"] for each in found})
    return {
        "count": str(len(found)), "methods": f"{len(methods)} methods: {', '.join(methods)}",
        "where": ", ".join(f"`{worlds[world]}` on the world of seed {world} "
                           f"({_benchmarks(found, world)})" for world in sorted(worlds)),
    }


def _benchmarks(found: Found, world: str) -> str:
    names = [each["dataset"] for each in found if each["world"] == world]
    return ", ".join(f"{name} {names.count(name)}" for name in sorted(set(names)))


def _values(found: Found, kind: str, place: str, name: str) -> list[float]:
    """The change of accuracy by a correction on each model, for one kind of test set."""
    return [(each[kind][place] if place else each[kind])[name] for each in found]


def _mean(found: Found, kind: str, place: str, name: str) -> str:
    return f"{fmean(_values(found, kind, place, name)):+.2f}"


def _marked(name: str) -> str:
    return name + MARKS.get(name, "†")


def _balanced(found: Found, kind: str, place: str = "") -> str:
    rows = []
    for name in (found[0][kind][place] if place else found[0][kind]):
        gains = _values(found, kind, place, name)
        rows.append([_marked(name), f"{fmean(gains):+.2f}", _better_worse(gains),
                     f"{min(gains):+.1f}"])
    rows.sort(key=lambda row: -float(row[1]))
    return _drawn(rows, ["correction", "mean", "better / worse by > 0.5", "worst"])


def _better_worse(gains: list[float]) -> str:
    return f"{sum(v > NOTICED for v in gains)} / {sum(v < -NOTICED for v in gains)}"


def _by_world(found: Found) -> str:
    rows = []
    for world in sorted({each["world"] for each in found}):
        mine = [each for each in found if each["world"] == world]
        shift = _values(mine, "exponents", "0", SHIFT)
        apart = [fmean(_values(mine, "exponents", e, GUARDED))
                 - fmean(_values(mine, "exponents", e, SHIFT)) for e in ("1", "2")]
        rows.append([f"{world} {mine[0]['backbone']}", len(mine),
                     f"{fmean(each['accuracy'] for each in mine):.1f}",
                     f"{fmean(each['ceiling'] for each in mine):+.2f}", f"{fmean(shift):+.2f}",
                     _better_worse(shift), _mean(mine, "exponents", "0", GUARDED),
                     *(f"{each:+.2f}" for each in apart), _mean(mine, "sizes", f"{FIRST}", STREAM)])
    return _drawn(rows, ["world", "models", "accuracy", "oracle‡", "shift",
                         "better / worse by > 0.5", "guarded†", "guarded less shift, exponent 1",
                         "exponent 2", f"stream, first {FIRST} images s"])


def _table(found: Found, kind: str, what: str) -> str:
    places = list(found[0][kind])
    return _drawn([[_marked(name), *(_mean(found, kind, place, name) for place in places)]
                   for name in found[0][kind][places[0]]], [what, *places])


def _streams(found: Found) -> str:
    rows = [[_marked(name), _orders(found, name), _mean(found, "sizes", f"{FIRST}", name)]
            for name in found[0]["orders"]]
    return _drawn(rows, ["", "all images", f"the first {FIRST}"])


def _orders(found: Found, name: str) -> str:
    """Mean and standard deviation, over orders, of the gain in a stream of all images."""
    by_order = [fmean(gains) for gains in zip(*(each["orders"][name] for each in found),
                                              strict=True)]
    return f"{fmean(by_order):+.2f} ± {stdev(by_order):.2f}"


def _alarm(found: Found) -> str:
    rows = [[exponent, f"{median(each['distances'][exponent] for each in found):.2f}",
             f"{100 * fmean(each['kept'][exponent] for each in found):.0f} %"]
            for exponent in found[0]["distances"]]
    return _drawn(rows, ["Zipf exponent", "distance, median", "alarm"])


@dataclass(frozen=True)
class _Change:
    """The effect of strengths compared with the first candidate. gains, more: the gain of each
    model and its difference from the first candidate's, in points. worse: the numbers of models
    that lose more than `NOTICED`, with these strengths and with the first."""

    gains: list[float]
    more: list[float]
    worse: tuple[int, int]

    @property
    def mean(self) -> float:
        return fmean(self.more)

    @property
    def error(self) -> float:
        return stdev(self.more) / math.sqrt(len(self.more))

    @property
    def passes(self) -> bool:
        enough = self.mean >= max(ADOPTED, 2 * self.error)
        return enough and self.worse[0] <= self.worse[1]


def _change(found: Found, name: str) -> _Change:
    gains, earlier = (_values(found, "strengths", "", of)
                      for of in (name, next(iter(found[0]["strengths"]))))
    worse, before = (sum(gain < -NOTICED for gain in each) for each in (gains, earlier))
    return _Change(gains, [new - old for new, old in zip(gains, earlier, strict=True)],
                   (worse, before))


def _by_world_more(found: Found, change: _Change) -> dict[str, float]:
    """The mean difference on each world."""
    return {world: fmean(more for more, each in zip(change.more, found, strict=True)
                         if each["world"] == world)
            for world in sorted({each["world"] for each in found})}


def _strengths(found: Found) -> str:
    """A table of the candidate strengths: gain, difference from the first candidate, decision, and
    the difference on each world."""
    rows, names = [], list(found[0]["strengths"])
    for name in names:
        change = _change(found, name)
        rows.append([name, f"{fmean(change.gains):+.2f}",
                     f"{change.mean:+.2f} ± {change.error:.2f}", _better_worse(change.gains),
                     "yes" if change.passes else "" if name == names[0] else "no",
                     *(f"{more:+.2f}" for more in _by_world_more(found, change).values())])
    worlds = sorted({each["world"] for each in found})
    return _drawn(rows, ["strengths", "gain", "more than before ± s.e.", "better / worse by > 0.5",
                         "passes", *(f"more, world {world}" for world in worlds)])


def _confirmed(found: Found) -> str:
    """Two sentences on whether the strengths in use, the last candidate, pass on these models too.
    """
    change = _change(found, list(found[0]["strengths"])[-1])
    worlds = ", ".join(f"{more:+.2f} on world {world}"
                       for world, more in _by_world_more(found, change).items())
    return (f"These worlds {'confirm' if change.passes else 'do not confirm'} the change: it gains "
            f"{change.mean:+.2f} ± {change.error:.2f} points on the earlier strengths ({worlds}). "
            f"It makes {change.worse[0]} instead of {change.worse[1]} models worse by more than "
            "half a point.")


def _settings(found: Found, kind: str, name: str, what: str) -> str:
    """The gain for each value of a setting, by test set, and how often the shift was kept."""
    def cell(value: str, place: str) -> str:
        values = [each[kind][value][place] for each in found]
        if kind == "widths":
            return f"{fmean(values):+.2f}"
        return (f"{fmean(gain for gain, _ in values):+.2f} "
                f"({100 * fmean(kept for _, kept in values):.0f} %)")

    places = list(next(iter(found[0][kind].values())))
    return _drawn([[value, *(cell(value, place) for place in places)] for value in found[0][kind]],
                  [name, *(f"{what} {place}" if place == places[0] else place
                           for place in places)])


def _rank_correlation(one: list[float], other: list[float]) -> float:
    ranks = [np.asarray(values).argsort().argsort() for values in (one, other)]
    return float(np.asarray(np.corrcoef(ranks))[0, 1])


def _drawn(rows: list[list[Any]], heads: list[str]) -> str:
    return str(tabulate(rows, heads, tablefmt="github", disable_numparse=True))


def figure(found: Found) -> Figure:
    """Gain against Zipf's exponent, and against the number of images."""
    with matplotlib.rc_context(SETTINGS):
        drawn = Figure(figsize=(7.2, 3.4), layout="constrained")
        panels = zip(drawn.subplots(1, 2, sharey=True), ("exponents", "sizes"),
                     ("Zipf exponent of the test labels", "test images, equally frequent classes"),
                     strict=True)
        for axes, kind, label in panels:
            places = list(found[0][kind])
            for name, (colour, marker) in zip(FIGURED, STYLES, strict=False):
                if name not in found[0][kind][places[0]]:
                    continue
                gains = [fmean(_values(found, kind, place, name)) for place in places]
                axes.plot(range(len(places)), gains, color=colour, marker=marker,
                          linestyle="--" if name == STREAM else "-", label=_marked(name))
            axes.set_xticks(range(len(places)), places)
            axes.set_xlabel(label)
            axes.axhline(0, color="black", linewidth=0.8)
        axes.set_ylim(-12, 6)
        drawn.axes[0].set_ylabel("points gained")
        drawn.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return drawn


# What the section of nerp.md quotes: a kind of test set, which, and a correction.
QUOTED = {
    "shift": ("exponents", "0", SHIFT), "shift_2": ("exponents", "2", SHIFT),
    "guarded": ("exponents", "0", GUARDED), "guarded_1": ("exponents", "1", GUARDED),
    "guarded_2": ("exponents", "2", GUARDED), "match": ("exponents", "0", MATCH),
    "match_1": ("exponents", "1", MATCH), "match_20": ("sizes", "20", MATCH),
    "guarded_20": ("sizes", "20", GUARDED), "known_1": ("exponents", "1", KNOWN_SHARES),
    "known_2": ("exponents", "2", KNOWN_SHARES), "first": ("sizes", f"{FIRST}", STREAM),
}
