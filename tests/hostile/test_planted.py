"""Links and pipes in every place that a command writes to: nothing outside its folders changes.

The places are found, not listed: each command is carried out once, and what it has written is where
links and pipes are then planted.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import write_eurosat
from hostile import PLANTED, bounded, drawing, is_one_line, tree

from nerp import cli
from nerp.base.beside import fresh_folder, make_folder, open_appended, open_locked, own_folder
from nerp.base.errors import DiskError
from nerp.commands.forked import FRESH

OPTIONS = ["DATASET.NUM_SHOTS", "2", "OPTIM.MAX_EPOCH", "1", "DATALOADER.TRAIN_X.BATCH_SIZE", "5"]
OF_COOP = ["TRAINER.COOP.N_CTX", "4"]


def commands(work: Path, weights: Path) -> dict[str, list[str]]:
    """Command lines that write below `work`, each after those before it."""
    common = ["--root", str(work / "data"), "--dataset", "eurosat", "--config-file",
              "configs/trainers/CoOp/vit_b16_ep50.yaml"]
    options = ["MODEL.BACKBONE.PATH", str(weights), *OPTIONS]
    return {
        "train": ["train", "--trainer", "CoOp", *common, "--output-dir", str(work / "train"),
                  *options, *OF_COOP, "DATASET.SUBSAMPLE_CLASSES", "base"],
        "test": ["test", "--trainer", "CoOp_NeRP", *common, "--model-dir", str(work / "train"),
                 "--output-dir", str(work / "test"), "--save-logits", "--save-confusion", *options,
                 *OF_COOP, "DATASET.SUBSAMPLE_CLASSES", "new"],
        "zero": ["test", "--trainer", "ZeroshotCLIP", *common[:-2], "--output-dir",
                 str(work / "zero"), *options[:2]],
        "explain": ["explain", str(work / "test")],
        "grid": ["sweep-nerp", str(work / "test"), "--grid", "gap=0,1"],
    }


def written(before: set[str], work: Path) -> list[str]:
    """The places below `work` that are new: files, and folders that hold them."""
    return sorted({str(path.relative_to(work)) for path in work.rglob("*")} - before)


@pytest.fixture(scope="module")
def steps(tmp_path_factory, golden_weights):
    """(name, the folder before the command, the places it writes to, among them the files that it
    locks and those that are on their way), for each command."""
    work = tmp_path_factory.mktemp("planted") / "work"
    write_eurosat(work / "data", per_class=4)
    found = []
    for name, line in commands(work, golden_weights).items():
        before = work.with_name(f"before {name}")
        shutil.copytree(work, before, symlinks=True)
        there = {str(path.relative_to(work)) for path in work.rglob("*")}
        assert cli.run(line) == 0, name
        # The folders that are given may be links.
        places = [place for place in written(there, work) if "/" in place]
        places += [str(Path(place).with_name(f".{Path(place).name}.abcd1234.partial"))
                   for place in places if (work / place).is_file()]
        found += [(name, before, place) for place in places]
    return work, found


@pytest.mark.parametrize("count", [8, pytest.param(400, marks=pytest.mark.slow)])
def test_nothing_outside_changes_and_nothing_waits(count, steps, golden_weights, tmp_path, capsys):
    work, found = steps
    cases = [(*step, kind) for step in found for kind in PLANTED]
    names = {name for name, *_ in found}
    assert len(names) == 5 and any(place.endswith(".lock") for _, _, place in found)
    drawing(23).shuffle(cases)
    for i, (name, before, place, kind) in enumerate(cases[:count]):
        outside = tmp_path / f"outside{i}"
        outside.mkdir()
        (outside / "keys").write_text("a key\n")
        kept = tree(outside)
        shutil.rmtree(work)
        shutil.copytree(before, work, symlinks=True)
        (work / place).parent.mkdir(parents=True, exist_ok=True)
        PLANTED[kind](work / place, outside)
        capsys.readouterr()
        with bounded():
            status = cli.run(commands(work, golden_weights)[name])
        error = capsys.readouterr().err
        assert tree(outside) == kept, f"{name}: {kind} at {place}"
        assert status == 0 or (status == 1 and is_one_line(error)
                               and "--debug shows" not in error), f"{name}, {place}: {error}"


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("opened", [open_appended, open_locked])
def test_only_regular_files_of_ones_own_are_opened(opened, kind, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "keys").write_text("a key\n")
    PLANTED[kind](tmp_path / "place", tmp_path / "outside")
    with bounded(seconds=10), pytest.raises(DiskError) as error:
        opened(tmp_path / "place")
    assert is_one_line(error.value) and str(tmp_path / "place") in str(error.value)
    assert tree(tmp_path / "outside").keys() == {"keys"}


def test_what_is_locked_is_left_as_it_is(tmp_path):
    (tmp_path / "a").write_text("text")
    with open_locked(tmp_path / "a"):
        pass
    assert (tmp_path / "a").read_text() == "text"


@pytest.mark.parametrize("place", ["a", "a/b"])
def test_a_folder_is_not_made_through_a_link_that_leads_out(place, tmp_path):
    (tmp_path / "outside").mkdir()
    given = tmp_path / "given"
    (given / place).parent.mkdir(parents=True)
    (given / place).symlink_to(tmp_path / "outside")
    with pytest.raises(DiskError, match="a link that leads out of"):
        make_folder(given / "a" / "b" / "c", given)
    assert not [*(tmp_path / "outside").iterdir()]
    (given / place).unlink()
    (given / "inner").mkdir()
    (given / place).symlink_to(given / "inner")  # one that stays inside is as good as any
    assert make_folder(given / place / "c", given).is_dir()


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("make", [fresh_folder, own_folder])
@pytest.mark.parametrize("inside", [False, True])
def test_a_folder_of_our_own_holds_nothing_that_is_not_ours(inside, make, kind, tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.mkdir()
    (outside / "keys").write_text("a key\n")
    if inside:
        (folder / "inner").mkdir(parents=True)
    PLANTED[kind](folder / "inner" / "x" if inside else folder, outside)
    make(folder)
    assert [*folder.iterdir()] == [] and not folder.is_symlink()
    assert tree(outside).keys() == {"keys"}


def test_a_kept_folder_of_our_own_stays(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "part").write_text("half")
    assert (own_folder(tmp_path / "a") / "b" / "part").read_text() == "half"


# What the current folder has beside a selection: modules called like what is imported.
TRAPS = ("tqdm", "torch", "yaml", "numpy", "nerp", "submitit", "pkgutil")


@pytest.mark.parametrize("how", ["forked", "fresh"])
def test_a_sweep_runs_nothing_of_the_current_folder(how, tmp_path):
    for name in TRAPS:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\n")
    code = ("import sys; from nerp.experiments.server import Server; "
            "s = Server(sys.argv[1] if len(sys.argv) == 2 else sys.argv[1:]); "
            "print(s.start(['--version'], None, {}).wait()); s.close()")
    program = FRESH if how == "fresh" else ("nerp.commands.forked",)
    starter = [sys.executable, "-c", f"import sys; sys.path[:] = sys.path[1:]\n{code}", *program]
    done = subprocess.run(starter, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("0\n"), done.stderr
    assert not (tmp_path / "sprung").exists()


SAID = {"OUTPUT_DIR": "--output-dir", "DATASET.ROOT": "--root"}


@pytest.mark.parametrize("name", SAID)
@pytest.mark.parametrize("where", ["--dataset-config-file", "--config-file", "PER_DATASET",
                                   "options", "nested"])
def test_no_file_says_where_this_machine_has_its_files(name, where, tmp_path, nerp):
    top, _, leaf = name.partition(".")
    said = {name: "x"} if where == "nested" or not leaf else {top: {leaf: "x"}}
    file = tmp_path / "mine.yaml"
    if where == "options":
        file.write_text(json.dumps({"protocol": "B2N", "options": {name: "x"}}))
        line = ["sweep", file, "--dry-run"]
    else:
        content = {"PER_DATASET": {"EuroSAT": said}} if where == "PER_DATASET" else said
        flag = "--config-file" if where in ("PER_DATASET", "nested") else where
        if flag == "--dataset-config-file":
            content = {**content, "DATASET": {**content.get("DATASET", {}), "NAME": "EuroSAT",
                                              "DIRECTORY": "eurosat"}}
        others = ["--dataset", "eurosat"] if flag == "--config-file" else []
        file.write_text(json.dumps(content))
        line = ["test", "--trainer", "ZeroshotCLIP", *others, flag, file]
    status, _, error = nerp(*line)
    assert status == 1 and is_one_line(error)
    assert f"{name}: a file must not set this; {SAID[name]} does" in error and str(file) in error


@pytest.mark.parametrize("name", ["output", "root"])
def test_a_selection_does_not_say_where_either(name, tmp_path, nerp):
    (tmp_path / "s.yaml").write_text(f"protocol: B2N\n{name}: x\n")
    status, _, error = nerp("sweep", tmp_path / "s.yaml", "--dry-run")
    assert status == 1 and f"s.yaml: {name}: a selection does not say this; --{name} does" in error


@pytest.mark.parametrize("looks", [["FILE", "--dry-run"], ["status", "FILE"],
                                   ["status", "--output", "OUTPUT"]])
def test_nothing_is_imported_because_a_file_says_so(looks, tmp_path, nerp):
    mine = tmp_path / f"{tmp_path.name}.py"  # imported once under a name
    mine.write_text(f"open({str(tmp_path / 'sprung')!r}, 'a').write('x')\n")
    (tmp_path / "sweeps").mkdir()
    file = tmp_path / "sweeps" / "s.yaml"
    file.write_text(json.dumps({"protocol": "B2N", "methods": ["CoOp"], "imports": [str(mine)]}))
    line = [str(file) if word == "FILE" else str(tmp_path) if word == "OUTPUT" else word
            for word in looks]
    status, _, error = nerp("sweep", *line)
    assert status == 1 and is_one_line(error) and not (tmp_path / "sprung").exists()
    assert f"if you trust it, add --import {mine}" in error
    status, _, error = nerp("sweep", *line, "--import", mine)
    assert status == 0, error
    assert (tmp_path / "sprung").exists()
