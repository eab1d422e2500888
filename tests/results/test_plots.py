"""Figures from records: what is drawn, and that it can be told apart without colour."""

import itertools
import xml.etree.ElementTree as xml

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from test_tables import write

from nerp.results.grid import split
from nerp.results.plots import _style, figures
from nerp.results.records import collect
from nerp.results.training import training_curves
from nerp.settings.catalogue import learns, methods, published_methods


@pytest.fixture
def output(tmp_path):
    """All methods, plain and with NeRP, on two datasets, two seeds, in all protocols."""
    for rank, name in enumerate(published_methods()):
        for dataset in ("EuroSAT", "UCF101"):
            for seed in (1, 2):
                accuracy = 20.0 + rank / 2 + seed
                write(tmp_path, name, dataset, "base", seed, accuracy)
                write(tmp_path, name, dataset, "new", seed, accuracy - 10)
                write(tmp_path, name, dataset, "all", seed, accuracy, task="CD")
                for shots in (1, 4, 16):
                    write(tmp_path, name, dataset, "all", seed, accuracy + shots, task="FS",
                          shots=shots)
    return tmp_path


@pytest.fixture
def drawn(output):
    return figures(split(collect([output]), (), False))


def test_there_is_a_figure_for_everything_that_was_run(drawn):
    assert set(drawn) == {
        "few_shot_curves", "base_to_novel_16_shots_scatter", "base_to_novel_16_shots_nerp_gain",
        "cross_dataset_16_shots_nerp_gain",
    }


def test_few_shot_curves_go_through_the_means(drawn):
    average, eurosat, _ = drawn["few_shot_curves"].axes
    assert average.get_title() == "Average of 2 datasets"
    curve = eurosat.containers[0].lines[0]
    assert curve.get_xdata().tolist() == [1, 4, 16]
    assert curve.get_ydata().tolist() == [22.5, 25.5, 37.5]


def test_the_scatter_has_base_across_and_novel_up(drawn):
    axes = drawn["base_to_novel_16_shots_scatter"].axes[1]
    point = axes.containers[0].lines[0]
    assert (point.get_xdata()[0], point.get_ydata()[0]) == (21.5, 11.5)


def test_the_gain_is_corrected_minus_plain(drawn):
    axes = drawn["base_to_novel_16_shots_nerp_gain"].axes[0]
    assert len(axes.containers) == sum(map(learns, methods()))
    for points in axes.containers:
        assert points.lines[0].get_xdata().tolist() == [0.5, 0.5, 0.5]  # a rank apart
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["Average", "EuroSAT", "UCF101"]


def gains(folder):
    """The gain plot of a folder's base-to-novel runs, {row: points}."""
    figure = figures(split(collect([folder]), (), False))["base_to_novel_16_shots_nerp_gain"]
    return figure, {c.get_label(): c.lines[0].get_xdata().tolist()
                    for c in figure.axes[0].containers}


def test_the_average_gain_is_over_all_datasets_or_not_there(tmp_path):
    for dataset, gain in (("EuroSAT", 4.0), ("UCF101", -1.0)):
        for name in ("CoOp", "CoOp_NeRP", "MMRL", "MMRL_NeRP"):
            if (dataset, name) != ("UCF101", "MMRL_NeRP"):
                write(tmp_path, name, dataset, "new", 1, 70 + gain * name.endswith("_NeRP"))
    assert gains(tmp_path)[1] == {"CoOp_NeRP": [1.5, 4.0, -1.0], "MMRL_NeRP": [4.0]}


def test_a_gain_on_novel_classes_needs_no_run_on_base_classes(tmp_path):
    for name in ("MMRL", "MMRL_NeRP"):
        for seed in (1, 2):
            write(tmp_path, name, "EuroSAT", "new", seed, 70.0)
    figure, _ = gains(tmp_path)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["MMRL_NeRP"]
    assert "missing" not in figure.get_supxlabel()


def test_one_scale_on_both_axes(output):
    write(output, "CoOp", "Food101", "base", 1, 20.0)
    write(output, "CoOp", "Food101", "new", 1, 99.9)
    write(output, "MMRL", "Food101", "base", 1, 99.8)
    write(output, "MMRL", "Food101", "new", 1, 99.7)
    figure = figures(split(collect([output]), (), False))["base_to_novel_16_shots_scatter"]
    figure.draw_without_rendering()
    for axes in (axes for axes in figure.axes if axes.containers):
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        box = axes.get_window_extent()
        assert right - left == pytest.approx(top - bottom)
        assert box.width == pytest.approx(box.height)
        for points in axes.containers:
            assert left < points.lines[0].get_xdata()[0] < right
            assert bottom < points.lines[0].get_ydata()[0] < top


