"""nerp config, nerp train --dry-run, and the options that stand for a key."""

import pytest

from nerp.settings.defaults import all_keys


def test_every_key_is_listed_with_what_it_takes(nerp):
    status, out, _ = nerp("config", "keys")
    shown = {line.split()[0] for line in out.splitlines() if line.strip()}
    assert status == 0 and all_keys().keys() <= shown


def test_a_node_lists_its_own_keys_and_an_unknown_one_is_said(nerp):
    status, out, _ = nerp("config", "keys", "OPTIM.LR", "TRAINER.MMRL")
    names = [line.split()[0] for line in out.splitlines()[2:] if not line.startswith(" ")]
    assert status == 0 and "OPTIM.LR" in names and "TRAINER.MMRL.ALPHA" in names
    assert all(name.startswith(("OPTIM.LR", "TRAINER.MMRL.")) for name in names)
    status, _, err = nerp("config", "keys", "OPTM")
    assert status == 1 and "Did you mean OPTIM?" in err


def test_show_says_each_value_and_where_it_is_from(nerp):
    status, out, _ = nerp("config", "show", "--trainer", "MMRL", "--dataset", "eurosat",
                          "--classes", "novel", "--shots", "4", "--task", "base_to_novel",
                          "--backbone", "ViT-B/32", "OPTIM.LR", "0.5")
    assert status == 0
    for line in ("OPTIM.LR: 0.5  (command line)", "DATASET.SUBSAMPLE_CLASSES: new  (command line)",
                 "DATASET.NUM_SHOTS: 4  (command line)", "TASK: B2N  (command line)",
                 "MODEL.BACKBONE.NAME: ViT-B/32  (command line)",
                 "DATASET.NAME: EuroSAT  (datasets/eurosat.yaml, line 2)"):
        assert line in out
    assert "OPTIM.MOMENTUM" not in out and "the run's folder: output/" in out
    _, out, _ = nerp("config", "show", "--trainer", "MMRL", "--dataset", "eurosat", "--all")
    assert "OPTIM.MOMENTUM: 0.9  (default)" in out and "TRAINER.MMA." not in out


@pytest.mark.parametrize(("words", "says"), [
    (["--classes", "half"], "one of all, base, new"), (["--shots", "few"], "a whole number"),
    (["--task", "XYZ"], "unknown protocol"),
])
def test_a_wrong_value_of_such_an_option_is_one_line(nerp, words, says):
    status, _, err = nerp("train", "--trainer", "CoOp", "--dataset", "eurosat", *words)
    assert status == 1 and says in err and words[0] in err


def test_a_dry_run_says_what_would_be_trained_and_writes_nothing(nerp, small_run, tmp_path):
    flags, opts = small_run
    out = tmp_path / "train"
    status, text, _ = nerp("train", "--dry-run", "--trainer", "CoOp", *flags, "--output-dir", out,
                           *opts, "--classes", "base")
    assert status == 0 and not out.exists()
    assert "OPTIM.MAX_EPOCH: 2  (command line)" in text
    assert f"the run's folder: {out}" in text and "EuroSAT: 10 classes" in text
