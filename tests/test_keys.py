"""What every configuration key takes, and the seed that nobody fixed."""

import json
import math

import pytest

from nerp.base.errors import NerpError
from nerp.settings.defaults import default_config, key
from nerp.settings.keys import as_key
from nerp.settings.options import options_of
from nerp.settings.tree import get, keys, put

NAMES = list(keys(default_config()))
# Any finite number is a meaning of these: logits, and factors of logits.
BOUNDLESS = {"NERP.TAU", "NERP.THRES", "NERP.ENTROPY_THRES", "NERP.C_TEXT", "NERP.C_IMAGE",
             "TRAINER.MMADAPTER.ADAPTER_SCALE", "TRAINER.PROMPTSRC.GPA_MEAN",
             "TRAINER.CASPL_PROMPTSRC.GPA_MEAN"}
STRANGE = [
    None, math.nan, math.inf, -math.inf, 10**400, -(10**400), "9" * 5000, "[" * 5000, "nan",
    "x\0y", "\x1b[2J", "\ud800", [], [[]], {}, {"a": {}}, [None] * 3, object(), b"x", "../../x",
    "__import__('os')", "1" + "0" * 400,
]


@pytest.mark.parametrize("name", NAMES)
def test_a_default_is_taken_as_it_is_and_as_the_command_line_writes_it(name):
    cfg = default_config()
    default = get(cfg, name)
    for value in (default, str(default)):
        put(cfg, name, value, "here")
        assert get(cfg, name) == default and type(get(cfg, name)) is type(default)


@pytest.mark.parametrize("name", NAMES)
def test_whatever_else_is_refused_in_one_line_that_says_type_and_range(name):
    cfg = default_config()
    default = get(cfg, name)
    for value in STRANGE:
        try:
            put(cfg, name, value, "here")
        except NerpError as error:
            text = str(error)
            assert text.startswith(f"here: {name} is ") and len(text) < 600
            assert text.isprintable()
        else:
            assert type(get(cfg, name)) is type(default)


@pytest.mark.parametrize("name", NAMES)
def test_a_number_states_its_range(name):
    if type(key(name).default) in (int, float):
        bare = key(name).takes in ("a number", "a whole number")
        assert bare == (name in BOUNDLESS)


@pytest.mark.parametrize(("name", "value", "takes"), [
    ("SEED", "-2", "a whole number from -1 to 9,223,372,036,854,775,807"),
    ("OPTIM.LR", "-1", "a number of at least 0"),
    ("OPTIM.LR", "1e999", "a number of at least 0"),
    ("OPTIM.MOMENTUM", "1", "a number of at least 0 and below 1"),
    ("DATASET.NUM_SHOTS", "-3", "a whole number from -1 to 1,000,000"),
    ("DATASET.NUM_SHOTS", "2.5", "a whole number from -1 to 1,000,000"),
    ("INPUT.SIZE", "(224,)", "a list of 2 such as (224, 224), each a whole number from 1 to 4,096"),
    ("INPUT.RRCROP_SCALE", "(0, 1)", "each a number above 0 and at most 1"),
    ("DATALOADER.NUM_WORKERS", "-1", "a whole number from 0 to 1,024"),
    ("DATALOADER.TEST.BATCH_SIZE", "0", "a whole number from 1 to 65,536"),
    ("INPUT.TRANSFORMS", "['flip']", "each one of random_resized_crop, random_flip, center_crop"),
    ("NERP.PAIRS_QUANTILE", "1", "a number of at least 0 and below 1"),
    ("NERP.PAIRS", "texts", "unknown pair source 'texts'. Did you mean text?"),
    ("NERP.PAIRS_NEIGHBOURS", "True", "a whole number from 0 to 1,000,000"),
    ("TASK", "B3N", "unknown protocol 'B3N'. Did you mean B2N?"),
    ("DATASET.TEMPLATE", "a photo", "a text with one {} for the class name"),
    ("DATASET.TEMPLATE", "{} {0}", "a text with one {} for the class name"),
    ("DATASET.NAME", "../up", "a plain name"),
    ("DATASET.DIRECTORY", "/etc", "a path inside its folder"),
    ("DATASET.SPLIT_FILE", "{:>999999999}", "a path inside its folder"),
    ("TRAINER.MMRL.N_REP_TOKENS", "1000000000", "a whole number from 1 to 512"),
    ("TRAINER.MMRL.REP_LAYERS", "[]", "a list of at least 1"),
    ("TRAINER.COOP.PREC", "fp8", "one of fp16, fp32, amp, bf16"),
    ("OPTIM.LR_SCHEDULER", "step", "one of cosine, cosine_iterations"),
    ("OPTIM", "1", "NAME, LR, MAX_EPOCH"),
])
def test_ranges(name, value, takes):
    with pytest.raises(NerpError, match="^here: ") as error:
        put(default_config(), name, value, "here")
    assert takes in str(error.value)


