"""Every layout reads to exactly its items, labels and class names, base and novel."""

import json
import math
import shutil
from pathlib import Path

import pytest
from made import JSON_SPLITS, card, classnames_text, wnids, write, write_json_split

from nerp.base.errors import NerpError
from nerp.base.registry import DRAWN
from nerp.data.benchmark import SPLITS, Item, open_benchmark
from nerp.data.selection import class_half
from nerp.files.yaml_file import load_yaml
from nerp.settings.cards import find_card, shipped_cards


def lists(bench):
    return {split: getattr(bench, split) for split in SPLITS}


def assert_halves(bench):
    """Base and novel classes are the two halves, relabelled from 0, and lose no item."""
    count = len(bench.classnames)
    middle = math.ceil(count / 2)
    base, novel = (bench.select(class_half(count, which)) for which in ("base", "new"))
    assert base.classnames == bench.classnames[:middle]
    assert novel.classnames == bench.classnames[middle:]
    for split in SPLITS:
        items = getattr(bench, split)
        assert getattr(base, split) == [i for i in items if i.label < middle]
        assert getattr(novel, split) == [
            i._replace(label=i.label - middle) for i in items if i.label >= middle
        ]


@pytest.mark.parametrize("name", JSON_SPLITS)
def test_json_split(name, tmp_path):
    splits = write_json_split(name, tmp_path)
    bench = open_benchmark(card(name, tmp_path))
    assert lists(bench) == splits
    assert bench.classnames == [
        f"{JSON_SPLITS[name][0]}{c}".replace("_", " ") for c in range(len(bench.classnames))
    ]
    assert all((bench.image_dir / item.path).is_file() for item in bench.train + bench.test)
    assert_halves(bench)


def test_fgvc_aircraft(tmp_path):
    names = ["707-320", "Boeing 717", "F-16A/B", *(f"BAE 146-{i}" for i in range(97))]
    folder = tmp_path / "fgvc_aircraft"
    write(folder / "variants.txt", "\n".join(names) + "\n")
    expected = {}
    for first, split in enumerate(SPLITS):
        expected[split] = [
            Item(f"{1025794 + 10 * c + first:07}.jpg", c, names[c]) for c in reversed(range(100))
        ]
        write(folder / f"images_variant_{split}.txt",
              "".join(f"{i.path[:-4]} {i.classname}\n" for i in expected[split]))
        for item in expected[split]:
            write(folder / "images" / item.path)
    bench = open_benchmark(card("fgvc_aircraft", tmp_path))
    assert lists(bench) == expected and bench.classnames == names
    assert bench.image_dir == folder / "images"
    assert_halves(bench)
    write(folder / "images_variant_val.txt", "0034309 Concorde\n")
    with pytest.raises(NerpError, match="images_variant_val.txt: '0034309 Concorde' names no cla"):
        open_benchmark(card("fgvc_aircraft", tmp_path))


def write_wnids(folder, count, files):
    """`files` in a folder for each wnid, made in no particular order, and what is to be ignored."""
    for wnid in reversed(wnids(count)):
        for file in reversed(files):
            write(folder / wnid / file.format(wnid=wnid))
    write(folder / wnids(count)[0] / "._hidden.JPEG", "not an image")
    write(folder / "README.txt", "about these images")
    (folder / ".cache").mkdir()


def folder_items(prefix, count, files):
    return [Item(f"{prefix}{wnid}/{file.format(wnid=wnid)}", label, f"great kind {label}")
            for label, wnid in enumerate(wnids(count)) for file in files]


def test_imagenet(tmp_path):
    folder = tmp_path / "imagenet"
    train, val = ["{wnid}_10026.JPEG", "{wnid}_9981.JPEG"], ["ILSVRC2012_val_00000293.JPEG"]
    write_wnids(folder / "images" / "train", 1000, train)
    write_wnids(folder / "images" / "val", 1000, val)
    write(folder / "classnames.txt", classnames_text(1000))
    bench = open_benchmark(card("imagenet", tmp_path))
    expected = folder_items("val/", 1000, val)
    assert lists(bench) == {
        "train": folder_items("train/", 1000, train), "val": expected, "test": expected
    }
    assert bench.classnames == [f"great kind {i}" for i in range(1000)]
    assert_halves(bench)


