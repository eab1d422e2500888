"""What a request comes to, and where each of its values is from."""

import pytest

from nerp.base.errors import NerpError
from nerp.base.paths import shipped
from nerp.files.yaml_file import key_lines
from nerp.settings.resolve import Request, resolve

MINE = """\
OPTIM:
  LR: 0.5
  MAX_EPOCH: 7
PER_DATASET:
  EuroSAT:
    OPTIM: {MAX_EPOCH: 9}
TEST: {TAU: 0.25}
"""


@pytest.fixture
def mine(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(MINE)
    return file


def test_every_value_says_where_it_comes_from(mine):
    resolved = resolve(Request("MMRL_NeRP", "eurosat", config_file=str(mine), seed=5,
                               opts=["OPTIM.WEIGHT_DECAY", "0.1"]))
    said = {name: str(resolved.origin(name)) for name in (
        "OPTIM.LR", "OPTIM.MAX_EPOCH", "OPTIM.WEIGHT_DECAY", "SEED", "OPTIM.MOMENTUM",
        "DATASET.NAME", "NERP.TAU", "NERP.RULE",
    )}
    card = shipped("datasets") / "eurosat.yaml"
    published = shipped("configs") / "nerp" / "MMRL" / "base_to_novel.yaml"
    row = key_lines(published)["EuroSAT.NERP.TAU"]
    assert said == {
        "OPTIM.LR": f"{mine}, line 2", "OPTIM.MAX_EPOCH": f"{mine}, line 6",
        "OPTIM.WEIGHT_DECAY": "options", "SEED": "options", "OPTIM.MOMENTUM": "default",
        "DATASET.NAME": f"datasets/eurosat.yaml, line {key_lines(card)['DATASET.NAME']}",
        "NERP.TAU": f"configs/nerp/MMRL/base_to_novel.yaml, line {row}", "NERP.RULE": "automatic",
    }


def test_the_listing_has_every_key_of_the_run_and_none_of_another_method():
    resolved = resolve(Request("MMRL", "eurosat"))
    names = [name for name, _, _ in resolved.listing()]
    assert "TRAINER.MMRL.ALPHA" in names and "TRAINER.NAME" in names and "OPTIM.LR" in names
    assert not [name for name in names if name.startswith("TRAINER.MMA.")]
    assert "OPTIM.LR" in resolved.said() and "OPTIM.MOMENTUM" not in resolved.said()


@pytest.mark.parametrize(("text", "line"), [
    ("OPTIM:\n  LR: fast\n", 2), ("OPTIM: {LR: 0.1}\nSEEDS: 3\n", 2),
    ("PER_DATASET:\n  EuroSAT:\n    OPTIM:\n      LR: -1\n", 4),
])
def test_a_mistake_is_said_with_file_and_line(tmp_path, text, line):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(NerpError, match=rf"mine\.yaml, line {line}: "):
        resolve(Request("CoOp", "eurosat", config_file=str(file)))


def test_a_card_s_name_that_is_no_text_is_an_unknown_dataset(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("DATASET: {NAME: 5}")
    with pytest.raises(NerpError, match="unknown dataset '5'"):
        resolve(Request("CoOp", dataset_config_file=str(file)))


def test_a_checkpoint_s_value_is_known_as_its(tmp_path):
    resolved = resolve(Request("CoOp", "eurosat"))
    loaded = resolved.with_checkpoint({"TRAINER.COOP.N_CTX": 3}, tmp_path / "model.pth.tar-2")
    assert loaded.cfg.TRAINER.COOP.N_CTX == 3 != resolved.cfg.TRAINER.COOP.N_CTX
    assert str(loaded.origin("TRAINER.COOP.N_CTX")) == f"{tmp_path}/model.pth.tar-2 (checkpoint)"


def test_the_folder_is_the_one_given_or_the_run_s_place(tmp_path):
    assert str(resolve(Request("CoOp", "eurosat"), "train").directory).startswith("output/")
    given = Request("CoOp", "eurosat", output_dir=str(tmp_path))
    assert resolve(given, "train").directory == tmp_path