def test_a_protocol_is_kept_by_the_name_that_the_code_asks_for():
    cfg = default_config()
    put(cfg, "TASK", "cross_dataset", "here")
    assert cfg.TASK == "CD"


def test_a_plain_default_stands_for_its_type():
    assert as_key(3).read("4", "x") == 4 and as_key([1]).read("['a', 2]", "x") == ["a", 2]
    with pytest.raises(NerpError, match="x is 'four'; it takes a whole number \\(default 3\\)"):
        as_key(3).read("four", "x")


def test_key_and_value_may_be_one_word():
    options = ["OPTIM.LR=0.1", "DATASET.NAME", "a=b", "TEST.TAU=1", "DATASET.TEMPLATE=x = {}"]
    assert options_of(options) == {
        "OPTIM.LR": "0.1", "DATASET.NAME": "a=b", "NERP.TAU": "1", "DATASET.TEMPLATE": "x = {}",
    }


def test_no_fixed_seed_is_a_drawn_one_that_is_said_and_repeats_the_run(train, tmp_path):
    status, text, error = train("drawn", "--seed", "-1")
    assert status == 0, error
    record = json.loads((tmp_path / "drawn" / "result.json").read_text())
    seed = record["seed"]
    assert f"SEED -1: the seed is {seed}, drawn for this run; --seed {seed} repeats it" in text
    assert train("again", "--seed", seed)[0] == 0
    again = json.loads((tmp_path / "again" / "result.json").read_text())
    assert again["identity"] == record["identity"] and again["accuracy"] == record["accuracy"]
    drawn, repeated = (tmp_path / run / "prompt_learner/model.pth.tar-1"
                       for run in ("drawn", "again"))
    assert drawn.read_bytes() == repeated.read_bytes()

    status, text, _ = train("drawn", "SEED", "-1")  # the same command, the same folder
    assert status == 0 and f"the seed is {seed}, the one that the run in this folder drew" in text
    assert "finished already" in text
    status, text, _ = train("drawn", "--seed", "-1", "--overwrite")
    assert status == 0 and "drawn for this run" in text


@pytest.mark.parametrize(("args", "message"), [
    (["--seed", "-2"], "argument --seed: the value is -2; it takes a whole number from -1"),
    (["--seed", "one"], "argument --seed: the value is 'one'; it takes a whole number"),
    (["SEED", "-2"], "command line: SEED is -2; it takes a whole number from -1"),
    (["OPTIM.WARMUP_EPOCH", "2"], "it takes at most the number of epochs, OPTIM.MAX_EPOCH 1"),
    (["INPUT.RRCROP_SCALE", "(1, 0.5)"], "the smaller share of the image comes first"),
    (["DATASET.TEMPLATE", "a photo"], "command line: DATASET.TEMPLATE is 'a photo'; it takes"),
    (["--sead", "1"], "unrecognized arguments: --sead"),
])
def test_a_bad_number_on_the_command_line_is_one_line_and_leaves_nothing(
    args, message, train, tmp_path
):
    status, _, error = train("run", *args)
    assert status == 1 and message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()
