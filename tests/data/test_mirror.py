"""The mirror on Hugging Face: what fits is found by its name, and kept; on a hub that runs here."""

import os

import huggingface_hub
import pytest
from made import card, heard, jpeg, write
from server import Hub
from test_archives import tar, tree, zip_

from nerp.data.prepare import plan, prepare

MIRROR = "owner/prompt_learning"
SPLIT = b'{"train": [], "val": [], "test": []}'
IMAGE = jpeg()


def use(endpoint, monkeypatch):
    """What HF_ENDPOINT does, which is read when the library is imported."""
    template = "{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE",
                        f"{endpoint}/{template}")


@pytest.fixture(params=["datasets", "models"])
def hub(request, monkeypatch):
    """A hub with an empty repository, of either kind."""
    hub = Hub(MIRROR, request.param)
    use(hub.url("")[:-1], monkeypatch)
    yield hub
    hub.close()


@pytest.fixture
def said(monkeypatch):
    """What was said, line by line."""
    return heard(monkeypatch)


def packed(tmp_path, *members, pack=zip_):
    """The bytes of an archive."""
    return pack(tmp_path / "packed", members).read_bytes()


def config(root, *sources):
    return card("eurosat", root, SOURCES=list(sources))


def cars(root, **changes):
    """A card like StanfordCars': two archives whose addresses are gone, a split file on Drive."""
    archives = [{"FILE": f"{name}.tgz", "UNPACK": {name: name}, "STEP": "find a copy",
                 "MIRROR": MIRROR} for name in ("cars_train", "cars_test")]
    split = {"FILE": "split.json", "MIRROR": MIRROR}
    return config(root, *archives, split | changes)


FOLDER = [("eurosat/cars_train/1.jpg", IMAGE), ("eurosat/cars_test/2.jpg", IMAGE),
          ("eurosat/split.json", SPLIT), ("__MACOSX/eurosat/._split.json", b"")]
PLACED = {"eurosat/cars_train/1.jpg": IMAGE, "eurosat/cars_test/2.jpg": IMAGE,
          "eurosat/split.json": SPLIT}


@pytest.mark.parametrize("name", ["eurosat.zip", "EuroSAT.zip", "archives/Euro-SAT.tar.gz",
                                  "eurosat_coop.zip"])
def test_an_archive_called_like_the_dataset_is_listed_fetched_once_and_serves_every_source(
    name, hub, said, tmp_path
):
    pack = zip_ if name.endswith("zip") else lambda path, members: tar(path, members, "w:gz")
    hub.files = {"README.md": b"", "dtd.zip": b"?", name: packed(tmp_path, *FOLDER, pack=pack)}
    assert prepare(cars(tmp_path / "data"))
    assert tree(tmp_path / "data") == PLACED
    assert hub.asked == ["listing", name]
    assert not list((tmp_path / "data" / "eurosat").glob(".*"))
    assert prepare(cars(tmp_path / "data")) and len(hub.asked) == 2


def test_the_files_of_a_card_are_taken_as_they_are_from_the_datasets_folder(hub, said, tmp_path):
    train = packed(tmp_path, ("cars_train/1.jpg", IMAGE))
    test = packed(tmp_path, ("cars_test/2.jpg", IMAGE))
    hub.files = {"dtd/split.json": b"{}", "EuroSAT/split.json": SPLIT, "split.json": b"[]",
                 "eurosat/cars_train.tgz": train, "eurosat/cars_test.zip": test}
    assert prepare(cars(tmp_path / "data"))
    assert tree(tmp_path / "data") == PLACED
    assert hub.asked == ["listing", "eurosat/cars_train.tgz", "eurosat/cars_test.zip",
                         "EuroSAT/split.json"]


def test_the_cards_own_archives_may_lie_in_the_mirrors(hub, said, tmp_path):
    inner = [(f"eurosat/{name}.tgz", packed(tmp_path, (f"{name}/{n}.jpg", IMAGE)))
             for n, name in ((1, "cars_train"), (2, "cars_test"))]
    hub.files = {"eurosat.zip": packed(tmp_path, *inner, ("eurosat/split.json", SPLIT))}
    assert prepare(cars(tmp_path / "data"))
    assert tree(tmp_path / "data") == PLACED


def test_an_archive_of_the_cards_name_and_another_size_is_searched(hub, said, tmp_path):
    """caltech-101.zip is at its first address a zip of a tar, in the mirror a zip of the folder."""
    hub.files = {"eurosat.zip": packed(tmp_path, *FOLDER)}
    source = {"FILE": "eurosat.zip", "UNPACK": {"deep/down": "cars_train"}, "SIZE": 12345,
              "CHECKSUM": "sha256:00", "WITHIN": "deep/inner.tar", "MIRROR": MIRROR}
    assert prepare(config(tmp_path / "data", source))
    assert tree(tmp_path / "data") == {"eurosat/cars_train/1.jpg": IMAGE}


