"""A bucket on 127.0.0.1: enough of S3's protocol to list a folder and to read its files."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


@dataclass
class FakeS3:
    """Contents by "bucket/key"; `denied` keeps everybody out."""

    url: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    denied: bool = False


@contextmanager
def serve_s3() -> Iterator[FakeS3]:
    store = FakeS3()
    handler = type("Handler", (_Handler,), {"store": store})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        store.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield store
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    store: FakeS3
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        if self.store.denied:
            return self._error(403, "AccessDenied", "not for you")
        if not key:
            return self._list(bucket, parse_qs(url.query))
        content = self.store.objects.get(f"{bucket}/{key}")
        if content is None:
            return self._error(404, "NoSuchKey", key)
        return self._object(content)

    do_HEAD = do_GET

    def _list(self, bucket: str, query: dict[str, list[str]]) -> None:
        prefix = f"{bucket}/{query.get('prefix', [''])[0]}"
        keys = [key.partition("/")[2] for key in self.store.objects if key.startswith(prefix)]
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.store.objects[f'{bucket}/{key}'])}</Size>"
            f"<LastModified>2026-01-01T00:00:00.000Z</LastModified><StorageClass>STANDARD</StorageClass>"
            f'<ETag>"{hashlib.md5(self.store.objects[f"{bucket}/{key}"]).hexdigest()}"</ETag></Contents>'
            for key in keys
        )
        body = (
            f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>{bucket}</Name>'
            f"<KeyCount>{len(keys)}</KeyCount><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"
        )
        self._answer(200, body.encode(), {"Content-Type": "application/xml"})

    def _object(self, content: bytes) -> None:
        headers = {"ETag": f'"{hashlib.md5(content).hexdigest()}"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        start, dash, end = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if not dash:
            return self._answer(200, content, headers)
        part = content[int(start) : int(end or len(content) - 1) + 1]
        headers["Content-Range"] = f"bytes {start}-{int(start) + len(part) - 1}/{len(content)}"
        return self._answer(206, part, headers)

    def _error(self, status: int, code: str, message: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
        self._answer(status, body.encode(), {"Content-Type": "application/xml"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass
