"""Web servers on this machine: one of files, and a hub that serves one repository."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """A web server.

    files: {path: content}. drops: how many bytes each answer sends before the connection breaks,
    one answer after the other. ranges: whether parts can be asked for. asked: (path, Range).
    """

    def __init__(self):
        self.files, self.drops, self.ranges, self.asked = {}, [], True, []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            do_HEAD = do_GET

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, name):
        return f"http://127.0.0.1:{self.http.server_port}/{name}"

    def close(self):
        self.http.shutdown()
        self.http.server_close()

    def answer(self, request):
        wanted = request.headers.get("Range")
        self.asked.append((request.path, wanted))
        self.send(request, self.files.get(request.path[1:]), wanted)

    def send(self, request, content, wanted=None, **headers):
        """Answer a request with a content, or the part of it that is wanted; None: not found."""
        if content is None:
            return request.send_error(404)
        start = int(wanted[6:-1]) if wanted and self.ranges else 0
        if start >= len(content):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(content)}")
            return request.end_headers()
        if start:
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            request.send_response(200)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        if request.command == "GET":
            length = self.drops.pop(0) if self.drops else len(content)
            request.wfile.write(content[start : start + length])


class Hub(Server):
    """As much of the Hugging Face hub as lists and serves a repository, `files` being its content.

    asked: the paths of the files that were fetched, and "listing".
    """

    def __init__(self, repository, kind="datasets"):
        super().__init__()
        self.repository, self.kind = repository, kind

    def answer(self, request):
        path = request.path.partition("?")[0]
        folder = "datasets/" if self.kind == "datasets" else ""
        resolve = f"/{folder}{self.repository}/resolve/main/"
        if path == f"/api/{self.kind}/{self.repository}":
            self.asked.append("listing")
            return self.send(request, json.dumps(self._info()).encode())
        if path.startswith(resolve):
            name = path.removeprefix(resolve)
            if request.command == "GET":
                self.asked.append(name)
            content = self.files[name]
            return self.send(request, content, request.headers.get("Range"), X_Repo_Commit="0" * 40,
                             ETag=f'"{hashlib.sha256(content).hexdigest()}"')
        request.send_response(404)
        request.send_header("X-Error-Code", "RepoNotFound")
        request.send_header("Content-Length", "0")
        request.end_headers()

    def _info(self):
        """As the hub describes a repository when it is asked for the sizes of its files, too."""
        siblings = []
        for name, content in self.files.items():
            large = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content),
                     "pointerSize": 130}
            siblings.append({"rfilename": name, "size": len(content), "blobId": "0" * 40}
                            | ({"lfs": large} if name.endswith((".zip", "gz")) else {}))
        return {"id": self.repository, "sha": "0" * 40, "siblings": siblings, "tags": [],
                "private": False, "downloads": 0, "likes": 0}
