"""What people meet every day: help that can be pasted, files that are not replaced unsaid, former
names of options, errors in the words of whoever asked."""

import argparse
import re

import matplotlib.pyplot as plt
import pytest

import nerp as package
from nerp import cli
from nerp.base.errors import NerpError
from nerp.commands import HelpFormatter, add_arguments, command_module
from nerp.results import plots

FIRST = ["demo", "train", "test", "predict", "sweep", "table", "plot"]


def test_help_begins_with_what_is_used_most(nerp):
    status, text, _ = nerp("help")
    listed = re.findall(r"^  (\S+)  ", text, re.MULTILINE)
    assert status == 0 and listed[:len(FIRST)] == FIRST and sorted(listed) == sorted(cli.COMMANDS)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_an_example_in_help_can_be_pasted_however_narrow_the_terminal(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    module = command_module(command)
    parser = argparse.ArgumentParser(prog=command, description=module.__doc__,
                                     formatter_class=HelpFormatter)
    add_arguments(parser, module)
    shown = parser.format_help().splitlines()
    examples = [line for line in module.__doc__.splitlines() if line.startswith("  nerp ")
                and "  " not in line.strip()]  # two spaces: what a command does follows
    assert max(map(len, examples), default=0) <= 80
    assert all(example in shown for example in examples)


@pytest.mark.parametrize("text", [
    "nerp table reads runs, wherever they are, and more than a line of a terminal has room for",
    "  nerp x  never longer than a terminal is wide, whatever a name or its text begins with",
])
def test_a_sentence_is_filled_though_it_begins_like_a_command_line(text):
    shown = HelpFormatter("nerp")._fill_text(text, 50, "")
    assert max(map(len, shown.splitlines())) <= 50 and shown.split() == text.split()


@pytest.mark.parametrize(("line", "dest", "value"), [
    (["table", "--write-to", "t.csv"], "output", "t.csv"),
    (["table", "--output", "t.csv"], "output", "t.csv"),
    (["sweep", "--output", "runs"], "output", "runs"),
    (["sweep", "--output-dir", "runs"], "output", "runs"),
])
def test_an_option_is_taken_by_its_former_name_and_shown_by_its_new_one(line, dest, value):
    parser = argparse.ArgumentParser()
    add_arguments(parser, command_module(line[0]))
    assert getattr(parser.parse_args(line[1:]), dest) == value
    shown = parser.format_help()
    assert "--write-to" not in shown and ("--output FILE" in shown or "--output-dir DIR" in shown)


def test_a_figure_that_another_one_replaces_is_said(nerp, tmp_path, monkeypatch):
    def drawn(height):
        figure, axes = plt.subplots()
        axes.bar([0], [height])
        return {"gains": figure}

    (tmp_path / "runs").mkdir()
    said = []
    for height in (1, 1, 2):
        monkeypatch.setattr(plots, "figures", lambda parts, height=height: drawn(height))
        monkeypatch.setattr("nerp.results.records.collect", lambda folders: [])
        monkeypatch.setattr("nerp.results.grid.split", lambda *records: [])
        said.append(nerp("plot", tmp_path / "runs", "--output-dir", tmp_path / "figures")[1])
    assert "replaces" not in said[0] + said[1]
    assert said[2].count("gains.png  (replaces another one)") == 1


@pytest.mark.parametrize(("call", "says"), [
    (lambda: package.train("MMRL", ""), r"which dataset\? the argument dataset, or"),
    (lambda: package.train("MMRL", "eurosat", options={"OPTIM.LRR": 1}),
     "^options: unknown configuration key"),
    (lambda: package.test("MMRL", "eurosat"),
     "^MMRL needs model, the output_dir of its training run$"),
])
def test_an_error_from_python_speaks_of_arguments(call, says):
    with pytest.raises(NerpError, match=says) as error:
        call()
    assert "--" not in str(error.value) and "command line" not in str(error.value)


def test_the_same_mistake_on_a_command_line_speaks_of_options(nerp):
    status, _, error = nerp("train", "--trainer", "MMRL", "OPTIM.LRR", "1")
    assert status == 1 and "command line: unknown configuration key" in error
    assert "which dataset? --dataset NAME" in nerp("train", "--trainer", "MMRL")[2]
