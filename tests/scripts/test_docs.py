"""Every block of commands of every page runs as printed, in its order.

What a page marks with <!-- download --> needs data or weights that are not here: it runs against
made folders, with `stub.py` for the runs, and its command lines are read as the real ones are. The
rest runs for real, on the shipped world. Lines of `$ nerp` in blocks of text, and commands within
sentences, do not run: their options are those that the command has.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nerp.cli import COMMANDS
from nerp.commands import add_arguments, command_module, parse
from nerp.experiments.plan import Selection, plan
from nerp.files.yaml_file import load_yaml
from nerp.settings.cards import shipped_cards
from nerp.settings.catalogue import methods

REPO = Path(__file__).parents[2]
PAGES = [str(page.relative_to(REPO))
         for page in (*sorted(REPO.glob("*.md")), *sorted((REPO / "docs").rglob("*.md")))]
MARK = "<!-- download -->\n"
STUB = REPO / "tests" / "experiments" / "stub.py"
# `nerp` and `python` of the page's environment.
PROGRAM = f"""#!{sys.executable}
import os, runpy, sys
from nerp import cli
from nerp.commands import forked

real, find = cli.run, cli.command_module

def stand_in(name):
    module = find(name)
    if name not in ("sweep", "table", "plot", "methods", "completion"):
        module.main = read if name in ("train", "test") else lambda args: 0
    return module

def read(args):
    from nerp.commands.common import request
    from nerp.settings.resolve import resolve
    directory = resolve(request(args), cli.argv[0]).directory
    sys.argv[1:] = [*cli.argv, "--output-dir", str(directory)]
    runpy.run_path({str(STUB)!r}, run_name="__main__")

def quick(argv):
    if argv[0] in ("train", "demo"):
        return [argv[0], "OPTIM.MAX_EPOCH", "1", *argv[1:]]
    return argv

def run(argv):
    if argv[0] == "sweep" and os.environ["DOCS"] == "stub":
        argv = ["sweep", "--fresh", *argv[1:]]
    cli.argv = argv = quick(argv) if os.environ["DOCS"] == "quick" else argv
    return real(argv)

if os.environ["DOCS"] == "stub":
    cli.command_module = stand_in
    forked.FRESH = (sys.executable, {str(STUB)!r})
cli.run = run
"""
NERP = "sys.exit(run(sys.argv[1:]))\n"
PYTHON = """del sys.argv[0]
if sys.argv[0] == "-":
    exec(sys.stdin.read())
else:
    runpy.run_path(sys.argv[0], run_name="__main__")
"""
# The package is there already; that it can be installed is what other tests show.
PIP = '#!/bin/sh\n[ "$*" = "install ." ] && [ -f pyproject.toml ]\n'


def blocks(page, language, marked=None):
    """The fenced blocks of a page in a language; `marked`: only those that need a download, or
    only the others."""
    fence = rf"^({MARK})?```{language}\n(.*?)^```$"
    found = re.findall(fence, (REPO / page).read_text(), re.MULTILINE | re.DOTALL)
    return [text for mark, text in found if marked is None or bool(mark) == marked]


class Parser(argparse.ArgumentParser):
    """Of a command; raises what the command line's own would say."""

    def __init__(self, command):
        super().__init__(prog=f"nerp {command}")
        add_arguments(self, command_module(command))

    def error(self, message):
        raise AssertionError(f"{self.prog}: {message}")


def typed():
    """Page and words after `nerp`, for every command line in the blocks of every page."""
    for page in PAGES:
        for block in (*blocks(page, "bash"), *blocks(page, "text")):
            for line in block.replace("\\\n", " ").splitlines():
                found = re.match(rf"(?:\$ .*?\b)?nerp ((?:{'|'.join(COMMANDS)})(?: .*)?)$", line)
                if found:
                    yield page, shlex.split(found[1].split(" | ")[0], comments=True)


def spanned():
    """Page, command and option, for every option that a command has in a sentence of a page."""
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", (REPO / page).read_text(), flags=re.M | re.S)
        for command, rest in re.findall(r"`nerp ([a-z-]+) ([^`]*)`", text):
            yield from ((page, command, option) for option in re.findall(r"(?<!\S)--[\w-]+", rest))


