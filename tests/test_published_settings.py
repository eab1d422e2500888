"""The shipped configurations hold the published values; tests/published has those to compare with.

`trainer_configs.json`, `nerp_settings.json` and `prompts.json` are transcribed from the
configuration files and settings tables of the methods' public releases.
"""

import ast
import json
from pathlib import Path

import pytest

from nerp.config import Request, build_config, load_yaml, shipped_cards
from nerp.paths import shipped

PUBLISHED = Path(__file__).parent / "published"
CONFIGS = json.loads((PUBLISHED / "trainer_configs.json").read_text())
COMMON_INPUT = CONFIGS.pop("COMMON_INPUT")
SETTINGS = json.loads((PUBLISHED / "nerp_settings.json").read_text())
PROMPTS = json.loads((PUBLISHED / "prompts.json").read_text())


def leaves(tree, path=()):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def plain(value):
    """Tuples, lists and numbers written as text alike."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("file", CONFIGS)
def test_every_published_configuration_ships_under_its_name(file):
    # A dataset without a row of its own in any of them.
    cfg = build_config(Request(
        trainer=file.split("/")[0], dataset="imagenetv2", config_file=f"configs/trainers/{file}"
    ))
    published = dict(CONFIGS[file])
    if published["INPUT"] == "COMMON":
        published["INPUT"] = COMMON_INPUT
    for path, value in leaves(published):
        node = cfg
        for key in path:
            node = node[key]
        assert plain(node) == plain(value), ".".join(path)


def test_nothing_else_ships_but_the_settings_of_the_drawn_world():
    folder = shipped("configs") / "trainers"
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*.yaml")}
    assert there - set(CONFIGS) == {
        f"{method}/tiny.yaml"
        for method in ("ZeroshotCLIP", "CoOp", "CoCoOp", "PromptSRC", "MMA", "MMRL", "MMRLpp")
    }


# METHODS: the weight of MMRL's regularisation by dataset.
REG_WEIGHTS = {
    "StanfordCars": 7, "FGVCAircraft": 6, "SUN397": 6, "DescribableTextures": 6, "Food101": 5,
    "OxfordFlowers": 4, "UCF101": 3, "ImageNet": 0.5, "Caltech101": 0.5, "OxfordPets": 0.2,
    "EuroSAT": 0.01,
}


@pytest.mark.parametrize("dataset", REG_WEIGHTS)
def test_mmrl_has_settings_of_its_own_for_each_dataset(dataset):
    own = "vit_b16_imagenet" if dataset == "ImageNet" else "vit_b16"
    node = build_config(Request(
        trainer="MMRL", dataset=dataset, config_file=f"configs/trainers/MMRL/{own}.yaml"
    )).TRAINER.MMRL
    width = 2048 if dataset == "EuroSAT" else 512
    assert dict(node, REG_WEIGHT=REG_WEIGHTS[dataset], REP_DIM=width) == node
    cross = build_config(Request(
        trainer="MMRL", dataset=dataset,
        config_file="configs/trainers/MMRL/vit_b16_cross_datasets.yaml",
    )).TRAINER.MMRL
    assert (cross.REG_WEIGHT, cross.REP_DIM) == (0.2, 512)


@pytest.mark.parametrize(
    ("method", "protocol"), [(m, p) for m, tables in SETTINGS.items() for p in tables]
)
def test_nerp_settings(method, protocol):
    table = load_yaml(shipped("configs") / "nerp" / method / f"{protocol}.yaml")
    published = {  # MMRL's width on EuroSAT is among them; here a checkpoint knows its own
        name: {key: value for key, value in row.items() if not key.startswith("TRAINER.")}
        for name, row in SETTINGS[method][protocol].items()
    }
    assert {name: row["NERP"] for name, row in table.items()} == published


@pytest.mark.parametrize("name", PROMPTS["template"])
def test_prompts(name):
    nodes = [load_yaml(path)["DATASET"] for path in shipped_cards().values()]
    (node,) = [node for node in nodes if node["NAME"] == name]
    assert node["TEMPLATE"] == PROMPTS["template"][name]
    assert node["NEUTRAL"] == PROMPTS["neutral"][name]
