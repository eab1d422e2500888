"""The study's page: tables, figures, and the findings in words."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal

import matplotlib
from matplotlib.figure import Figure
from tabulate import tabulate

from nerp.base.paths import write_text
from nerp.demo.study import ALL_REFERENCES, BACKBONES, METHODS, CaseRecord
from nerp.demo.world import WORLDS
from nerp.results.plots import SETTINGS, STYLES, save_figure

_MARKS = {"transductive": "†", "upper bound": "‡", "": ""}
_RULES = ("ceiling", "match", "released rule", "released rule, calibrated", "shift",
          "shift, calibrated", "shift in pairs")
_HEADINGS = {"ceiling": "oracle"}  # where a column is not headed by the key of its records
_REFERENCE_SETS = (*ALL_REFERENCES, "shift", "all four")
_KNOWING = {"gap": "gap", "image": "mean image", "others": "other classes' images",
            "text": "neutral prompt", "frequency": "log frequency"}
_FIGURED = ("shift", "match", "released rule")  # each with a marker of its own

Value = Callable[[CaseRecord], float | None]
Number = Callable[[CaseRecord], float]
_Key = Literal["backbone", "dataset", "method"]


def write_report(records: list[CaseRecord], directory: Path, command: str) -> Path:
    """Write README.md and its figures into `directory`; returns the page's path.

    Args:
        records: as `study.run_study` returns them.
        command: the command line that made them, shown on the page.
    """
    figures = {"gains": _gain_figure(records), "links": _link_figure(records)}
    for name, figure in figures.items():
        save_figure(figure, directory, name)
    page = directory / "README.md"
    write_text(page, "\n\n".join(_page(records, command)) + "\n")
    return page


WORDS = {
    "made": "Made by `{command}`: {models} models, {seeds} seeds. Nothing here is evidence about "
            "CLIP: the images are drawn and the backbones are tiny. The drawn world offers what "
            "real data does not: the pre-training frequency of every class is known. {backbones}",
    "marks": "± is the standard error over seeds; each seed is averaged over the benchmarks. "
             "Zero-shot CLIP has no seeds. † is transductive: made with the unlabelled test "
             "images. ‡ is an upper bound: made with test labels. Neither is a result. All other "
             "numbers use at most training images and labels. Their constants were chosen on "
             "benchmarks drawn with other seeds ([choice.md](choice.md)). The shift on this page "
             "uses these references: {references}.",
    "rules": "Numbers are changes of accuracy in points. Oracle is the oracle gain: that of the "
             "best per-class bias that a search finds on the test labels. Match is the bias that "
             "makes the mean prediction uniform; these test sets are balanced, as match assumes. "
             "The released rule has text pairs, TAU 0 and THRES 2. The shift has its automatic "
             "strengths. Shuffled is the shift with its bias permuted over the classes.",
    "references": "Each column is a shift by that reference at its automatic strength. “Shift” is "
                  "the shift of the tables above. “All four” is a shift by text, image, others and "
                  "gap together. Log frequency‡ is the best multiple of it, chosen on test labels.",
    "links": "“a ~ b” is Spearman's correlation of a and b over the novel classes, averaged over "
             "all models. The fitted bias is the one that fits the test labels best. The slope is "
             "the multiple of the prior that comes nearest to it. Asymmetry is 0 if every two "
             "classes are mistaken for each other equally often, and 1 if confusion goes one way "
             "only. The next two columns give the asymmetry that chance alone produces with as "
             "many confusions, and the asymmetry after the shift.",
}
_BACKBONES = {
    "tiny": "`tiny` is trained with CLIP's contrastive loss on classes whose frequencies follow "
            "Zipf's law.",
    "tiny-biased": "`tiny-biased` is trained with captions that are unique within a batch, which "
                   "leaves class frequency in its scores by construction.",
    "tiny-steep": "`tiny-steep` is trained as `tiny` is, with a steeper tail: its rarest classes "
                  "were seen a few dozen times.",
}


def _page(records: list[CaseRecord], command: str) -> Iterable[str]:
    backbones = _present(records, "backbone", BACKBONES)
    references = dict.fromkeys(name for r in records for name in r["strengths"])
    yield "# A controlled study of NeRP on the drawn world"
    yield WORDS["made"].format(
        command=command, models=len(records), seeds=len({r["seed"] for r in records}),
        backbones=" ".join(_BACKBONES[name] for name in backbones))
    yield WORDS["marks"].format(references=", ".join(references))
    yield "## Found"
    yield "\n".join(f"- {line}" for line in _findings(records))
    yield "## What each rule gains"
    yield WORDS["rules"]
    yield "![gains](gains.png)"
    for backbone in backbones:
        mine = [r for r in records if r["backbone"] == backbone]
        yield f"**{backbone}**, novel classes"
        yield _table(mine, {name: _gain(name) for name in _RULES}
                     | {"shuffled": lambda r: r["shuffled"]})
        yield f"**{backbone}**, base classes (which were trained on; `NERP.ON_BASE True`)"
        yield _table(mine, {name: _gain(name, "base") for name in _RULES}, "base")
    yield "## What each reference gains alone, and together"
    yield WORDS["references"]
    for backbone in backbones:
        mine = [r for r in records if r["backbone"] == backbone]
        yield f"**{backbone}**, novel classes"
        yield _table(mine, {name: _gain(name) for name in _REFERENCE_SETS}
                     | {"log frequency‡": lambda r: r["oracle"]["gain"]})
    yield "## What the references know"
    yield WORDS["links"]
    yield "![links](links.png)"
    yield _link_table(records)


def _gain(name: str, classes: str = "new") -> Number:
    """The value of a record that is a correction's gain on novel or base classes."""
    return lambda r: (r["base"] if classes == "base" else r)["gains"][name]["gain"]


