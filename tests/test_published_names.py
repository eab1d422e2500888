"""Published files and scripts: a key by another name means what it meant there, or is refused."""

import pytest
import yaml

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.experiments.plan import plan
from nerp.experiments.selection import Selection
from nerp.settings.resolve import Request, resolve
from nerp.settings.tree import get


def value(trainer, name, *opts, **files):
    return get(resolve(Request(trainer, "eurosat", opts=[str(o) for o in opts], **files)).cfg, name)


@pytest.mark.parametrize(("trainer", "given", "said", "key", "means"), [
    ("KgCoOp", "TRAINER.COOP.W", 2, "TRAINER.KGCOOP.W", 2.0),
    ("KgCoOp", "TRAINER.COOP.CTX_INIT", "True", "TRAINER.KGCOOP.CTX_INIT", "a photo of a"),
    ("KgCoOp", "TRAINER.COOP.CTX_INIT", "False", "TRAINER.KGCOOP.CTX_INIT", ""),
    ("KgCoOp", "TRAINER.KgCoOp.W", 3, "TRAINER.KGCOOP.W", 3.0),
    ("KgCoOp", "TRAINER.COOP.CLASS_TOKEN_POSITION", "end", "TRAINER.KGCOOP.W", 8.0),
    ("TCP", "TRAINER.COOP.CTX_INIT", "True", "TRAINER.TCP.CTX_INIT", "a photo of a"),
    ("TCP", "TRAINER.COOP.W", "1.0", "TRAINER.TCP.CLASS_LAYER", 9),
    ("TCP", "TRAINER.COOP.N_CTX", 4, "TRAINER.TCP.CLASS_LAYER", 9),
    ("CoOp", "TRAINER.CoOp.N_CTX", 8, "TRAINER.COOP.N_CTX", 8),
    ("CoCoOp", "TRAINER.COCOOP.CTX_INIT", "True", "TRAINER.COCOOP.CTX_INIT", "a photo of a"),
    ("MMRL", "TRAINER.CRL.REG_WEIGHT", 0.3, "TRAINER.MMRL.REG_WEIGHT", 0.3),
])
def test_a_published_name_sets_what_it_means(trainer, given, said, key, means):
    assert value(trainer, key, given, said) == means


@pytest.mark.parametrize(("trainer", "key", "reader"), [
    ("MMRL", "TRAINER.COOP.N_CTX", "CoOp does"), ("CoOp", "TRAINER.MMRL.ALPHA", "MMRL does"),
    ("KgCoOp", "TRAINER.COCOOP.N_CTX", "CoCoOp does"),
])
def test_another_method_s_key_is_refused_with_who_reads_it(trainer, key, reader):
    with pytest.raises(NerpError, match=f"{key}: {trainer} does not read it; {reader}"):
        value(trainer, "SEED", key, 3)


def test_a_setting_that_the_method_lacks_is_refused_with_those_it_has():
    with pytest.raises(NerpError, match="KgCoOp has no M; its settings are N_CTX"):
        value("KgCoOp", "SEED", "TRAINER.COOP.M", 3)


@pytest.mark.parametrize("trainer", TRAINERS.names())
def test_a_run_s_whole_configuration_is_taken_as_a_method_configuration(trainer, tmp_path):
    file = tmp_path / "config.yaml"
    content = yaml.safe_load(resolve(Request(trainer, "eurosat")).cfg.dump())
    for name in ("OUTPUT_DIR", "DATASET"):
        content.pop(name)
    file.write_text(yaml.safe_dump(content))
    assert trainer == resolve(Request(trainer, "eurosat", config_file=str(file))).cfg.TRAINER.NAME


DASSL = ("TRAIN.COUNT_ITER train_x", "DATALOADER.TRAIN_X.SAMPLER RandomSampler", "VERBOSE True",
         "TEST.EVALUATOR Classification", "DATASET.VAL_PERCENT 0.1", "OPTIM.STAGED_LR False",
         "INPUT.NO_TRANSFORM False")


@pytest.mark.parametrize("line", DASSL)
def test_dassl_s_usual_choices_are_accepted_and_others_refused(line, tmp_path):
    name, usual = line.split()
    file = tmp_path / "published.yaml"
    content: object = yaml.safe_load(usual)
    for part in reversed(name.split(".")):
        content = {part: content}
    file.write_text(yaml.safe_dump(content))
    assert value("CoOp", "TRAINER.NAME", config_file=str(file)) == "CoOp"
    assert value("CoOp", "TRAINER.NAME", name, usual) == "CoOp"
    with pytest.raises(NerpError, match=f"{name}: leave it out; here it is always"):
        value("CoOp", "SEED", name, "else")


@pytest.mark.parametrize("said", ["last_step", "best_val"])
def test_the_final_model_is_the_last_or_the_best(said):
    assert value("CoOp", "TEST.FINAL_MODEL", "TEST.FINAL_MODEL", said) == said
    with pytest.raises(NerpError, match="FINAL_MODEL is .best.; it takes one of last_step, best"):
        value("CoOp", "SEED", "TEST.FINAL_MODEL", "best")


def test_a_sweep_gives_an_option_to_the_methods_that_read_it():
    selection = Selection("base_to_novel", ("CoOp", "MMRL"), ("eurosat",), seeds=(1,),
                          phase="train", options=("TRAINER.COOP.N_CTX", "8", "OPTIM.LR", "0.1"))
    of = {run.trainer: run.argv for run in plan(selection)}
    assert "TRAINER.COOP.N_CTX" in of["CoOp"] and "TRAINER.COOP.N_CTX" not in of["MMRL"]
    assert all("OPTIM.LR" in argv for argv in of.values())
