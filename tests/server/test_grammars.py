"""Grammars against a running server: every text fits, whatever is drawn and whoever else is served."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import jsonschema
import pytest

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 16},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "pets": {"type": "array", "items": {"enum": ["cat", "dog"]}, "maxItems": 2},
    },
    "required": ["name", "age", "pets"],
}
JSON = {"type": "json", "value": PERSON}
ADDRESS = {"type": "regex", "value": r"((25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(25[0-5]|2[0-4]\d|1?\d?\d)"}
PROMPT = "Tell me about somebody, please. "


def asked(grammar: dict | None, seed: int, **parameters) -> dict:
    return {
        "inputs": PROMPT,
        "parameters": {
            "grammar": grammar, "seed": seed, "do_sample": True, "max_new_tokens": 80, "details": True, **parameters
        },
    }  # fmt: skip


def generate(server, body: dict) -> dict:
    reply = httpx.post(f"{server.url}/generate", json=body, timeout=120)
    return reply.raise_for_status().json()


def test_texts_fit_their_grammars_in_a_crowd_and_are_the_same_alone(server):
    bodies = [asked((JSON, ADDRESS, None)[seed % 3], seed) for seed in range(9)]
    with ThreadPoolExecutor(9) as clients:
        together = list(clients.map(lambda body: generate(server, body), bodies))
    for body, reply in zip(bodies, together, strict=True):
        grammar, text = body["parameters"]["grammar"], reply["generated_text"]
        if grammar is JSON:
            jsonschema.validate(json.loads(text), PERSON)
        elif grammar is ADDRESS:
            assert re.fullmatch(ADDRESS["value"], text)
        assert grammar is None or reply["details"]["finish_reason"] == "eos_token"
    for body, reply in zip(bodies[:3], together, strict=False):
        assert generate(server, body)["generated_text"] == reply["generated_text"]


def test_a_streamed_text_is_the_same(server):
    body = asked(JSON, 4, temperature=1.4)
    with httpx.stream("POST", f"{server.url}/generate_stream", json=body, timeout=120) as reply:
        events = [json.loads(line.removeprefix("data:")) for line in reply.iter_lines() if line.startswith("data:")]
    whole = generate(server, body)["generated_text"]
    assert events[-1]["generated_text"] == whole
    assert "".join(event["token"]["text"] for event in events if not event["token"]["special"]) == whole
    jsonschema.validate(json.loads(whole), PERSON)


@pytest.mark.parametrize(
    ("grammar", "why"),
    [
        ({"type": "regex", "value": "("}, "unclosed group"),
        ({"type": "json", "value": {"type": "strin"}}, "Invalid type: strin"),
        ({"type": "json", "value": "{"}, "not valid JSON"),
        ({"type": "json", "value": {"not": {"type": "string"}}}, "cannot be enforced"),
    ],
)
def test_a_bad_grammar_is_refused_before_anything_is_generated(server, grammar, why):
    steps = server.metric("tgi_request_generated_tokens_count")
    for route in ("generate", "generate_stream"):
        reply = httpx.post(f"{server.url}/{route}", json=asked(grammar, 1), timeout=30)
        assert reply.status_code == 422
        assert reply.json()["error_type"] == "validation"
        assert "grammar is not valid" in reply.json()["error"]
        assert why in reply.json()["error"]
    assert server.metric("tgi_request_generated_tokens_count") == steps


def test_a_schema_that_would_end_a_process_is_refused_and_the_server_serves_on(server):
    links = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(20_000)}
    hostile = {"type": "json", "value": {"$defs": {**links, "d20000": {}}, "$ref": "#/$defs/d0"}}
    reply = httpx.post(f"{server.url}/generate", json=asked(hostile, 1), timeout=60)
    assert (reply.status_code, "too large or nested too deep" in reply.json()["error"]) == (422, True)
    assert re.fullmatch(
        "(yes|no)", generate(server, asked({"type": "regex", "value": "(yes|no)"}, 2))["generated_text"]
    )


def test_deeply_nested_bodies_are_refused(server):
    value = '{"items":' * 300 + "{}" + "}" * 300
    body = f'{{"inputs": "a", "parameters": {{"grammar": {{"type": "json", "value": {value}}}}}}}'
    reply = httpx.post(f"{server.url}/generate", content=body, headers={"Content-Type": "application/json"}, timeout=60)
    assert reply.status_code == 422
    assert server.health() == 200


def test_a_text_that_reaches_its_limit_says_so(server):
    reply = generate(server, asked(JSON, 3, max_new_tokens=4))
    assert reply["details"]["finish_reason"] == "length"
    assert reply["generated_text"].startswith("{")
