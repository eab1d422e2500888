"""nerp data prepare: what is fetched, resumed, checked, unpacked, and left to the user."""

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest
from made import card, heard, jpeg, write
from server import Server
from test_archives import FILES, tar, tree, zip_

from nerp.base.errors import NerpError
from nerp.data.prepare import plan, prepare

CONTENT = os.urandom(300_000)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def said(monkeypatch):
    """What was said, line by line."""
    return heard(monkeypatch)


def config(root, *sources):
    return card("eurosat", root, SOURCES=list(sources))


def sha256(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def file_source(server, **keys):
    return {"FILE": "a.bin", "URLS": [server.url("a.bin")], "SIZE": len(CONTENT),
            "CHECKSUM": sha256(CONTENT)} | keys


def test_a_file_is_fetched_once(server, said, tmp_path):
    server.files["a.bin"] = CONTENT
    cfg = config(tmp_path, file_source(server))
    assert prepare(cfg) and prepare(cfg)
    assert tree(tmp_path) == {"eurosat/a.bin": CONTENT}
    assert server.asked == [("/a.bin", None)]


def test_a_lost_connection_is_taken_up_again(server, said, tmp_path):
    server.files["a.bin"], server.drops = CONTENT, [100_000, 50_000]
    assert prepare(config(tmp_path, file_source(server)))
    assert tree(tmp_path) == {"eurosat/a.bin": CONTENT}
    assert [part for _, part in server.asked] == [None, "bytes=100000-", "bytes=150000-"]


def test_the_next_call_goes_on_where_one_was_interrupted(server, said, tmp_path):
    server.files["a.bin"], server.drops = CONTENT, [100_000, 0]
    cfg = config(tmp_path, file_source(server))
    assert not prepare(cfg)
    assert tree(tmp_path) == {"eurosat/a.bin.part": CONTENT[:100_000]}
    assert "127.0.0.1 broke off" in said[1]
    assert prepare(cfg)
    assert tree(tmp_path) == {"eurosat/a.bin": CONTENT}
    assert server.asked[-1] == ("/a.bin", "bytes=100000-")


def test_a_server_that_does_not_resume_sends_everything(server, said, tmp_path):
    server.files["a.bin"], server.ranges = CONTENT, False
    write(tmp_path / "eurosat" / "a.bin.part", CONTENT[:100_000])
    assert prepare(config(tmp_path, file_source(server)))
    assert tree(tmp_path) == {"eurosat/a.bin": CONTENT}


@pytest.mark.parametrize("arrived, asked", [
    (CONTENT, ["bytes=300000-"]), (CONTENT + b"more", [None]),
])
def test_a_part_that_had_arrived_whole_or_is_too_long(arrived, asked, server, said, tmp_path):
    server.files["a.bin"] = CONTENT
    write(tmp_path / "eurosat" / "a.bin.part", arrived)
    assert prepare(config(tmp_path, file_source(server)))
    assert tree(tmp_path) == {"eurosat/a.bin": CONTENT}
    assert [part for _, part in server.asked] == asked


@pytest.mark.parametrize("keys, content, reason", [
    ({}, CONTENT[:-1], "299,999 bytes instead of 300,000"),
    ({}, CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]), "not the file that the card describes, its sha"),
    ({"SIZE": 0, "CHECKSUM": ""}, b" <!DOCTYPE HTML><html>quota exceeded", "a web page"),
])
def test_a_wrong_file_is_not_kept(keys, content, reason, server, said, tmp_path):
    server.files["a.bin"] = content
    assert not prepare(config(tmp_path, file_source(server, **keys)))
    assert reason in said[1] and "it has been deleted" in said[1]
    assert not (tmp_path / "eurosat").exists()


def test_a_mirror_stands_in(server, said, tmp_path):
    server.files |= {"page": b"<html>moved</html>", "b": CONTENT}
    urls = [server.url("gone"), server.url("page"), server.url("b")]
    assert prepare(config(tmp_path, file_source(server, URLS=urls)))
    assert tree(tmp_path) == {"eurosat/a.bin": CONTENT}


def test_without_a_network_it_says_what_to_do(said, tmp_path):
    url = "http://localhost:1/a.bin"  # nothing listens there
    cfg = config(tmp_path, {"FILE": "a.bin", "URLS": [url], "UNPACK": {"images": "2750"}})
    assert not prepare(cfg)
    assert "a.bin: localhost cannot be reached from here (Connection refused)" in said
    assert f"- download {url} as {tmp_path}/eurosat/a.bin" in said
    assert not (tmp_path / "eurosat").exists()
    tar(write(tmp_path / "eurosat" / "a.bin", ""), FILES.items())  # as the user is told to do
    assert prepare(cfg)
    assert (tmp_path / "eurosat" / "2750" / "a" / "1.jpg").read_bytes() == jpeg()


def test_too_little_space_is_noticed_before_downloading(server, said, tmp_path):
    source = file_source(server, SIZE=10**18)
    assert not prepare(config(tmp_path, source))
    assert "1000000000.0 GB to download" in said[1] and server.asked == []


