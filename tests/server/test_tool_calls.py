"""What a running model calls is always valid, however wild the draw."""

import json

import httpx
import jsonschema
import pytest

SCHEMAS = {
    "plain": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"type": "integer"}},
        "required": ["city"],
    },
    "nested": {
        "type": "object",
        "properties": {
            "points": {"type": "array", "items": {"$ref": "#/$defs/point"}, "minItems": 1, "maxItems": 2},
            "mode": {"enum": ["walk", "drive", None]},
        },
        "required": ["points", "mode"],
        "additionalProperties": False,
        "$defs": {
            "point": {
                "type": "object",
                "properties": {"x": {"type": "number", "minimum": -9, "maximum": 9}, "y": {"$ref": "#/$defs/y"}},
                "required": ["x", "y"],
            },
            "y": {"type": "integer", "minimum": 0, "maximum": 99},
        },
    },
    "choice": {
        "type": "object",
        "properties": {
            "when": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]},
            "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
            "sure": {"type": "boolean"},
        },
        "required": ["when", "code", "sure"],
    },
    "no_arguments": None,
}
TOOLS = [
    {"type": "function", "function": {"name": name, **({"parameters": schema} if schema else {})}}
    for name, schema in SCHEMAS.items()
]


def chat(server, **fields) -> list[dict]:
    messages = [{"role": "user", "content": "Do something for me."}]
    body = {"messages": messages, "tools": TOOLS, "temperature": 1.3, "max_tokens": 100, "parallel_tool_calls": False}
    reply = httpx.post(f"{server.url}/v1/chat/completions", json=body | fields, timeout=240)
    return reply.raise_for_status().json()["choices"]


@pytest.mark.parametrize("name", SCHEMAS)
def test_arguments_fit_their_schema(server, name):
    choices = chat(server, tool_choice=name, n=4, seed=11)
    complete = 0
    for choice in choices:
        (call,) = choice["message"]["tool_calls"]
        assert call["function"]["name"] == name
        if choice["finish_reason"] == "tool_calls":
            complete += 1
            jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMAS[name] or {"maxProperties": 0})
        else:
            assert choice["finish_reason"] == "length"
    assert complete >= 2


def test_the_model_chooses_among_the_tools(server):
    choices = chat(server, tool_choice="required", n=6, seed=3)
    calls = [call["function"] for choice in choices for call in choice["message"]["tool_calls"]]
    assert len({call["name"] for call in calls}) > 1
    for choice, call in zip(choices, calls, strict=True):
        if choice["finish_reason"] == "tool_calls":
            jsonschema.validate(json.loads(call["arguments"]), SCHEMAS[call["name"]] or {"maxProperties": 0})


def test_several_calls_may_come_at_once(server):
    choices = chat(server, tool_choice="required", parallel_tool_calls=True, n=6, seed=5, temperature=1)
    assert max(len(choice["message"]["tool_calls"]) for choice in choices) > 1
