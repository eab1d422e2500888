"""docs/methods has a page per method whose tables say what the code does: the learned tensors with
their shapes, the published schedules, the settings and their defaults."""

import re

import pytest
import yaml
from conftest import eurosat_classes, golden_config
from scripts.test_docs import REPO

from nerp.base.registry import TRAINERS
from nerp.settings.defaults import default_config
from nerp.settings.keys import Key
from nerp.settings.protocols import TRAINING_SUFFIXES
from nerp.trainers.cliplora import CLIPLoRA
from nerp.trainers.mocoop import MoCoOp

PAGES = REPO / "docs" / "methods"
CONFIGS = REPO / "configs" / "trainers"


def page(name):
    """A method's page; of one that several share, what stands below its own heading."""
    text = (PAGES / f"{TRAINERS[name].__module__.rsplit('.', 1)[1]}.md").read_text()
    _, heading, own = text.partition(f"\n## {name}\n")
    return own.partition("\n## ")[0] if heading else text


def rows(text, *columns):
    """The cells of each row of the table whose heading has these."""
    heading = "| " + " | ".join(columns)
    _, _, below = text.partition(heading)
    assert below, f"no table {heading}"
    lines = below.splitlines()[2:]
    for line in lines:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


def shape_on_page(cell, symbols):
    """[K, 4 W_t, D/16] as numbers; the first shape that the cell names, [] a number alone."""
    numbers = []
    inside = re.match(r"\[([^\]]*)\]", cell)[1]
    for size in inside.split(", ") if inside else ():
        factor, symbol, divisor = re.fullmatch(r"(\d+ )?([A-Za-z_]+|\d+)(/\d+)?", size).groups()
        value = int(symbol) if symbol.isdigit() else symbols[symbol]
        numbers.append(int(factor or 1) * value // int((divisor or "/1")[1:]))
    return tuple(numbers)


@pytest.mark.parametrize("name", TRAINERS.names())
def test_every_method_has_a_page_in_the_index(name):
    assert page(name)
    link = f"({TRAINERS[name].__module__.rsplit('.', 1)[1]}.md)"
    assert link in (PAGES / "README.md").read_text()


@pytest.mark.parametrize("name", [name for name in TRAINERS.names() if TRAINERS[name].folder])
def test_the_table_has_exactly_the_learned_tensors_in_their_shapes(name, golden_clip):
    method = TRAINERS[name]
    trainer = method(golden_config(), golden_clip, eurosat_classes("base"))
    symbols = {"D": golden_clip.embed_dim, "W_v": golden_clip.image.width,
               "W_t": golden_clip.text.width, "C": len(trainer.classes.names),
               "N": 0}  # keys, of which a fresh cache has none
    for symbol, key in re.findall(r"\b(\w+) = ([A-Z_]+)\b", page(name)):
        if key in trainer.settings:
            symbols[symbol] = trainer.settings[key]
    if name == "PromptKD":
        symbols["D_T"] = trainer.width
    if hasattr(trainer, "n_ctx"):  # the number of CTX_INIT's words, where there are any
        symbols["K"] = trainer.n_ctx
    tensors = trainer.initial()
    if method.builds_on:  # what it takes over stands on another page
        tensors = {tensor: value for tensor, value in tensors.items()
                   if not any(re.fullmatch(pattern, tensor) for pattern in method.fixed)}
    heading = f"name in a checkpoint of `{name}`"  # where a page has two methods
    heading = heading if heading in page(name) else "name in a checkpoint |"
    for tensor, shape, *_ in rows(page(name), heading.removesuffix(" |"), "shape"):
        pattern = r"\d+".join(map(re.escape, re.split(r"(?<=[._])i(?=\.|$)", tensor.strip("`"))))
        listed = [found for found in tensors if re.fullmatch(pattern, found)]
        assert listed, tensor
        for found in listed:
            own = symbols | symbols_of(trainer, found)
            assert tuple(tensors.pop(found).shape) == shape_on_page(shape, own), found
    assert not tensors


def symbols_of(trainer, tensor):
    """What a page's letters mean for one tensor, where it is the tensor's own."""
    number = int((re.findall(r"\d+", tensor) or [0])[0])
    if isinstance(trainer, CLIPLoRA):
        text = number in trainer.layers["text"].values()
        return {"W": (trainer.clip.text if text else trainer.clip.image).width}
    if isinstance(trainer, MoCoOp):
        before, behind = trainer.experts[number % len(trainer.experts)].pieces
        return {"G": len(trainer.experts), "b": before, "a": behind}
    return {}


@pytest.mark.parametrize("name", TRAINERS.names())
def test_every_setting_stands_with_its_default(name):
    method = TRAINERS[name]
    stated = {key: default for key, default, *_ in rows(page(name), f"`TRAINER.{method.node}`")}
    assert stated == {f"`{key}`": shown(value) for key, value in method.defaults.items()}


@pytest.mark.parametrize("node", TRAINING_SUFFIXES.values())
def test_every_setting_of_what_trains_otherwise_stands_with_its_default(node):
    text = (PAGES / f"{node.lower()}.md").read_text()
    stated = {key: default for key, default, *_ in rows(text, f"`TRAINER.{node}`")}
    settings = default_config().TRAINER[node]
    assert stated == {f"`{key}`": shown(value) for key, value in settings.items()}


def shown(value):
    value = value.default if isinstance(value, Key) else value
    return f'"{value}"' if isinstance(value, str) else str(value)


@pytest.mark.parametrize("folder", sorted(p.name for p in CONFIGS.iterdir()))
def test_every_published_schedule_stands_as_its_file_has_it(folder):
    schedules = {}
    for file in CONFIGS.joinpath(folder).glob("*.yaml"):
        read = yaml.safe_load(file.read_text())
        if {"LR", "MAX_EPOCH"} <= read.get("OPTIM", {}).keys() \
                and not file.stem.startswith("tiny"):
            batch, optim = read["DATALOADER"]["TRAIN_X"]["BATCH_SIZE"], read["OPTIM"]
            schedules[f"`{file.stem}`"] = [str(batch), str(optim["MAX_EPOCH"]), str(optim["LR"])]
    if schedules:
        columns = f"`configs/trainers/{folder}`", "batch", "epochs", "LR"
        stated = {file: numbers for file, *numbers in rows(page(folder), *columns)}
        assert stated == schedules
