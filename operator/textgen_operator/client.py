"""A thin asynchronous client of the Kubernetes API: paths and JSON in, JSON out.

Credentials are found by kopf's own login functions (service account, else kubeconfig), so that the client and kopf
are always the same user, and no second client library has to be loaded. Reading is open to everyone in the package;
the writing methods are called by apply.py only, and by leader.py for its Lease.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any, Self

import aiohttp
import kopf

from textgen_operator.kinds import Manifest
from textgen_operator.metrics import count_write

REQUEST_TIMEOUT = 30.0
"""Seconds for one request other than a watch."""

WATCH_SECONDS = 300
"""Seconds after which the API server is asked to end a watch; it is then begun anew where it ended."""

WATCH_SILENCE = 75.0
"""Seconds without a byte after which a watch is taken for dead: bookmarks come every minute."""

_METADATA_ONLY = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1"


_DRY_RUN: Mapping[bool, Mapping[str, str]] = {True: {"dryRun": "All"}, False: {}}


_MALFORMED = ("failed to create typed patch object", "failed to convert new object")
"""So the API server calls what is applied with a value of another type than its field's, and an error of its own."""


class ApiError(Exception):
    """The API server refused a request.

    Attributes:
        status: HTTP status.
        reason: Kubernetes' word for it, such as "NotFound", "Conflict" or "Invalid".
        is_read: whether it was to read something.
    """

    is_read = False

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason

    @property
    def is_refusal(self) -> bool:
        """Whether the same request would be refused again: something that the user, not time, has to put right."""
        if self.status == 500:
            return str(self).startswith(_MALFORMED)
        return self.status in (400, 403, 404, 405, 413, 415, 422)


def connection_info() -> kopf.ConnectionInfo:
    """Where the API server is, and as whom to talk to it. Raises kopf.LoginError when neither source exists."""
    settings = kopf.OperatorSettings()
    info = kopf.login_with_service_account(settings=settings) or kopf.login_with_kubeconfig(settings=settings)
    if info is None:
        raise kopf.LoginError("no cluster found: set KUBECONFIG, or run inside a cluster with a service account")
    return info


