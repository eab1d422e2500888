"""The study's page: tables, figures, and in words what was and was not found."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev

import matplotlib
from matplotlib.figure import Figure
from tabulate import tabulate

from nerp.demo.study import BACKBONES, METHODS, SOURCES, THRESHOLDS
from nerp.demo.world import WORLDS
from nerp.paths import write_text
from nerp.results.plots import SETTINGS, STYLES, save_figure

_CHOICES = [f"{source}/{thresholds}" for thresholds in THRESHOLDS for source in SOURCES]
_MARKS = {"transductive": "†", "upper bound": "‡"}


def write_report(records: list[dict], directory: Path, command: str) -> Path:
    """Write README.md, its figures and the records themselves into `directory`; the page's path.

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


def _page(records: list[dict], command: str) -> Iterable[str]:
    seeds = sorted({r["seed"] for r in records})
    yield "# A controlled study of NeRP on the drawn world"
    yield (f"Made by `{command}`: {len(records)} models, {len(seeds)} seeds, novel classes. "
           "Nothing here is evidence about CLIP: the images are drawn and the backbones tiny. What "
           "the world offers is that the pre-training frequency of every class is known. `tiny` "
           "is trained with CLIP's contrastive loss; `tiny-biased` with captions unique within a "
           "batch, which leaves class frequency in its scores by construction: the positive "
           "control.")
    yield ("± is the standard error over seeds, each seed averaged over the benchmarks; "
           "zero-shot CLIP has no seeds. † transductive: the pairs come from the unlabelled test "
           "images. ‡ upper bound: chosen with test labels. Neither is a result.")
    yield "## Found"
    yield "\n".join(f"- {line}" for line in _findings(records))
    yield "## Does NeRP gain?"
    yield ("Change of novel accuracy in points. Pairs: each class with its two strongest partners "
           "by that source. Thresholds: the defaults (TAU 0, THRES 2), or calibrated on the base "
           "classes' validation images. Shuffled: text pairs, default thresholds, priors permuted "
           "over the classes. Oracle: a multiple of log frequency subtracted from the logits.")
    yield "![gains](gains.png)"
    for backbone in _present(records, "backbone", BACKBONES):
        yield f"**{backbone}**"
        yield _gain_table([r for r in records if r["backbone"] == backbone])
    yield "## Do the links of the argument hold?"
    yield ("Spearman correlations over the novel classes, mean over all models: of log frequency "
           "with over-prediction and with the priors, and of the priors with over-prediction. "
           "Asymmetry: the share of confusions that one-sidedness accounts for, beside what chance "
           "alone gives with as many confusions.")
    yield "![links](links.png)"
    yield _link_table(records)


def _findings(records: list[dict]) -> Iterable[str]:
    for backbone in _present(records, "backbone", BACKBONES):
        mine = [r for r in records if r["backbone"] == backbone]
        yield (f"`{backbone}`: NeRP with text pairs and default thresholds "
               f"{_verdict(mine, lambda r: r['gains']['text/default']['gain'])}; with calibrated "
               f"ones {_verdict(mine, lambda r: r['gains']['text/calibrated']['gain'])}.")
        yield (f"`{backbone}`: with shuffled priors {_verdict(mine, lambda r: r['shuffled'])}; "
               "the oracle that knows the frequencies "
               f"{_verdict(mine, lambda r: r['oracle']['gain'])} (upper bound).")
        yield (f"`{backbone}`: frequency and over-prediction correlate at "
               f"{_mean(mine, lambda r: r['frequency']['over-prediction']):+.2f}; the sum of the "
               f"priors with frequency at {_mean(mine, lambda r: r['frequency']['sum']):+.2f}, "
               "with over-prediction at "
               f"{_mean(mine, lambda r: r['over_prediction']['sum']):+.2f}.")
        yield (f"`{backbone}`: confusion is one-sided to "
               f"{_mean(mine, lambda r: r['asymmetry']['measured']):.2f}, by chance it would be to "
               f"{_mean(mine, lambda r: r['asymmetry']['chance']):.2f}.")


def _verdict(records: list[dict], value: Callable[[dict], float]) -> str:
    """In words: by how much, over how many models, and whether it stands out from the seeds."""
    values = [value(r) for r in records]
    mean, error = _over_seeds([r for r in records if r["method"] != METHODS[0]], value)
    better = sum(v > 0 for v in values)
    if error is None or abs(mean) <= 2 * error:
        word = "shows no clear change"
    else:
        word = "gains" if mean > 0 else "loses"
    spread = "" if error is None else f" ± {error:.2f}"
    return f"{word} ({mean:+.2f}{spread} points; better in {better} of {len(values)} models)"


