"""Several choices, echoes, and what shapes the draw: `n`, `best_of`, `echo`, `seed`, penalties and biases."""

from typing import Any

import pytest
from front import Front, events

TEXT = "deep learning is the fox"
HELLO = [{"role": "user", "content": "hello"}]
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


def request(path: str, **fields: Any) -> dict[str, Any]:
    return ({"prompt": "hello"} if path == COMPLETIONS else {"messages": HELLO}) | fields


def text_of(choice: dict[str, Any]) -> str:
    if "text" in choice:
        return choice["text"]
    return choice["delta" if "delta" in choice else "message"].get("content") or ""


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
async def test_n_choices_come_in_order_and_the_prompt_counts_once(front: Front, path: str) -> None:
    reply = (await front.post(path, request(path, n=3))).json()
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2]
    assert [text_of(choice) for choice in reply["choices"]] == [TEXT] * 3
    assert len(front.engine.requests) == 3
    assert reply["usage"]["prompt_tokens"] == len(front.engine.requests[0].prompt)
    assert reply["usage"]["completion_tokens"] == 3 * (len(front.engine.script) + 1)


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
async def test_n_choices_stream_side_by_side(front: Front, path: str) -> None:
    front.engine.pace = 0.001
    options = {"include_usage": True}
    body = request(path, n=2, stream=True, stream_options=options)
    *chunks, usage, done = events(await front.post(path, body))
    assert done == "[DONE]"
    choices = [chunk["choices"][0] for chunk in chunks]
    for index in (0, 1):
        mine = [choice for choice in choices if choice["index"] == index]
        assert "".join(map(text_of, mine)) == TEXT
        assert [choice["finish_reason"] for choice in mine] == [None] * (len(mine) - 1) + ["stop"]
    order = [choice["index"] for choice in choices]
    assert order != sorted(order)
    assert usage["usage"]["prompt_tokens"] == len(front.engine.requests[0].prompt)


async def test_several_prompts_have_n_choices_each(front: Front) -> None:
    reply = (await front.post(COMPLETIONS, {"prompt": ["a", "bb"], "n": 2, "max_tokens": 3})).json()
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    prompts = [asked.prompt for asked in front.engine.requests]
    assert prompts[0] == prompts[1] != prompts[2] == prompts[3]
    assert reply["usage"]["prompt_tokens"] == len(prompts[0]) + len(prompts[2])


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
async def test_choices_draw_from_seeds_of_their_own(front: Front, path: str) -> None:
    for _ in range(2):
        await front.post(path, request(path, n=3, seed=7))
    seeds = [asked.sampling.seed for asked in front.engine.requests]
    assert seeds[:3] == seeds[3:]
    assert seeds[0] == 7
    assert len(set(seeds[:3])) == 3


async def test_choices_need_a_place_each(make_front: Any) -> None:
    front = make_front(max_concurrent_requests=2)
    assert (await front.post(CHAT, request(CHAT, n=2))).status_code == 200
    response = await front.post(CHAT, request(CHAT, n=3))
    assert response.status_code == 429
    assert response.json()["error"]["type"] == "rate_limit_error"


async def test_the_likeliest_of_best_of_are_the_choices(front: Front) -> None:
    front.engine.logprobs = [-0.9, -0.1, -0.4, -0.2, -0.8, -0.3]
    body = {"prompt": ["a", "b"], "best_of": 3, "n": 2, "logprobs": 0}
    reply = (await front.post(COMPLETIONS, body)).json()
    found = [choice["logprobs"]["token_logprobs"][0] for choice in reply["choices"]]
    assert found == [-0.1, -0.4, -0.2, -0.3]
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    assert reply["usage"]["completion_tokens"] == 6 * (len(front.engine.script) + 1)
    assert all(asked.sampling.raw_logprobs for asked in front.engine.requests)


async def test_best_of_cannot_be_streamed_unless_it_is_n(front: Front) -> None:
    response = await front.post(COMPLETIONS, request(COMPLETIONS, best_of=2, stream=True))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "best_of"
    assert (await front.post(COMPLETIONS, request(COMPLETIONS, best_of=2, n=2, stream=True))).status_code == 200


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
async def test_penalties_and_biases_are_openais(front: Front, path: str) -> None:
    fields = {"frequency_penalty": 0.5, "presence_penalty": -1, "logit_bias": {"12": -100, "7": 1.5}}
    await front.post(path, request(path, **fields))
    sampling = front.engine.requests[0].sampling
    assert (sampling.count_penalty, sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -1.0, 0.0)
    assert sampling.logit_bias == ((7, 1.5), (12, -100.0))


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
async def test_other_samplers_can_be_had(front: Front, path: str) -> None:
    await front.post(path, request(path, top_k=5, typical_p=0.5, repetition_penalty=1.2, top_p=0.5))
    sampling = front.engine.requests[0].sampling
    assert (sampling.top_k, sampling.typical_p, sampling.repetition_penalty, sampling.top_p) == (5, 0.5, 1.2, 0.5)


@pytest.mark.parametrize("prompt", ["hello world", [5, 60, 70]])
async def test_an_echo_puts_the_prompt_before_the_text(front: Front, prompt: Any) -> None:
    given = prompt if isinstance(prompt, str) else front.tokenizer.decode(prompt)
    choice = (await front.post(COMPLETIONS, {"prompt": prompt, "echo": True})).json()["choices"][0]
    assert choice["text"] == given + TEXT
    assert front.engine.requests[0].prompt_logprobs is False
    *chunks, _ = events(await front.post(COMPLETIONS, {"prompt": prompt, "echo": True, "stream": True}))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == given + TEXT


async def test_an_echoed_prompt_of_token_ids_has_no_bos(front: Front) -> None:
    ids = front.tokenizer.encode("hello")
    assert ids[0] == front.tokenizer.bos_id
    choice = (await front.post(COMPLETIONS, {"prompt": ids, "echo": True, "max_tokens": 0})).json()["choices"][0]
    assert choice["text"] == "hello"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_echo_of_no_new_tokens_is_the_prompt_alone(front: Front, stream: bool) -> None:
    body = {"prompt": "hello", "echo": True, "max_tokens": 0, "logprobs": 1, "stream": stream}
    response = await front.post(COMPLETIONS, body | {"stream_options": {"include_usage": True}})
    if stream:
        chunk, usage, _ = events(response)
        choice, used = chunk["choices"][0], usage["usage"]
    else:
        choice, used = response.json()["choices"][0], response.json()["usage"]
    assert (choice["text"], choice["finish_reason"]) == ("hello", "length")
    assert len(choice["logprobs"]["tokens"]) == len(front.engine.requests[0].prompt) == used["prompt_tokens"]
    assert used["completion_tokens"] == 0


async def test_no_new_tokens_without_an_echo_is_refused(front: Front) -> None:
    response = await front.post(COMPLETIONS, request(COMPLETIONS, max_tokens=0))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "max_tokens"


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
async def test_tokens_out_of_the_prefix_cache_are_told(front: Front, path: str) -> None:
    front.engine.cached_tokens = 4
    reply = (await front.post(path, request(path, n=2))).json()
    assert reply["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}
