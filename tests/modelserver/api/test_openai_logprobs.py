"""Log-probabilities in OpenAI's two shapes belong to the text that is sent, no more and no less."""

from typing import Any

import pytest
from front import Front, events

TEXT = "deep learning is the fox"
HELLO = [{"role": "user", "content": "hello"}]
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


async def complete(front: Front, stream: bool = False, **fields: Any) -> tuple[str, dict[str, Any]]:
    """Text and `logprobs` of a completion; those of a stream put together."""
    response = await front.post(COMPLETIONS, {"prompt": "hello", "stream": stream} | fields)
    assert response.status_code == 200, response.text
    choices = [chunk["choices"][0] for chunk in events(response)[:-1]] if stream else response.json()["choices"]
    joined: dict[str, Any] = {}
    for choice in choices:
        for name, values in choice["logprobs"].items():
            joined[name] = joined.get(name, []) + values
    return "".join(choice["text"] for choice in choices), joined


async def chat(front: Front, stream: bool = False, **fields: Any) -> tuple[str, list[dict[str, Any]]]:
    """Text and entries of `logprobs.content`."""
    response = await front.post(CHAT, {"messages": HELLO, "logprobs": True, "stream": stream} | fields)
    assert response.status_code == 200, response.text
    if not stream:
        choice = response.json()["choices"][0]
        assert choice["logprobs"]["refusal"] is None
        return choice["message"]["content"], choice["logprobs"]["content"]
    choices = [chunk["choices"][0] for chunk in events(response)[:-1]]
    entries = [entry for choice in choices for entry in (choice["logprobs"] or {"content": []})["content"]]
    return "".join(choice["delta"].get("content", "") for choice in choices), entries


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_of_a_completion(front: Front, stream: bool) -> None:
    text, logprobs = await complete(front, stream, logprobs=2)
    script = front.engine.script
    assert "".join(logprobs["tokens"]) == text == TEXT
    assert logprobs["token_logprobs"] == [-0.5] * len(script)
    starts = [sum(map(len, logprobs["tokens"][:place])) for place in range(len(script))]
    assert logprobs["text_offset"] == starts
    first = front.tokenizer.text_of(script[0])
    assert logprobs["top_logprobs"][0] == {first: -0.5, front.tokenizer.text_of(10): -1.0}
    sampling = front.engine.requests[0].sampling
    assert (sampling.top_tokens, sampling.raw_logprobs) == (2, True)


async def test_the_token_itself_is_always_among_the_likeliest(front: Front) -> None:
    _, logprobs = await complete(front, logprobs=0)
    assert logprobs["top_logprobs"] == [{token: -0.5} for token in logprobs["tokens"]]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_echoed_prompt_comes_first_and_its_first_token_has_none(front: Front, stream: bool) -> None:
    text, logprobs = await complete(front, stream, prompt="hello world", echo=True, logprobs=1, max_tokens=3)
    asked = front.engine.requests[0]
    assert asked.prompt_logprobs is True
    assert logprobs["tokens"][0] == "<bos>"
    assert logprobs["token_logprobs"][0] is logprobs["top_logprobs"][0] is None
    assert len(logprobs["tokens"]) == len(asked.prompt) + 3
    assert "".join(logprobs["tokens"][1:]) == text
    assert text.startswith("hello world")
    assert logprobs["token_logprobs"][1:3] == [-0.25, -0.5]
    placed = list(zip(logprobs["tokens"], logprobs["text_offset"], strict=True))
    assert all(text[at:].startswith(token) for token, at in placed[1:])
    assert logprobs["text_offset"][:2] == [0, 0]


async def test_prompts_of_token_ids_are_scored_token_by_token(front: Front) -> None:
    ids = front.tokenizer.encode("what is deep learning", add_special_tokens=False)
    _, logprobs = await complete(front, prompt=ids, echo=True, logprobs=1, max_tokens=0)
    assert logprobs["tokens"] == [front.tokenizer.text_of(id) for id in ids]
    assert logprobs["text_offset"][0] == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_of_a_chat(front: Front, stream: bool) -> None:
    text, entries = await chat(front, stream, top_logprobs=2)
    assert "".join(entry["token"] for entry in entries) == text == TEXT
    assert all(bytes(entry["bytes"]).decode() == entry["token"] for entry in entries)
    assert [entry["logprob"] for entry in entries] == [-0.5] * len(front.engine.script)
    first, second = entries[0]["top_logprobs"]
    assert first == {name: value for name, value in entries[0].items() if name != "top_logprobs"}
    assert second["logprob"] == -1.0


async def test_no_likeliest_tokens_are_told_unasked(front: Front) -> None:
    _, entries = await chat(front)
    assert all(entry["top_logprobs"] == [] for entry in entries)


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_of_a_removed_stop_string_are_not_told(front: Front, stream: bool) -> None:
    text, entries = await chat(front, stream, stop=" is")
    assert "".join(entry["token"] for entry in entries) == text == "deep learning"
    text, logprobs = await complete(front, stream, stop=" the", logprobs=0)
    assert "".join(logprobs["tokens"]) == text == "deep learning is"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_token_that_is_only_partly_removed_is_told(front: Front, stream: bool) -> None:
    front.engine.script = front.tokenizer.encode("hello", add_special_tokens=False)
    longest = max(map(len, map(front.tokenizer.text_of, front.engine.script)))
    assert longest > 1
    text, entries = await chat(front, stream, stop=["lo"])
    assert text == "hel"
    tokens = [entry["token"] for entry in entries]
    assert "".join(tokens).startswith(text)
    assert not "".join(tokens[:-1]).startswith(text)


async def test_parts_of_a_character_are_told_as_bytes(front: Front) -> None:
    front.engine.script = front.tokenizer.encode("🦊", add_special_tokens=False)
    assert len(front.engine.script) == 4
    text, entries = await chat(front)
    assert text == "🦊"
    assert bytes(byte for entry in entries for byte in entry["bytes"]).decode() == text
    assert [entry["token"] for entry in entries] == ["\\xf0", "\\x9f", "\\xa6", "\\x8a"]
    _, logprobs = await complete(front, logprobs=0)
    assert logprobs["tokens"] == ["bytes:\\xf0", "bytes:\\x9f", "bytes:\\xa6", "bytes:\\x8a"]


async def test_what_cannot_come_has_a_number_all_the_same(front: Front) -> None:
    front.engine.logprobs = [float("-inf")] * 2
    _, logprobs = await complete(front, logprobs=0)
    assert logprobs["token_logprobs"][0] == -9999.0
    _, entries = await chat(front)
    assert entries[0]["logprob"] == -9999.0
