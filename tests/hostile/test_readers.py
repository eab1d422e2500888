"""Every reader of foreign files against every file that is none: one line, at once, little memory.

Readers are found, not listed: the functions in `nerp.files` whose first argument is a path, and the
few elsewhere.
"""

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest
import torch
from hostile import FILES, bounded, flips, is_one_line, same

import nerp
from nerp import files
from nerp.base.errors import NerpError
from nerp.correction.bundle import read_bundle
from nerp.data.archives import unpack
from nerp.data.decode import open_image, verify_image
from nerp.data.reference import load_reference
from nerp.engine.checkpoint import read_checkpoint
from nerp.engine.history import read_history
from nerp.engine.record_file import read_measured, read_record
from nerp.files.arrays import FLOATS, Kind, read_arrays
from nerp.files.tensors import load_inert

# Of these any regular file is a file.
GENERAL = ("opened", "read_bytes", "read_text", "read_end", "reading", "regular", "content_digest",
           "file_digest", "read_digested", "load_yaml", "mapping")
ARGUMENTS = {"read_arrays": [{"logits": Kind(FLOATS, 2)}], "read_measured": [["accuracy"]]}


def _readers():
    for module in pkgutil.iter_modules(files.__path__):
        module = importlib.import_module(f"nerp.files.{module.name}")
        for name, function in vars(module).items():
            if (inspect.isfunction(function) and not name.startswith("_")
                    and function.__module__ == module.__name__
                    and next(iter(inspect.signature(function).parameters), "") == "path"):
                yield name, function


READERS = dict(_readers()) | {
    "read_record": read_record, "read_measured": read_measured,
    "read_bundle": read_bundle, "read_checkpoint": read_checkpoint, "open_image": open_image,
    "verify_image": verify_image, "read_history": read_history,
    "load_reference": lambda path: load_reference(path, "EuroSAT"),
}


def test_the_readers_are_found():
    assert {"load_inert", "load_safetensors", "read_arrays", "read_json", "load_yaml",
            "read_record"} <= READERS.keys()


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("reader", sorted(READERS.keys() - set(GENERAL)))
def test_what_is_no_file_of_its_kind_is_refused_in_a_line(reader, kind, tmp_path):
    path = tmp_path / "file"
    FILES[kind](path)
    with bounded():
        try:
            READERS[reader](path, *ARGUMENTS.get(reader, ()))
        except NerpError as error:
            assert is_one_line(error) and str(path) in str(error)
        else:
            assert (reader, kind) == ("load_inert", "list of tensors")


@pytest.mark.parametrize("kind", [kind for kind in FILES if kind not in ("a date", "not finite")])
def test_yaml(kind, tmp_path):
    path = tmp_path / "file.yaml"
    FILES[kind](path)
    with bounded(), pytest.raises(NerpError) as error:
        READERS["load_yaml"](path)
    assert is_one_line(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("kind", ["pipe", "device", "terminal", "folder", "missing", "dead link"])
@pytest.mark.parametrize("reader", ["read_text", "regular"])
def test_only_regular_files_are_opened(reader, kind, tmp_path):
    FILES[kind](tmp_path / "file")
    with bounded(), pytest.raises(NerpError):
        READERS[reader](tmp_path / "file")


@pytest.mark.parametrize("kind", FILES)
def test_archives(kind, tmp_path):
    FILES[kind](tmp_path / "file")
    with bounded(), pytest.raises(NerpError) as error:
        unpack(tmp_path / "file", tmp_path / "target")
        raise NerpError(f"an empty {kind}")
    assert is_one_line(error.value)


def _checkpoint(path: Path) -> None:
    torch.save({"state_dict": {"ctx": torch.randn(4, 64), "other": torch.randn(3)}, "epoch": 2,
                "settings": {"N_CTX": 4, "CSC": False}}, path)


@pytest.mark.parametrize("seed", range(4))
def test_a_torch_file_with_a_flipped_bit_is_refused_or_holds_the_same(seed, tmp_path):
    path = tmp_path / "model.pth.tar-2"
    _checkpoint(path)
    whole, refused = load_inert(path), 0
    for data in flips(path.read_bytes(), 150, seed):
        path.write_bytes(data)
        try:
            assert same(load_inert(path), whole)
        except NerpError as error:
            assert is_one_line(error)
            refused += 1
    assert refused > 50


def test_arrays_with_a_flipped_bit_are_refused_or_the_same(tmp_path):
    import numpy as np

    path, wanted = tmp_path / "a.npz", {"logits": Kind(FLOATS, 2)}
    np.savez(path, logits=np.random.default_rng(1).random((20, 5), np.float32))
    whole, refused = read_arrays(path, wanted), 0
    for data in flips(path.read_bytes(), 400):
        path.write_bytes(data)
        try:
            assert same(read_arrays(path, wanted), whole)
        except NerpError as error:
            assert is_one_line(error)
            refused += 1
    assert refused > 200


# What reads a file, or runs what is in one; outside `nerp.files` nothing calls it.
_FORBIDDEN = {"torch.load", "torch.jit.load", "pickle.load", "pickle.loads", "np.load", "yaml.load",
              "json.load", "eval", "exec", "os.system", "compile", "__import__", "safe_open",
              "zipfile.is_zipfile"}
_KNOWN = {"nerp/data/reference.py zipfile.is_zipfile"}


def test_no_code_reads_foreign_files_but_the_readers():
    root = Path(nerp.__file__).parent
    found = set()
    for file in root.rglob("*.py"):
        place = f"nerp/{file.relative_to(root)}"
        if not place.startswith("nerp/files/"):
            calls = (node for node in ast.walk(ast.parse(file.read_text()))
                     if isinstance(node, ast.Call))
            found |= {f"{place} {name}" for call in calls
                      if (name := ast.unparse(call.func)) in _FORBIDDEN}
    assert found <= _KNOWN
    inside = "\n".join(file.read_text() for file in (root / "files").glob("*.py"))
    assert "jit.load" not in inside and "torch.load(" not in inside