def _findings(records: list[CaseRecord]) -> Iterable[str]:
    """Five lines; each covers every backbone."""
    shift, rule = _gain("shift"), "released rule"
    of_backbone = {backbone: [r for r in records if r["backbone"] == backbone]
                   for backbone in _present(records, "backbone", BACKBONES)}

    def each(said: Callable[[list[CaseRecord]], str]) -> str:
        return " ".join(f"`{backbone}`: {said(mine)}." for backbone, mine in of_backbone.items())

    def share(mine: list[CaseRecord]) -> str:
        top = _mean(mine, _gain("ceiling"))
        part = 100 * _mean(mine, shift) / top if top else math.nan
        return (f"the shift reaches {part:.0f} % of {top:+.2f}‡; match gains "
                f"{_mean(mine, _gain('match')):+.2f}†")

    yield "**The automatic shift.** " + each(
        lambda mine: f"it {_verdict(mine, shift)}; it makes {sum(shift(r) < -0.5 for r in mine)} "
                     "models worse by more than half a point")
    yield "**The oracle gain of a class bias.** " + each(share)
    yield "**The shift with its bias shuffled over the classes.** " + each(
        lambda mine: f"{_mean(mine, lambda r: r['shuffled']):+.2f} points")
    yield "**The released rule.** " + each(
        lambda mine: f"it {_verdict(mine, _gain(rule))}; calibrated, it "
                     f"{_verdict(mine, _gain(f'{rule}, calibrated'))}; the shift, calibrated, "
                     f"{_verdict(mine, _gain('shift, calibrated'))}")
    yield "**Correlation with the bias that the test labels ask for.** " + each(
        lambda mine: ", ".join(f"{words} {_mean(mine, _link(name, 'bias')):+.2f}"
                               for name, words in _KNOWING.items()))


def _link(name: str, to: str) -> Value:
    return lambda r: r["links"].get(name, {}).get(to)


def _verdict(records: list[CaseRecord], value: Number) -> str:
    """In words: the change, over how many models, and whether it is larger than twice its error."""
    values = [value(r) for r in records]
    mean, error = _over_seeds([r for r in records if r["method"] != METHODS[0]], value)
    better = sum(v > 0 for v in values)
    if error is None or abs(mean) <= 2 * error:
        word = "shows no clear change"
    else:
        word = "gains" if mean > 0 else "loses"
    spread = "" if error is None else f" ± {error:.2f}"
    return f"{word} ({mean:+.2f}{spread} points; better in {better} of {len(values)} models)"


def _table(records: list[CaseRecord], values: dict[str, Value], classes: str = "new") -> str:
    """One row per method and one for all models: accuracy, then the mean of each value."""
    some = (records[0]["base"] if classes == "base" else records[0])["gains"]

    def row(name: str, mine: list[CaseRecord]) -> list[str]:
        accuracy = _mean(mine, lambda r: (r["base"] if classes == "base" else r)["accuracy"])
        return [name, f"{accuracy:.1f}", *(_spread(mine, value) for value in values.values())]

    rows = [row(method, [r for r in records if r["method"] == method])
            for method in _present(records, "method", METHODS)]
    if len(rows) > 1:
        rows.append(row("all models", records))
    headers = ["", "accuracy",
               *(_HEADINGS.get(name, name) + _MARKS[some.get(name, {}).get("caveat", "")]
                 for name in values)]
    return str(tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True))


def _link_table(records: list[CaseRecord]) -> str:
    columns = {
        **{f"{name} ~ fitted bias": _link(name, "bias") for name in ("frequency", *ALL_REFERENCES)},
        **{f"slope on {name}": _link(name, "slope") for name in ("gap", "image")},
        **{f"{name} ~ frequency": _link(name, "frequency") for name in ("text", "image", "gap")},
        "asymmetry": lambda r: r["asymmetry"]["measured"],
        "by chance": lambda r: r["asymmetry"]["chance"],
        "after the shift": lambda r: r["asymmetry"]["after"],
    }
    rows = []
    for backbone, dataset, mine in _groups(records):
        rows.append([backbone, f"{dataset} ({mine[0]['classes']} classes)",
                     *(f"{_mean(mine, value):+.2f}" for value in columns.values())])
    return str(tabulate(rows, headers=["", "", *columns], tablefmt="github",
                        disable_numparse=True))