def _gain_table(records: list[dict]) -> str:
    rows = []
    for method in _present(records, "method", METHODS):
        mine = [r for r in records if r["method"] == method]
        rows.append([
            method, f"{_mean(mine, lambda r: r['accuracy']):.1f}",
            *(_spread(mine, lambda r, c=choice: r["gains"][c]["gain"]) for choice in _CHOICES),
            _spread(mine, lambda r: r["shuffled"]), _spread(mine, lambda r: r["oracle"]["gain"]),
        ])
    caveats = [_MARKS.get(records[0]["gains"][c]["caveat"], "") for c in _CHOICES]
    headers = ["", "novel", *(c.replace("/", ", ") + m
                              for c, m in zip(_CHOICES, caveats, strict=True)),
               "shuffled", "oracle‡"]
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def _link_table(records: list[dict]) -> str:
    columns = {
        "frequency ~ over-prediction": lambda r: r["frequency"]["over-prediction"],
        "~ text prior": lambda r: r["frequency"]["text"],
        "~ image prior": lambda r: r["frequency"]["image"],
        "~ sum": lambda r: r["frequency"]["sum"],
        "over-prediction ~ text prior": lambda r: r["over_prediction"]["text"],
        "~ image prior ": lambda r: r["over_prediction"]["image"],
        "~ sum ": lambda r: r["over_prediction"]["sum"],
        "asymmetry": lambda r: r["asymmetry"]["measured"],
        "by chance": lambda r: r["asymmetry"]["chance"],
    }
    rows = []
    for backbone in _present(records, "backbone", BACKBONES):
        for dataset in _present(records, "dataset", tuple(WORLDS)):
            mine = [r for r in records if (r["backbone"], r["dataset"]) == (backbone, dataset)]
            if mine:
                rows.append([backbone, f"{dataset} ({mine[0]['classes']} classes)",
                             *(f"{_mean(mine, value):+.2f}" for value in columns.values())])
    return tabulate(rows, headers=["", "", *columns], tablefmt="github", disable_numparse=True)


def _mean(records: list[dict], value: Callable[[dict], float | None]) -> float:
    """The mean where there is a value (a constant has no correlation)."""
    values = [v for r in records if (v := value(r)) is not None]
    return fmean(values) if values else math.nan


def _over_seeds(
    records: list[dict], value: Callable[[dict], float]
) -> tuple[float, float | None]:
    """The mean over seeds of the mean within each seed, and its standard error."""
    seeds = sorted({r["seed"] for r in records})
    means = [_mean([r for r in records if r["seed"] == seed], value) for seed in seeds]
    if len(means) < 2:
        return (means[0] if means else math.nan), None
    return fmean(means), stdev(means) / len(means) ** 0.5


def _spread(records: list[dict], value: Callable[[dict], float]) -> str:
    mean, error = _over_seeds(records, value)
    return f"{mean:+.2f}" if error is None else f"{mean:+.2f} ± {error:.2f}"


def _present(records: list[dict], key: str, order: Sequence[str]) -> list[str]:
    there = {r[key] for r in records}
    return [name for name in order if name in there]


def _gain_figure(records: list[dict]) -> Figure:
    """A panel a backbone: the change for every choice, a mark a method, bars: standard error."""
    backbones = _present(records, "backbone", BACKBONES)
    values = {choice: (lambda r, c=choice: r["gains"][c]["gain"]) for choice in _CHOICES}
    values["shuffled"] = lambda r: r["shuffled"]
    values["oracle"] = lambda r: r["oracle"]["gain"]
    methods = _present(records, "method", METHODS)
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(7.2, 3.0 * len(backbones) + 0.8), layout="constrained")
        panels = figure.subplots(len(backbones), 1, sharex=True, squeeze=False)[:, 0]
        for axes, backbone in zip(panels, backbones, strict=True):
            axes.axhline(0, color="black", linewidth=0.8)
            for m, method in enumerate(methods):
                mine = [r for r in records
                        if (r["backbone"], r["method"]) == (backbone, method)]
                spreads = [_over_seeds(mine, value) for value in values.values()]
                colour, marker = STYLES[m]
                axes.errorbar(
                    [i + 0.11 * (m - (len(methods) - 1) / 2) for i in range(len(values))],
                    [mean for mean, _ in spreads], [error or 0 for _, error in spreads],
                    linestyle="none", color=colour, marker=marker, label=method,
                )
            axes.set(title=backbone, ylabel="change of novel accuracy (points)")
        marks = [_MARKS.get(records[0]["gains"][c]["caveat"], "") for c in _CHOICES]
        names = [c.replace("/", "\n") + m for c, m in zip(_CHOICES, marks, strict=True)]
        names += ["shuffled\npriors", "oracle\nfrequency‡"]
        panels[-1].set_xticks(range(len(values)), names, fontsize=7)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center",
                      ncols=len(methods))
    return figure


def _link_figure(records: list[dict]) -> Figure:
    """Per backbone and benchmark: the correlations, and asymmetry beside chance."""
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(7.2, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[1.6, 1])
        groups = [(b, d) for b in _present(records, "backbone", BACKBONES)
                  for d in _present(records, "dataset", tuple(WORLDS))]
        names = [f"{b}\n{d.removeprefix('demo_')}" for b, d in groups]
        links = {
            "frequency ~ over-prediction": lambda r: r["frequency"]["over-prediction"],
            "frequency ~ priors' sum": lambda r: r["frequency"]["sum"],
            "over-prediction ~ priors' sum": lambda r: r["over_prediction"]["sum"],
        }
        sides = {
            "measured": lambda r: r["asymmetry"]["measured"],
            "by chance": lambda r: r["asymmetry"]["chance"],
        }
        for axes, series, title in (
            (left, links, "Spearman correlation"), (right, sides, "asymmetry of confusion"),
        ):
            for i, (name, value) in enumerate(series.items()):
                colour, marker = STYLES[i + 1]
                axes.plot(
                    [_mean([r for r in records if (r["backbone"], r["dataset"]) == group], value)
                     for group in groups],
                    range(len(groups)), linestyle="none", color=colour, marker=marker, label=name,
                )
            axes.axvline(0, color="black", linewidth=0.8)
            axes.set(title=title)
            axes.margins(y=0.1)
            axes.invert_yaxis()
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), fontsize=7)
        left.set_yticks(range(len(groups)), names)
        right.set_yticks(range(len(groups)), [""] * len(groups))
    return figure