def test_imagenet_is_tested_on_without_its_training_images(tmp_path):
    write_wnids(tmp_path / "imagenet" / "images" / "val", 3, ["a.JPEG"])
    write(tmp_path / "imagenet" / "classnames.txt", classnames_text(5))
    bench = open_benchmark(card("imagenet", tmp_path, NUM_CLASSES=3))
    assert bench.train == [] and bench.test == folder_items("val/", 3, ["a.JPEG"])


VARIANTS = {  # card -> image folder, classes
    "imagenet_sketch": ("imagenet-sketch/images", 1000),
    "imagenet_a": ("imagenet-adversarial/imagenet-a", 200),
    "imagenet_r": ("imagenet-rendition/imagenet-r", 200),
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("own_names", [True, False])
def test_imagenet_variants(name, own_names, tmp_path):
    folder, count = VARIANTS[name]
    files = ["art_0.jpg", "sketch_12.JPEG"]
    write_wnids(tmp_path / folder, count, files)
    names = tmp_path / folder.split("/")[0] if own_names else tmp_path / "imagenet"
    write(names / "classnames.txt", classnames_text(1000))
    bench = open_benchmark(card(name, tmp_path))
    assert lists(bench) == {"train": [], "val": [], "test": folder_items("", count, files)}
    assert bench.classnames == [f"great kind {i}" for i in range(count)]
    assert_halves(bench)


def test_imagenet_v2_counts_every_class(tmp_path):
    folder = tmp_path / "imagenetv2" / "imagenetv2-matched-frequency-format-val"
    labels = [0, 2, 10, 999]  # as text these would sort 0, 10, 2, 999
    for label in labels:
        write(folder / str(label) / "1ff6e6d3.jpeg")
    write(tmp_path / "imagenet" / "classnames.txt", classnames_text(1000))
    bench = open_benchmark(card("imagenetv2", tmp_path))
    assert lists(bench) == {"train": [], "val": [], "test": [
        Item(f"{label}/1ff6e6d3.jpeg", label, f"great kind {label}") for label in labels
    ]}
    assert bench.classnames == [f"great kind {i}" for i in range(1000)]
    assert_halves(bench)
    (folder / "1000").mkdir()
    with pytest.raises(NerpError, match="1000: classnames.txt has 1000 classes"):
        open_benchmark(card("imagenetv2", tmp_path))


def test_a_class_without_images_keeps_its_label(tmp_path):
    folder = tmp_path / "imagenet-adversarial" / "imagenet-a"
    write_wnids(folder, 200, ["a.jpg"])
    (folder / wnids(200)[3] / "a.jpg").unlink()
    write(tmp_path / "imagenet" / "classnames.txt", classnames_text(1000))
    bench = open_benchmark(card("imagenet_a", tmp_path))
    assert bench.test == [i for i in folder_items("", 200, ["a.jpg"]) if i.label != 3]
    assert len(bench.classnames) == 200
    shutil.rmtree(folder / wnids(200)[5])
    with pytest.raises(NerpError, match="199 classes, the card says 200"):
        open_benchmark(card("imagenet_a", tmp_path))


def test_class_names_have_to_be_there(tmp_path):
    folder = tmp_path / "imagenet-adversarial"
    write_wnids(folder / "imagenet-a", 3, ["a.jpg"])
    cfg = card("imagenet_a", tmp_path, NUM_CLASSES=3)
    with pytest.raises(NerpError, match="no file .*imagenet-adversarial/classnames.txt"):
        open_benchmark(cfg)
    write(folder / "classnames.txt", classnames_text(2))
    with pytest.raises(NerpError, match=f"classnames.txt: no line for {wnids(3)[2]}"):
        open_benchmark(cfg)
    write(folder / "classnames.txt", "tench\n")
    with pytest.raises(NerpError, match="expected a line \"<wnid> <name>\" a class, found 'tench'"):
        open_benchmark(cfg)


def own(root, **changes):
    keys = {"NAME": "Own", "DIRECTORY": "own", "LAYOUT": "folders", "IMAGE_FOLDER": "",
            "SPLIT_FILE": "", "NUM_CLASSES": 0}
    return card("eurosat", root, **(keys | changes))


def test_folders(tmp_path):
    for path in ("train/red_fox/b.PNG", "train/red_fox/a.webp", "train/ape/x.jpg",
                 "test/yak/1.gif", "test/ape/2.tiff", "test/ape/.hidden.jpg", "test/ape/notes.txt"):
        write(tmp_path / "own" / path)
    bench = open_benchmark(own(tmp_path))
    assert bench.classnames == ["ape", "red fox", "yak"]
    assert lists(bench) == {
        "train": [Item("train/ape/x.jpg", 0, "ape"), Item("train/red_fox/a.webp", 1, "red_fox"),
                  Item("train/red_fox/b.PNG", 1, "red_fox")],
        "val": [],
        "test": [Item("test/ape/2.tiff", 0, "ape"), Item("test/yak/1.gif", 2, "yak")],
    }


def test_folders_that_cannot_be_read(tmp_path):
    (tmp_path / "own").mkdir()
    with pytest.raises(NerpError, match="no class folders in train/ or val/ or test/"):
        open_benchmark(own(tmp_path))
    (tmp_path / "own" / "train").symlink_to(tmp_path / "unmounted")
    with pytest.raises(NerpError, match="own/train: a link that leads nowhere"):
        open_benchmark(own(tmp_path))
    write(tmp_path / "own" / "test" / "ape" / "1.jpg")
    (tmp_path / "own" / "train").unlink()
    (tmp_path / "own" / "test" / "yak").symlink_to(tmp_path / "unmounted")
    with pytest.raises(NerpError, match="own/test/yak: a link that leads nowhere"):
        open_benchmark(own(tmp_path))


@pytest.mark.parametrize("content, message", [
    ("<!DOCTYPE html><html>", "not a readable JSON file"),
    ("[" * 100_000, "not a readable JSON file"),
    (b"\xff\xfe\x00", "not a readable JSON file"),
    ("[]", "not an object"),
    ('{"train": [], "test": []}', "'val' must be a list of"),
    ('{"train": [["a.jpg", 0]], "val": [], "test": []}', "'train' must be a list of"),
    ('{"train": [["a.jpg", "0", "ape"]], "val": [], "test": []}', "'train' must be a list of"),
    ('{"train": [["a.jpg", true, "ape"]], "val": [], "test": []}', "'train' must be a list of"),
    ('{"train": 3, "val": [], "test": []}', "'train' must be a list of"),
    ('{"train": [], "val": [], "test": []}', "no images are listed"),
    ('{"train": [["a.jpg", 1, "ape"]], "val": [], "test": []}', "labels must be 0..0, found 1..1"),
    ('{"train": [["a.jpg", -1, "ape"]], "val": [], "test": []}', "label -1, 'ape': not a class"),
    ('{"train": [["a.jpg", 0, "ape"]], "val": [["b.jpg", 0, "yak"]], "test": []}',
     "label 0 is called both 'ape' and 'yak'"),
    ('{"train": [["a.jpg", 0, "ape"]], "val": [], "test": []}', "1 classes, the card says 10"),
])
def test_wrong_split_files(content, message, tmp_path):
    write(tmp_path / "eurosat" / "split_zhou_EuroSAT.json", content)
    with pytest.raises(NerpError, match=message) as error:
        open_benchmark(card("eurosat", tmp_path))
    assert "\n" not in str(error.value) and "eurosat" in str(error.value)


def test_a_missing_split_file_says_what_to_do(tmp_path):
    (tmp_path / "eurosat").mkdir()
    with pytest.raises(NerpError, match="no file .*split_zhou_EuroSAT.json; .*nerp data prepare"):
        open_benchmark(card("eurosat", tmp_path))


def test_a_missing_folder_says_what_root_is(tmp_path):
    with pytest.raises(NerpError, match="no folder .*eurosat; --root is the folder that holds eur"):
        open_benchmark(card("eurosat", tmp_path))
    (tmp_path / "eurosat").symlink_to(tmp_path / "unmounted")
    with pytest.raises(NerpError, match="a link that leads nowhere: .*eurosat"):
        open_benchmark(card("eurosat", tmp_path))


def test_a_procedural_benchmark_is_drawn_on_first_use(tmp_path, monkeypatch):
    def build(root, progress):
        content = {"train": [["a.jpg", 0, "ape"]], "val": [], "test": []}
        write(root / "demo_objects" / "split_zhou_DemoObjects.json", json.dumps(content))
        return root / "demo_objects"

    assert "demo_objects" in DRAWN.names()
    monkeypatch.setitem(DRAWN._entries, "demo_objects", build)
    bench = open_benchmark(card("demo_objects", tmp_path / "new", NUM_CLASSES=1))
    assert bench.train == [Item("a.jpg", 0, "ape")]
    assert bench.directory == tmp_path / "new" / "demo_objects"


PUBLISHED = {  # classes; train, val, test images; prompt of a class; neutral prompt
    "Caltech101": (100, [4128, 1649, 2465], "a photo of a {}.",
                   "a photo of an object."),
    "OxfordPets": (37, [2944, 736, 3669], "a photo of a {}, a type of pet.",
                   "a photo of a pet."),
    "StanfordCars": (196, [6509, 1635, 8041], "a photo of a {}.",
                     "a photo of a vehicle."),
    "OxfordFlowers": (102, [4093, 1633, 2463], "a photo of a {}, a type of flower.",
                      "a photo of flower."),
    "Food101": (101, [50500, 20200, 30300], "a photo of {}, a type of food.",
                "a photo of a dish, a type of a food."),
    "FGVCAircraft": (100, [3334, 3333, 3333], "a photo of a {}, a type of aircraft.",
                     "a photo of an aircraft."),
    "SUN397": (397, [15880, 3970, 19850], "a photo of a {}.",
               "a photo of a scene."),
    "DescribableTextures": (47, [2820, 1128, 1692], "{} texture.",
                            "texture."),
    "EuroSAT": (10, [13500, 5400, 8100], "a centered satellite photo of {}.",
                "a centered satellite photo"),
    "UCF101": (101, [7639, 1898, 3783], "a photo of a person doing {}.",
               "a photo of a human action."),
    "ImageNet": (1000, [1281167, 0, 50000], "a photo of a {}.",
                 "a photo of an object."),
    "ImageNetV2": (1000, [0, 0, 10000], "a photo of a {}.",
                   "a photo of an object."),
    "ImageNetSketch": (1000, [0, 0, 50889], "a photo of a {}.",
                       "a photo of a sketch."),
    "ImageNetA": (200, [0, 0, 7500], "a photo of a {}.",
                  "a photo of an object."),
    "ImageNetR": (200, [0, 0, 30000], "a photo of a {}.",
                  "a photo of an object."),
}


# BiomedCoOp's eleven, as its release has them.
MEDICAL = json.loads(
    (Path(__file__).parents[1] / "published" / "configs_biomedcoop_restore.json").read_text()
)["DATASETS"]["BiomedCoOp"]


def test_the_cards_of_medical_datasets_have_their_published_layout():
    for name, published in MEDICAL.items():
        node = load_yaml(find_card(name))["DATASET"]
        assert node["LAYOUT"] == "json_split"
        assert f"{node['DIRECTORY']}/{node['IMAGE_FOLDER']}" == published["images"]
        assert f"{node['DIRECTORY']}/{node['SPLIT_FILE']}" == published["split"]


def test_the_cards_state_the_published_sizes_and_prompts():
    cards = [load_yaml(path)["DATASET"] for name, path in shipped_cards().items()
             if not name.startswith("demo_")]
    keys = ("NUM_CLASSES", "SPLIT_SIZES", "TEMPLATE", "NEUTRAL")
    medical = {name: (len(d["classnames"] or range(4)), d["train_val_test"], d["template"],
                      "a photo of a medical image.") for name, d in MEDICAL.items()}
    assert {c["NAME"]: tuple(c[key] for key in keys) for c in cards} == PUBLISHED | medical
    assert len({frozenset(c) for c in cards}) == 1  # a card laid over another leaves nothing of it
    for c in cards:
        assert c["REFERENCE"] == ("ImageNet" if c["NAME"].startswith("ImageNet") else c["NAME"])
        assert c["CITATION"] and c["LICENCE"] and c["SOURCES"]
        assert find_card(c["NAME"]).is_file()
