"""Figures from records: what is drawn, and that it can be told apart without colour."""

import xml.etree.ElementTree as xml

import pytest
from PIL import Image
from test_tables import write

from nerp.experiments.catalogue import published_methods
from nerp.results.grid import split
from nerp.results.plots import figures
from nerp.results.records import collect


@pytest.fixture
def output(tmp_path):
    """All methods, plain and with NeRP, on two datasets, two seeds, in all protocols."""
    for rank, name in enumerate(published_methods()):
        for dataset in ("EuroSAT", "UCF101"):
            for seed in (1, 2):
                accuracy = 50.0 + 3 * rank + seed
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
    assert curve.get_ydata().tolist() == [52.5, 55.5, 67.5]


def test_the_scatter_has_base_across_and_novel_up(drawn):
    axes = drawn["base_to_novel_16_shots_scatter"].axes[1]
    point = axes.containers[0].lines[0]
    assert (point.get_xdata()[0], point.get_ydata()[0]) == (51.5, 41.5)


def test_the_gain_is_corrected_minus_plain(drawn):
    axes = drawn["base_to_novel_16_shots_nerp_gain"].axes[0]
    assert len(axes.containers) == 5
    for points in axes.containers:
        assert points.lines[0].get_xdata().tolist() == [3.0, 3.0]  # a rank apart
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["EuroSAT", "UCF101"]


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
