"""Checkpoints and backbones from strangers: nothing runs or swells, nothing damaged counts."""

import collections
import io
import pickle
import zipfile

import pytest
import torch
from hostile import bounded, is_one_line
from tiny_clip import Sizes, random_clip

from nerp.base.errors import NerpError
from nerp.clip.loading import load_model
from nerp.engine.checkpoint import read_checkpoint
from nerp.files.tensors import load_inert

SMALL = Sizes(embed=32, pixels=16, vision_width=64, vision_layers=2, text_width=64, text_layers=2)


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_archive_runs_nothing(tmp_path):
    """Its __setstate__ maps a file for writing; an interpreter that loads it writes there."""
    victim = tmp_path / "bashrc"
    victim.write_bytes(b"alias ls='ls --color'\n" * 10)

    class Evil(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.ones(2, 3)
            self.victim: str = str(victim)

        def forward(self, x):
            return x

        @torch.jit.export
        def __getstate__(self):
            return self.weight, self.training, self.victim

        @torch.jit.export
        def __setstate__(self, state: tuple[torch.Tensor, bool, str]):
            self.training = state[1]
            self.victim = state[2]
            self.weight = state[0] + torch.from_file(state[2], True, 10).fill_(0.0)[0]

    path = tmp_path / "clip.pt"
    torch.jit.script(Evil()).save(path)
    before = victim.read_bytes()
    with pytest.raises(NerpError) as error:
        load_model(path)
    assert is_one_line(error.value) and victim.read_bytes() == before
    torch.jit.load(path)  # what it would have done
    assert victim.read_bytes() != before


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m, torch.ones(1))],
                         ids=["scripted", "traced"])
def test_the_tensors_of_an_archive_are_those_that_an_interpreter_finds(make, tmp_path):
    class Inner(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(5, 7).half())
            self.register_buffer("rows", torch.arange(6).view(2, 3).t())

        def forward(self, x):
            return x

    class Outer(Inner):
        def __init__(self):
            super().__init__()
            self.blocks = torch.nn.Sequential(Inner(), Inner())
            self.tied = self.blocks[0]

    path = tmp_path / "a.pt"
    make(Outer()).save(path)
    wanted, found = torch.jit.load(path).state_dict(), load_inert(path)
    assert wanted.keys() <= found.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


class _Said:
    """Pickles as a call of torch's, whatever its arguments claim."""

    def __init__(self, *args):
        self.args = args

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, self.args


