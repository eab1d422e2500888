"""Lists of values, KEY VALUE pairs and folders on one command line, in the order people type."""

import argparse

import pytest

from nerp.commands import add_arguments, command_module, parse

PAIRS = ["NERP.TAU", "-1", "OPTIM.LR=0.1"]


def parsed(line):
    """What a command's own parser makes of a command line."""
    name, *words = line.split() if isinstance(line, str) else line
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_arguments(parser, command_module(name))
    return parse(parser, words)


@pytest.mark.parametrize("before", [
    "demo --seeds 1 2", "demo --seed 1 2", "demo --root data --seeds 1 2",
])
def test_pairs_may_follow_a_list(before):
    args = parsed([*before.split(), *PAIRS])
    assert args.seeds == [1, 2] and args.opts == PAIRS
    args = parsed([*before.split(), *PAIRS, "--all"])
    assert args.seeds == [1, 2] and args.opts == PAIRS and args.all


@pytest.mark.parametrize("flags", [
    "--methods MMRL CoOp --datasets eurosat --seeds 1,2 3",
    "--seeds 1,2 3 --datasets eurosat --methods MMRL --methods CoOp",
])
@pytest.mark.parametrize("file", [[], ["mine.yaml"]])
def test_pairs_of_a_sweep_may_follow_any_list(flags, file):
    from nerp.commands.sweep import _selection

    args = parsed(["sweep", *file, "--protocol", "B2N", *flags.split(), *PAIRS])
    assert args.what == [*file, *PAIRS] and args.seeds == ["1,2", "3"]
    args.what = PAIRS
    selection = _selection(args, looking=False)
    assert selection.methods == ("MMRL", "CoOp") and selection.datasets == ("eurosat",)
    assert selection.seeds == (1, 2, 3) and selection.options == tuple(PAIRS)


def test_pairs_of_a_sweep_come_after_its_options():
    from nerp.commands.sweep import _selection

    args = parsed("sweep OPTIM.LR 1 --protocol B2N --options TRAIN.PRINT_FREQ 1 --options SEED 2")
    assert _selection(args, looking=False).options == (
        "TRAIN.PRINT_FREQ", "1", "SEED", "2", "OPTIM.LR", "1")


@pytest.mark.parametrize("line", [
    "sweep --seeds 1 mine.yaml", "table --seeds 1 2 mine.yaml", "plot --seeds 1 -- mine.yaml",
    "table --protocol few_shot mine.yaml",
])
def test_a_file_or_folder_may_follow_a_list(line):
    args = parsed(line)
    assert "mine.yaml" in (args.what if line.startswith("sweep") else args.folders)


def test_a_run_may_follow_a_grid():
    args = parsed("sweep-nerp --grid TAU=-1,0 THRES=1 mine/corrected")
    assert args.grid == ["TAU=-1,0", "THRES=1"] and args.run == "mine/corrected"


@pytest.mark.parametrize(("line", "message"), [
    ("demo --seeds one", "whole number"), ("sweep --seeds one", "whole numbers"),
    ("sweep --methods OPTIM.LR 1", "a configuration key, and no name"),
    ("table --protocol few", "unknown table 'few'"),
    ("sweep-nerp mine --grid TAU", "no KEY=VALUES"),
])
def test_the_first_word_of_a_list_has_to_fit(line, message):
    with pytest.raises(argparse.ArgumentError, match=message):
        parsed(line)


def test_a_command_without_pairs_says_that_it_takes_none(nerp):
    status, _, error = nerp("study", "--seeds", "1", "--methods", "CoOp", "OPTIM.LR", "1")
    assert status == 1 and "unrecognized arguments: OPTIM.LR 1" in error
