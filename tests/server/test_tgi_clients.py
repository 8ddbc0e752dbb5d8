"""TGI's own client and huggingface_hub's, unmodified, against a running server."""

import json
import re
import subprocess

import jsonschema
import pytest
from clients.environments import FOLDER, client_python
from huggingface_hub import InferenceClient
from huggingface_hub.errors import ValidationError

PROMPT = "The capital of France is"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "large": {"type": "boolean"}},
    "required": ["city", "large"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def results(server):
    program = [str(client_python("tgi")), str(FOLDER / "tgi_client.py")]
    done = subprocess.run([*program, server.url, PROMPT, json.dumps(SCHEMA)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(params=["blocking", "waiting"])
def told(request, results):
    return results[request.param]


@pytest.fixture(scope="module")
def blocking(results):
    return results["blocking"]


def test_text_generation_generates(told):
    greedy = told["greedy"]
    assert greedy["generated_text"] == "".join(token["text"] for token in greedy["details"]["tokens"])
    assert "Paris" in greedy["generated_text"]
    assert greedy["details"]["finish_reason"] == "length"
    assert greedy["details"]["generated_tokens"] == 6
    assert greedy["details"]["seed"] is None
    assert greedy["details"]["prefill"] == []


def test_text_generation_takes_every_parameter(told, blocking):
    sampled = told["sampled"]
    details = sampled["details"]
    assert sampled["generated_text"].startswith(PROMPT)
    assert details["seed"] == 7
    assert "".join(token["text"] for token in details["prefill"]) == PROMPT
    assert [token["logprob"] is None for token in details["prefill"]] == [
        True,
        *[False] * (len(details["prefill"]) - 1),
    ]
    assert [1 <= len(top) <= 2 for top in details["top_tokens"]] == [True] * details["generated_tokens"]
    assert sampled == blocking["again"]


def test_text_generation_streams(told):
    stream, greedy = told["stream"], told["greedy"]
    assert [event["token"] for event in stream] == greedy["details"]["tokens"]
    assert all(event["top_tokens"] == [event["token"]] for event in stream)
    assert all(event["details"] is event["generated_text"] is None for event in stream[:-1])
    assert stream[-1]["generated_text"] == greedy["generated_text"]
    assert stream[-1]["details"] == {"finish_reason": "length", "generated_tokens": 6, "seed": None}


def test_text_generation_picks_the_likelier_of_two(blocking):
    details = blocking["best"]["details"]
    (other,) = details["best_of_sequences"]

    def mean(sequence):
        return sum(token["logprob"] for token in sequence["tokens"]) / len(sequence["tokens"])

    assert mean(details) >= mean(other)
    assert details["seed"] != other["seed"]
    assert other["generated_text"].startswith(PROMPT)


def test_text_generation_holds_the_output_to_a_grammar(blocking):
    assert blocking["json"]["details"]["finish_reason"] == "eos_token"
    jsonschema.validate(json.loads(blocking["json"]["generated_text"]), SCHEMA)
    assert re.fullmatch("[A-Z][a-z]{2,8}!", blocking["regex"]["generated_text"])


def test_text_generation_chats(told, blocking):
    chat = told["chat"]
    assert chat["usage"]["completion_tokens"] == 8
    assert chat["choices"][0]["message"]["role"] == "assistant"
    assert chat["choices"][0]["message"]["content"] == blocking["chat"]["choices"][0]["message"]["content"]
    assert [len(each["top_logprobs"]) for each in blocking["logprobs"]["choices"][0]["logprobs"]["content"]] == [2] * 3


def test_text_generation_knows_our_errors(blocking, results):
    for name in ("too_long", "stop_too_often", "in_stream"):
        kind, message = blocking[name]
        assert kind == "ValidationError"
        assert message.startswith("Input validation error: `")
    assert blocking["nowhere"][0] == "NotFoundError"
    assert results["waiting"]["too_long"] == blocking["too_long"][1]
    assert results["waiting"]["nowhere"]


@pytest.fixture(scope="module")
def hub(server):
    with InferenceClient(server.url, timeout=120) as client:
        yield client


def test_huggingface_hub_takes_every_parameter(hub):
    options = {
        "details": True,
        "decoder_input_details": True,
        "do_sample": True,
        "best_of": 2,
        "frequency_penalty": 0.1,
        "max_new_tokens": 6,
        "repetition_penalty": 1.1,
        "return_full_text": True,
        "stop": ["\n\n"],
        "temperature": 0.7,
        "top_k": 20,
        "top_n_tokens": 2,
        "top_p": 0.9,
        "truncate": 100,
        "typical_p": 0.95,
        "watermark": True,
    }
    reply = hub.text_generation(PROMPT, **options)
    assert reply.generated_text.startswith(PROMPT)
    assert "".join(token.text for token in reply.details.prefill) == PROMPT
    assert len(reply.details.top_tokens) == reply.details.generated_tokens
    assert len(reply.details.best_of_sequences) == 1


def test_huggingface_hub_streams_what_it_would_get_at_once(hub):
    whole = hub.text_generation(PROMPT, max_new_tokens=6, seed=3, do_sample=True, return_full_text=False)
    stream = hub.text_generation(
        PROMPT, max_new_tokens=6, seed=3, do_sample=True, return_full_text=False, details=True, stream=True
    )
    events = list(stream)
    assert events[-1].generated_text == whole
    assert (events[-1].details.seed, events[-1].details.input_length) == (3, 5)


def test_huggingface_hub_holds_the_output_to_a_grammar(hub):
    text = hub.text_generation(
        PROMPT, max_new_tokens=60, grammar={"type": "json", "value": SCHEMA}, return_full_text=False
    )
    jsonschema.validate(json.loads(text), SCHEMA)


def test_huggingface_hub_chats(hub):
    hello = [{"role": "user", "content": "Say hello."}]
    reply = hub.chat_completion(hello, max_tokens=8, seed=1, logprobs=True, top_logprobs=2)
    assert len(reply.choices[0].logprobs.content) == reply.usage.completion_tokens == 8
    stream = hub.chat_completion(hello, max_tokens=8, seed=1, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == reply.choices[0].message.content


def test_huggingface_hub_knows_our_errors(hub):
    with pytest.raises(ValidationError, match="`temperature` must be strictly positive"):
        hub.text_generation(PROMPT, temperature=-1.0)