def _zip(path, pickled: bytes, **records: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        for name, data in records.items():
            archive.writestr(f"a/data/{name}", data)


class _Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.said if isinstance(value, _Storage) else None


class _Storage:
    def __init__(self, count, key="k", kind=torch.FloatStorage):
        self.said = ("storage", kind, key, "cpu", count)


def _pickled(content) -> bytes:
    data = io.BytesIO()
    _Pickler(data, 2).dump(content)
    return data.getvalue()


def _tensor(count, offset, shape, stride):
    return _Said(_Storage(count), offset, shape, stride, False, collections.OrderedDict())


LIES = {
    "stride 0": _tensor(4, 0, (10**9, 10**4), (0, 0)),
    "beyond the storage": _tensor(4, 0, (2, 3), (3, 1)),
    "an offset beyond": _tensor(4, 4, (1,), (1,)),
    "a negative offset": _tensor(4, -1, (2,), (1,)),
    "a negative stride": _tensor(4, 3, (2,), (-1,)),
    "a storage larger than its record": _tensor(6 * 10**9, 0, (6 * 10**9,), (1,)),
    "sizes that overflow": _tensor(4, 0, (2**62, 8), (1, 1)),
    "a size that is none": _tensor(4, 0, ("x",), (1,)),
    "shape and stride that differ": _tensor(4, 0, (2, 2), (1,)),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_tensor_that_is_not_what_it_says_is_refused(lie, tmp_path):
    _zip(tmp_path / "a.pt", _pickled({"x": LIES[lie]}), k=bytes(16))
    with bounded(), pytest.raises(NerpError) as error:
        load_inert(tmp_path / "a.pt")
    assert is_one_line(error.value)


def test_many_tensors_of_one_storage_are_no_way_to_swell(tmp_path):
    content = {str(i): _tensor(2**20, 0, (2**20,), (1,)) for i in range(10_000)}
    _zip(tmp_path / "a.pt", _pickled(content), k=bytes(2**22))
    with bounded(), pytest.raises(NerpError, match="larger than what the file holds"):
        load_inert(tmp_path / "a.pt")


def _doubled() -> bytes:
    """A list of two of a list of two ..., forty times."""
    content = []
    for _ in range(40):
        content = [content, content]
    return _pickled(content)


PICKLES = {
    "doubled": _doubled(),
    "a memo of eight thousand million": b"\x80\x02]r\xff\xff\xff\x7f.",
    "a text of four thousand million": b"\x80\x02X\xff\xff\xff\xff.",
    "a buffer of a million million": b"\x80\x05\x96" + (10**12).to_bytes(8, "little") + b".",
    "nested": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "a number of a million digits": b"L" + b"9" * 10**6 + b"L\n.",
    "an extension": b"\x80\x02\x82\x01.",
    "nothing": b"",
    "no end": b"\x80\x02]",
    "holds itself": b"\x80\x02]q\x00h\x00a.",
}


@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_made_to_hang_or_swell_does_neither(kind, tmp_path):
    _zip(tmp_path / "a.pt", PICKLES[kind])
    with bounded():
        try:
            assert load_inert(tmp_path / "a.pt") == [] and "memo" in kind
        except NerpError as error:
            assert is_one_line(error)


def test_thousands_of_prefixes_are_no_way_to_hang(tmp_path):
    state = {f"{i}.{name}": torch.zeros(1) for i in range(5000)
             for name in ("ctx", "meta_net.linear1.weight", "meta_net.linear2.weight")}
    torch.save({"state_dict": state}, tmp_path / "a.pt")
    with bounded():
        try:
            read_checkpoint(tmp_path / "a.pt")
        except NerpError as error:
            assert is_one_line(error)


ODD = {
    "empty": torch.zeros(0, 64), "no axis": torch.tensor(1.0), "many axes": torch.zeros(1, 1, 1, 1),
    "whole numbers": torch.zeros(4, 64, dtype=torch.int64), "bool": torch.ones(4, 64).bool(),
    "complex": torch.zeros(4, 64, dtype=torch.complex64), "sparse": torch.eye(64).to_sparse(),
    "quantised": torch.quantize_per_tensor(torch.ones(4, 64), 0.1, 0, torch.qint8),
    "NaN": torch.full((4, 64), float("nan")), "Inf": torch.full((4, 64), float("inf")),
}


@pytest.fixture(scope="module")
def weights():
    return random_clip(1, SMALL)


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", ["visual.proj", "positional_embedding", "ln_final.weight",
                                  "visual.conv1.weight", "logit_scale", "visual.ln_pre.bias"])
def test_a_backbone_with_an_odd_tensor_is_refused_by_name(name, kind, weights, tmp_path):
    if (name, kind) == ("logit_scale", "no axis"):
        return
    torch.save(weights | {name: ODD[kind]}, tmp_path / "clip.pt")
    with bounded(), pytest.raises(NerpError) as error:
        load_model(tmp_path / "clip.pt")
    assert is_one_line(error.value) and "clip.pt" in str(error.value)
    if kind in ("NaN", "Inf") and name == "visual.ln_pre.bias":
        assert name in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_number_that_is_not_finite_names_its_tensor(value, weights, tmp_path):
    name = "transformer.resblocks.1.ln_1.bias"
    bad = weights[name].clone()
    bad[3] = value
    torch.save(weights | {name: bad}, tmp_path / "clip.pt")
    with pytest.raises(NerpError, match=f"clip.pt: {name} holds numbers that are not finite"):
        load_model(tmp_path / "clip.pt")


@pytest.mark.parametrize("name, rows, said", [
    ("token_embedding.weight", 100, "100 token embeddings, for texts of 77 tokens"),
    ("positional_embedding", 20, "49,408 token embeddings, for texts of 20 tokens"),
])
def test_a_backbone_that_knows_too_few_tokens_is_refused(name, rows, said, weights, tmp_path):
    torch.save(weights | {name: weights[name][:rows].clone()}, tmp_path / "clip.pt")
    with pytest.raises(NerpError, match=f"clip.pt: {said}; CLIP's tokenizer needs"):
        load_model(tmp_path / "clip.pt")


def test_rows_of_a_safetensors_backbone_that_do_not_exist(weights, tmp_path):
    from safetensors.torch import save_file

    for rows in (torch.tensor([49408]), torch.tensor([-1]), torch.tensor([[1]]),
                 torch.tensor([1, 2])):
        table = {"token_embedding.weight": torch.zeros(1, 64), "token_embedding.rows": rows}
        save_file(weights | table, tmp_path / "clip.safetensors")
        with pytest.raises(NerpError, match="token_embedding.rows does not name the rows"):
            load_model(tmp_path / "clip.safetensors")
