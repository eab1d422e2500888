"""`nerp test --save-confusion`: the confusion matrix as a CSV file."""

import csv

import numpy as np
import pytest


@pytest.mark.parametrize("trainer", ["ZeroshotCLIP", "ZeroshotCLIP_NeRP"])
def test_the_matrix_is_that_of_the_final_predictions(nerp, eurosat_root, golden_weights, tmp_path,
                                                     trainer):
    command = ["test", "--trainer", trainer, "--root", eurosat_root, "--dataset", "eurosat",
               "--output-dir", tmp_path, "MODEL.BACKBONE.PATH", golden_weights,
               "DATASET.SUBSAMPLE_CLASSES", "new", "NERP.TAU", "-99", "NERP.THRES", "99"]
    assert nerp(*command, "--save-logits")[0] == 0
    assert not (tmp_path / "confusion.csv").exists()
    status, text, error = nerp(*command, "--save-logits", "--save-confusion")
    assert status == 0, error
    assert "finished already" not in text  # what is asked for later is written then
    z = np.load(tmp_path / "predictions.npz")
    final = z["corrected_logits" if trainer.endswith("_NeRP") else "logits"].argmax(1)
    head, *rows = csv.reader((tmp_path / "confusion.csv").open(newline=""))
    assert head == ["true / predicted", *z["classnames"]]
    for label, (name, *counts) in enumerate(rows):
        assert name == z["classnames"][label]
        wanted = [int(((z["labels"] == label) & (final == c)).sum()) for c in range(len(rows))]
        assert list(map(int, counts)) == wanted
    assert "finished already" in nerp(*command, "--save-confusion")[1]


@pytest.mark.parametrize(("key", "where"), [
    ("TEST.PER_CLASS_RESULT", "per_class_accuracy"), ("TEST.COMPUTE_CMAT", "--save-confusion"),
])
def test_coops_keys_for_the_same_are_answered_with_where_it_is(nerp, eurosat_root, key, where):
    status, _, error = nerp("test", "--trainer", "ZeroshotCLIP", "--root", eurosat_root,
                            "--dataset", "eurosat", key, "True")
    assert status == 1 and error.count("\n") == 1
    assert f"{key}: leave it out; " in error and where in error
