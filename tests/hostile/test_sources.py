"""What comes from hubs and from folders of one's own, and what Python's interface reads back."""

import io
import itertools
import json

import numpy as np
import pytest
import torch
import yaml
from hostile import FILES, STRANGE, bounded, drawing, is_one_line, other_types, write_json
from PIL import Image

import nerp
from nerp.base.errors import NerpError
from nerp.clip.backbones import find_backbone
from nerp.clip.model import build_clip
from nerp.data import listing
from nerp.data.decode import open_image
from nerp.data.listing import read_rows
from nerp.engine.history import COLUMNS
from nerp.settings.resolve import Request, resolve

CONFIG = {
    "model_cfg": {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1,
                     "layers": 2},
    },
    "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [1, 1, 1], "interpolation": "bicubic",
                       "resize_mode": "shortest"},
}
HUGE = [0, 10**9, 2**70, 1e30, -8]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A repository of a backbone: its configuration is given, its weights are none."""
    monkeypatch.setattr("open_clip.pretrained.download_pretrained_from_hf",
                        lambda repository, filename="weights.bin": str(tmp_path / filename))
    torch.save({"positional_embedding": torch.zeros(77, 64)}, tmp_path / "weights.bin")
    return tmp_path / "open_clip_config.json"


def take(name="hf-hub:a/b"):
    """All that a run does with a backbone's configuration, or the line that says why not."""
    with bounded(seconds=30):
        try:
            find_backbone(name)
            resolve(Request("ZeroshotCLIP", "eurosat", opts=["MODEL.BACKBONE.NAME", name]))
            build_clip(name, "", "auto", "fp32", torch.device("cpu"))
        except NerpError as error:
            assert is_one_line(error), error
            return str(error)
    return ""


def test_a_hubs_configuration_with_a_field_of_another_type_or_size(hub):
    cases = [content for _, content in other_types(CONFIG)]
    for path in (("vision_cfg", "layers"), ("text_cfg", "layers"), ("vision_cfg", "image_size"),
                 ("vision_cfg", "width"), ("text_cfg", "width"), ("vision_cfg", "patch_size")):
        for value in HUGE:
            content = json.loads(json.dumps(CONFIG))
            content["model_cfg"][path[0]][path[1]] = value
            cases.append(content)
    for content in drawing(1).sample(cases, 10) + cases[-6 * len(HUGE):]:
        write_json(hub, content)
        assert take(), content


@pytest.mark.parametrize("kind", FILES)
def test_a_hubs_configuration_that_is_no_file_of_its_kind(kind, hub):
    FILES[kind](hub)
    assert take()


def encoded(kind="PNG", size=(8, 8)) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, "red").save(content, kind)
    return content.getvalue()


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICO", "TGA", "SGI", "IM", "PCX", "ICNS"])
def test_a_format_that_images_are_not_in_is_not_decoded(kind, tmp_path):
    """Pillow has other programs draw some of them, whatever a file is called."""
    (tmp_path / "a.jpg").write_bytes(encoded(kind, (32, 32)))
    with pytest.raises(NerpError, match="a.jpg: cannot be decoded: not an image file"):
        open_image(tmp_path / "a.jpg")


def bomb(tmp_path) -> bytes:
    FILES["picture"](tmp_path / "bomb")
    return (tmp_path / "bomb").read_bytes()


ROWS = {
    "a file elsewhere": lambda folder: {"bytes": None, "path": str(folder / "private.png")},
    "a way up": lambda folder: {"bytes": None, "path": f"{folder}/source/../private.png"},
    "a device": lambda folder: {"bytes": None, "path": "/dev/zero"},
    "nothing": lambda folder: {"bytes": None, "path": None},
    "no image": lambda folder: {"bytes": b"\0" * 100, "path": None},
    "PostScript": lambda folder: {"bytes": encoded("EPS"), "path": None},
    "too many pixels": lambda folder: {"bytes": bomb(folder), "path": None},
    "truncated": lambda folder: {"bytes": encoded()[:20], "path": None},
}


@pytest.mark.parametrize("row", ROWS)
def test_a_row_of_a_hubs_table_shows_no_file_of_the_users(
    row, tmp_path, nerp, monkeypatch, capsys
):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "private.png").write_bytes(encoded())
    (tmp_path / "source").mkdir()
    features = datasets.Features({"image": {"bytes": datasets.Value("binary"),
                                            "path": datasets.Value("string")},
                                  "label": datasets.Value("string")})
    table = datasets.Dataset.from_dict(
        {"image": [ROWS[row](tmp_path)] * 3, "label": ["a", "b", None]}, features=features)
    table = table.cast_column("image", datasets.Image(decode=False))
    table.to_parquet(str(tmp_path / "source" / "train-00000-of-00001.parquet"))
    capsys.readouterr()
    with bounded(seconds=60):
        status, _, error = nerp("data", "prepare", f"hf:{tmp_path}/source", "--root",
                                tmp_path / "data")
    assert status == 1 and is_one_line(error) and "--debug shows" not in error
    assert [*(tmp_path / "data").rglob("*")] == []