@pytest.fixture
def run(tmp_path):
    """Runs commands in a folder that is like a fresh clone whose environment stands ready."""
    for name in ("scripts", "tools", "configs", "pyproject.toml"):
        (tmp_path / name).symlink_to(REPO / name)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "activate").write_text(f"PATH='{programs}':$PATH\n")
    for name, text in (("nerp", PROGRAM + NERP), ("python", PROGRAM + PYTHON), ("pip", PIP)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    stamp = "cat pyproject.toml scripts/lib/constraints.txt | cksum"
    ready = subprocess.check_output(["bash", "-c", stamp], cwd=REPO)
    (programs.parent / ".ready").write_bytes(ready)

    def run(commands, mode, before=""):
        lines = ["set -euo pipefail", ". .venv/bin/activate"]
        result = subprocess.run(
            ["bash", "-c", "\n".join([*lines, *(f"{before}\n{block}" for block in commands)])],
            cwd=tmp_path, capture_output=True, text=True,
            env={**os.environ, "NERP_VENV": str(programs.parent), "PYTHONPATH": str(REPO),
                 "DOCS": mode, "OMP_NUM_THREADS": "1"},
        )
        assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
        return result.stdout

    return run


# Where blocks of commands stand: these tests, or test_extending's, run them.
RUN = ["README.md", "DATASETS.md", "docs/experiments.md", "docs/extending.md", "docs/nerp.md",
       "docs/openworld.md"]


@pytest.mark.parametrize(("page", "words"), list(typed()), ids=lambda value: " ".join(value)
                         if isinstance(value, list) else value)
def test_a_command_line_of_a_page_is_one_that_the_command_takes(page, words):
    parse(Parser(words[0]), words[1:])


def test_a_command_line_with_an_option_that_there_is_not_is_seen():
    for words in (["table", "runs", "--outptu", "t.csv"], ["export"], ["sweep", "--seeds", "one"]):
        with pytest.raises(AssertionError, match=f"^nerp {words[0]}: "):
            parse(Parser(words[0]), words[1:])


def test_an_option_of_a_command_in_a_sentence_is_one_that_it_has():
    found = list(spanned())
    assert len(found) > 10
    for page, command, option in found:
        assert option in Parser(command)._option_string_actions, f"{page}: {command} {option}"


@pytest.fixture
def pretend(run, tmp_path):
    """Runs blocks of commands with made folders for the data and a stub for the runs."""
    for card in shipped_cards().values():
        directory = load_yaml(card)["DATASET"]["DIRECTORY"]
        (tmp_path / "data" / directory).mkdir(parents=True, exist_ok=True)
    # Two datasets and one seed, where the page does not say: its commands are what is tested.
    return lambda blocks: run(blocks, "stub", 'export SEEDS=1 DATASETS="eurosat ucf101"')


def test_a_page_has_no_commands_that_are_not_run():
    for page in PAGES:
        fences = re.findall(r"^```(\w*)$", (REPO / page).read_text(), re.MULTILINE)
        assert set(fences) <= {"", "bash", "python", "text", "bibtex", "sh", "yaml", "toml"}, page
        assert "bash" not in fences or page in RUN, page
        # README's two commands to begin with, the one sets up, the other runs this; CONTRIBUTING's.
        assert ("sh" in fences) == (page in ("README.md", "CONTRIBUTING.md"))


def test_the_experiments_run_from_top_to_bottom(pretend, tmp_path):
    printed = pretend(blocks("docs/experiments.md", "bash"))
    assert (tmp_path / "table.tex").is_file()
    assert len(list((tmp_path / "figures").iterdir())) == 4
    # A method takes training, two tests, and both with NeRP; zero-shot CLIP two tests; PromptKD
    # its teacher too, PLOT++ its first stage, TaskRes no tests on novel classes.
    runs = 2 + 5 * (len(methods()) - 1) + 1 + 1 - 2
    assert f"\n{2 * runs}\n" in printed  # 2 datasets, 1 seed
    text = " ".join((REPO / "docs" / "experiments.md").read_text().split())
    assert f"those of all methods: {len(plan(Selection('base_to_novel')))}." in text


@pytest.mark.parametrize("page", ["README.md", "DATASETS.md"])
def test_what_needs_a_download_runs_against_made_files(page, pretend):
    commands = blocks(page, "bash", marked=True)
    assert commands
    pretend(commands)


@pytest.mark.parametrize("mode", ["quick", pytest.param("as printed", marks=pytest.mark.slow)])
def test_the_readme_runs_on_the_shipped_world(mode, run, tmp_path):
    """Quick: one epoch. docs/nerp.md's commands work on what README's leave."""
    commands = [block for page in ("README.md", "docs/nerp.md")
                for block in blocks(page, "bash", marked=False)]
    printed = run(commands, mode)
    assert "configuration: configs/trainers/MMRL/tiny.yaml, which" in printed
    assert (tmp_path / "mine/corrected/explain.html").is_file()
    assert (tmp_path / "pairs.json.gz").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("page", ["docs/experiments.md", "docs/openworld.md"])
def test_a_page_of_experiments_runs_on_the_shipped_world(page, run):
    assert "DemoLandcover" in run(blocks(page, "bash", marked=False), "as printed")


def test_the_library_example_prints_what_the_readme_says(capsys):
    (example,) = blocks("README.md", "python")
    exec(example, {})
    assert capsys.readouterr().out == example.splitlines()[-1].removeprefix("# ") + "\n"


def test_the_readme_begins_with_its_title_and_the_two_commands():
    title, said, fence = (REPO / "README.md").read_text().split("\n\n")[:3]
    assert title == "# nerp" and fence.startswith("```sh\nbash scripts/demo.sh ")
    assert said.count(". ") == 0  # one sentence: what it is, and for whom


def test_every_link_of_a_page_leads_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)\)", (REPO / page).read_text()):
            if not target.startswith(("http:", "https:")):
                assert (REPO / page).parent.joinpath(target).exists(), f"{page}: {target}"


def test_the_citations_agree():
    (entry,) = blocks("docs/nerp.md", "bibtex")
    cited = yaml.safe_load((REPO / "CITATION.cff").read_text())["preferred-citation"]
    people = " and ".join(f"{p['given-names']} {p['family-names']}" for p in cited["authors"])
    for part in (cited["title"], people, str(cited["year"]), cited["url"].rsplit("/", 1)[-1]):
        assert "{" + part + "}" in entry
