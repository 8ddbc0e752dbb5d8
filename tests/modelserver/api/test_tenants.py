"""What the engine's queue is told of a request: its class, and whose it is."""

from collections.abc import Callable
from typing import Any

import pytest
from front import Front

from textgen_server.priority import Priority


def body_of(path: str, **fields: Any) -> dict[str, Any]:
    if path == "/generate":
        return {"inputs": "hello", "parameters": {"max_new_tokens": 2, **fields}}
    asked = {"messages": [{"role": "user", "content": "hello"}]} if "chat" in path else {"prompt": "hello"}
    return {"max_tokens": 2, **asked, **fields}


@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/v1/chat/completions"])
async def test_a_request_has_the_class_that_it_asks_for(front: Front, path: str) -> None:
    asked = {"high": Priority.HIGH, "low": Priority.LOW, None: Priority.NORMAL, -3: Priority.HIGH, 0: Priority.NORMAL}
    for priority in asked:
        assert (await front.post(path, body_of(path, priority=priority))).status_code == 200
    assert [request.priority for request in front.engine.requests] == list(asked.values())


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
@pytest.mark.parametrize("wrong", ["urgent", True, 1.5])
async def test_another_class_is_refused_by_the_fields_name(front: Front, path: str, wrong: Any) -> None:
    reply = await front.post(path, body_of(path, priority=wrong))
    assert reply.status_code in (400, 422)
    assert "priority" in reply.text
    assert not front.engine.requests


async def test_with_keys_a_tenant_is_a_key_whatever_the_body_says(make_front: Callable[..., Front]) -> None:
    front = make_front(api_key=("first-key", "second-key"))
    for key, user in [("first-key", "ann"), ("second-key", "ann"), ("first-key", "bob")]:
        headers = {"authorization": f"Bearer {key}"}
        body = body_of("/v1/completions", user=user)
        assert (await front.post("/v1/completions", body, headers=headers)).status_code == 200
    first, second, again = (request.tenant for request in front.engine.requests)
    assert first == again != second
    assert "key" not in first


async def test_without_keys_a_tenant_is_a_user(front: Front) -> None:
    for user in ("ann", "bob", "ann", None):
        await front.post("/v1/completions", body_of("/v1/completions", user=user))
    await front.post("/generate", body_of("/generate"))
    ann, bob, again, nobody, tgi = (request.tenant for request in front.engine.requests)
    assert ann == again != bob
    assert nobody == tgi == ""
