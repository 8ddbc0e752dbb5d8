"""Whatever a body holds: every route answers it, soon, and as its description says."""

import asyncio
import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from front import Front, events
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from textgen_server.api.app import ROUTERS
from textgen_server.api.description import EXAMPLES, describe
from textgen_server.api.errors import GENERATE, KSERVE, OPENAI, TGI, surface_of

MODEL = "test-model"
SECONDS = 30
EXAMPLES_EACH = 60

# A version in the path changes nothing of a route.
ROUTES = [path for path in EXAMPLES if "{model_version}" not in path]
each_route = pytest.mark.parametrize("path", ROUTES)
_WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
_ASKED = {"role": "user", "content": [{"type": "text", "text": "hello"}]}
_CALLED = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
_TOOLS = [{"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": _WEATHER}}]
_CHAT = {
    "messages": [_ASKED, {"role": "assistant", "tool_calls": [_CALLED]}, {"role": "tool", "content": "1"}],
    "tools": _TOOLS, "tool_choice": "auto", "parallel_tool_calls": False, "logprobs": True, "top_logprobs": 2, "n": 2,
    "stop": "fox", "logit_bias": {"5": 1.5}, "max_completion_tokens": 9, "stream": True,
    "stream_options": {"include_usage": True}, "presence_penalty": 0.5, "frequency_penalty": 0.5, "seed": 3,
}  # fmt: skip
_FORMATTED = {
    "messages": [_ASKED],
    "max_tokens": 9,
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": _WEATHER}},
}
_COMPLETION = {
    "prompt": ["hello", "the fox"], "max_tokens": 5, "n": 2, "best_of": 2, "echo": True, "logprobs": 2, "stop": ["is"],
}  # fmt: skip
_PARAMETERS = {
    "max_new_tokens": 5, "best_of": 2, "do_sample": True, "temperature": 0.7, "top_k": 5, "top_p": 0.9,
    "typical_p": 0.9, "repetition_penalty": 1.1, "frequency_penalty": 0.1, "stop": ["is"], "truncate": 9,
    "return_full_text": True, "details": True, "decoder_input_details": True, "top_n_tokens": 2,
    "watermark": True, "adapter_id": None,
    "grammar": {"type": "regex", "value": "[a-z ]*"},
}  # fmt: skip
# Bodies that ask for much.
RICH = [
    ("/generate", {"inputs": "hello", "parameters": _PARAMETERS}),
    ("/", {"inputs": "hello", "parameters": _PARAMETERS | {"grammar": {"type": "json", "value": _WEATHER}}}),
    ("/chat_tokenize", _CHAT),
    ("/invocations", _CHAT),
    ("/invocations", _COMPLETION),
    ("/vertex", {"instances": [_FORMATTED, {"inputs": "hello", "parameters": _PARAMETERS}]}),
    ("/v1/chat/completions", _CHAT),
    ("/v1/chat/completions", _FORMATTED),
    ("/v1/completions", _COMPLETION),
    ("/v1/models/{model_name}:predict", {"instances": ["a", {"inputs": "hello"}], "parameters": _PARAMETERS}),
    ("/v2/models/{model_name}/generate", {"text_input": "hello", "parameters": _PARAMETERS}),
]

bounded = settings(
    max_examples=EXAMPLES_EACH,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # one server answers all of them
)

numbers = st.integers() | st.floats() | st.sampled_from([0, -1, 1, 5, 2**31, 2**63, 2**64, -(2**63), 10**400, 1e-300])
scalars = (
    st.none() | st.booleans() | numbers | st.text(max_size=8) | st.sampled_from(["\ud800", "\0", "<turn>", "json"])
)
junk = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


def target(path: str) -> str:
    return path.replace("{model_name}", MODEL).replace("{model_version}", "1")


async def reply_to(front: Front, path: str, body: bytes) -> httpx.Response:
    async with asyncio.timeout(SECONDS):
        return await front.client.post(target(path), content=body, headers={"content-type": "application/json"})


