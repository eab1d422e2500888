"""What web servers and hubs may answer: it ends, in bounded size, and the next address is tried."""

import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hostile import PLANTED, bounded, is_one_line, tree

from nerp.base.errors import NerpError
from nerp.data import mirror, watched
from nerp.data.download import downloads
from nerp.data.sources import Source

CONTENT = os.urandom(40_000)


def drip(request) -> None:
    while True:
        request.wfile.write(b"x")
        time.sleep(0.02)


def endless(request) -> None:
    request.send_response(200)
    request.end_headers()
    while True:
        request.wfile.write(bytes(2**16))


def answer(status: int, **headers: str):
    def send(request) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(CONTENT)
    return send


def slow(request) -> None:
    request.send_response(200)
    request.send_header("Content-Length", "1000000")
    request.end_headers()
    drip(request)


ANSWERS = {
    "silence": lambda request: time.sleep(30),
    "headers a byte at a time": drip,
    "a body a byte at a time": slow,
    "no end": endless,
    "a length that is no number": answer(200, Content_Length="many"),
    "a negative length": answer(200, Content_Length="-5"),
    "an address that is none": answer(302, Location="http://[::1"),
    "an address of another kind": answer(302, Location="file:///etc/passwd"),
    "itself": answer(302, Location="/itself"),
    "no HTTP": lambda request: request.wfile.write(b"\0\xff" * 1000),
    "another part": answer(206, Content_Range="bytes 7-9/10"),
    "nothing": lambda request: None,
}


@pytest.fixture
def serve():
    servers = []

    def serve(send) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                try:
                    send(self)
                except OSError:
                    self.close_connection = True

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.block_on_close = False
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/itself"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("size", [0, len(CONTENT)])
@pytest.mark.parametrize("kind", ANSWERS)
def test_an_address_that_serves_nothing_ends_in_a_line(kind, size, serve, tmp_path, monkeypatch):
    monkeypatch.setattr(watched, "_WINDOW", 1.0)
    monkeypatch.setattr("nerp.data.download._SPARED", 0)
    good = serve(answer(200, Content_Length=str(len(CONTENT))))
    source = Source("a.bin", [serve(ANSWERS[kind]), good], size=size)
    bad, other = downloads(source, tmp_path)
    with bounded(seconds=30):
        try:
            bad()
        except NerpError as error:
            assert is_one_line(error), kind
            assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= len(CONTENT)
        else:  # "Content-Length: -5" and the like leave the whole content
            assert (tmp_path / "a.bin").read_bytes() == CONTENT
            return
    if size:
        other()
        assert (tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("name", ["a.bin", "a.bin.part"])
def test_what_is_in_the_way_of_a_download(name, kind, serve, tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.mkdir()
    folder.mkdir()
    (outside / "keys").write_text("a key\n")
    before = tree(outside)
    PLANTED[kind](folder / name, outside)
    url = serve(answer(200, Content_Length=str(len(CONTENT))))
    with bounded(seconds=30):
        try:
            downloads(Source("a.bin", [url], size=len(CONTENT)), folder)[0]()
        except NerpError as error:
            assert is_one_line(error) and name in str(error)
    assert tree(outside) == before


def test_a_library_that_waits_for_ever_is_ended(tmp_path, monkeypatch):
    import gdown

    monkeypatch.setattr(watched, "_WINDOW", 0.5)
    monkeypatch.setattr(gdown, "download", lambda **_: time.sleep(600))
    (fetch,) = downloads(Source("a.bin", gdrive="x"), tmp_path)
    with bounded(seconds=20), pytest.raises(NerpError, match="Google Drive: given up: in 0.5 s"):
        fetch()


def test_a_library_that_writes_too_much_is_ended(tmp_path, monkeypatch):
    import gdown

    def swell(output, **_):
        with open(output, "wb") as file:
            while True:
                file.write(bytes(2**20))

    monkeypatch.setattr(gdown, "download", swell)
    (fetch,) = downloads(Source("a.bin", gdrive="x", size=3 * 2**20), tmp_path)
    with bounded(seconds=20), pytest.raises(NerpError, match="more than 3,145,728 bytes came"):
        fetch()
    assert not [*tmp_path.iterdir()]


LISTED = {"rfilename": "eurosat.zip", "size": 5, "blobId": "0" * 40}


@pytest.mark.parametrize("place", ["siblings", "rfilename", "size", "lfs", "all"])
def test_a_hubs_listing_of_another_form_ends_in_a_line(place, serve, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(watched, "_WINDOW", 3.0)
    for value in [None, -1, "", "../../x", [], [None], {}, {"sha256": 3, "size": "x"}, ["../x"]]:
        whole = {"id": "a/b", "sha": "0" * 40, "siblings": [dict(LISTED)], "tags": []}
        if place == "siblings":
            whole["siblings"] = value
        elif place == "all":
            whole = value
        else:
            whole["siblings"][0][place] = value
        text = json.dumps(whole).encode()

        def send(request, text=text):
            request.send_response(200)
            request.send_header("Content-Length", str(len(text)))
            request.end_headers()
            request.wfile.write(text)

        url = serve(send).removesuffix("/itself")
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
        with bounded(seconds=30):
            try:
                hosted = mirror._list("a/b")
            except NerpError as error:
                assert is_one_line(error)
                continue
        for file in hosted:
            assert Path(file.path).name and ".." not in file.path and file.size >= 0