class Client:
    """A connection to one API server; an asynchronous context manager.

    Args:
        may_write: asked before each write, which fails with a conflict when the answer is no.
    """

    def __init__(self, may_write: Callable[[], bool] = lambda: True) -> None:
        self._may_write = may_write
        self._session: aiohttp.ClientSession | None = None
        self._server = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._log_out(self._session)

    async def get(self, path: str) -> Manifest | None:
        """The object at a path, or None when there is none."""
        try:
            return await self._json("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def get_if_changed(self, path: str, accept: str, etag: str) -> tuple[Manifest | None, str]:
        """The object at a path and its ETag; None for the object when its ETag is still `etag`."""
        async with await self._send("GET", path, accept=accept, etag=etag) as reply:
            if reply.status == 304:
                return None, etag
            return await reply.json(), reply.headers.get("ETag", "")

    async def items(self, path: str, selector: str = "", fields: str = "") -> list[Manifest]:
        """The objects of a collection that have the labels, and the values in the fields."""
        selectors = {"labelSelector": selector, "fieldSelector": fields}
        listed = await self._json("GET", path, params={key: value for key, value in selectors.items() if value})
        return listed["items"] or []

    async def text(self, path: str, params: Mapping[str, str]) -> str:
        """What a path that does not speak JSON answers: the log of a container."""
        async with await self._send("GET", path, params=params, accept="*/*") as reply:
            return (await reply.read()).decode(errors="replace")

    async def metadata(self, path: str, selector: str) -> tuple[list[Manifest], str]:
        """The metadata of the objects of a collection that have the labels, and the version from which to watch."""
        listed = await self._json("GET", path, params={"labelSelector": selector}, accept=_METADATA_ONLY.format("List"))
        return listed["items"] or [], listed["metadata"]["resourceVersion"]

    async def watch(self, path: str, selector: str, version: str) -> AsyncIterator[Manifest]:
        """Changes after `version` of the metadata that `metadata` lists, as {"type": ..., "object": ...}.

        Ends when the API server ends it. Raises ApiError, with status 410 when `version` is too old to continue.
        """
        params = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "labelSelector": selector,
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        times = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_TIMEOUT, sock_read=WATCH_SILENCE)
        async with await self._send("GET", path, params=params, accept=_METADATA_ONLY.format(""), times=times) as reply:
            async for line in _lines(reply):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise _error_of(event["object"], event["object"].get("code", 500))
                yield event

    async def apply(self, path: str, manifest: Manifest, field_manager: str, *, dry_run: bool = False) -> Manifest:
        """Server-side apply, forced; the object as it is afterwards, or would be after a dry run."""
        return await self._json(
            "PATCH",
            path,
            params={"fieldManager": field_manager, "force": "true", **_DRY_RUN[dry_run]},
            body=manifest,
            content_type="application/apply-patch+yaml",
        )

    async def patch(self, path: str, steps: list[Manifest], field_manager: str, *, dry_run: bool = False) -> Manifest:
        """A JSON patch (RFC 6902); the object as it is afterwards, or would be after a dry run."""
        return await self._json(
            "PATCH",
            path,
            params={"fieldManager": field_manager, **_DRY_RUN[dry_run]},
            body=steps,
            content_type="application/json-patch+json",
        )

    async def create(self, path: str, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        """Make an object in a collection, which must not hold one of its name; the object as it is then."""
        return await self._json("POST", path, params=_DRY_RUN[dry_run], body=manifest)

    async def delete(self, path: str, uid: str, propagation: str) -> None:
        """Delete the object of that uid; what it owns goes the way of `propagation`."""
        body = {"propagationPolicy": propagation, "preconditions": {"uid": uid}}
        await self._json("DELETE", path, body=body)

    async def _json(self, method: str, path: str, **options: Any) -> Manifest:
        async with await self._send(method, path, **options) as reply:
            answer: Manifest = await reply.json()
            return answer

    async def _send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Manifest | list[Manifest] | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        etag: str = "",
        times: aiohttp.ClientTimeout | None = None,
    ) -> aiohttp.ClientResponse:
        """Send a request; once more with fresh credentials when they have expired. Raises ApiError."""
        if method != "GET" and not self._may_write():
            raise ApiError(409, "Conflict", "this operator does not lead any more, and writes nothing")
        for last_try in (False, True):
            session = self._logged_in()
            reply = await session.request(
                method,
                self._server + path,
                params=params,
                data=None if body is None else json.dumps(body),
                headers={"Content-Type": content_type, "Accept": accept} | ({"If-None-Match": etag} if etag else {}),
                timeout=times or aiohttp.ClientTimeout(total=REQUEST_TIMEOUT),
            )
            if reply.status == 401 and not last_try:
                reply.release()
                await self._log_out(session)
                continue
            break
        if method != "GET" and "dryRun" not in (params or {}):
            count_write(method, path, reply.status)
        if reply.status >= 400:
            async with reply:
                error = await _failure(reply)
                error.is_read = method == "GET"
                raise error
        return reply

    def _logged_in(self) -> aiohttp.ClientSession:
        if self._session is None:
            info = connection_info()
            self._server = info.server.rstrip("/")
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=info.as_ssl_context(), limit=0),
                headers={"User-Agent": "textgen-operator", **info.as_http_headers()},
                proxy=info.proxy_url,
                trust_env=info.trust_env,
            )
        return self._session

    async def _log_out(self, session: aiohttp.ClientSession) -> None:
        # Another request may have noticed the same and logged in anew already.
        if self._session is session:
            self._session = None
        await session.close()


async def _lines(reply: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Lines of any length: aiohttp's own iteration refuses long ones."""
    rest = b""
    async for chunk in reply.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line


async def _failure(reply: aiohttp.ClientResponse) -> ApiError:
    if reply.status == 401:
        return ApiError(
            401,
            "Unauthorized",
            "the API server does not accept these credentials; of a kubeconfig, tokens, client certificates and "
            "passwords are understood, but not commands (exec) that fetch them",
        )
    text = await reply.text()
    try:
        status = json.loads(text)
    except ValueError:
        status = {}
    return _error_of(status if isinstance(status, dict) else {}, reply.status, text)


def _error_of(status: Manifest, code: int, text: str = "") -> ApiError:
    """The error in a Kubernetes Status object, or in whatever else came instead of one."""
    return ApiError(code, status.get("reason") or "Unknown", status.get("message") or text[:200] or f"HTTP {code}")
