"""OpenAI's own SDK, unmodified, against a running server. Its types and its helpers hold replies to OpenAI's shapes."""

import json
from collections.abc import Iterator
from enum import Enum
from typing import Any, Literal

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, Field

MODEL = "smollm2"
ASK: Any = [{"role": "user", "content": "What is the weather in Paris?"}]


class GetWeather(BaseModel):
    """Get the current weather of a city."""

    city: str = Field(max_length=20)
    unit: Literal["celsius", "fahrenheit"]


class Mood(Enum):
    happy = "happy"
    sad = "sad"


class Pet(BaseModel):
    name: str = Field(max_length=12)
    mood: Mood


class Owner(BaseModel):
    name: str = Field(max_length=12)
    age: int = Field(ge=0, le=120)
    pets: list[Pet] = Field(max_length=2)


TOOLS: Any = [openai.pydantic_function_tool(GetWeather)]


@pytest.fixture(scope="module")
def client(server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120) as it:
        yield it


@pytest.fixture
async def async_client(server):
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120) as it:
        yield it


def test_models(client):
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-4")
    assert caught.value.code == "model_not_found"


def test_errors_are_the_sdks_own(client):
    with pytest.raises(openai.NotFoundError, match="gpt-4"):
        client.chat.completions.create(model="gpt-4", messages=ASK)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=ASK, top_p=0)
    assert caught.value.param == "top_p"
    tool: Any = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": {"not": {}}}}}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=ASK, tools=[tool])
    assert caught.value.param == "tools[0].function.parameters"
    with pytest.raises(openai.BadRequestError), client.chat.completions.stream(model=MODEL, messages=[]) as stream:
        stream.until_done()


def test_chat_choices_and_logprobs(client):
    reply = client.chat.completions.create(
        model=MODEL, messages=ASK, n=2, seed=7, max_completion_tokens=8, logprobs=True, top_logprobs=3, temperature=1
    )
    again = client.chat.completions.create(model=MODEL, messages=ASK, n=2, seed=7, max_completion_tokens=8)
    texts = [choice.message.content for choice in reply.choices]
    assert texts == [choice.message.content for choice in again.choices]
    assert texts[0] != texts[1]
    for choice in reply.choices:
        assert "".join(entry.token for entry in choice.logprobs.content) == choice.message.content
        assert all(len(entry.top_logprobs) == 3 for entry in choice.logprobs.content)
        assert all(entry.logprob <= entry.top_logprobs[0].logprob + 1e-6 for entry in choice.logprobs.content)
    assert reply.usage.completion_tokens == 16
    assert reply.usage.prompt_tokens_details.cached_tokens >= 0
    assert reply.id.startswith("chatcmpl-")


async def test_streamed_text_is_the_whole_text(async_client):
    settings: Any = {"model": MODEL, "messages": ASK, "temperature": 0, "max_tokens": 80, "stop": ["weather", "."]}
    whole = await async_client.chat.completions.create(**settings)
    stream = await async_client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert text
    assert "weather" not in text
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    async with async_client.chat.completions.stream(**settings) as events:
        final = await events.get_final_completion()
    assert final.choices[0].message.content == text
    assert final.choices[0].finish_reason == whole.choices[0].finish_reason


def test_biases_ban_and_force_tokens(client, server):
    settings: Any = {"model": MODEL, "prompt": "The capital of France is", "max_tokens": 1, "temperature": 0}
    free = client.completions.create(**settings, logprobs=1).choices[0]
    scored = client.completions.create(**{**settings, "max_tokens": 0}, echo=True, logprobs=0).choices[0]
    assert scored.text == settings["prompt"]
    assert scored.logprobs.token_logprobs[0] is None
    assert (free.text, free.logprobs.tokens) == (" Paris", [" Paris"])
    id = str(httpx.post(f"{server.url}/tokenize", json={"inputs": " Paris"}).json()[0]["id"])
    assert client.completions.create(**settings, logit_bias={id: -100}).choices[0].text != " Paris"
    other: Any = {**settings, "prompt": "Two plus two is"}
    assert client.completions.create(**other, logit_bias={id: 100}).choices[0].text == " Paris"


