"""How SageMaker and Vertex AI call: /ping, /invocations, /vertex, and paths of their own choice."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from front import Front, events, listening, until

TEXT = "deep learning is the fox"
GENERATE = {"inputs": "hello", "parameters": {"max_new_tokens": 20, "details": True}}
CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 20, "temperature": 0}
COMPLETION = {"prompt": "hello", "max_tokens": 20, "temperature": 0}
OWN_ROUTES = [("/", GENERATE), ("/v1/chat/completions", CHAT), ("/v1/completions", COMPLETION)]


def steady(reply: Any) -> Any:
    """A reply without what differs from one to the next."""
    return {key: value for key, value in reply.items() if key not in ("id", "created")} if "id" in reply else reply


async def test_ping_is_health(front: Front) -> None:
    healthy = await front.get("/ping")
    assert (healthy.status_code, healthy.content) == (200, b"")
    front.engine.healthy = False
    assert (await front.get("/ping")).json() == {"error": "unhealthy", "error_type": "healthcheck"}


@pytest.mark.parametrize(("path", "body"), OWN_ROUTES)
async def test_invocations_answer_as_the_bodys_own_route(front: Front, path: str, body: dict[str, Any]) -> None:
    own, invoked = await front.post(path, body), await front.post("/invocations", body)
    assert own.status_code == invoked.status_code == 200
    assert steady(invoked.json()) == steady(own.json())
    assert set(invoked.headers) == set(own.headers)


@pytest.mark.parametrize(("path", "body"), OWN_ROUTES)
async def test_invocations_stream_as_the_bodys_own_route(front: Front, path: str, body: dict[str, Any]) -> None:
    streaming = body | {"stream": True}
    own, invoked = await front.post(path, streaming), await front.post("/invocations", streaming)
    assert invoked.headers["content-type"] == "text/event-stream"
    assert list(map(steady, events(invoked)[:-1])) == list(map(steady, events(own)[:-1]))


@pytest.mark.parametrize(
    ("wrong", "status", "shape"),
    [
        ({"inputs": ""}, 422, {"error", "error_type"}),
        ({"inputs": 5}, 422, {"error", "error_type"}),
        (CHAT | {"max_tokens": 0}, 400, {"error"}),
        (COMPLETION | {"model": "other"}, 404, {"error"}),
        ({"text": "hello"}, 422, {"error", "error_type"}),
        ([1], 422, {"error", "error_type"}),
    ],
)
async def test_invocations_fail_as_the_bodys_own_route(front: Front, wrong: Any, status: int, shape: set[str]) -> None:
    response = await front.post("/invocations", wrong)
    assert response.status_code == status
    assert set(response.json()) == shape


async def test_inputs_count_before_messages_and_those_before_prompt(front: Front) -> None:
    everything = GENERATE | CHAT | COMPLETION
    assert (await front.post("/invocations", everything)).json()[0]["details"]
    del everything["inputs"]
    assert (await front.post("/invocations", everything)).json()["object"] == "chat.completion"


async def test_what_is_no_json_is_refused_by_invocations_too(front: Front) -> None:
    for content, content_type, status in ((b"{", "application/json", 400), (b'{"inputs": "a"}', "text/plain", 415)):
        headers = {"content-type": content_type}
        assert (await front.client.post("/invocations", content=content, headers=headers)).status_code == status


async def test_a_client_that_leaves_invocations_ends_the_work(front: Front) -> None:
    front.engine.hang_after = 2
    async with listening(front) as address, httpx.AsyncClient(base_url=address) as client:
        async with client.stream("POST", "/invocations", json=GENERATE | {"stream": True}) as response:
            await anext(response.aiter_lines())
        await until(lambda: front.engine.running == 0)
    assert front.engine.aborted == 1


async def test_vertex_predicts_a_text_for_each_instance_in_order(front: Front) -> None:
    front.engine.pace = 0.001
    instances = [
        {"inputs": "hello", "parameters": {"max_new_tokens": 3}},
        {"messages": CHAT["messages"]},
        {"inputs": "hello", "parameters": {"max_new_tokens": 2, "return_full_text": True}},
        {"inputs": "hello"},
    ]
    response = await front.post("/vertex", {"instances": instances})
    predictions = response.json()["predictions"]
    assert response.status_code == 200
    assert predictions[1] == predictions[3] == TEXT
    assert predictions[2].startswith("hello")
    assert TEXT.startswith(predictions[0])
    assert [request.max_new_tokens for request in front.engine.requests[::2]] == [3, 2]


@pytest.mark.parametrize(
    ("parameters", "greedy"),
    [(None, False), ({}, False), ({"seed": 3}, False), ({"do_sample": True}, False), ({"do_sample": False}, True)],
)
async def test_vertex_draws_tokens_unless_told_otherwise(front: Front, parameters: Any, greedy: bool) -> None:
    await front.post("/vertex", {"instances": [{"inputs": "hello", "parameters": parameters}]})
    assert front.engine.requests[0].sampling.greedy is greedy


async def test_vertex_honours_all_parameters(front: Front) -> None:
    front.engine.logprobs = [-2.0, -1.0]
    parameters = {"temperature": 0.5, "top_k": 3, "stop": [" is"], "best_of": 2}
    response = await front.post("/vertex", {"instances": [{"inputs": "hello", "parameters": parameters}]})
    assert response.json() == {"predictions": ["deep learning is"]}
    assert [(each.sampling.temperature, each.sampling.top_k) for each in front.engine.requests] == [(0.5, 3)] * 2


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"instances": []}, "`instances`"),
        ({}, "`instances`"),
        ({"instances": [{"text": "hello"}]}, "`instances[0]`: must be an object with `inputs` or `messages`"),
        ({"instances": [{"inputs": "a"}, {"inputs": 5}]}, "`instances[1].generate.inputs`"),
        ({"instances": [{"inputs": "hello", "parameters": {"temperature": 0}}]}, "`temperature` must be"),
        ({"instances": [{"inputs": ""}]}, "`inputs` cannot be empty"),
    ],
)
async def test_vertex_tells_what_is_wrong(front: Front, body: Any, names: str) -> None:
    response = await front.post("/vertex", body)
    assert response.status_code == 422
    assert response.json()["error_type"] == "validation"
    assert names in response.json()["error"]
    assert front.engine.requests == []


async def test_vertex_takes_a_place_for_each_instance(make_front: Callable[..., Front]) -> None:
    front = make_front(max_concurrent_requests=2)
    assert (await front.post("/vertex", {"instances": [{"inputs": "a"}] * 3})).status_code == 429
    assert (await front.post("/vertex", {"instances": [{"inputs": "a"}] * 2})).status_code == 200


async def test_vertex_ai_may_choose_the_paths(make_front: Callable[..., Front]) -> None:
    front = make_front(predict_route="/v1/endpoints/7:predict", health_route="/alive", api_key=("secret",))
    assert (await front.get("/alive")).status_code == 200
    assert (await front.get("/health")).status_code == 200
    body = {"instances": [{"inputs": "hello"}]}
    assert (await front.post("/v1/endpoints/7:predict", body)).json()["error_type"] == "invalid_api_key"
    key = {"authorization": "Bearer secret"}
    assert (await front.post("/v1/endpoints/7:predict", body, headers=key)).json() == {"predictions": [TEXT]}
