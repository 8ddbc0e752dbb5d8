"""A small Hugging Face hub on 127.0.0.1: enough of its API for snapshot_download, over plain HTTP."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """What the hub has, and what it was asked.

    Attributes:
        files: contents by "org/name" and file name.
        gated: repositories whose files need `token`.
        requests: "METHOD path" of each request that concerns a model.
        tokens: values of the Authorization header that came with those.
        broken: answer everything with status 500.
        large: files that the hub keeps as large ones, named by their sha256.
        cut: files whose connection breaks after so many bytes, once.
        damaged: files that arrive with their first byte changed.
        ranges: names of files of which a part was asked for.
    """

    url: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    token: str = "hf_right"
    requests: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    broken: bool = False
    large: set[str] = field(default_factory=set)
    cut: dict[str, int] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    ranges: list[str] = field(default_factory=list)


@contextmanager
def serve_hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        parts = path.strip("/").split("/")
        if len(parts) < 5:
            return self._answer(404, b"")
        self.hub.requests.append(f"{self.command} {path}")
        self.hub.tokens.add(self.headers.get("Authorization"))
        if self.hub.broken:
            return self._answer(500, b"down for maintenance")
        if parts[:2] == ["api", "models"]:
            return self._api("/".join(parts[2:4]), parts[4], parts[5])
        return self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))

    do_HEAD = do_GET

    def _api(self, repo: str, what: str, revision: str) -> None:
        files = self.hub.files.get(repo)
        if files is None:
            return self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if revision not in ("main", "v1", COMMIT):
            return self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        info = {"id": repo, "sha": COMMIT, "siblings": []}
        tree = [
            {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for name, content in files.items()
        ]
        return self._answer(200, json.dumps(tree if what == "tree" else info).encode())

    def _file(self, repo: str, revision: str, name: str) -> None:
        if repo in self.hub.gated and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
        content = self.hub.files[repo][name]
        digest = hashlib.sha256(content) if name in self.hub.large else hashlib.sha1(content)
        headers = {"ETag": f'"{digest.hexdigest()}"', "X-Repo-Commit": revision, "Accept-Ranges": "bytes"}
        if name in self.hub.damaged:
            content = bytes([content[0] ^ 1]) + content[1:]
        asked = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if not asked[0]:
            return self._answer(200, content, headers, self.hub.cut.pop(name, None) if self.command == "GET" else None)
        self.hub.ranges.append(name)
        start, end = int(asked[0]), int(asked[2] or len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        return self._answer(206, content[start : end + 1], headers)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])
        self.close_connection |= cut is not None

    def log_message(self, format: str, *args: object) -> None:
        pass