def test_urls_drive_and_mirror_are_tried_in_this_order_each_failure_a_line(
    hub, said, tmp_path, monkeypatch
):
    import gdown

    def busy(**_):
        raise gdown.exceptions.FileURLRetrievalError("Too many users have viewed it")

    monkeypatch.setattr(gdown, "download", busy)
    hub.files = {"eurosat.zip": packed(tmp_path, *FOLDER)}
    gone = {"URLS": [hub.url("gone"), "http://localhost:1/x"], "GDRIVE": "1Ip7yaC"}
    assert prepare(cars(tmp_path / "data", **gone))
    assert said[0] == f"cars_train.tgz: looking into https://huggingface.co/{MIRROR}"
    (tmp_path / "data/eurosat/split.json").unlink()
    said.clear()
    assert prepare(cars(tmp_path / "data", **gone))
    assert said[2:-1] == [
        "split.json: downloading",
        "split.json: 127.0.0.1 answers 404 Not Found",
        "split.json: downloading",
        "split.json: localhost cannot be reached from here (Connection refused)",
        "split.json: downloading",
        "split.json: Google Drive: Too many users have viewed it",
        f"split.json: looking into https://huggingface.co/{MIRROR}",
        "split.json: downloading eurosat.zip (0.0 MB)",
        "eurosat.zip: unpacking",
    ]


def test_a_lost_connection_is_taken_up_again(hub, said, tmp_path):
    hub.files, hub.drops = {"eurosat.zip": packed(tmp_path, *FOLDER)}, [10**6, 200]
    assert prepare(cars(tmp_path / "data"))
    assert hub.asked == ["listing", "eurosat.zip", "eurosat.zip"]
    assert tree(tmp_path / "data") == PLACED


def test_without_anything_that_fits_it_says_what_there_is_and_what_to_do(hub, said, tmp_path):
    hub.files = {f"{name}.zip": b"" for name in "abcdefg"}
    assert not prepare(cars(tmp_path / "data"))
    assert (f"cars_train.tgz: https://huggingface.co/{MIRROR} has no file that fits; it has a.zip, "
            "b.zip, c.zip, d.zip, e.zip and 2 more") in said
    assert "- cars_train: find a copy" in said
    assert (f"- split.json: see what https://huggingface.co/{MIRROR} has, and put it there"
            in said)
    assert hub.asked == ["listing"]
    assert not (tmp_path / "data" / "eurosat").exists()


def test_a_repository_that_is_not_there(hub, said, tmp_path):
    assert not prepare(config(tmp_path, {"FILE": "split.json", "MIRROR": "owner/other"}))
    assert "split.json: there is no repository https://huggingface.co/owner/other" in said


def test_without_a_network_it_is_one_line(said, tmp_path, monkeypatch):
    use("http://127.0.0.1:1", monkeypatch)
    assert not prepare(config(tmp_path, {"FILE": "split.json", "MIRROR": MIRROR}))
    assert "split.json: Hugging Face: [Errno 111] Connection refused" in said
    assert not (tmp_path / "eurosat").exists()


def test_an_archive_without_what_is_wanted_gives_way_to_the_next(hub, said, tmp_path):
    hub.files = {"eurosat.zip": packed(tmp_path, ("readme.txt", b"see the other one")),
                 "eurosat-full.zip": packed(tmp_path, *FOLDER)}
    assert prepare(cars(tmp_path / "data"))
    assert "cars_train.tgz: eurosat.zip holds no cars_train" in said
    assert tree(tmp_path / "data") == PLACED


@pytest.mark.parametrize(("content", "reason"), [
    (b"<html>sign in</html>", "a web page, not the file"),
    (b"PK not an archive", "cannot be unpacked"),
])
def test_a_wrong_or_damaged_file_is_not_kept(content, reason, hub, said, tmp_path):
    hub.files = {"eurosat.zip": content}
    assert not prepare(cars(tmp_path / "data"))
    assert any(reason in line for line in said)
    assert not (tmp_path / "data" / "eurosat").exists()


def test_a_file_outside_its_folder_is_never_asked_for(hub, said, tmp_path):
    hub.files = {"../eurosat.zip": packed(tmp_path, *FOLDER)}
    assert not prepare(cars(tmp_path / "data"))
    assert hub.asked == ["listing"] and any("has no file that fits" in line for line in said)


def test_a_hostile_archive_is_refused_and_leaves_nothing(hub, said, tmp_path):
    hub.files = {"eurosat.zip": packed(tmp_path, *FOLDER, ("../../x", b"x"))}
    assert not prepare(cars(tmp_path / "data"))
    assert any("it names a file outside its folder" in line for line in said)
    assert not (tmp_path / "data" / "eurosat").exists()


def test_what_is_there_is_left_alone(hub, said, tmp_path):
    hub.files = {"eurosat.zip": packed(tmp_path, *FOLDER)}
    mine = write(tmp_path / "data" / "eurosat" / "cars_test" / "mine.jpg")
    assert prepare(cars(tmp_path / "data"))
    assert os.listdir(mine.parent) == ["mine.jpg"]


def test_the_plan_names_the_mirror_and_asks_nobody(hub, tmp_path):
    assert plan(cars(tmp_path, GDRIVE="1Ip7yaC"))[1:] == [
        f"cars_test.tgz: download what fits in https://huggingface.co/{MIRROR}, unpack cars_test",
        "split.json: download from https://drive.google.com/file/d/1Ip7yaC/view, or download what "
        f"fits in https://huggingface.co/{MIRROR}",
    ]
    assert hub.asked == []
