"""/v1/completions, /v1/chat/completions and /v1/models as OpenAI's clients know them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from front import Front, events, write_model_folder

TEXT = "deep learning is the fox"
HELLO = [{"role": "user", "content": "hello"}]
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


def request(path: str, **fields: Any) -> dict[str, Any]:
    return ({"prompt": "hello"} if path == COMPLETIONS else {"messages": HELLO}) | fields


async def test_a_completion(front: Front) -> None:
    response = await front.post(COMPLETIONS, request(COMPLETIONS))
    reply = response.json()
    prompt, generated = len(front.engine.requests[0].prompt), len(front.engine.script) + 1
    assert reply["id"].startswith("cmpl-")
    assert reply["object"] == "text_completion"
    assert reply["model"] == "test-model"
    assert isinstance(reply["created"], int)
    assert reply["choices"] == [{"index": 0, "text": TEXT, "logprobs": None, "finish_reason": "stop"}]
    assert reply["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert response.headers["x-prompt-tokens"] == str(prompt)


async def test_a_chat_completion(front: Front) -> None:
    reply = (await front.post(CHAT, request(CHAT))).json()
    assert reply["id"].startswith("chatcmpl-")
    assert reply["object"] == "chat.completion"
    message = {"role": "assistant", "content": TEXT, "refusal": None}
    assert reply["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
    assert reply["usage"]["completion_tokens"] == len(front.engine.script) + 1


async def test_the_chat_template_makes_the_prompt(front: Front) -> None:
    await front.post(CHAT, {"messages": [{"role": "system", "content": "be brief"}, *HELLO]})
    expected = "<bos><turn>system\nbe brief<eos>\n<turn>user\nhello<eos>\n<turn>assistant\n"
    assert front.engine.requests[0].prompt == front.tokenizer.encode(expected, add_special_tokens=False)


async def test_a_last_message_of_the_assistant_is_continued(front: Front) -> None:
    await front.post(CHAT, {"messages": [*HELLO, {"role": "assistant", "content": "the quick"}]})
    expected = "<bos><turn>user\nhello<eos>\n<turn>assistant\nthe quick"
    assert front.engine.requests[0].prompt == front.tokenizer.encode(expected, add_special_tokens=False)


async def test_content_may_come_in_parts_of_text(front: Front) -> None:
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    await front.post(CHAT, {"messages": [{"role": "user", "content": parts}]})
    await front.post(CHAT, {"messages": HELLO})
    first, second = front.engine.requests
    assert first.prompt == second.prompt


async def test_a_streamed_completion(front: Front) -> None:
    response = await front.post(COMPLETIONS, request(COMPLETIONS, stream=True))
    *chunks, done = events(response)
    assert done == "[DONE]"
    assert response.headers["content-type"] == "text/event-stream"
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == TEXT
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert all("usage" not in chunk for chunk in chunks)


async def test_a_streamed_chat_completion(front: Front) -> None:
    *chunks, done = events(await front.post(CHAT, request(CHAT, stream=True)))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert done == "[DONE]"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[-1] == {}
    assert "".join(delta.get("content", "") for delta in deltas) == TEXT
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
async def test_usage_comes_in_a_last_chunk_on_demand(front: Front, path: str) -> None:
    options = {"include_usage": True}
    *chunks, usage, done = events(await front.post(path, request(path, stream=True, stream_options=options)))
    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == len(front.engine.script) + 1
    assert all(chunk["usage"] is None for chunk in chunks)


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
@pytest.mark.parametrize("stream", [False, True])
async def test_stop_strings_are_not_part_of_the_text(front: Front, path: str, stream: bool) -> None:
    response = await front.post(path, request(path, stream=stream, stop=" is"))
    if stream:
        choices = [chunk["choices"][0] for chunk in events(response)[:-1]]
        text = "".join(choice["text"] if "text" in choice else choice["delta"].get("content", "") for choice in choices)
    else:
        choices = response.json()["choices"]
        text = choices[0]["text"] if path == COMPLETIONS else choices[0]["message"]["content"]
    assert text == "deep learning"
    assert choices[-1]["finish_reason"] == "stop"


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
async def test_ignore_eos_runs_to_the_limit(front: Front, path: str) -> None:
    limit = len(front.engine.script) + 10
    reply = (await front.post(path, request(path, ignore_eos=True, max_tokens=limit))).json()
    assert reply["usage"]["completion_tokens"] == limit
    assert reply["choices"][0]["finish_reason"] == "length"
    assert front.engine.requests[0].stop_tokens == ()


async def test_several_prompts_have_choices_in_their_order(front: Front) -> None:
    reply = (await front.post(COMPLETIONS, {"prompt": ["a", "bb", "ccc"], "max_tokens": 4})).json()
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2]
    assert reply["usage"]["completion_tokens"] == 12
    assert len(front.engine.requests) == 3


async def test_several_prompts_stream_side_by_side(front: Front) -> None:
    front.engine.pace = 0.001
    body = {"prompt": ["a", "b"], "stream": True, "stream_options": {"include_usage": True}}
    *chunks, usage, _ = events(await front.post(COMPLETIONS, body))
    for index in (0, 1):
        choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert "".join(choice["text"] for choice in choices) == TEXT
        assert choices[-1]["finish_reason"] == "stop"
    order = [chunk["choices"][0]["index"] for chunk in chunks]
    assert order != sorted(order)
    assert usage["usage"]["completion_tokens"] == 2 * (len(front.engine.script) + 1)


async def test_one_failing_prompt_ends_the_whole_request(front: Front) -> None:
    front.engine.fail_after = 1
    front.engine.pace = 0.001
    response = await front.post(COMPLETIONS, {"prompt": ["a", "b"]})
    assert response.status_code == 503
    assert front.engine.running == front.context.in_flight == 0


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [([5, 6, 7], [[5, 6, 7]]), ([[5, 6], [7]], [[5, 6], [7]])],
)
async def test_prompts_may_be_token_ids(front: Front, prompt: Any, expected: list[list[int]]) -> None:
    response = await front.post(COMPLETIONS, {"prompt": prompt})
    assert response.status_code == 200
    assert [asked.prompt for asked in front.engine.requests] == expected


@pytest.mark.parametrize(
    ("temperature", "greedy", "sent"), [(None, False, 1.0), (0, True, 1.0), (0.7, False, 0.7), (1, False, 1.0)]
)
@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
async def test_temperature(front: Front, path: str, temperature: float | None, greedy: bool, sent: float) -> None:
    await front.post(path, request(path, temperature=temperature, top_p=0.5))
    sampling = front.engine.requests[0].sampling
    assert (sampling.greedy, sampling.temperature) == (greedy, sent)
    assert sampling.top_p == (1.0 if greedy else 0.5)


async def test_negative_seeds_are_seeds(front: Front) -> None:
    await front.post(COMPLETIONS, request(COMPLETIONS, seed=-1))
    assert front.engine.requests[0].sampling.seed == 2**64 - 1


@pytest.mark.parametrize("model", [None, "", "tgi", "dummy", "test-model"])
async def test_the_served_model_has_these_names(front: Front, model: str | None) -> None:
    assert (await front.post(COMPLETIONS, request(COMPLETIONS, model=model))).status_code == 200


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
async def test_another_model_is_not_found(make_front: Callable[..., Front], path: str) -> None:
    front = make_front(served_model_name="public-name")
    response = await front.post(path, request(path, model="gpt-4"))
    assert response.status_code == 404
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "`gpt-4`" in error["message"]
    assert "`public-name`" in error["message"]
    assert (await front.post(path, request(path, model="public-name"))).status_code == 200
    assert (await front.post(path, request(path, model="test-model"))).status_code == 200


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (COMPLETIONS, {"n": 0}, "n"),
        (CHAT, {"n": 129}, "n"),
        (COMPLETIONS, {"best_of": 2, "n": 3}, "best_of"),
        (COMPLETIONS, {"logprobs": 6}, "logprobs"),
        (COMPLETIONS, {"logprobs": -1}, "logprobs"),
        (COMPLETIONS, {"logprobs": True}, "logprobs"),
        (COMPLETIONS, {"suffix": "end"}, "suffix"),
        (COMPLETIONS, {"presence_penalty": 2.5}, "presence_penalty"),
        (COMPLETIONS, {"frequency_penalty": -2.5}, "frequency_penalty"),
        (COMPLETIONS, {"logit_bias": {"5": 101}}, "logit_bias"),
        (COMPLETIONS, {"logit_bias": {"330": 1}}, "logit_bias"),
        (COMPLETIONS, {"logit_bias": {"five": 1}}, "logit_bias"),
        (COMPLETIONS, {"logit_bias": {"-1": 1}}, "logit_bias"),
        (COMPLETIONS, {"min_p": 0.1}, "min_p"),
        (COMPLETIONS, {"guided_json": {}}, "guided_json"),
        (COMPLETIONS, {"top_k": -2}, "top_k"),
        (COMPLETIONS, {"typical_p": 0}, "typical_p"),
        (CHAT, {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        (CHAT, {"functions": [{"name": "f"}]}, "functions"),
        (COMPLETIONS, {"temperature": -1}, "temperature"),
        (COMPLETIONS, {"top_p": 0}, "top_p"),
        (COMPLETIONS, {"max_tokens": 0}, "max_tokens"),
        (CHAT, {"max_completion_tokens": 0}, "max_completion_tokens"),
        (CHAT, {"max_completion_tokens": 3, "max_tokens": 4}, "max_completion_tokens"),
        (CHAT, {"max_tokens": 1000}, "max_tokens"),
        (COMPLETIONS, {"prompt": []}, "prompt"),
        (COMPLETIONS, {"prompt": [1, "a"]}, "prompt"),
        (COMPLETIONS, {"prompt": [True]}, "prompt"),
        (COMPLETIONS, {"prompt": [330]}, "prompt"),
        (COMPLETIONS, {"prompt": [-1]}, "prompt"),
        (COMPLETIONS, {"prompt": ["a"] * 5}, "prompt"),
        (COMPLETIONS, {"prompt": None}, "prompt"),
        (COMPLETIONS, {"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        (COMPLETIONS, {"stop": [1]}, "stop[0]"),
        (CHAT, {"messages": []}, "messages"),
        (CHAT, {"messages": [{"role": "user"}]}, "messages[0].content"),
        (CHAT, {"messages": [{"content": "x"}]}, "messages[0].role"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        (CHAT, {"messages": "hello"}, "messages"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_wrong_requests_name_the_field(
    front: Front, path: str, fields: dict[str, Any], param: str, stream: bool
) -> None:
    response = await front.post(path, request(path, stream=stream, **fields))
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert f"`{param}`" in error["message"]
    assert front.engine.requests == []


@pytest.mark.parametrize(
    "neutral",
    [
        {"n": 1, "presence_penalty": 0, "logit_bias": {}, "user": "someone", "top_p": 1, "min_p": 0, "top_k": -1},
        {"tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "logprobs": False},
        {"store": True, "metadata": {"a": "b"}, "service_tier": "auto", "parallel_tool_calls": True},
        {"top_logprobs": 5, "logprobs": False},
    ],
)
async def test_values_that_ask_for_nothing_are_accepted(front: Front, neutral: dict[str, Any]) -> None:
    assert (await front.post(CHAT, request(CHAT, **neutral))).status_code == 200


async def test_a_template_that_refuses_is_told(tmp_path: Path) -> None:
    refusing = Front(write_model_folder(tmp_path, "{{ raise_exception('roles must alternate') }}"), TEXT)
    response = await refusing.post(CHAT, request(CHAT))
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "template_error"
    assert "roles must alternate" in response.json()["error"]["message"]
    await refusing.close()


async def test_a_model_without_template_says_what_to_use(tmp_path: Path) -> None:
    plain = Front(write_model_folder(tmp_path, template=None), TEXT)
    response = await plain.post(CHAT, request(CHAT))
    assert response.status_code == 400
    assert "no chat template" in response.json()["error"]["message"]
    assert (await plain.post(COMPLETIONS, request(COMPLETIONS))).status_code == 200
    await plain.close()


async def test_the_model_and_its_adapters_are_listed(make_front: Callable[..., Front]) -> None:
    front = make_front(served_model_name="org/public-name")
    front.engine.info.adapters.extend(["org/french"])
    names = ["org/public-name", "org/french"]
    cards = [{"id": name, "object": "model", "created": 0, "owned_by": "org/public-name"} for name in names]
    assert (await front.get("/v1/models")).json() == {"object": "list", "data": cards}
    states = [card | {"name": card["id"], "ready": True} for card in cards]
    assert [(await front.get(f"/v1/models/{name}")).json() for name in names] == states


async def test_a_model_that_is_not_served_has_no_card(front: Front) -> None:
    response = await front.get("/v1/models/gpt-4")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_adapter_is_asked_for_by_its_name(front: Front, path: str, stream: bool) -> None:
    front.engine.info.adapters.append("french")
    response = await front.post(path, request(path, model="french", stream=stream))
    assert front.engine.requests[0].adapter == "french"
    assert (events(response)[0] if stream else response.json())["model"] == "french"


@pytest.mark.parametrize("fields", [{"max_tokens": 1000}, {"prompt": "hello " * 300}])
async def test_too_many_tokens_have_openais_code(front: Front, fields: dict[str, Any]) -> None:
    response = await front.post(COMPLETIONS, request(COMPLETIONS, **fields))
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"
