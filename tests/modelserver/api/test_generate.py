"""/generate, /generate_stream and / as TGI's clients know them."""

import asyncio
import json
from collections.abc import Callable

import pytest
from front import Front, events

PROMPT = "hello world"
TEXT = "deep learning is the fox"


def body(prompt: str = PROMPT, **parameters: object) -> dict[str, object]:
    return {"inputs": prompt, "parameters": parameters}


async def test_the_reply_is_the_text_and_nothing_else(front: Front) -> None:
    response = await front.post("/generate", body())
    assert response.status_code == 200
    assert response.json() == {"generated_text": TEXT}


async def test_headers_tell_times_and_counts(front: Front) -> None:
    headers = (await front.post("/generate", body())).headers
    prompt = front.engine.requests[0].prompt
    assert headers["content-type"] == "application/json"
    assert headers["x-compute-type"] == "cpu"
    assert headers["x-compute-characters"] == str(len(PROMPT))
    assert headers["x-prompt-tokens"] == str(len(prompt))
    assert headers["x-generated-tokens"] == str(len(front.engine.script) + 1)
    assert headers["x-queue-time"] == "250"
    assert float(headers["x-compute-time"]) >= 0
    for name in ("x-total-time", "x-validation-time", "x-inference-time", "x-time-per-token"):
        int(headers[name])


async def test_details_list_every_token(front: Front) -> None:
    reply = (await front.post("/generate", body(details=True))).json()
    details = reply["details"]
    assert details["finish_reason"] == "eos_token"
    assert details["seed"] is None
    assert details["prefill"] == []
    assert details["generated_tokens"] == len(details["tokens"]) == len(front.engine.script) + 1
    assert details["tokens"][-1] == {"id": 1, "text": "<eos>", "logprob": -0.5, "special": True}
    assert "".join(token["text"] for token in details["tokens"] if not token["special"]) == reply["generated_text"]


async def test_the_seed_is_told_where_tokens_are_drawn(front: Front) -> None:
    given = (await front.post("/generate", body(details=True, do_sample=True, seed=7))).json()
    random = (await front.post("/generate", body(details=True, temperature=0.5))).json()
    assert given["details"]["seed"] == 7 == front.engine.requests[0].sampling.seed
    assert random["details"]["seed"] == front.engine.requests[1].sampling.seed


async def test_without_parameters_tokens_are_drawn(front: Front) -> None:
    await front.post("/generate", {"inputs": PROMPT})
    await front.post("/generate", {"inputs": PROMPT, "parameters": None})
    await front.post("/generate", {"inputs": PROMPT, "parameters": {}})
    assert [request.sampling.greedy for request in front.engine.requests] == [False, False, True]


async def test_parameters_reach_the_engine(front: Front) -> None:
    sampling = {"temperature": 0.5, "top_k": 5, "top_p": 0.9, "typical_p": 0.8, "seed": 3}
    await front.post("/generate", body(**sampling, repetition_penalty=1.5, frequency_penalty=-1, max_new_tokens=9))
    (request,) = front.engine.requests
    assert request.max_new_tokens == 9
    assert request.stop_tokens == (1,)
    for name, value in (sampling | {"repetition_penalty": 1.5, "frequency_penalty": -1.0, "greedy": False}).items():
        assert getattr(request.sampling, name) == value


async def test_generation_ends_at_max_new_tokens(front: Front) -> None:
    reply = (await front.post("/generate", body(max_new_tokens=3, details=True))).json()
    assert reply["details"]["finish_reason"] == "length"
    assert reply["details"]["generated_tokens"] == 3


async def test_without_max_new_tokens_the_model_limit_holds(front: Front) -> None:
    await front.post("/generate", body())
    (request,) = front.engine.requests
    assert request.max_new_tokens == 256 - len(request.prompt)


async def test_a_stop_string_stays_in_the_text_and_ends_it(front: Front) -> None:
    reply = (await front.post("/generate", body(stop=["earn"], details=True))).json()
    assert reply["generated_text"] == "deep learn"
    assert reply["details"]["finish_reason"] == "stop_sequence"
    assert "".join(token["text"] for token in reply["details"]["tokens"]) == "deep learn"
    assert front.engine.running == 0


async def test_return_full_text_puts_the_prompt_first(front: Front) -> None:
    full = (await front.post("/generate", body(return_full_text=True))).json()
    assert full["generated_text"] == PROMPT + TEXT
    stream = events(await front.post("/generate_stream", body(return_full_text=True)))
    assert stream[-1]["generated_text"] == PROMPT + TEXT


