"""Command lines of CoOp's family, put into `nerp train` and `nerp test`."""

import importlib.util
import shlex
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "train.py"
SHARED = ("--root DATA --seed 2 --trainer MMRL --dataset-config-file configs/datasets/eurosat.yaml "
          "--config-file configs/trainers/MMRL/vit_b16.yaml --output-dir OUT")


@pytest.fixture
def tool(monkeypatch, capsys):
    """Run the tool: status, the arguments that `nerp` got, standard error."""
    spec = importlib.util.spec_from_file_location("train_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(line):
        got = []
        monkeypatch.setattr(module.cli, "run", lambda argv: got.extend(argv) or 0)
        monkeypatch.setattr(sys, "argv", ["train.py", *shlex.split(line)])
        return module.main(), got, capsys.readouterr()

    return run


def test_training_is_nerp_train_with_the_same_flags(tool):
    status, argv, printed = tool(f"{SHARED} DATASET.NUM_SHOTS 16 DATASET.SUBSAMPLE_CLASSES base")
    assert status == 0
    assert argv == ["train", *_sorted(SHARED), "DATASET.NUM_SHOTS", "16",
                    "DATASET.SUBSAMPLE_CLASSES", "base"]
    assert printed.out.strip() == shlex.join(["nerp", *argv])


def _sorted(line):
    """The flags in the order in which the tool passes them on."""
    words = line.split()
    given = dict(zip(words[::2], words[1::2], strict=True))
    order = ("--root", "--seed", "--trainer", "--dataset-config-file", "--config-file",
             "--output-dir")
    return [word for flag in order for word in (flag, given[flag])]


def test_eval_only_is_nerp_test(tool):
    _, argv, _ = tool(f"{SHARED} --model-dir MODEL --load-epoch 10 --eval-only TASK B2N")
    assert argv == ["test", *_sorted(SHARED), "--model-dir", "MODEL", "--load-epoch", "10",
                    "TASK", "B2N"]


def test_epochs_backbone_and_transforms_become_configuration_values(tool):
    _, argv, _ = tool("--trainer CoOp --backbone ViT-B/32 --train-epoch 5 "
                      "--transforms center_crop normalize")
    assert argv == ["train", "--trainer", "CoOp", "OPTIM.MAX_EPOCH", "5", "MODEL.BACKBONE.NAME",
                    "ViT-B/32", "INPUT.TRANSFORMS", "['center_crop', 'normalize']"]


def test_resuming_is_the_same_output_folder(tool):
    assert tool("--trainer CoOp --resume OUT")[1][-2:] == ["--output-dir", "OUT"]
    assert tool("--trainer CoOp --resume OUT --output-dir OUT")[1][-2:] == ["--output-dir", "OUT"]


@pytest.mark.parametrize(("flags", "message"), [
    ("--resume OUT --output-dir OTHER", "--resume: a run goes on in its own folder"),
    ("--model-dir OUT", "--model-dir is for --eval-only"),
    ("--source-domains a b", "--source-domains: "),
    ("--head mlp", "--head: "),
])
def test_what_nothing_here_does_is_refused_in_one_line(tool, flags, message):
    status, argv, printed = tool(f"--trainer CoOp {flags}")
    assert (status, argv) == (1, [])
    assert message in printed.err and len(printed.err.splitlines()) == 1


def test_no_train_reads_the_dataset_and_stops(tool, eurosat_root):
    line = SHARED.replace("DATA", shlex.quote(str(eurosat_root)))
    status, argv, printed = tool(f"{line} --no-train DATASET.NUM_SHOTS 2")
    assert (status, argv) == (0, [])
    assert "NUM_SHOTS: 2" in printed.out
    assert "EuroSAT: 10 classes; 60 training, 30 validation and 30 test images" in printed.out