@pytest.mark.parametrize("seeds", [(1,), (1, 2)])
def test_bars_stand_where_there_are_seeds_to_spread_and_are_explained(tmp_path, seeds):
    for name in ("MMRL", "MMRL_NeRP"):
        for seed in seeds:
            write(tmp_path, name, "EuroSAT", "base", seed, 90.0 + seed)
            write(tmp_path, name, "EuroSAT", "new", seed, 70.0 + seed)
            write(tmp_path, name, "EuroSAT", "all", seed, 70.0, task="FS")
    drawn = figures(split(collect([tmp_path]), (), False))
    assert len(drawn) == 3
    for figure in drawn.values():
        points = [c for axes in figure.axes for c in axes.containers]
        assert all(len(c.lines[2]) > 0 for c in points) == (len(seeds) > 1)  # bars
        said = "standard deviations over seeds 1, 2" in figure.get_supxlabel()
        assert said == (len(seeds) > 1)


def test_no_two_rows_look_alike_in_grey(drawn):
    for name in ("few_shot_curves", "base_to_novel_16_shots_scatter"):
        axes = drawn[name].axes[0]
        looks = [(line.get_marker(), line.get_markerfacecolor() == "white")
                 for line in (container.lines[0] for container in axes.containers)]
        assert len(set(looks)) == len(looks) == len(published_methods())


def test_a_look_at_test_data_is_marked_in_the_legend_and_below(tmp_path):
    for name, looked_at in (("MMRL", None), ("MMRL_NeRP", "test labels")):
        write(tmp_path, name, "EuroSAT", "base", 1, 90.0)
        write(tmp_path, name, "EuroSAT", "new", 1, 70.0, looked_at=looked_at)
    for figure in figures(split(collect([tmp_path]), (), False)).values():
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        assert "MMRL_NeRP‡" in labels
        assert "upper bound" in figure.get_supxlabel()


def test_missing_runs_are_marked_in_the_legend(output):
    (folder,) = output.glob("B2N/test_new/EuroSAT/*/MMRL/*/seed2")
    (folder / "result.json").unlink()
    drawn = figures(split(collect([output]), (), False))
    marked = {
        name: {text.get_text() for text in figure.legends[0].get_texts() if "*" in text.get_text()}
        for name, figure in drawn.items()
    }
    assert marked["base_to_novel_16_shots_scatter"] == {"MMRL*"}
    assert marked["base_to_novel_16_shots_nerp_gain"] == {"MMRL_NeRP*"}
    assert marked["few_shot_curves"] == set()
    assert "runs are missing" in drawn["base_to_novel_16_shots_scatter"].get_supxlabel()


def test_without_nerp_there_is_no_gain_to_draw(tmp_path):
    write(tmp_path, "MMRL", "EuroSAT", "base", 1, 90.0)
    write(tmp_path, "MMRL", "EuroSAT", "new", 1, 80.0)
    drawn = figures(split(collect([tmp_path]), (), False))
    assert set(drawn) == {"base_to_novel_16_shots_scatter"}


def test_the_command_writes_png_and_svg(tmp_path, nerp):
    write(tmp_path / "runs", "MMRL", "EuroSAT", "base", 1, 90.0)
    write(tmp_path / "runs", "MMRL", "EuroSAT", "new", 1, 80.0)
    status, out, _ = nerp("plot", tmp_path / "runs", "--output-dir", tmp_path / "figures")
    assert status == 0
    png, svg = sorted((tmp_path / "figures").iterdir())
    assert out.splitlines() == [str(png), str(svg)]
    assert Image.open(png).format == "PNG"
    assert xml.parse(svg).getroot().tag.endswith("svg")


