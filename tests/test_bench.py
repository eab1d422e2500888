"""tools/bench.py on a small backbone of twelve layers: both sides agree, or it says so."""

import copy
import gc
import json
import sys

import bench
import bench_sides
import pytest
import torch
from plain_methods import PLAIN, PlainMMRL
from tiny_clip import Sizes, open_clip_model, random_clip
from torch.utils.flop_counter import FlopCounterMode

from nerp.clip.model import Clip


@pytest.fixture(scope="module")
def small_model():
    return open_clip_model(random_clip(0, Sizes(vision_width=64, text_width=64, vision_layers=12,
                                                text_layers=12)))


@pytest.fixture
def run(small_model, monkeypatch, capsys):
    """Run the bench with arguments; returns what it printed."""
    monkeypatch.setattr(bench_sides, "random_model", lambda name: copy.deepcopy(small_model))
    monkeypatch.setattr(bench, "peak_mib", lambda *args: 1)

    def main(*args):
        monkeypatch.setattr(sys, "argv", ["bench.py", "--device", "cpu", "--repeats", "1",
                                          *args])
        bench.main()
        return capsys.readouterr().out

    return main


@pytest.mark.slow
def test_every_method_agrees_and_is_in_the_table(run, tmp_path):
    text = run("--classes", "3", "--json", str(tmp_path / "bench.json"))
    found = json.loads((tmp_path / "bench.json").read_text())
    assert [r["method"] for r in found["records"]] == list(bench.BATCHES)
    for record in found["records"]:
        assert 0 <= record["difference"] < 1e-3 and record["eval_batch"] == min(
            bench.CPU_EVAL_BATCH, bench.BATCHES[record["method"]][1])
        assert record["train_gflop"] > 0 and record["checkpoint_kib"] > 0
        assert f"| {record['method']} " in text


def test_a_step_with_sar_is_measured_beside_the_plain_step_without(run, monkeypatch, tmp_path):
    seen = []
    loss = PLAIN["CoOp_SAR"].loss

    def look(plain, *args):
        seen.append((len(plain.novel), len(plain.frozen_all)))
        return loss(plain, *args)

    monkeypatch.setattr(PLAIN["CoOp_SAR"], "loss", look)
    text = run("--methods", "CoOp_SAR", "CoOp", "--classes", "3", "--train-images", "2", "--json",
               str(tmp_path / "bench.json"))
    assert set(seen) == {(200, 203)}
    with_sar, without = json.loads((tmp_path / "bench.json").read_text())["records"]
    assert with_sar["train_batch"] == without["train_batch"] == 2
    assert with_sar["train_seconds"]["without"] > 0
    assert "without" not in without["train_seconds"]
    ratio = with_sar["times_the_step_without"]
    assert f"CoOp_SAR, C = 3: A's step takes {ratio:.2f} times that of plain CoOp\n" in text
    assert text.count("times that of") == 1


def test_products_that_add_in_place_count_too(small_model):
    clip = Clip(copy.deepcopy(small_model), "fp32", torch.device("cpu"), "small")
    with FlopCounterMode(display=False) as counter:
        clip.image_features(torch.zeros(1, 3, clip.size, clip.size))
    tokens, width = clip.model.visual.positional_embedding.shape
    products = 2 * tokens * width * (3 + 1 + 4 + 4) * width  # of a layer; the last computes one row
    assert counter.get_total_flops() > (clip.image.depth - 1) * products


def test_sides_that_differ_fail_the_bench(run, monkeypatch):
    compute = PLAIN["CoOp"].logits
    monkeypatch.setattr(PLAIN["CoOp"], "logits", lambda *args: compute(*args) + 0.1)
    with pytest.raises(SystemExit, match=r"CoOp, C = 3: the sides differ by 0\.1"):
        run("--methods", "CoOp", "--classes", "3")


@pytest.mark.parametrize("side", ["ours", "plain"])
def test_memory_is_that_of_one_side(side, run, monkeypatch):
    def models():
        gc.collect()
        return [o for o in gc.get_objects() if type(o) in (Clip, PlainMMRL)]

    before, alive = list(map(id, models())), []

    def look():
        alive.extend(type(model) for model in models() if id(model) not in before)
        return 7

    monkeypatch.setattr(bench, "process_peak_mib", look)
    assert run("--methods", "MMRL", "--classes", "3", "--memory", side) == "7\n"
    assert alive == [{"ours": Clip, "plain": PlainMMRL}[side]]
