"""Averaging log files over seeds, as users of CoOp's family know it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "parse_test_res.py"


def block(accuracy):
    f1 = accuracy - 1
    return f"=> result\n* total: 1,000\n* accuracy: {accuracy:.2f}%\n* macro_f1: {f1:.2f}%\n"


def write(folder, seed, text):
    (folder / f"seed{seed}").mkdir(parents=True)
    (folder / f"seed{seed}" / "log.txt").write_text(text)


@pytest.fixture
def tests(tmp_path):
    for seed, accuracy in ((1, 90.0), (2, 92.0), (10, 97.0)):
        write(tmp_path / "MMRL", seed, "** Configuration **\n" + block(accuracy))
    return tmp_path / "MMRL"


def parse(*args):
    command = [sys.executable, str(TOOL), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True)


def test_each_seed_the_mean_and_the_standard_deviation_are_printed(tests):
    result = parse(tests, "--test-log")
    assert result.returncode == 0
    found = re.findall(r"seed(\d+)/log.txt. accuracy: ([\d.]+)%", result.stdout)
    assert found == [("1", "90.00"), ("2", "92.00"), ("10", "97.00")]
    assert "* accuracy: 93.00% +- 2.94%" in result.stdout  # divided by n, as numpy's std


def test_the_confidence_interval_takes_the_place_of_the_deviation(tests):
    assert "* accuracy: 93.00% +- 3.33%" in parse(tests, "--test-log", "--ci95").stdout


def test_another_line_of_the_result_can_be_asked_for(tests):
    assert "* macro_f1: 92.00%" in parse(tests, "--test-log", "--keyword", "macro_f1").stdout


def test_in_a_training_log_only_what_follows_training_counts(tmp_path):
    write(tmp_path, 1, block(10.0) + "Finish training\n" + block(80.0))
    assert "* accuracy: 80.00%" in parse(tmp_path).stdout


def test_the_last_result_of_a_log_counts(tmp_path):
    write(tmp_path, 1, "Finish training\n" + block(80.0) + "Finish training\n" + block(81.0))
    assert "* accuracy: 81.00%" in parse(tmp_path).stdout


def test_several_experiments_are_averaged_together(tests):
    write(tests.parent / "CoOp", 1, block(80.0))
    result = parse(tests.parent, "--test-log", "--multi-exp")
    assert "* accuracy: 80.00% +- 0.00%" in result.stdout
    assert result.stdout.endswith("Average performance\n* accuracy: 86.50%\n")


def test_a_log_without_a_result_is_named_and_counted(tests):
    write(tests, 3, "nothing yet\n")
    result = parse(tests, "--test-log")
    assert "seed3/log.txt. no result" in result.stdout
    assert "* accuracy: 93.00% +- 2.94% (3 of 4 folders)" in result.stdout


def test_a_seed_without_a_log_is_named_and_counted(tests):
    (tests / "seed3").mkdir()
    result = parse(tests, "--test-log")
    assert "seed3/log.txt. no such file" in result.stdout and "(3 of 4 folders)" in result.stdout


@pytest.mark.parametrize(("where", "message"), [
    ("MMRL", "logs of tests need --test-log"), ("nowhere", "no such folder"), (".", "no result in"),
])
def test_without_a_result_it_fails_and_says_why(tests, where, message):
    result = parse(tests.parent / where)
    assert result.returncode == 1
    assert message in result.stderr