async def test_truncate_keeps_bos_and_the_last_tokens(front: Front) -> None:
    await front.post("/generate", body())
    await front.post("/generate", body(truncate=3))
    whole, cut = (request.prompt for request in front.engine.requests)
    assert cut == [whole[0], *whole[-2:]]


async def test_nulls_and_unknown_fields_are_left_out(front: Front) -> None:
    nulls = dict.fromkeys(("temperature", "stop", "details", "do_sample", "seed", "best_of", "grammar"))
    response = await front.post("/generate", {"inputs": PROMPT, "novelty": 1, "parameters": {**nulls, "novel": []}})
    assert response.json() == {"generated_text": TEXT}


async def test_the_root_route_wraps_the_reply_in_an_array_and_the_prompt_in_the_text(front: Front) -> None:
    assert (await front.post("/", body())).json() == [{"generated_text": PROMPT + TEXT}]
    assert (await front.post("/", body(return_full_text=False))).json() == [{"generated_text": TEXT}]


async def test_the_root_route_streams_on_demand(front: Front) -> None:
    response = await front.post("/", body() | {"stream": True})
    assert response.headers["content-type"] == "text/event-stream"
    assert events(response)[-1]["generated_text"] == PROMPT + TEXT


async def test_a_stream_has_one_event_per_token(front: Front) -> None:
    response = await front.post("/generate_stream", body(details=True))
    stream = events(response)
    assert response.status_code == 200
    assert [event["index"] for event in stream] == list(range(1, len(front.engine.script) + 2))
    assert [event["token"]["id"] for event in stream] == [*front.engine.script, 1]
    assert all(event["generated_text"] is None and event["details"] is None for event in stream[:-1])
    assert stream[-1]["token"] == {"id": 1, "text": "<eos>", "logprob": -0.5, "special": True}
    assert stream[-1]["generated_text"] == TEXT
    assert stream[-1]["details"] == {
        "finish_reason": "eos_token",
        "generated_tokens": len(stream),
        "seed": None,
        "input_length": len(front.engine.requests[0].prompt),
    }


async def test_stream_headers(front: Front) -> None:
    headers = (await front.post("/generate_stream", body())).headers
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-compute-type"] == "cpu"
    assert headers["x-compute-characters"] == str(len(PROMPT))


async def test_details_of_a_stream_come_only_on_demand(front: Front) -> None:
    assert events(await front.post("/generate_stream", body()))[-1]["details"] is None


async def test_incomplete_characters_wait_for_their_last_token(make_front: Callable[..., Front]) -> None:
    front = make_front("fox 🦊!")
    stream = events(await front.post("/generate_stream", body()))
    texts = [event["token"]["text"] for event in stream]
    assert "🦊" in texts
    assert texts[texts.index("🦊") - 3 : texts.index("🦊")] == ["", "", ""]
    assert stream[-1]["generated_text"] == "fox 🦊!"


async def test_a_character_cut_by_the_limit_shows_as_replacement(make_front: Callable[..., Front]) -> None:
    front = make_front("🦊")
    stream = events(await front.post("/generate_stream", body(max_new_tokens=2)))
    assert stream[-1]["token"]["text"] == stream[-1]["generated_text"] == "�"


async def test_prompt_tokens_have_log_probabilities_but_the_first(front: Front) -> None:
    for details in ({}, {"details": False}, {"details": True}):
        reply = (await front.post("/generate", body(decoder_input_details=True, **details))).json()
        prompt = front.engine.requests[-1].prompt
        prefill = reply["details"]["prefill"]
        assert [token["id"] for token in prefill] == prompt
        assert [token["logprob"] for token in prefill] == [None, *(-0.25 * n for n in range(1, len(prompt)))]
        assert "".join(token["text"] for token in prefill) == "<bos>" + PROMPT
        assert set(prefill[0]) == {"id", "text", "logprob"}


async def test_top_tokens_are_listed_for_every_place(front: Front) -> None:
    details = (await front.post("/generate", body(details=True, top_n_tokens=2))).json()["details"]
    assert len(details["top_tokens"]) == len(details["tokens"])
    for token, (likeliest, second) in zip(details["tokens"], details["top_tokens"], strict=True):
        assert likeliest == token
        assert (second["id"], second["logprob"], second["special"]) == (10, -1.0, False)
    assert details["top_tokens"][-1][0]["special"]


