"""What a terminal of few columns shows, and a pipe: no word is cut, no table wider than 80."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from nerp.base.log import _Terminal, logger, say
from nerp.base.printable import broken, fitted
from nerp.cli import COMMANDS

REPO = Path(__file__).parents[1]
LINE = "nerp: error: no checkpoint below mine/train/seed1; --model-dir is a training's folder"


@pytest.fixture
def terminal():
    """An open terminal of 40 columns, as a stream, and what was written to it."""
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("4H", 20, 40, 0, 0))
    with open(writer, "w") as stream:
        yield stream, lambda: os.read(reader, 65536).decode().replace("\r\n", "\n")
    os.close(reader)


def test_a_terminal_gets_whole_words_and_a_file_gets_whole_lines(terminal, tmp_path):
    shown = fitted(f"{LINE}\nshort", terminal[0]).splitlines()
    assert max(map(len, shown)) <= 40 and shown[-1] == "short"
    assert " ".join(map(str.strip, shown[:-1])) == LINE
    with (tmp_path / "log").open("w") as file:
        assert fitted(LINE, file) == LINE


def test_a_path_stays_in_one_piece():
    path = "output/base2new/train_base/" + "a-b" * 30
    assert broken(f"results in {path}, checkpoint:", 40).splitlines()[1].strip() == f"{path},"


def test_what_a_run_says_is_broken_between_words(terminal, monkeypatch):
    stream, written = terminal
    monkeypatch.setattr(sys, "stdout", stream)
    handler = _Terminal()
    logger.addHandler(handler)
    try:
        say(LINE)
    finally:
        logger.removeHandler(handler)
    assert max(map(len, written().splitlines())) <= 40


def test_what_a_script_says_is_broken_between_words(terminal):
    stream, written = terminal
    script = REPO / "scripts/lib/environment.sh"
    environment = {**os.environ, "NERP_EXTRAS": "../nothing of this kind", "TERM": "xterm"}
    result = subprocess.run(["bash", script], env=environment, stderr=stream, stdin=stream)
    lines = written().splitlines()
    assert result.returncode == 1 and len(lines) > 1 and max(map(len, lines)) <= 40
    assert "".join(lines).startswith("error: NERP_EXTRAS=../nothing of this kind: tensorboard,hub")
    piped = subprocess.run(["bash", script], env=environment, capture_output=True, text=True)
    assert piped.stderr.count("\n") == 1


def test_a_reader_of_the_help_may_leave(monkeypatch, capfd):
    from nerp import cli

    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert cli.run(["help"]) == 0
    assert capfd.readouterr().err == ""


def test_an_error_is_broken_between_words(terminal, monkeypatch):
    from nerp import cli

    stream, written = terminal
    monkeypatch.setattr(sys, "stderr", stream)
    assert cli.run(["test", "--trainer", "MMLR", "--dataset", "demo_landcover"]) == 1
    lines = written().splitlines()
    assert lines[0].startswith("nerp: error: unknown trainer 'MMLR'.")
    assert max(map(len, lines)) <= 40


@pytest.mark.parametrize("words", [["--help"], *(["help", name] for name in COMMANDS)])
def test_every_help_fits_80_columns(nerp, capsys, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "80")
    try:
        _, text, _ = nerp(*words)
    except SystemExit:
        text = capsys.readouterr().out
    assert text.startswith("usage: nerp") and max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("words", [["data", "list"], ["backbones"], ["methods"]])
def test_every_list_fits_80_columns(nerp, monkeypatch, tmp_path, words):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    status, text, _ = nerp(*words)
    table = text.split("\n\nlicence")[0]
    assert status == 0 and max(map(len, table.splitlines())) <= 80