def archive_source(server, **keys):
    return {"FILE": "a.zip", "URLS": [server.url("a.zip")],
            "UNPACK": {"images/a": "2750", "images/list.txt": "list.txt"}} | keys


def test_an_archive_is_unpacked_into_place(server, said, tmp_path):
    server.files["a.zip"] = zip_(tmp_path / "a.zip", FILES.items()).read_bytes()
    cfg = config(tmp_path / "data", archive_source(server))
    assert prepare(cfg)
    unpacked = {"2750/1.jpg": jpeg(), "list.txt": b"1 a\n"}
    assert tree(tmp_path / "data" / "eurosat") == unpacked | {"a.zip": server.files["a.zip"]}
    assert "no longer needed" in said[-1]
    (tmp_path / "data" / "eurosat" / "a.zip").unlink()
    assert prepare(cfg) and len(server.asked) == 1
    assert tree(tmp_path / "data" / "eurosat") == unpacked


def test_what_is_there_is_left_alone(server, said, tmp_path):
    server.files["a.zip"] = zip_(tmp_path / "a.zip", FILES.items()).read_bytes()
    mine = write(tmp_path / "data" / "eurosat" / "2750" / "mine.jpg", "mine")
    assert prepare(config(tmp_path / "data", archive_source(server)))
    assert os.listdir(mine.parent) == ["mine.jpg"]
    assert (mine.parent.parent / "list.txt").is_file()


def test_an_archive_in_the_archive(server, said, tmp_path):
    inner = tar(tmp_path / "inner", FILES.items(), "w:gz").read_bytes()
    server.files["a.zip"] = zip_(tmp_path / "a", [("deep/inner.tar.gz", inner)]).read_bytes()
    source = archive_source(server, WITHIN="deep/inner.tar.gz")
    assert prepare(config(tmp_path / "data", source))
    assert (tmp_path / "data" / "eurosat" / "2750" / "1.jpg").read_bytes() == jpeg()
    assert not prepare(config(tmp_path / "other", source | {"WITHIN": "deep/other.tar.gz"}))
    assert any("holds no deep/other.tar.gz" in line for line in said)


@pytest.mark.parametrize("members, reason", [
    ([*FILES.items(), ("../../x", b"x")], "it names a file outside its folder, '../../x'"),
    ([("other/1.jpg", jpeg())], "holds no images/a"),
    ([("images/a/1.jpg", bytes(2**27))], "it unpacks to more than 20 times its size"),
])
def test_of_a_hostile_or_wrong_archive_nothing_is_unpacked(
    members, reason, server, said, tmp_path
):
    server.files["a.zip"] = content = zip_(tmp_path / "a.zip", members).read_bytes()
    assert not prepare(config(tmp_path / "data", archive_source(server)))
    assert any(reason in line and "it has been deleted" in line for line in said)
    assert not (tmp_path / "data" / "eurosat").exists()
    # The very archive that the card describes is not to blame, and may be large: it is kept.
    described = archive_source(server, CHECKSUM=sha256(content))
    assert not prepare(config(tmp_path / "data", described))
    assert tree(tmp_path / "data") == {"eurosat/a.zip": content}
    assert os.listdir(tmp_path / "data" / "eurosat") == ["a.zip"]
    # The right one is taken in the place of one that was deleted.
    assert not prepare(config(tmp_path / "again", archive_source(server)))
    server.files["a.zip"] = zip_(tmp_path / "right.zip", FILES.items()).read_bytes()
    assert prepare(config(tmp_path / "again", archive_source(server)))
    assert (tmp_path / "again" / "eurosat" / "2750" / "1.jpg").read_bytes() == jpeg()


def test_a_full_disk_keeps_the_archive(server, said, tmp_path, monkeypatch):
    server.files["a.zip"] = content = zip_(tmp_path / "a.zip", FILES.items()).read_bytes()

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("nerp.data.archives.shutil.copyfileobj", full)
        assert not prepare(config(tmp_path / "data", archive_source(server)))
    assert any("No space left on device" in line for line in said)
    assert tree(tmp_path / "data") == {"eurosat/a.zip": content}


def test_an_interrupted_unpacking_starts_anew(server, said, tmp_path, monkeypatch):
    server.files["a.zip"] = zip_(tmp_path / "a.zip", FILES.items()).read_bytes()
    cfg = config(tmp_path / "data", archive_source(server))

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nerp.data.archives.shutil.copyfileobj", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(cfg)
    assert os.listdir(tmp_path / "data" / "eurosat") == ["a.zip"]
    write(tmp_path / "data/eurosat/.unpacking/outer/left.jpg")  # of a run that was killed
    assert prepare(cfg)
    assert sorted(os.listdir(tmp_path / "data" / "eurosat")) == ["2750", "a.zip", "list.txt"]