def test_completions_of_several_prompts(client):
    prompts = ["The capital of France is", "Two plus two is"]
    whole = client.completions.create(model=MODEL, prompt=prompts, n=2, max_tokens=4, temperature=0)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    assert whole.choices[0].text == whole.choices[1].text != whole.choices[2].text == whole.choices[3].text
    texts = ["", "", "", ""]
    for chunk in client.completions.create(model=MODEL, prompt=prompts, n=2, max_tokens=4, temperature=0, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in whole.choices]
    best = client.completions.create(model=MODEL, prompt=prompts[0], best_of=4, n=1, max_tokens=4, logprobs=0, seed=1)
    every = client.completions.create(model=MODEL, prompt=prompts[0], n=4, max_tokens=4, logprobs=0, seed=1)
    means = {sum(choice.logprobs.token_logprobs) / 4: choice.text for choice in every.choices}
    assert best.choices[0].text == means[max(means)]


def test_penalties_count_what_is_in_the_output(client):
    settings: Any = {"model": MODEL, "prompt": "1" + " 1" * 11, "max_tokens": 12, "temperature": 0}
    repeated = " 1" * 6
    assert client.completions.create(**settings).choices[0].text == repeated
    # Once is too little for this text, but every time adds up; and what is in the prompt alone costs nothing.
    assert client.completions.create(**settings, presence_penalty=2).choices[0].text == repeated
    text = client.completions.create(**settings, frequency_penalty=2).choices[0].text
    assert text.startswith(" 1")
    assert text != repeated


@pytest.mark.parametrize("seed", range(3))
def test_parsed_replies_are_valid(client, seed):
    messages: Any = [{"role": "user", "content": "Make up a person and their pets."}]
    reply = client.chat.completions.parse(
        model=MODEL, messages=messages, response_format=Owner, temperature=1, seed=seed, max_tokens=200
    )
    assert isinstance(reply.choices[0].message.parsed, Owner)


def test_json_objects(client):
    messages: Any = [{"role": "user", "content": "Write a JSON object with one number. Stop early."}]
    for seed in range(2):
        reply = client.chat.completions.create(
            model=MODEL, messages=messages, response_format={"type": "json_object"}, seed=seed, max_tokens=40
        )
        choice = reply.choices[0]
        assert choice.message.content.startswith("{")
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.message.content), dict)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "GetWeather"}}])
def test_a_round_of_tools(client, choice):
    settings: Any = {"model": MODEL, "tools": TOOLS, "temperature": 1, "seed": 5}
    reply = client.chat.completions.parse(
        messages=ASK, tool_choice=choice, parallel_tool_calls=False, max_tokens=60, **settings
    ).choices[0]
    assert reply.finish_reason == "tool_calls"
    assert reply.message.content is None
    (call,) = reply.message.tool_calls
    assert isinstance(call.function.parsed_arguments, GetWeather)
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "Sunny, 25 degrees."}
    answer = client.chat.completions.create(
        messages=[*ASK, reply.message.model_dump(exclude_none=True), result],
        tool_choice="none",
        max_tokens=8,
        **settings,
    )
    assert answer.choices[0].message.content


def test_streamed_tools_add_up(client):
    settings: Any = {
        "model": MODEL,
        "messages": ASK,
        "tools": TOOLS,
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "seed": 5,
        "max_tokens": 60,
    }
    whole = client.chat.completions.create(**settings).choices[0]
    with client.chat.completions.stream(**settings) as stream:
        events = list(stream)
        pieces = [e.arguments_delta for e in events if e.type == "tool_calls.function.arguments.delta"]
        final = stream.get_final_completion().choices[0]
    assert len(pieces) > 3
    assert final.finish_reason == "tool_calls"
    (call,), (expected,) = final.message.tool_calls, whole.message.tool_calls
    assert "".join(pieces) == call.function.arguments == expected.function.arguments
    assert isinstance(call.function.parsed_arguments, GetWeather)


def test_tools_may_be_left_alone(client):
    reply = client.chat.completions.create(model=MODEL, messages=ASK, tools=TOOLS, temperature=0, max_tokens=12)
    assert reply.choices[0].message.content or reply.choices[0].message.tool_calls
