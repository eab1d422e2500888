"""docs/outputs.md names what a run leaves: every file, every field, and no other."""

import json
import re

import numpy as np
from scripts.test_docs import REPO

from nerp.base.registry import REFERENCES
from nerp.engine.history import COLUMNS

PAGE = (REPO / "docs" / "outputs.md").read_text()


def named(heading):
    """The names in the first column of the tables below a heading."""
    section = PAGE.split(f"# {heading}\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.*?`) \|", section, re.MULTILINE)
    return [name for cell in cells for name in re.findall("`(.+?)`", cell)]


def test_it_names_what_a_training_and_a_corrected_test_leave(
    nerp, eurosat_root, golden_weights, tmp_path
):
    common = [
        "--trainer", "CoOp", "--root", eurosat_root, "--dataset", "eurosat", "MODEL.BACKBONE.PATH",
        golden_weights, "DATASET.NUM_SHOTS", "2", "OPTIM.MAX_EPOCH", "1",
    ]
    train, test = tmp_path / "train", tmp_path / "test"
    status, _, error = nerp("train", *common, "--output-dir", train, "DATASET.SUBSAMPLE_CLASSES",
                            "base")
    assert status == 0, error
    common[1] = "CoOp_NeRP"
    status, _, error = nerp("test", *common, "--model-dir", train, "--output-dir", test,
                            "--save-logits", "--save-confusion", "DATASET.SUBSAMPLE_CLASSES", "new",
                            "NERP.RULE", "flip", "NERP.THRESHOLDS", "calibrated")
    assert status == 0, error

    files = {path.name for folder in (train, test) for path in folder.iterdir() if path.is_file()}
    assert files <= set(named("What a run leaves"))

    records = [json.loads((folder / "result.json").read_text()) for folder in (train, test)]
    fields = {name for record in records for name in record} - {"nerp"}
    fields |= {f"nerp.{name}" for name in records[1]["nerp"]}
    text = PAGE.split("## result.json\n")[1].split("\n## ")[0]
    columns = "\n".join(re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE))
    assert set(re.findall("`(.+?)`", columns)) == fields

    arrays = set(named("predictions.npz")) - {"<reference>_prior"}
    with np.load(test / "predictions.npz") as content:
        assert arrays <= set(content.files)
        assert set(content.files) - arrays <= {f"{name}_prior" for name in REFERENCES.names()}
        assert all(content[name].dtype == kind for name, kind in (
            ("logits", "float32"), ("labels", "int64"), ("pairs", "int64")))
    assert named("metrics.csv") == COLUMNS