async def test_top_tokens_come_with_the_events_of_a_stream(front: Front) -> None:
    stream = events(await front.post("/generate_stream", body(top_n_tokens=3)))
    assert [len(event["top_tokens"]) for event in stream] == [3] * len(stream)
    assert all(event["top_tokens"][0] == event["token"] for event in stream)


@pytest.mark.parametrize("asked", [{}, {"top_n_tokens": 0}, {"top_n_tokens": None}])
async def test_without_top_n_tokens_the_key_is_absent(front: Front, asked: dict[str, object]) -> None:
    reply = (await front.post("/generate", body(details=True, **asked))).json()
    assert set(reply["details"]) == {"finish_reason", "generated_tokens", "seed", "prefill", "tokens"}
    stream = events(await front.post("/generate_stream", body(**asked)))
    assert {frozenset(event) for event in stream} == {frozenset({"index", "token", "generated_text", "details"})}


async def test_the_likeliest_of_several_sequences_is_the_reply(make_front: Callable[..., Front]) -> None:
    front = make_front(max_best_of=3)
    front.engine.logprobs = [-2.0, -0.5, -1.0]
    reply = (await front.post("/generate", body(best_of=3, do_sample=True, details=True, top_n_tokens=1))).json()
    details = reply["details"]
    others = details["best_of_sequences"]
    assert {token["logprob"] for token in details["tokens"]} == {-0.5}
    assert [{token["logprob"] for token in other["tokens"]} for other in others] == [{-2.0}, {-1.0}]
    assert [other["generated_text"] for other in others] == [TEXT, TEXT]
    assert set(others[0]) == set(details) - {"best_of_sequences"} | {"generated_text"}
    assert len({request.sampling.seed for request in front.engine.requests}) == 3
    assert {details["seed"], *(other["seed"] for other in others)} == {
        request.sampling.seed for request in front.engine.requests
    }


async def test_best_of_takes_a_place_for_each_sequence(make_front: Callable[..., Front]) -> None:
    front = make_front(max_concurrent_requests=2)
    asked = body(best_of=2, do_sample=True, details=True, return_full_text=True)
    reply = (await front.post("/generate", asked)).json()
    assert reply["details"]["best_of_sequences"][0]["generated_text"] == PROMPT + TEXT
    with front.context.generator.admission.hold():
        assert (await front.post("/generate", asked)).status_code == 429


async def test_a_huge_best_of_is_refused_at_once(front: Front) -> None:
    async with asyncio.timeout(60):
        response = await front.post("/generate", body(best_of=10**12, do_sample=True))
    assert response.status_code == 422
    assert "`best_of` must be > 0 and <= 2" in response.json()["error"]


async def test_best_of_one_has_no_other_sequences(front: Front) -> None:
    for count in (0, 1):
        details = (await front.post("/generate", body(best_of=count, details=True))).json()["details"]
        assert "best_of_sequences" not in details


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("grammar", "kind", "source"),
    [
        ({"type": "json", "value": SCHEMA}, "json_schema", SCHEMA),
        ({"type": "json_object", "value": json.dumps(SCHEMA)}, "json_schema", SCHEMA),
        ({"type": "json_schema", "value": {"name": "thing", "schema": SCHEMA}}, "json_schema", SCHEMA),
        ({"type": "json_schema", "value": {"schema": SCHEMA}}, "json_schema", SCHEMA),
        ({"type": "regex", "value": "[0-9]+"}, "regex", "[0-9]+"),
    ],
)
async def test_grammars_reach_the_engine(front: Front, grammar: object, kind: str, source: object) -> None:
    assert (await front.post("/generate", body(grammar=grammar))).status_code == 200
    (request,) = front.engine.requests
    assert request.grammar is not None
    assert request.grammar.kind == kind
    assert (request.grammar.source if kind == "regex" else json.loads(request.grammar.source)) == source


async def test_watermark_and_adapter_reach_the_engine(front: Front) -> None:
    front.engine.info.adapters.append("law")
    await front.post("/generate", body(watermark=True, adapter_id="law"))
    await front.post("/generate", body(watermark=False, adapter_id=""))
    marked, plain = front.engine.requests
    assert (marked.sampling.watermark, marked.adapter) == (True, "law")
    assert (plain.sampling.watermark, plain.adapter) == (False, "")


@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/"])
async def test_two_requests_at_once_do_not_mix(front: Front, path: str) -> None:
    front.engine.pace = 0.001
    first, second = await asyncio.gather(
        front.post(path, body(max_new_tokens=4)), front.post(path, body(max_new_tokens=6))
    )
    assert first.status_code == second.status_code == 200
    assert len(second.text) > len(first.text)
