"""The main job on files of the real formats and sizes: ViT-B/16 at 224 pixels, JPEG, EuroSAT."""

import json

import numpy as np
import pytest
import torch
from conftest import write_eurosat
from tiny_clip import Sizes, random_clip

VIT_B16 = Sizes(embed=512, pixels=224, patch=16, vision_width=768, vision_layers=12,
                text_width=512, text_layers=12)


@pytest.mark.slow
def test_mmrl_and_nerp_with_vit_b16(nerp, tmp_path):
    root = write_eurosat(tmp_path / "data", per_class=8, size=64)
    weights = tmp_path / "ViT-B-16.pt"
    torch.save({n: t.half() for n, t in random_clip(0, VIT_B16).items()}, weights)
    common = ["--root", root, "--dataset", "eurosat", "--config-file",
              "configs/trainers/MMRL/vit_b16.yaml", "--seed", "1", "DATASET.NUM_SHOTS", "1",
              "TASK", "B2N", "MODEL.BACKBONE.PATH", weights, "OPTIM.MAX_EPOCH", "2"]
    status, text, error = nerp("train", "--trainer", "MMRL", *common, "--output-dir",
                               tmp_path / "out", "DATASET.SUBSAMPLE_CLASSES", "base")
    assert status == 0, error
    assert "149.6 M parameters, 224 pixels, 12/12 layers, D = 512, QuickGELU" in text
    saved = torch.load(tmp_path / "out/MultiModalRepresentationLearner/model.pth.tar-2",
                       weights_only=True)
    # EuroSAT's published width, from the method configuration's per-dataset row.
    assert saved["state_dict"]["representation_learner.compound_rep_tokens"].shape == (5, 2048)
    status, text, error = nerp(
        "test", "--trainer", "MMRL_NeRP", *common, "--model-dir", tmp_path / "out", "--output-dir",
        tmp_path / "test", "--save-logits", "DATASET.SUBSAMPLE_CLASSES", "new",
    )
    assert status == 0, error
    result = json.loads((tmp_path / "test/result.json").read_text())
    assert result["total"] == 10 and result["nerp"]["thresholds"] == "published"
    assert result["nerp"]["rule"]["thres"] == 1.5 and result["nerp"]["rule"]["tau"] == 1.0
    assert np.isfinite(np.load(tmp_path / "test/predictions.npz")["logits"]).all()
