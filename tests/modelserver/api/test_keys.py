"""API keys: what needs one, what is one, and what is told to those without."""

from collections.abc import Callable
from pathlib import Path

import pytest
from front import Front

from textgen_server.api.keys import ApiKeys
from textgen_server.errors import StartupError
from textgen_server.settings import ServerOptions

# Everything else needs a key.
OPEN = {
    "/",
    "/health",
    "/ping",
    "/metrics",
    "/docs",
    "/playground",
    "/api-doc/openapi.json",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/{model_name}/ready",
    "/v2/models/{model_name}/versions/{model_version}/ready",
}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture
def guarded(make_front: Callable[..., Front]) -> Front:
    return make_front(api_key=("first-key", "Second-Key"))


async def test_without_keys_nothing_needs_one(front: Front) -> None:
    assert (await front.post("/generate", {"inputs": "hello"})).status_code == 200
    assert (await front.post("/generate", {"inputs": "hello"}, headers=bearer("any"))).status_code == 200


@pytest.mark.parametrize("key", ["first-key", "Second-Key"])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
async def test_each_key_opens(guarded: Front, key: str, scheme: str) -> None:
    headers = {"authorization": f"{scheme} {key}"}
    assert (await guarded.post("/generate", {"inputs": "hello"}, headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer second-key",
        "Bearer first-ke",
        "Bearer first-key,Second-Key",
        "first-key",
        "Basic first-key",
        "Bearer \xe9",
    ],
)
async def test_other_keys_do_not(guarded: Front, authorization: str | None) -> None:
    headers = [] if authorization is None else [(b"authorization", authorization.encode("latin-1"))]
    response = await guarded.client.post("/generate", json={"inputs": "hello"}, headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error_type"] == "invalid_api_key"
    assert "Authorization: Bearer KEY" in response.json()["error"]
    assert guarded.engine.requests == []


async def test_two_keys_at_once_are_none(guarded: Front) -> None:
    headers = [(b"authorization", b"Bearer first-key"), (b"authorization", b"Bearer wrong")]
    assert (await guarded.client.get("/info", headers=headers)).status_code == 401


async def test_openai_is_told_in_its_own_shape(guarded: Front) -> None:
    response = await guarded.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}]})
    assert response.status_code == 401
    error = response.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("authentication_error", "invalid_api_key", None)


async def test_every_route_but_these_needs_a_key(guarded: Front) -> None:
    paths = [*(await guarded.get("/api-doc/openapi.json")).json()["paths"], "/docs", "/playground"]
    for path in paths:
        response = await guarded.get(path)
        assert (response.status_code == 401) == (path not in OPEN), path
        assert (await guarded.post(path)).status_code == 401, path
        assert (await guarded.client.options(path)).status_code == 401, path


async def test_paths_that_do_not_exist_need_a_key(guarded: Front) -> None:
    """So that they cannot be told from those that do."""
    for path in ("/nowhere", "/health/", "/v2/models/x/infer", "/v2/models/m/ready/x", "/metrics/x"):
        assert (await guarded.get(path)).status_code == 401, path


async def test_a_file_has_keys_too(make_front: Callable[..., Front], tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# of team a\nteam-a\n\n  team-b  \n")
    front = make_front(api_key=("flag-key",), api_key_file=str(file))
    for key, status in (("team-a", 200), ("team-b", 200), ("flag-key", 200), ("# of team a", 401), ("", 401)):
        assert (await front.get("/info", headers=bearer(key))).status_code == status, key


async def test_the_file_may_be_rotated(
    make_front: Callable[..., Front], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    file.write_text("old-key")
    front = make_front(api_key_file=str(file))
    keys = front.context.keys.file
    assert keys is not None
    file.write_text("new-key")
    keys.refresh()
    assert (await front.get("/info", headers=bearer("old-key"))).status_code == 401
    assert (await front.get("/info", headers=bearer("new-key"))).status_code == 200
    file.write_text("# half written")
    keys.refresh()
    assert (await front.get("/info", headers=bearer("new-key"))).status_code == 200
    assert "has no key" in caplog.text
    assert "new-key" not in caplog.text


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "has no key: write one on each line"),
        (b"# only a comment\n", "has no key"),
        (b"good\nsecret with blanks", "line 2 of the file .* has a character that headers cannot carry"),
        ("schlüssel".encode(), "line 1 of the file"),
        (b"\xff\xfe", "is not text"),
        (None, "cannot read .*: No such file or directory"),
    ],
)
def test_a_file_that_cannot_be_used_ends_the_start(tmp_path: Path, content: bytes | None, complaint: str) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(StartupError, match=complaint) as refused:
        ApiKeys.load(ServerOptions(api_key_file=str(file)))
    assert "secret" not in refused.value.message


async def test_browsers_may_send_a_key_and_read_what_comes_back(guarded: Front) -> None:
    origin = {"origin": "https://example.org"}
    asking = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-stainless-os"}
    preflight = await guarded.client.options("/generate", headers=origin | asking)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    for headers, status in ((bearer("first-key"), 200), ({}, 401)):
        response = await guarded.post("/generate", {"inputs": "hello"}, headers=origin | headers)
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == "*"
        assert response.headers["access-control-expose-headers"] == "*"


async def test_origins_can_be_limited(make_front: Callable[..., Front]) -> None:
    front = make_front(cors_allow_origin=("https://a.example", "https://b.example"))
    for origin, allowed in (("https://b.example", "https://b.example"), ("https://c.example", None)):
        response = await front.post("/generate", {"inputs": "hello"}, headers={"origin": origin})
        assert response.headers.get("access-control-allow-origin") == allowed