def test_trainings_are_drawn_by_the_means_of_their_epochs(tmp_path, nerp):
    for name, first in (("a", 2.0), ("b", 4.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.csv").write_text(
            "epoch,step,loss,accuracy,rate,seconds\n"
            f"1,10,{first},50,0.1,1\n1,15,{first + 3},80,0.1,2\n"
            "2,25,1.0,90,0.05,3\n2,30,1.0,90,0.05,4\n"
        )
    figure = training_curves([tmp_path / "a", tmp_path / "b"])
    losses, accuracies, rates = figure.axes
    steps, means, *_ = losses.lines
    assert steps.get_xdata() == pytest.approx([2 / 3, 1, 5 / 3, 2])
    assert (list(means.get_xdata()), list(means.get_ydata())) == ([1, 2], [3.0, 1.0])
    assert means.get_label() == str(tmp_path / "a")
    assert list(accuracies.lines[1].get_ydata()) == [60, 90]
    assert [len(axes.lines) for axes in figure.axes] == [4, 4, 2]
    status, printed, _ = nerp("plot", tmp_path / "a", "--output-dir", tmp_path / "figures")
    assert status == 0 and [line.split(".")[-1] for line in printed.split()] == ["png", "svg"]


def test_a_method_that_does_not_say_its_accuracy_has_no_curve_of_it(tmp_path):
    text = "epoch,step,loss,accuracy,rate,seconds\n1,10,2.0,{},0.1,1\n"
    for name, accuracy in (("silent", ""), ("telling", "50")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.csv").write_text(text.format(accuracy))
    assert len(training_curves([tmp_path / "silent"]).axes) == 2
    losses, accuracies, _ = training_curves([tmp_path / "silent", tmp_path / "telling"]).axes
    assert (len(losses.lines), len(accuracies.lines)) == (4, 2)


def test_a_history_that_is_none_is_one_line(tmp_path, nerp):
    (tmp_path / "metrics.csv").write_text("epoch,step\n1,2\n")
    status, _, error = nerp("plot", tmp_path)
    assert status == 1 and len(error.splitlines()) == 1 and "not a training's history" in error


def test_every_method_has_a_style_of_its_own():
    styles = {(style["color"], style["marker"]) for style in map(_style, methods())}
    assert len(styles) == len(methods())


def test_a_label_of_equal_h_stands_clear_of_markers_and_ticks_stand_apart(tmp_path):
    accuracies = itertools.count(60.0, 2.3)
    for name in ("CoOp", "MMRL", "MMRL_NeRP"):
        for dataset in ("EuroSAT", "UCF101", "Food101", "SUN397"):
            for part in ("base", "new"):
                write(tmp_path, name, dataset, part, 1, 50 + next(accuracies) % 45)
    figure = figures(split(collect([tmp_path]), (), False))["base_to_novel_16_shots_scatter"]
    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()
    for axes in figure.axes:
        labels = [text for text in axes.texts if text.get_text().startswith("H ")]
        assert labels
        points = [axes.transData.transform(c.lines[0].get_xydata()[0]) for c in axes.containers]
        for label in labels:
            box = label.get_window_extent(renderer)
            assert not any(box.contains(*point) for point in points)
        ticks = [tick.get_window_extent(renderer) for tick in axes.get_xticklabels()
                 if tick.get_text()]
        assert all(a.x1 < b.x0 for a, b in itertools.pairwise(ticks))


@pytest.mark.parametrize("marked", [False, True])
def test_a_mark_is_explained_where_it_is_and_not_where_a_name_has_its_letter(marked, tmp_path):
    for name in ("ZeroshotCLIP", "CoOp_NeRP"):
        looked_at = "test images already seen" if marked and name == "CoOp_NeRP" else None
        for part in ("base", "new"):
            write(tmp_path, name, "EuroSAT", part, 1, 50.0, looked_at=looked_at, on_base=True)
    figure = figures(split(collect([tmp_path]), (), False))["base_to_novel_16_shots_scatter"]
    assert ("in a stream" in figure.get_supxlabel()) == marked


def test_each_backbone_has_its_figures(tmp_path):
    for backbone in ("ViT-B/16", "ViT-B/32"):
        for part in ("base", "new"):
            write(tmp_path / backbone, "CoOp", "EuroSAT", part, 1, 50.0, backbone=backbone)
    drawn = figures(split(collect([tmp_path]), (), False))
    assert set(drawn) == {"base_to_novel_16_shots_scatter",
                          "base_to_novel_16_shots_ViT-B-32_scatter"}
    assert "ViT-B/32" in drawn["base_to_novel_16_shots_ViT-B-32_scatter"].get_supxlabel()