TABLE = "path,label,split\nimages/a.png,cat,train\nimages/b.png,dog,test\n"
WORDS = ["", ",", "\0", "\x1b[2J", "../../etc/passwd", "/etc/passwd", '"', "'", "=1+1", "{}", "{0}",
         "x" * 200_000, "\u202e", "9" * 5000, "train", "path"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json"])
def test_a_folder_of_ones_own_with_a_table_of_another_form(suffix, tmp_path, nerp):
    generator = drawing(suffix)
    for i in range(40):
        folder = tmp_path / str(i)
        (folder / "images").mkdir(parents=True)
        for name in "ab":
            (folder / "images" / f"{name}.png").write_bytes(encoded())
        cells = [line.split(",") for line in TABLE.splitlines()]
        row, column = generator.randrange(3), generator.randrange(3)
        cells[row][column] = generator.choice(WORDS)
        if suffix == ".jsonl":
            rows = [dict(zip(cells[0], line, strict=True)) for line in cells[1:]]
            rows[0][generator.choice(cells[0])] = generator.choice(STRANGE)
            text = "\n".join(map(json.dumps, rows))
        elif suffix == ".json":
            entry = ["images/a.png", 0, "cat"]
            entry[generator.randrange(3)] = generator.choice([*STRANGE, *WORDS])
            text = json.dumps({"train": [entry], "val": [], "test": [entry]})
        else:
            text = "\n".join((",\t"[suffix == ".tsv"]).join(line) for line in cells)
        file = folder / f"split{suffix}"
        file.write_text(text, encoding="utf-8", errors="surrogatepass")
        for action in ("new", "split"):
            with bounded(seconds=30):
                status, _, error = nerp("data", action, folder, "--overwrite")
            assert "--debug shows" not in error, error[:500]
            assert status == 0 or is_one_line(error), error[:500]
        card = tmp_path / f"{i}.yaml"
        if card.exists():
            assert yaml.safe_load(card.read_text())["DATASET"]["NAME"] == str(i)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("name", ["split.json", "list.csv", "list.jsonl"])
def test_a_folder_of_ones_own_with_a_list_that_is_none(name, kind, tmp_path, nerp):
    (tmp_path / "own").mkdir()
    FILES[kind](tmp_path / "own" / name)
    with bounded(seconds=60):
        status, _, error = nerp("data", "new", tmp_path / "own")
    assert status == 1 and is_one_line(error) and "--debug shows" not in error


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("kind", ["rows", "wide", "deep"])
def test_a_table_does_not_fill_the_memory(kind, suffix, tmp_path, monkeypatch):
    head, row = ("path,label\n", "a,b\n")
    if suffix == ".jsonl":
        head, row = ("", '{"path":"a","label":"b"}\n')
    if kind == "rows":
        monkeypatch.setattr(listing, "_MOST", 1000)
    long = {"rows": row * 1001, "wide": row.strip("}\n") + "," * 2**24, "deep": "[" * 2**24}[kind]
    file = tmp_path / f"list{suffix}"
    file.write_text(head + row + long)
    with bounded(seconds=30), pytest.raises(NerpError, match="more than (1,000 i|65,536 c)"):
        read_rows(file)


@pytest.fixture
def asked(eurosat_root, golden_weights, tmp_path):
    """The arguments of a correction by Python's interface, in a folder."""
    return {"dataset": "eurosat", "root": str(eurosat_root), "classes": "new", "shots": 2,
            "output_dir": tmp_path / "run",
            "options": {"MODEL.BACKBONE.PATH": golden_weights, "NERP.RULE": "flip"}}


def test_a_run_that_is_read_back_with_a_field_of_another_type(asked, tmp_path):
    whole = nerp.correct("ZeroshotCLIP", **asked)
    file = tmp_path / "run" / "result.json"
    content = json.loads(file.read_text())
    measured = {name: value for name, value in content.items() if name != "identity"}
    cases = [change for _, change in other_types(measured)]
    for change in drawing(2).sample(cases, 60):
        write_json(file, change | {"identity": content["identity"]})
        with bounded():
            try:
                again = nerp.correct("ZeroshotCLIP", **asked)
            except NerpError as error:
                assert is_one_line(error)
            else:
                assert np.array_equal(again.logits, whole.logits)
                assert 0 <= again.accuracy <= 100 and isinstance(again.per_class, dict)


@pytest.mark.parametrize("name", ["trainer", "dataset", "classes", "task", "shots", "seed",
                                  "config", "options", "root", "model"])
def test_python_is_told_in_a_line_too(name, asked):
    """Of arguments that are of the right type, and of any option."""
    texts = [value for value in STRANGE if isinstance(value, str)]
    for value in STRANGE if name in ("options", "shots", "seed") else texts:
        arguments = {"trainer": "ZeroshotCLIP", **asked}
        arguments[name] = asked["options"] | {"NERP.TAU": value} if name == "options" else value
        with bounded():
            try:
                nerp.correct(**arguments)
            except NerpError as error:
                assert is_one_line(error)


def test_features_that_are_not_finite_are_not_written(golden_weights, eurosat_root, tmp_path, nerp):
    state = torch.load(golden_weights, weights_only=True)
    state["visual.proj"] = state["visual.proj"] * 1e38
    torch.save(state, tmp_path / "clip.pt")
    status, _, error = nerp(
        "features", tmp_path / "f.npz", "--trainer", "ZeroshotCLIP", "--dataset", "eurosat",
        "--root", eurosat_root, "MODEL.BACKBONE.PATH", tmp_path / "clip.pt")
    assert status == 1 and "not finite" in error and not (tmp_path / "f.npz").exists()


NO_NUMBERS = ["nan", "inf", "1e999", "x", "", "9" * 5000, "-1e400"]


@pytest.mark.parametrize(("column", "value"), [
    case for case in itertools.product(COLUMNS, NO_NUMBERS)
    if case != ("accuracy", "")  # of a method that does not say it
])
def test_a_history_of_other_numbers_is_refused(column, value, tmp_path, nerp):
    row = dict(zip(COLUMNS, ["1", "10", "0.5", "50", "0.001", "3.0"], strict=True))
    row[column] = value
    (tmp_path / "metrics.csv").write_text(f"{','.join(row)}\n{','.join(row.values())}\n")
    status, _, error = nerp("plot", tmp_path, "--output-dir", tmp_path / "plots")
    assert status == 1 and is_one_line(error) and "--debug shows" not in error


