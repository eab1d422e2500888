"""Commands on runs, cards and lists whose fields are of another type: a line."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from hostile import (
    FILES,
    STRANGE,
    bounded,
    drawing,
    flips,
    is_one_line,
    other_types,
    write_json,
)

from nerp import cli
from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.data.benchmark import read_benchmark
from nerp.data.sources import read_sources
from nerp.engine.cache import read_kept
from nerp.settings.cards import open_card
from nerp.settings.defaults import KEYS, _method_keys, dataset_defaults
from nerp.settings.protocols import TRAINING_SUFFIXES

OPTIONS = ["DATASET.NUM_SHOTS", "2", "OPTIM.MAX_EPOCH", "1", "TRAINER.COOP.N_CTX", "4",
           "DATALOADER.TRAIN_X.BATCH_SIZE", "5"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, golden_weights, eurosat_root):
    """A folder with a CoOp training and a NeRP test of it; and the arguments of both."""
    folder = tmp_path_factory.mktemp("runs")
    common = ["--root", str(eurosat_root), "--dataset", "eurosat", "--config-file",
              "configs/trainers/CoOp/vit_b16_ep50.yaml"]
    options = ["MODEL.BACKBONE.PATH", str(golden_weights), *OPTIONS]
    train = ["train", "--trainer", "CoOp", *common, "--output-dir", str(folder / "train"),
             *options, "DATASET.SUBSAMPLE_CLASSES", "base"]
    test = ["test", "--trainer", "CoOp_NeRP", *common, "--model-dir", str(folder / "train"),
            *options, "DATASET.SUBSAMPLE_CLASSES", "new", "NERP.RULE", "flip", "NERP.TAU", "-9",
            "NERP.THRES", "9"]
    assert cli.run(train) == 0
    assert cli.run([*test, "--save-logits", "--output-dir", str(folder / "test")]) == 0
    return folder, test


@pytest.fixture
def run(runs, tmp_path):
    """A copy of the folder, to be spoilt."""
    folder = tmp_path / "runs"
    shutil.copytree(runs[0], folder)
    return folder


@pytest.fixture
def attack(capsys):
    """A command line that says one line of error, or none and succeeds: its status."""

    def attack(*argv) -> int:
        capsys.readouterr()
        with bounded():
            status = cli.run([str(arg) for arg in argv])
        error = capsys.readouterr().err
        assert "--debug shows" not in error, f"unforeseen: {error}"
        assert (status, bool(error)) == (0, False) or (status == 1 and is_one_line(error)), error
        return status

    return attack


@pytest.fixture(params=["some", pytest.param("all", marks=pytest.mark.slow)])
def few(request):
    """So many of generated cases, drawn at random; or all of them."""

    def few(cases, count):
        cases = list(cases)
        return drawing(4).sample(cases, count) if request.param == "some" else cases

    return few


def test_a_record_with_a_field_of_another_type(run, attack, few):
    file = run / "test" / "result.json"
    whole = json.loads(file.read_text())
    for where, content in few(other_types(whole), 45):
        write_json(file, content)
        statuses = {attack("table", run / "test"), attack("plot", run / "test", "--output-dir",
                                                          run / "plots")} if _shown(where) else {0}
        if where.startswith("nerp.rule"):
            statuses.add(attack("sweep-nerp", run / "test", "--grid", "TAU=0,1", "--output-dir",
                                run / "sweep"))
        assert statuses <= {0, 1}, where


def _shown(where: str) -> bool:
    """Whether tables have anything to do with it; the counts of single classes are not read."""
    return not where.startswith(("per_class", "nerp.by_", "versions", "nerp.asymmetry"))


@pytest.mark.parametrize("name", ["accuracy", "kind", "classes", "shots", "seed", "task"])
def test_what_a_table_is_made_of_is_refused_where_it_is_something_else(name, run, attack):
    file = run / "test" / "result.json"
    whole = json.loads(file.read_text())
    for value in (*STRANGE, 1e308, "nan", -0.1, 100.1):
        write_json(file, whole | {name: value})
        fits = name in ("shots", "seed") and type(value) is int and -1 <= value < 10
        fits |= (name == "accuracy" and type(value) in (int, float) and 0 <= value <= 100)
        fits &= not (name == "seed" and value == -1)
        assert attack("table", run / "test") == (0 if fits else 1), value


@pytest.mark.parametrize("file", ["result.json", "predictions.npz", "config.yaml"])
@pytest.mark.parametrize("kind", FILES)
def test_a_run_with_a_file_that_is_none(file, kind, run, attack):
    (run / "test" / file).unlink()
    FILES[kind](run / "test" / file)
    readable = (file, kind) == ("config.yaml", "not finite")  # names of numbers, and no more
    assert attack("explain", run / "test") == (0 if readable else 1)
    attack("table", run / "test")
    assert file == "config.yaml" or attack("sweep-nerp", run / "test", "--grid", "TAU=0,1") == 1


ARRAYS = {
    "of other numbers": lambda a: a.astype(np.complex64) if a.dtype.kind == "f" else a + 0.5
    if a.dtype.kind in "iu" else np.arange(len(a)),
    "of another shape": lambda a: a[None], "shorter": lambda a: a[:-1], "empty": lambda a: a[:0],
    "flat": lambda a: a.ravel()[:1], "objects": lambda a: a.astype(object),
    "bytes": lambda a: np.zeros(a.shape, "S3"),
    "not finite": lambda a: np.where(np.arange(a.size).reshape(a.shape) == 3, np.nan, a)
    .astype(a.dtype) if a.dtype.kind == "f" else a[::-1][:-1],
    "beyond": lambda a: a + 10**6 if a.dtype.kind in "iu" else a[:-1],
    "the other byte order": lambda a: a.astype(a.dtype.newbyteorder(">")),
}


@pytest.mark.parametrize("change", ARRAYS)
def test_predictions_of_another_type_or_shape(change, run, attack):
    file = run / "test" / "predictions.npz"
    with np.load(file) as content:
        arrays = dict(content)
    for name, array in arrays.items():
        if name == "pairs" and change in ("shorter", "not finite") or not array.ndim:
            continue  # another list of pairs, and as good as any; whose run it is, is a text
        np.savez(file, **arrays | {name: ARRAYS[change](array)})
        assert attack("explain", run / "test") == 1, name


def test_a_configuration_with_a_field_of_another_type(run, attack, few):
    file = run / "test" / "config.yaml"
    whole = yaml.safe_load(file.read_text())
    shown = {name: whole[name] for name in ("DATASET", "MODEL", "NERP")}
    for _, content in few(other_types(shown), 60):
        file.write_text(yaml.safe_dump({**whole, **dict.fromkeys(shown), **content}))
        attack("explain", run / "test")


def test_a_flipped_bit_of_a_checkpoint_is_an_error_or_changes_nothing(runs, run, attack):
    _, test = runs
    file = run / "train" / "prompt_learner" / "model.pth.tar-1"
    wanted = np.load(run / "test" / "predictions.npz")["logits"]
    data, statuses = file.read_bytes(), []
    for i, changed in enumerate(flips(data, 12, 5)):
        file.write_bytes(changed)
        out = run / f"test{i}"
        argv = [run / "train" if arg == str(runs[0] / "train") else arg for arg in test]
        statuses.append(attack(*argv, "--save-logits", "--no-cache", "--output-dir", out))
        if statuses[-1] == 0:
            assert np.array_equal(np.load(out / "predictions.npz")["logits"], wanted)
    assert 1 in statuses


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_that_is_not_finite_names_its_tensor(value, runs, run, nerp):
    file = run / "train" / "prompt_learner" / "model.pth.tar-1"
    content = torch.load(file, weights_only=True)
    content["state_dict"]["ctx"][1, 2] = value
    torch.save(content, file)
    argv = [run / "train" if arg == str(runs[0] / "train") else arg for arg in runs[1]]
    status, _, error = nerp(*argv, "--output-dir", run / "new")
    assert status == 1 and "ctx holds numbers that are not finite" in error
    content["state_dict"]["ctx"][1, 2] = 1e30  # finite, and too large for what is made of it
    torch.save(content, file)
    status, _, error = nerp(*argv, "--output-dir", run / "new")
    assert status == 0 or "not finite" in error


def test_checkpoints_settings_of_another_type(runs, run, attack, few):
    file = run / "train" / "prompt_learner" / "model.pth.tar-1"
    whole = torch.load(file, weights_only=True)
    argv = [run / "train" if arg == str(runs[0] / "train") else arg for arg in runs[1]]
    plain = {name: value for name, value in whole.items() if name != "state_dict"}
    for i, (_, content) in enumerate(few(other_types(plain), 24)):
        torch.save(content | {"state_dict": whole["state_dict"]}, file)
        attack(*argv, "--output-dir", run / f"new{i}")
    (file.parent / "checkpoint").write_bytes(b"\xff\xfe")
    torch.save(whole, file)
    assert attack(*argv, "--output-dir", run / "new") == 1


def test_a_kept_result_that_is_damaged_is_computed_anew(run, tmp_path):
    (file,) = run.glob("train/prompt_learner/logits_cache/EuroSAT-new-*.npz")
    with np.load(file) as content:
        key, logits = str(content["key"]), content["logits"]
    shapes, data = {"logits": logits.shape}, file.read_bytes()
    assert torch.equal(read_kept(file, key, shapes)["logits"], torch.from_numpy(logits))
    missed = 0
    for changed in flips(data, 400):
        file.write_bytes(changed)
        found = read_kept(file, key, shapes)
        missed += found is None
        assert found is None or np.array_equal(found["logits"], logits)
    assert missed > 100
    for kind, make in FILES.items():
        file = tmp_path / kind
        make(file)
        with bounded():
            assert read_kept(file, key, shapes) is None


FILE_KEYS = sorted(name for name, key in (KEYS | _method_keys()).items() if key.is_file)


# Whose nodes of TRAINER they are in.
OWNERS = {TRAINERS[name].node: name for name in TRAINERS.names()} | {
    node: f"CoOp{suffix}" for suffix, node in TRAINING_SUFFIXES.items()}


def _training_by(method: str, test: list) -> list:
    """The training by a method on what a test by another is of."""
    words = ["train", *map(str, test[1:])]
    words[words.index("--trainer") + 1] = method
    for name in ("--config-file", "--model-dir"):
        place = words.index(name)
        del words[place : place + 2]
    words[words.index("new")] = "base"
    return words


def test_the_keys_that_name_files_are_found():
    assert {"MODEL.BACKBONE.PATH", "NERP.PAIRS_FILE", "NERP.REFERENCE_IMAGE"} <= {*FILE_KEYS}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("name", FILE_KEYS)
def test_a_key_that_names_a_file_that_is_none(name, kind, runs, tmp_path, attack):
    FILES[kind](tmp_path / "file")
    argv = [*runs[1], "--output-dir", tmp_path / "out", name, tmp_path / "file"]
    if name == "NERP.PAIRS_FILE":
        argv += ["NERP.PAIRS", "bundle"]
    elif name.startswith("TRAINER."):
        method = OWNERS[name.split(".")[1]]
        argv = [*_training_by(method, argv), "TEST.NO_TEST", "True"]
    status = attack(*argv)
    # Whatever has lines of text is a list of names.
    assert status == 1 or (name, kind) == ("TRAINER.SAR.NOVEL_FILE", kind)


def test_a_card_with_a_field_of_another_type(tmp_path, attack, few):
    source = {"FILE": "a.zip", "URLS": ["http://127.0.0.1:9/a.zip"], "GDRIVE": "x", "MIRROR": "a/b",
              "SIZE": 10, "CHECKSUM": "md5:00", "UNPACK": {"a": "b"}, "WITHIN": "c", "STEP": "d",
              "GIVES": ["e"]}
    card = {"DATASET": dict(dataset_defaults()) | {
        "NAME": "Mine", "DIRECTORY": "mine", "IMAGE_FOLDER": "i", "SPLIT_FILE": "s.json",
        "SOURCES": [source]}}
    del card["DATASET"]["ROOT"]
    file = tmp_path / "card.yaml"
    for _, content in few(other_types(json.loads(json.dumps(card))), 120):
        file.write_text(yaml.safe_dump(content))
        attack("data", "prepare", file, "--root", tmp_path / "data", "--dry-run")
        with bounded():  # a report, and a line of error where there is none
            assert cli.run(["data", "check", str(file), "--root", str(tmp_path)]) == 1


OUTSIDE = ["/etc/passwd", "../x", "a/../../x", "..", "a\\..\\..\\x", "\\\\host\\x", "a\0b", "a\nb"]
PLACES = ["FILE", "WITHIN", "GIVES", "UNPACK source", "UNPACK target", "NAME", "DIRECTORY",
          "IMAGE_FOLDER", "SPLIT_FILE", "CLASS_FILE", "REFERENCE"]


@pytest.mark.parametrize("path", OUTSIDE)
@pytest.mark.parametrize("place", PLACES)
def test_no_path_of_a_card_leads_outside(place, path, tmp_path):
    source = {"FILE": "a.zip", "STEP": "get it"}
    node = {"NAME": "Mine", "DIRECTORY": "mine", "SOURCES": [source]}
    if place == "UNPACK source":
        source["UNPACK"] = {path: "x"}
    elif place == "UNPACK target":
        source["UNPACK"] = {"x": path}
    elif place == "GIVES":
        source["GIVES"] = [path]
    else:
        (source if place in ("FILE", "WITHIN") else node)[place] = path
    (tmp_path / "card.yaml").write_text(yaml.safe_dump({"DATASET": node}))
    with pytest.raises(NerpError) as error:
        read_sources(open_card(tmp_path / "card.yaml", str(tmp_path)))
    assert is_one_line(error.value)


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_image_of_a_list_leads_outside(path, tmp_path):
    (tmp_path / "mine").mkdir()
    write_json(tmp_path / "mine" / "s.json", {"train": [[path, 0, "a"]], "val": [], "test": []})
    (tmp_path / "card.yaml").write_text(yaml.safe_dump({"DATASET": {
        "NAME": "Mine", "DIRECTORY": "mine", "SPLIT_FILE": "s.json"}}))
    with pytest.raises(NerpError, match="not a path inside the image folder"):
        read_benchmark(open_card(tmp_path / "card.yaml", str(tmp_path)))


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("which", ["--dataset-config-file", "--config-file"])
def test_a_configuration_file_that_is_none(which, kind, tmp_path, attack):
    file = tmp_path / "mine.yaml"
    FILES[kind](file)
    others = [] if which == "--dataset-config-file" else ["--dataset", "eurosat"]
    assert attack("test", "--trainer", "ZeroshotCLIP", "--root", tmp_path, *others, which, file,
                  "--output-dir", tmp_path / "out") == 1


@pytest.mark.parametrize("kind", FILES)
def test_a_selection_that_is_none(kind, tmp_path, attack):
    file = tmp_path / "sweep.yaml"
    FILES[kind](file)
    assert attack("sweep", file, "--dry-run") == 1


def test_what_nobody_foresaw_is_a_line_that_names_the_last_file(monkeypatch, nerp, run):
    def fail(*_, **__):
        raise ZeroDivisionError("a\nb")

    monkeypatch.setattr("nerp.results.tables.build_tables", fail)
    status, _, error = nerp("table", run)
    assert status == 1 and is_one_line(error)
    assert "ZeroDivisionError" in error and "result.json" in error and "--debug" in error
    with pytest.raises(ZeroDivisionError):
        nerp("table", run, "--debug")


@pytest.mark.parametrize("error", [
    MemoryError("Unable to allocate 9 GiB"), RuntimeError("not enough memory: you tried"),
])
def test_memory_that_runs_out_is_no_files_fault(error, monkeypatch, nerp, run):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("nerp.results.tables.build_tables", fail)
    status, _, said = nerp("table", run)
    assert status == 1 and is_one_line(said)
    assert "out of memory" in said and "BATCH_SIZE" in said and "result.json" not in said


@pytest.mark.parametrize("name", ["x|y", "<script>", "=1+1", "@x", "+x", r"\input{/etc/passwd}",
                                  "$x$", "a_b", "`x`", "[x](y)", "&amp;", "~^%#{}"])
def test_tables_escape_what_is_special_to_them(name, run, nerp):
    file = run / "test" / "result.json"
    write_json(file, json.loads(file.read_text()) | {"trainer": name, "dataset": name})
    texts = {}
    for form in ("terminal", "markdown", "csv", "latex"):
        status, texts[form], error = nerp("table", run / "test", "--format", form)
        assert status == 0, error
    rows = [line for line in texts["markdown"].splitlines() if line.startswith("|")]
    bars = {line.replace("\\|", "").count("|") for line in rows}
    assert len(bars) == 1 and "<script>" not in texts["markdown"].replace("\\<", "")
    assert r"\input" not in texts["latex"] and "$x$" not in texts["latex"].replace(r"\$", "")
    assert not any(cell.startswith(("=", "+", "@")) for line in texts["csv"].splitlines()
                   for cell in line.split(","))
    assert nerp("plot", run / "test", "--output-dir", run / "plots")[0] == 0