def _groups(records: list[CaseRecord]) -> Iterable[tuple[str, str, list[CaseRecord]]]:
    """Backbone, benchmark and their records."""
    for backbone in _present(records, "backbone", BACKBONES):
        for dataset in _present(records, "dataset", tuple(WORLDS)):
            mine = [r for r in records if (r["backbone"], r["dataset"]) == (backbone, dataset)]
            if mine:
                yield backbone, dataset, mine


def _mean(records: list[CaseRecord], value: Value) -> float:
    """The mean over the records that have a value (a constant has no correlation)."""
    values = [v for r in records if (v := value(r)) is not None]
    return fmean(values) if values else math.nan


def _over_seeds(records: list[CaseRecord], value: Value) -> tuple[float, float | None]:
    """The mean over seeds of the mean within each seed, and its standard error."""
    seeds = sorted({r["seed"] for r in records})
    means = [_mean([r for r in records if r["seed"] == seed], value) for seed in seeds]
    if len(means) < 2:
        return (means[0] if means else math.nan), None
    return fmean(means), stdev(means) / len(means) ** 0.5


def _spread(records: list[CaseRecord], value: Value) -> str:
    mean, error = _over_seeds(records, value)
    return f"{mean:+.2f}" if error is None else f"{mean:+.2f} ± {error:.2f}"


def _present(records: list[CaseRecord], key: _Key, order: Sequence[str]) -> list[str]:
    """The values of `key` that occur: those of `order` first, then the others by name."""
    there = {r[key] for r in records}
    return [*(name for name in order if name in there), *sorted(there.difference(order))]


def _gain_figure(records: list[CaseRecord]) -> Figure:
    """One panel per backbone: for each model and correction its gain against the ceiling."""
    backbones = _present(records, "backbone", BACKBONES)
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(2.9 * len(backbones) + 0.4, 3.6), layout="constrained")
        panels = figure.subplots(1, len(backbones), sharex=True, sharey=True, squeeze=False)[0]
        right = max(_gain("ceiling")(r) for r in records)
        for axes, backbone in zip(panels, backbones, strict=True):
            mine = [r for r in records if r["backbone"] == backbone]
            axes.axhline(0, color="black", linewidth=0.8)
            axes.plot([0, right], [0, right], color="#999999", linewidth=0.8, label="oracle‡")
            axes.plot([0, right], [0, right / 4], color="#999999", linewidth=0.8, linestyle=":",
                      label="a quarter of the oracle")
            for name, (colour, marker) in zip(_FIGURED, (STYLES[5], STYLES[3], STYLES[4]),
                                              strict=True):
                caveat = records[0]["gains"][name]["caveat"]
                axes.plot([_gain("ceiling")(r) for r in mine], [_gain(name)(r) for r in mine],
                          linestyle="none", color=colour, marker=marker, markersize=3.5, alpha=0.7,
                          markeredgewidth=0, label=name + _MARKS[caveat])
            axes.set(title=backbone)
        figure.supxlabel("oracle gain of a class bias‡ (points of novel accuracy)",
                         fontsize=8)
        figure.supylabel("points gained", fontsize=8)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return figure


def _link_figure(records: list[CaseRecord]) -> Figure:
    """Per backbone and benchmark: what the references know, and asymmetry beside chance."""
    groups = [(f"{b}\n{d.removeprefix('demo_')}", mine) for b, d, mine in _groups(records)]
    links = {f"{name} ~ fitted bias": _link(name, "bias")
             for name in ("frequency", *ALL_REFERENCES)}
    sides = {
        "measured": lambda r: r["asymmetry"]["measured"],
        "after the shift": lambda r: r["asymmetry"]["after"],
        "by chance": lambda r: r["asymmetry"]["chance"],
    }
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(7.2, 1.6 + 0.32 * len(groups)), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[1.6, 1])
        for axes, series, title in (
            (left, links, "Spearman correlation"), (right, sides, "asymmetry of confusion"),
        ):
            for i, (name, value) in enumerate(series.items()):
                colour, marker = STYLES[i + 1]
                axes.plot([_mean(mine, value) for _, mine in groups], range(len(groups)),
                          linestyle="none", color=colour, marker=marker, label=name)
            axes.axvline(0, color="black", linewidth=0.8)
            axes.set(title=title)
            axes.margins(y=0.1)
            axes.invert_yaxis()
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.06), fontsize=7, ncols=2)
        left.set_yticks(range(len(groups)), [name for name, _ in groups])
        right.set_yticks(range(len(groups)), [""] * len(groups))
    return figure
