"""Unpacking: what is whole comes out, and nothing hostile or damaged gets further than an error."""

import gzip
import io
import os
import stat
import tarfile
import zipfile
from types import SimpleNamespace

import pytest
from made import jpeg, write

from nerp.base.errors import NerpError
from nerp.data import archives
from nerp.data.archives import unpack

FILES = {"images/a/1.jpg": jpeg(), "images/b/2.jpg": jpeg((30, 20)), "images/list.txt": b"1 a\n"}


def tar(path, members, mode="w"):
    """A tar of (name or TarInfo, content) pairs."""
    with tarfile.open(path, mode) as file:
        for member, content in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def special(name, type_, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = type_, target
    return info


def zip_(path, members):
    """A zip of (name or ZipInfo, content) pairs."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for member, content in members:
            file.writestr(member, content)
    return path


def zip_link(name, target):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info, target


def tree(folder):
    """{path: content} of every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tars(mode, tmp_path):
    unpack(tar(tmp_path / "a.bin", FILES.items(), mode), tmp_path / "out")
    assert tree(tmp_path / "out") == FILES


def test_zips(tmp_path):
    unpack(zip_(tmp_path / "a.bin", [("images/", b""), *FILES.items()]), tmp_path / "out")
    assert tree(tmp_path / "out") == FILES


def test_names_are_tidied(tmp_path):
    unpack(tar(tmp_path / "a.tar", [("./images//a.txt", b"1")]), tmp_path / "out")
    unpack(zip_(tmp_path / "b.zip", [("images\\b.txt", b"2")]), tmp_path / "out2")
    assert tree(tmp_path / "out") == {"images/a.txt": b"1"}
    assert tree(tmp_path / "out2") == {"images/b.txt": b"2"}


def test_links_in_the_archive_become_copies(tmp_path):
    a = tar(tmp_path / "a.tar", [
        (special("images/b/hard.txt", tarfile.LNKTYPE, "images/list.txt"), b""),
        (special("images/b/soft.txt", tarfile.SYMTYPE, "../list.txt"), b""),
        *FILES.items(),
    ])
    b = zip_(tmp_path / "b.zip", [zip_link("images/b/soft.txt", "../list.txt"), *FILES.items()])
    for archive in (a, b):
        out = tmp_path / archive.stem
        unpack(archive, out)
        copies = {k: v for k, v in tree(out).items() if k not in FILES}
        assert set(copies.values()) == {b"1 a\n"} and tree(out).keys() >= FILES.keys()
        assert not any(path.is_symlink() for path in out.rglob("*"))


OUTSIDE = ["../../x", "/tmp/nerp-test-x", "images/../../x", "..", "C:\\x", "..\\x", "\\x"]
LINKS = ["/etc/passwd", "../../x", "../../../etc/passwd", "nothing.txt", ".."]


@pytest.mark.parametrize("make", [tar, zip_])
@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_lead_outside_are_refused(make, name, tmp_path):
    archive = make(tmp_path / "hostile.bin", [*FILES.items(), (name, b"x")])
    refused(archive, tmp_path, "it names a file outside its folder")


@pytest.mark.parametrize("target", LINKS)
@pytest.mark.parametrize("kind", ["symbolic", "hard", "zip"])
def test_links_that_lead_outside_are_refused(kind, target, tmp_path):
    if kind == "zip":
        archive = zip_(tmp_path / "hostile.bin", [*FILES.items(), zip_link("images/x", target)])
    else:
        type_ = tarfile.SYMTYPE if kind == "symbolic" else tarfile.LNKTYPE
        link = special("images/x", type_, target)
        # What a careless program would then write through the link.
        archive = tar(tmp_path / "hostile.bin", [*FILES.items(), (link, b""), ("images/x/y", b"")])
    refused(archive, tmp_path, "it holds a link to no file|it names a file outside")


def test_a_link_is_never_followed(tmp_path):
    """A link to a folder outside, then a file through it."""
    archive = tar(tmp_path / "hostile.tar", [
        (special("images", tarfile.SYMTYPE, str(tmp_path)), b""), ("images/x", b"x"),
    ])
    refused(archive, tmp_path, "it names a file outside its folder")


@pytest.mark.parametrize("type_", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_are_refused(type_, tmp_path):
    refused(tar(tmp_path / "a.tar", [*FILES.items(), (special("zero", type_), b"")]), tmp_path,
            "it holds a device, 'zero'")


def zeros(path, kind):
    """A small archive of zeros that are, or are said to be, many."""
    block = bytes(2**20)
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("a.jpg", block)
        content = bytearray(path.read_bytes())
        for signature, offset in ((b"PK\3\4", 22), (b"PK\1\2", 24)):  # the size in both headers
            at = content.index(signature) + offset
            content[at : at + 4] = (2**32 - 2).to_bytes(4, "little")
        return write(path, bytes(content))
    if kind == "zip of many":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for i in range(80):
                file.writestr(f"{i}.jpg", block)
        return path
    info = tarfile.TarInfo("a.jpg")
    info.size = 10 * 2**30
    if kind == "header":  # a name of 10 GB
        info.type = tarfile.GNUTYPE_LONGNAME
    if kind == "sparse":  # half a KB, and 8 GB of holes
        info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    if kind == "sparse":
        header[386:410] = b"%011o\0%011o\0" % (0, 512)  # where there is data, and how much
        header[483:495] = b"%011o\0" % (8 * 2**30 - 1)
        header[148:156] = b"%06o\0 " % tarfile.calc_chksums(header)[0]
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header)
        for _ in range(1 if kind == "sparse" else 80):
            file.write(block)
    return path


@pytest.mark.parametrize("kind", ["zip", "zip of many", "tar", "header", "sparse"])
def test_bombs_are_refused(kind, tmp_path):
    archive = zeros(tmp_path / "bomb", kind)
    assert archive.stat().st_size < 2**20
    refused(archive, tmp_path, "it unpacks to more than 20 times its size")
    assert sum(len(content) for content in tree(tmp_path / "out").values()) < 2**27


def test_links_count_as_what_they_are_copied_from(tmp_path):
    links = [(special(f"{i}.jpg", tarfile.LNKTYPE, "a.jpg"), b"") for i in range(80)]
    archive = tar(tmp_path / "bomb.tar", [("a.jpg", bytes(2**20)), *links], "w:gz")
    refused(archive, tmp_path, "it unpacks to more than 20 times its size")


def test_folders_too_deep_to_be_removed_again_are_refused(tmp_path):
    names = ["a/" * depth for depth in range(1, 1200)]
    refused(zip_(tmp_path / "deep.zip", [(name, b"") for name in names]), tmp_path, "it nests 5")


def test_a_full_disk_is_noticed_before_it_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(OSError, match="No space left on device"):
        unpack(tar(tmp_path / "a.tar", FILES.items()), tmp_path / "out")
    assert tree(tmp_path / "out") == {}


@pytest.mark.parametrize("content", [
    b"", b"<!DOCTYPE html><html></html>", b"PK\3\4 and nothing", b"\x1f\x8b and nothing",
    b"BZh and nothing", b"\xfd7zXZ\0 and nothing", bytes(range(256)) * 40,
])
def test_what_is_not_an_archive_is_named(content, tmp_path):
    with pytest.raises(NerpError, match="EuroSAT.zip: cannot be unpacked: .") as error:
        unpack(write(tmp_path / "EuroSAT.zip", content), tmp_path / "out")
    assert "\n" not in str(error.value) and tree(tmp_path / "out") == {}


def test_a_tar_that_is_damaged_in_the_middle_is_noticed(tmp_path):
    archive = tar(tmp_path / "a.tar", [(f"{i}.jpg", os.urandom(20_000)) for i in range(4)])
    content = bytearray(archive.read_bytes())
    content[content.index(b"1.jpg")] ^= 0xFF  # its header's checksum fails
    with pytest.raises(NerpError, match="a.tar: cannot be unpacked: it is damaged in the middle"):
        unpack(write(archive, bytes(content)), tmp_path / "out")


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz", "zip"])
def test_archives_that_are_cut_or_changed_are_noticed(mode, tmp_path):
    content = os.urandom(50_000)
    archive = (zip_(tmp_path / "a", [("a.jpg", content)]) if mode == "zip"
               else tar(tmp_path / "a", [("a.jpg", content)], mode))
    whole = archive.read_bytes()
    changed = bytearray(whole)
    changed[25_000] ^= 0xFF
    for i, damaged in enumerate((whole[:30_000], bytes(changed))):
        with pytest.raises(NerpError, match="cannot be unpacked"):
            unpack(write(archive, damaged), tmp_path / f"out{i}")


def test_an_encrypted_zip_is_named(tmp_path):
    archive = zip_(tmp_path / "a.zip", FILES.items())
    content = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(signature) + offset] |= 1  # the flag "encrypted"
    with pytest.raises(NerpError, match="a.zip: cannot be unpacked: .*password"):
        unpack(write(archive, bytes(content)), tmp_path / "out")


def refused(archive, tmp_path, reason):
    """It is refused in one line, and there is nothing new outside the target folder."""
    before = set(tmp_path.parent.rglob("*"))
    with pytest.raises(NerpError, match=reason) as error:
        unpack(archive, tmp_path / "out")
    assert str(error.value).startswith(f"{archive}: ") and "\n" not in str(error.value)
    new = set(tmp_path.parent.rglob("*")) - before
    assert all(path.is_relative_to(tmp_path / "out") for path in new)
    assert not any(path.is_symlink() for path in new)
    assert not os.path.exists("/tmp/nerp-test-x")
