"""Files from strangers: nothing in them runs."""

import collections
import os
import pickle

import pytest
import torch

from nerp.base.errors import NerpError
from nerp.files.tensors import load_inert


class Attack:
    """Pickles as a call: `os.system("touch ...")` for whoever loads it."""

    def __init__(self, call, *args):
        self.call = call
        self.args = args

    def __reduce__(self):
        return self.call, self.args


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_not_run(tmp_path, zipped):
    flag = tmp_path / "owned"
    content = {
        "state_dict": collections.OrderedDict(ctx=torch.arange(6.0).view(2, 3)),
        "epoch": 2,
        "scheduler": Attack(os.system, f"touch {flag}"),
        "nested": [1, {"deep": Attack(exec, f"open({str(flag)!r}, 'w')")}, (2, "x")],
    }
    path = tmp_path / "model.pth.tar-2"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    loaded = load_inert(path)
    assert not flag.exists()
    assert torch.equal(loaded["state_dict"]["ctx"], content["state_dict"]["ctx"])
    assert loaded["epoch"] == 2 and loaded["nested"] == [1, {}, (2, "x")]
    assert "scheduler" not in loaded


def test_the_attack_would_have_worked(tmp_path):
    flag = tmp_path / "owned"
    pickle.loads(pickle.dumps(Attack(os.system, f"touch {flag}")))
    assert flag.exists()


def test_a_whole_file_that_is_an_attack(tmp_path):
    flag = tmp_path / "owned"
    path = tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps(Attack(os.system, f"touch {flag}")))
    with pytest.raises(NerpError, match="evil.pt"):
        load_inert(path)
    assert not flag.exists()


def test_objects_with_state_become_nothing(tmp_path):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    path = tmp_path / "model.pth.tar-1"
    torch.save({"scheduler": scheduler, "x": torch.ones(2)}, path)
    loaded = load_inert(path)
    assert set(loaded) == {"x"} and torch.equal(loaded["x"], torch.ones(2))


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04 damaged"])
def test_what_is_no_torch_file_is_named(tmp_path, content):
    path = tmp_path / "broken.pt"
    path.write_bytes(content)
    with pytest.raises(NerpError, match="broken.pt: not a readable torch file"):
        load_inert(path)


def test_missing(tmp_path):
    with pytest.raises(NerpError, match="no such file"):
        load_inert(tmp_path / "none.pt")
