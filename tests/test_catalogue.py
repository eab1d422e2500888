"""Which configuration a command line means that names none."""

import pytest

from nerp.base.log import RunLog
from nerp.base.paths import shipped_name
from nerp.experiments.plan import plan
from nerp.experiments.selection import Selection
from nerp.settings.cards import find_method_file, shipped_cards
from nerp.settings.catalogue import catalogue, has_place, is_drawn, learns, methods
from nerp.settings.protocols import NERP_SUFFIX, PROTOCOLS
from nerp.settings.resolve import Request, resolve


def asked(trainer, dataset, *opts, model_dir="", **flags):
    """The method configuration that is taken, and what is said of it."""
    with RunLog() as log:
        resolved = resolve(Request(trainer=trainer, dataset=dataset, opts=list(opts),
                                   model_dir=str(model_dir), **flags))
        said = [record.getMessage() for record in log.buffer]
    return shipped_name(resolved.method_file) if resolved.method_file else "", \
        [line for line in said if "configs/experiments.yaml has" in line]


@pytest.mark.parametrize("protocol", [protocol.name for protocol in PROTOCOLS])
@pytest.mark.parametrize("method", methods())
def test_every_training_of_a_sweep_can_leave_its_configuration_out(method, protocol):
    if not learns(method) or not has_place(method, protocol):
        return
    shots = {16, *catalogue()["protocols"][protocol]["shots"]}
    for run in plan(Selection(protocol, (method,), shots=tuple(shots), seeds=(1,), phase="train")):
        argv = list(run.argv)
        file = argv[argv.index("--config-file") + 1]
        opts = argv[argv.index("TASK"):]
        assert asked(method, run.card.stem, *opts) == (
            file, [f"configuration: {file}, which configs/experiments.yaml has for this run"])
        assert find_method_file(file).is_file()


@pytest.mark.parametrize("dataset", [card for card in shipped_cards() if is_drawn(card)])
def test_a_drawn_benchmark_has_tiny_whatever_is_asked(dataset):
    for method in methods():
        for task in ("B2N", "CD", "FS"):
            file, _ = asked(method, dataset, "TASK", task)
            assert file == f"configs/trainers/{method}/tiny.yaml"
            assert resolve(Request(method, dataset, config_file=file))


def test_a_test_takes_what_its_model_was_trained_with(tmp_path):
    """MMA on ImageNet trains by another file than elsewhere; the tested dataset is not asked."""
    trained = tmp_path / "train"
    (trained / "prompt_learner").mkdir(parents=True)
    (trained / "config.yaml").write_text("DATASET: {NAME: ImageNet}\n")
    row = catalogue()["methods"]["MMA"]["base_to_novel"]
    assert row["imagenet"] != row["default"]
    for folder in (trained, trained / "prompt_learner"):
        for trainer in ("MMA", "MMA" + NERP_SUFFIX):
            file, _ = asked(trainer, "imagenetv2", "TASK", "B2N", model_dir=folder)
            assert file == f"configs/trainers/MMA/{row['imagenet']}.yaml"
    file, _ = asked("MMA", "eurosat", "TASK", "CD", model_dir=tmp_path / "published")
    assert file == "configs/trainers/MMA/vit_b16_ep1_cross_datasets.yaml"


def test_what_is_given_stays_and_zero_shot_clip_needs_none(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("OPTIM: {MAX_EPOCH: 3}\n")
    assert asked("MMRL", "eurosat", config_file=str(mine)) == (str(mine), [])
    assert asked("ZeroshotCLIP", "eurosat") == ("", [])


def test_a_method_of_ones_own_is_said_to_have_none(monkeypatch):
    from nerp.settings import catalogue as module

    monkeypatch.setattr(module, "methods", lambda: ["CoOp"])
    file, said = asked("MMRL", "eurosat")
    assert file == "" and said == [
        "no --config-file, and configs/experiments.yaml has none for MMRL: the defaults"
    ]
