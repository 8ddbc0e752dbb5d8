"""/generate, /generate_stream and / as TGI's clients know them."""

import asyncio
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
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
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


@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/"])
async def test_two_requests_at_once_do_not_mix(front: Front, path: str) -> None:
    front.engine.pace = 0.001
    first, second = await asyncio.gather(
        front.post(path, body(max_new_tokens=4)), front.post(path, body(max_new_tokens=6))
    )
    assert first.status_code == second.status_code == 200
    assert len(second.text) > len(first.text)
