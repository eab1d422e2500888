"""The shipped configurations hold the published values; tests/published has those to compare with.

What is there is transcribed from the configuration files and settings tables of the methods'
public releases.
"""

import ast
import json
from pathlib import Path

import pytest
import yaml

from nerp.base.paths import shipped
from nerp.base.registry import TRAINERS
from nerp.files.yaml_file import load_yaml
from nerp.settings.cards import find_card, shipped_cards
from nerp.settings.catalogue import config_name, methods
from nerp.settings.resolve import Request, resolve
from nerp.settings.tree import get
from nerp.trainers.mocoop_words import published_templates

PUBLISHED = Path(__file__).parent / "published"
FILES = [
    json.loads((PUBLISHED / f"{name}.json").read_text())
    for name in ("trainer_configs", "configs_maple_kgcoop_tcp", "configs_coprompt_mmrlpp",
                 "configs_biomedcoop_restore", "configs_mocoop_cliplora",
                 "configs_caspl", "configs_promptkd_prograd_taskres", "configs_dept_decoop_plot")
]
COMMON_INPUT = FILES[0]["COMMON_INPUT"]
CONFIGS = {file: tree for part in FILES for file, tree in part.items() if "/" in file}
OVERRIDES = {method: rows for part in FILES[1:] for method, rows in part["OVERRIDES"].items()}
PROTOCOLS = FILES[1]["PROTOCOLS"] | FILES[3]["PROTOCOLS"] | FILES[5]["PROTOCOLS"]
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


# Keys of PromptKD's files that do nothing here, and those that are answered or given by a script.
UNREAD = ("N_CTX_TEXT", "PROMPT_DEPTH_TEXT", "PROJECT_LAYER", "CE_WEIGHT", "FINAL_MODEL")


def ours(method, path, value):
    """The key and value of ours that a published one stands for; None where nothing reads it.

    KgCoOp, TCP and ProGrad keep theirs in CoOp's node, and CTX_INIT there is a switch; CasPL's are
    in the nodes of the methods that it builds on. PromptKD's weight is its script's.
    """
    of_a_script = path[-1] == "KD_WEIGHT" and value == 1
    if path[-1] in UNREAD and method == "PromptKD" or of_a_script or path == ("LOSS", "NAME"):
        return None
    if method == "ProGrad" and path[0] in ("LOSS", "TRAINER"):
        return ("TRAINER", "PROGRAD", path[-1]), "template" if path[-1] == "CTX_INIT" else value
    if method == "PLOTPP" and path[-1] in ("CTX_INIT", "N_CTX"):
        return None
    if method == "TaskRes" and path[0] == "TRAINER":
        return ("TRAINER", "TASKRES", path[-1]), value
    if method.startswith("CasPL") and path[0] == "TRAINER":
        return ("TRAINER", TRAINERS[method].node, path[-1]), value
    if method not in ("KgCoOp", "TCP") or "COOP" not in path:
        return path, value
    leaf, node = path[-1], TRAINERS[method].node
    if leaf not in TRAINERS[method].defaults:
        return None
    if leaf == "CTX_INIT":
        value = "a photo of a" if value else ""
    return ("TRAINER", node, leaf), value


def check(cfg, method, path, value):
    found = ours(method, path, value)
    if found is not None:
        name = ".".join(found[0])
        assert plain(get(cfg, name)) == plain(found[1]), name


@pytest.mark.parametrize("file", CONFIGS)
def test_every_published_configuration_ships_under_its_name(file):
    # A dataset without a row of its own in any of them.
    cfg = resolve(Request(
        trainer=file.split("/")[0], dataset="imagenetv2", config_file=f"configs/trainers/{file}"
    )).cfg
    published = dict(CONFIGS[file])
    if published["INPUT"] == "COMMON":
        published["INPUT"] = COMMON_INPUT
    for path, value in leaves(published):
        check(cfg, file.split("/")[0], path, value)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_published_file_is_taken_as_it_is(name, tmp_path):
    method, content = name.split("/")[0], dict(CONFIGS[name])
    if content["INPUT"] == "COMMON":
        content["INPUT"] = COMMON_INPUT
    file = tmp_path / "published.yaml"
    file.write_text(yaml.safe_dump(content))
    cfg = resolve(Request(trainer=method, dataset="imagenetv2", config_file=str(file))).cfg
    for path, value in leaves(content):
        check(cfg, method, path, value)


@pytest.mark.parametrize(("method", "task"), [
    (method, task) for method in OVERRIDES for task in OVERRIDES[method]
])
def test_what_is_set_over_a_published_file_stands_in_ours(method, task):
    rows = OVERRIDES[method][task]
    datasets = {load_yaml(path)["DATASET"]["NAME"] for path in shipped_cards().values()}
    for dataset in sorted(datasets):
        config = config_name(method, task, find_card(dataset).stem, 16)
        cfg = resolve(Request(
            trainer=method, dataset=dataset,
            config_file=f"configs/trainers/{method}/{config}.yaml",
        )).cfg
        if config != "tiny":
            for name, value in (rows.get("all", {}) | rows.get(dataset, {})).items():
                check(cfg, method, tuple(name.split(".")), value)