def test_a_file_put_there_by_hand_is_checked_and_kept(server, said, tmp_path):
    file = write(tmp_path / "eurosat" / "a.zip", "not the archive")
    cfg = config(tmp_path, archive_source(server, SIZE=10))
    assert not prepare(cfg)
    assert f"a.zip: 15 bytes instead of 10; delete {file} or put the right file there" in said[0]
    assert file.read_text() == "not the archive" and server.asked == []


def test_a_file_that_is_there_is_still_checked(said, tmp_path):
    file = write(tmp_path / "eurosat" / "split.json", "<html>quota exceeded</html>")
    cfg = config(tmp_path, {"FILE": "split.json", "GDRIVE": "1Ip7yaC"})
    assert not prepare(cfg)
    assert said[0].startswith(f"split.json: a web page, not the file; delete {file}")
    file.write_text("{}")
    assert prepare(cfg) and said[-1] == "split.json: there"


def test_a_step_is_left_to_the_user(said, tmp_path):
    cfg = config(tmp_path, {"STEP": "agree to the terms", "GIVES": ["images/train"]})
    assert not prepare(cfg)
    assert "- images/train: agree to the terms" in said
    (tmp_path / "eurosat" / "images" / "train").mkdir(parents=True)
    assert prepare(cfg)


def test_google_drive(said, tmp_path, monkeypatch):
    import gdown

    calls = tmp_path / "calls"  # made in a process of its own

    def download(id, output, resume, quiet):
        again = calls.exists()
        with open(calls, "a") as file:
            file.write(f"{id} {resume}\n")
        if not again:
            raise gdown.exceptions.FileURLRetrievalError("Too many\n\tusers have viewed it")
        write(Path(output), "{}")

    monkeypatch.setattr(gdown, "download", download)
    cfg = config(tmp_path, {"FILE": "split.json", "GDRIVE": "1Ip7yaC"})
    assert not prepare(cfg)
    assert "split.json: Google Drive: Too many users have viewed it" in said
    assert (f"- download https://drive.google.com/file/d/1Ip7yaC/view as {tmp_path}/eurosat/"
            "split.json") in said
    assert prepare(cfg)
    assert calls.read_text() == "1Ip7yaC True\n" * 2
    calls.unlink()
    assert tree(tmp_path) == {"eurosat/split.json": b"{}"}


def test_a_plan_touches_nothing(server, tmp_path):
    write(tmp_path / "eurosat" / "b.zip")
    before = tree(tmp_path)
    lines = plan(config(
        tmp_path, archive_source(server, SIZE=2_500_000, CHECKSUM="md5:00"),
        archive_source(server, FILE="b.zip"), {"FILE": "split.json", "GDRIVE": "1Ip7yaC"},
        {"STEP": "agree to the terms", "GIVES": ["images/train"]},
        archive_source(server, UNPACK={"x": "b.zip"}),
    ))
    assert lines == [
        f"a.zip: download (2.5 MB) from {server.url('a.zip')}, check its md5, "
        "unpack 2750, list.txt",
        "b.zip: there, unpack 2750, list.txt",
        "split.json: download from https://drive.google.com/file/d/1Ip7yaC/view",
        "by hand: images/train: agree to the terms",
        "b.zip: there",
    ]
    assert tree(tmp_path) == before and server.asked == []


def test_two_at_once_are_kept_apart(server, said, tmp_path):
    server.files["a.bin"] = CONTENT
    cfg = config(tmp_path, file_source(server))
    answer = server.answer

    def second(request):
        with pytest.raises(NerpError, match="another command is at work in .*eurosat"):
            prepare(cfg)
        answer(request)

    server.answer = second
    assert prepare(cfg)


@pytest.mark.parametrize("entry, message", [
    ({"FILE": "a", "URL": ["http://x"]}, "unknown key of DATASET.SOURCES .EuroSAT. 'URL'. Did you"),
    ({"FILE": "a", "URLS": "http://x"}, "URLS: 'http://x' is not of its type"),
    ({"FILE": "a", "URLS": ["file:///etc/passwd"]}, "'file:///etc/passwd': not an http address"),
    ({"FILE": "a", "GDRIVE": "1", "CHECKSUM": "crc:1"}, "'crc:1': not md5:<hex>, sha1:<hex> or"),
    ({"FILE": "a"}, "needs a FILE with URLS, GDRIVE, MIRROR or STEP, or GIVES with STEP"),
    ({"STEP": "do it"}, "needs a FILE with URLS, GDRIVE, MIRROR or STEP, or GIVES with STEP"),
    ({"FILE": "a", "MIRROR": "https://huggingface.co/x/y"}, "MIRROR .*: not owner/name"),
])
def test_mistakes_in_a_card(entry, message, tmp_path):
    with pytest.raises(NerpError, match=message):
        plan(config(tmp_path, entry))


def test_a_card_without_sources(tmp_path):
    with pytest.raises(NerpError, match="no folder"):
        prepare(config(tmp_path))
    write(tmp_path / "eurosat" / "split.json", json.dumps({}))
    assert prepare(config(tmp_path))
