"""DATASETS.md agrees with the cards, and its example runs as it is written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nerp.base.registry import LAYOUTS
from nerp.data.sources import read_sources
from nerp.settings.cards import find_card, open_card, shipped_cards
from nerp.settings.catalogue import catalogue
from nerp.settings.defaults import default_config

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "DATASETS.md").read_text()
BENCHMARKS = [name for name in shipped_cards() if not name.startswith("demo_")]
URL = r"https?://[^\s<>()]+[^\s<>().,;:]"


def sections() -> dict[str, tuple[str, str]]:
    """Card name -> registry name and text of its section."""
    parts = re.split(r"^###? (.+)\n", TEXT, flags=re.MULTILINE)
    found = {}
    for title, text in zip(parts[1::2], parts[2::2], strict=True):
        match = re.fullmatch(r"(\w+) \(`(\w+)`\)", title)
        if match:
            found[match[2]] = match[1], text
    return found


def tree(text: str) -> set[str]:
    """The paths in a folder tree: one name per line, indented by four spaces per level."""
    paths, above = set(), []
    for line in re.search(r"```\n(.+?)\n```", text, re.DOTALL)[1].splitlines():
        name = line.split("#")[0].strip()
        level = (len(line) - len(line.lstrip())) // 4
        above[level:] = [name.rstrip("/")]
        paths.add("/".join(above))
    return paths


def parents(path: str) -> set[str]:
    parts = path.split("/")
    return {"/".join(parts[:i]) for i in range(1, len(parts) + 1)}


def test_every_benchmark_has_its_section():
    found = sections()
    assert sorted(found) == sorted(BENCHMARKS)
    for name, (registry_name, _) in found.items():
        assert find_card(registry_name) == shipped_cards()[name]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_section_agrees_with_its_card(name):
    card, sources = (cfg := open_card(find_card(name), "data")).DATASET, read_sources(cfg)
    text = sections()[name][1]
    flat = " ".join(text.split())

    needed = [*(result for source in sources for result in source.results),
              card.IMAGE_FOLDER, card.CLASS_FILE,
              *(card.SPLIT_FILE.format(split) for split in ("train", "val", "test"))]
    paths = (f"{card.DIRECTORY}/{path}".rstrip("/") for path in needed)
    assert tree(text) == set().union(*map(parents, paths))

    assert f"{card.NUM_CLASSES} classes;" in flat
    for size, kind in zip(card.SPLIT_SIZES, ("training", "validation", "test"), strict=True):
        assert (f"{size:,} {kind}" in flat) == (size > 0)
    assert f"Licence: {card.LICENCE}." in flat

    steps = " ".join(source.step for source in sources)
    addresses = {url for source in sources for url in source.addresses}
    assert set(re.findall(URL, flat)) == addresses | set(re.findall(URL, steps))
    for source in sources:
        assert f"`{source.file}`" in flat or source.step and not source.file
        assert not source.size or f"{source.size:,} bytes" in flat
        assert all(f"`{member}`" in flat for member in source.unpack)
        assert not source.within or f"`{source.within}`" in flat
        assert source.step[1:] in flat


def test_each_of_the_fifteen_but_imagenet_has_the_mirror_that_the_page_names():
    fifteen = catalogue()["benchmarks"]["CoOp's fifteen"]
    (mirror,) = re.findall(r"\[([\w/]+)\]\(https://huggingface.co/\1\)", TEXT)
    for name in BENCHMARKS:
        sources = read_sources(open_card(find_card(name), "data"))
        if name not in fifteen:
            assert not any(source.mirror for source in sources)
            continue
        assert {source.mirror for source in sources} == {mirror if name != "imagenet" else ""}


def test_every_layout_and_key_is_explained():
    for layout in LAYOUTS.names():
        assert f"\n| `{layout}` |" in TEXT
    of_a_run = {"ROOT", "NUM_SHOTS", "SUBSAMPLE_CLASSES", "FEW_SHOT_FILE"}
    keys = set(default_config().DATASET) - of_a_run
    rows = re.findall(r"^\| ((?:`[A-Z_]+`(?:, )?)+) \|", TEXT, re.MULTILINE)
    assert {key for row in rows for key in re.findall("[A-Z_]+", row)} == keys


def test_the_example_runs_as_written(tmp_path):
    block = re.search(r"<!-- tests/data/test_documentation.py .*?-->\n```bash\n(.+?)```", TEXT,
                      re.DOTALL)[1]
    for name, command in (("nerp", "-m nerp"), ("python", "")):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {command} "$@"\n')
        program.chmod(0o755)
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[0] == "Shapes: ok"
    assert lines[1] == "  data/shapes: train 32, val 0, test 16; 2 classes"
    assert (tmp_path / lines[3]).is_file()