@pytest.mark.parametrize(("method", "task"), [
    (method, task) for method, tasks in PROTOCOLS.items() for task in tasks
])
def test_a_protocol_runs_with_the_published_file_and_epochs(method, task):
    published = PROTOCOLS[method][task]
    epochs = published["load_epoch"]
    for dataset in ("imagenet", "sun397", "eurosat"):
        file = f"{method}/{config_name(method, task, dataset, published['shots'])}.yaml"
        assert file == published["config"]
        cfg = resolve(Request(
            trainer=method, dataset=dataset, config_file=f"configs/trainers/{file}"
        )).cfg
        wanted = epochs
        if isinstance(epochs, dict):
            wanted = epochs.get(cfg.DATASET.NAME, epochs["all"])
        assert wanted == cfg.OPTIM.MAX_EPOCH


def test_nothing_else_ships_but_the_settings_of_the_drawn_world():
    folder = shipped("configs") / "trainers"
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*.yaml")}
    of_a_paper = {name for name in there if name.startswith("ANPrompt/vit_b16")}  # without code
    of_arguments = {"CLIPLoRA/vit_b16.yaml"}  # a release without files
    of_code = {name for name in there if TRAINERS[name.partition("/")[0]].on_features
               and not name.endswith("tiny.yaml")}  # settings that stand in their code
    without_files = {name for part in FILES for name in part.get("ours", ())}
    others = there - set(CONFIGS) - of_a_paper - of_arguments - of_code - without_files
    tiny = {f"{method}/tiny.yaml" for method in methods()}
    assert others == tiny | {"PLOTPP/tiny_vision.yaml"}  # of the first stage


def test_cliplora_has_the_values_of_its_arguments():
    published = FILES[4]["CLIP-LoRA (arguments)"]
    cfg = resolve(Request(
        trainer="CLIPLoRA", dataset="eurosat",
        config_file="configs/trainers/CLIPLoRA/vit_b16.yaml",
    )).cfg
    node, optim, loader = cfg.TRAINER.CLIPLORA, cfg.OPTIM, cfg.DATALOADER
    found = {
        "r": node.RANK, "alpha": node.ALPHA, "dropout_rate": node.DROPOUT, "params": node.PARAMS,
        "encoder": node.ENCODER, "position": node.POSITION, "n_iters": node.N_ITERS,
        "lr": optim.LR, "eta_min": optim.LR_MIN, "weight_decay": optim.WEIGHT_DECAY,
        "betas": [optim.ADAM_BETA1, optim.ADAM_BETA2],
        "batch_size": loader.TRAIN_X.BATCH_SIZE, "test_batch_size": loader.TEST.BATCH_SIZE,
        "shots": cfg.DATASET.NUM_SHOTS, "seed": cfg.SEED, "backbone": cfg.MODEL.BACKBONE.NAME,
    }
    assert found == {name: published[name] for name in found}


def test_mocoop_has_the_published_templates():
    assert published_templates() == FILES[4]["TEMPLATES"]


# METHODS: the weight of MMRL's regularisation by dataset.
REG_WEIGHTS = {
    "StanfordCars": 7, "FGVCAircraft": 6, "SUN397": 6, "DescribableTextures": 6, "Food101": 5,
    "OxfordFlowers": 4, "UCF101": 3, "ImageNet": 0.5, "Caltech101": 0.5, "OxfordPets": 0.2,
    "EuroSAT": 0.01,
}


@pytest.mark.parametrize("dataset", REG_WEIGHTS)
def test_mmrl_has_settings_of_its_own_for_each_dataset(dataset):
    own = "vit_b16_imagenet" if dataset == "ImageNet" else "vit_b16"
    node = resolve(Request(
        trainer="MMRL", dataset=dataset, config_file=f"configs/trainers/MMRL/{own}.yaml"
    )).cfg.TRAINER.MMRL
    width = 2048 if dataset == "EuroSAT" else 512
    assert dict(node, REG_WEIGHT=REG_WEIGHTS[dataset], REP_DIM=width) == node
    cross = resolve(Request(
        trainer="MMRL", dataset=dataset,
        config_file="configs/trainers/MMRL/vit_b16_cross_datasets.yaml",
    )).cfg.TRAINER.MMRL
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


# ANPrompt has no published files; its paper and repository state these.
SIM_WEIGHTS = {
    "StanfordCars": 7, "FGVCAircraft": 6, "SUN397": 6, "DescribableTextures": 6, "Food101": 5,
    "OxfordFlowers": 4, "UCF101": 3, "Caltech101": 0.5, "OxfordPets": 0.2, "EuroSAT": 0.001,
    "ImageNetV2": 1,
}


@pytest.mark.parametrize("dataset", SIM_WEIGHTS)
@pytest.mark.parametrize(("name", "batch", "epochs"), [
    ("vit_b16", 4, 10), ("vit_b16_few_shot", 32, 50), ("vit_b16_imagenet", 32, 5),
    ("vit_b16_cross_datasets", 32, 1),
])
def test_anprompt_has_the_values_of_its_paper(name, batch, epochs, dataset):
    cfg = resolve(Request(
        trainer="ANPrompt", dataset=dataset, config_file=f"configs/trainers/ANPrompt/{name}.yaml"
    )).cfg
    weight = {"vit_b16_imagenet": 0.5, "vit_b16_cross_datasets": 0.2}.get(name)
    node, optim = cfg.TRAINER.ANPROMPT, cfg.OPTIM
    found = [node.SIM_WEIGHT, node.N_TOKENS, node.THETA, optim.NAME, optim.LR, optim.MAX_EPOCH,
             cfg.DATALOADER.TRAIN_X.BATCH_SIZE]
    wanted = [weight or SIM_WEIGHTS[dataset], 5, 0.7, "adamw", 0.001, epochs, batch]
    assert found == wanted