class Description:
    """The OpenAPI document, which replies are held to."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document

    def check(self, response: httpx.Response, path: str) -> None:
        """It is one of the replies that the document has for a POST, and the API's own shape of an error."""
        assert response.status_code < 500, response.text
        replies = self.document["paths"][path]["post"]["responses"]
        media_type = response.headers["content-type"].partition(";")[0]
        schema = replies[str(response.status_code)]["content"][media_type]["schema"]
        if media_type == "text/event-stream":
            data = schema["properties"]["data"]
            told = [event for event in events(response) if event != "[DONE]"]
            assert told
            assert [event for event in told if "error" in event] == []
            self._validate({"items": data.get("anyOf", [data])[-1]["contentSchema"]}, told)
        else:
            self._validate(schema, response.json())
        if response.status_code != 200:
            check_error(response.json(), path)

    def _validate(self, schema: dict[str, Any], value: Any) -> None:
        Draft202012Validator({**schema, "components": self.document["components"]}).validate(value)

    def names(self) -> list[str]:
        """Every field that some schema has."""
        schemas = self.document["components"]["schemas"].values()
        return sorted({name for schema in schemas for name in schema.get("properties", ())})


def check_error(error: Any, path: str) -> None:
    """It has the fields of the API's errors, and no others."""
    surfaces = (TGI, OPENAI) if path == "/invocations" else (surface_of(path),)
    match error:
        case {"error": str(), "error_type": str(), **more} if TGI in surfaces:
            assert not more
        case {"error": {"message": str(), "type": str(), "param": _, "code": _, **more}} if OPENAI in surfaces:
            assert not more
        case {"error": str(), **more} if surfaces[0] in (KSERVE, GENERATE):
            assert not more
        case _:
            pytest.fail(f"{path}: {error}")


@pytest.fixture
def front(make_front: Callable[..., Front]) -> Front:
    """With room for what tools add to a prompt."""
    front = make_front()
    front.engine.info.max_total_tokens, front.engine.info.max_input_tokens = 1024, 1023
    return front


@pytest.fixture(scope="module")
def description() -> Description:
    return Description(describe(ROUTERS, MODEL))


def places(body: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in `body` there are values, as keys and indices from its top."""
    children = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for key, child in children:
        yield (*where, key)
        yield from places(child, (*where, key))


def spoil(body: Any, names: list[str], draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
    """Change one value, leave one out, or add a field."""
    parent = body
    *above, last = draw(st.sampled_from(sorted(places(body), key=str)))
    for key in above:
        parent = parent[key]
    match draw(st.sampled_from(["change", "change", "leave out", "add", "add"])):
        case "change":
            parent[last] = draw(junk)
        case "leave out":
            del parent[last]
        case "add" if isinstance(parent, dict):
            parent[draw(st.sampled_from(names))] = draw(junk)


@pytest.mark.parametrize(("path", "body"), [*((path, EXAMPLES[path]) for path in ROUTES), *RICH])
@bounded
@given(data=st.data())
async def test_bodies_that_are_nearly_right(
    front: Front, description: Description, path: str, body: dict[str, Any], data: st.DataObject
) -> None:
    body = copy.deepcopy(body)
    for _ in range(data.draw(st.integers(1, 3))):
        if body:
            spoil(body, description.names(), data.draw)
    description.check(await reply_to(front, path, json.dumps(body).encode()), path)


@each_route
@bounded
@given(body=st.binary(max_size=40) | junk.map(lambda value: json.dumps(value).encode()))
@example(body=b"")
@example(body=b"[" * 100_000)
@example(body=b'{"inputs":' * 10_000)
@example(body=b'{"inputs": "\xff"}')
@example(body=b'{"inputs": "a", "inputs": 1}')
@example(body=b"1" * 5000)
@example(body='{"prompt": "é"}'.encode("utf-16"))
async def test_bodies_that_are_something_else(front: Front, description: Description, path: str, body: bytes) -> None:
    response = await reply_to(front, path, body)
    description.check(response, path)
    assert response.status_code in (400, 422), response.text


@pytest.mark.parametrize("more", [{}, {"stream": True, "stream_options": {"include_usage": True}}])
@pytest.mark.parametrize("path", [path for path in ROUTES if "adapter" not in path])
async def test_examples_of_the_description_are_answered(
    front: Front, description: Description, path: str, more: dict[str, Any]
) -> None:
    response = await front.post(target(path), EXAMPLES[path] | more)
    assert response.status_code == 200, response.text
    description.check(response, path)


@pytest.mark.parametrize(("path", "body"), RICH)
async def test_bodies_that_ask_for_much_are_answered(
    front: Front, description: Description, path: str, body: dict[str, Any]
) -> None:
    response = await front.post(target(path), body)
    assert response.status_code == 200, response.text
    description.check(response, path)


async def test_every_body_has_an_example_in_the_description(description: Description) -> None:
    paths = description.document["paths"]
    assert {path for path in paths if "requestBody" in paths[path].get("post", {})} == set(EXAMPLES)
