"""Clients that people already have work unchanged."""

from collections.abc import Callable

import pytest
from front import Front, listening
from huggingface_hub import AsyncInferenceClient
from huggingface_hub.errors import OverloadedError, ValidationError

TEXT = "deep learning is the fox"
HELLO = [{"role": "user", "content": "hello"}]


async def test_huggingface_hub_generates(front: Front) -> None:
    async with listening(front) as address, AsyncInferenceClient(address) as client:
        reply = await client.text_generation("hello", details=True, return_full_text=False, seed=3, do_sample=True)
        assert reply.generated_text == TEXT
        assert (reply.details.finish_reason, reply.details.seed) == ("eos_token", 3)
        stream = await client.text_generation("hello", details=True, stream=True, stop=[" is"], return_full_text=False)
        events = [event async for event in stream]
        assert events[-1].generated_text == "deep learning is"
        assert events[-1].details.finish_reason == "stop_sequence"


async def test_huggingface_hub_chats(front: Front) -> None:
    async with listening(front) as address, AsyncInferenceClient(address) as client:
        reply = await client.chat_completion(HELLO, max_tokens=50)
        assert reply.choices[0].message.content == TEXT
        stream = await client.chat_completion(HELLO, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == TEXT


async def test_huggingface_hub_knows_our_errors(front: Front) -> None:
    async with listening(front) as address, AsyncInferenceClient(address) as client:
        with pytest.raises(ValidationError, match="`temperature` must be strictly positive"):
            await client.text_generation("hello", temperature=0.0)
        with front.context.generator.admission.hold(128), pytest.raises(OverloadedError):
            await client.text_generation("hello")


async def test_huggingface_hub_calls_tools_and_asks_for_formats(make_front: Callable[..., Front]) -> None:
    arguments = '{"city": "Paris"}'
    front = make_front(
        f'<tool_call>\n{{"name": "get_weather", "arguments": {arguments}}}\n</tool_call>',
        served_model_name="tiny",
    )
    front.engine.info.max_total_tokens, front.engine.info.max_input_tokens = 4096, 4095
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": schema}}
    async with listening(front) as address, AsyncInferenceClient(address) as client:
        for choice in ("auto", "required", {"function": {"name": "get_weather"}}):
            reply = await client.chat_completion(HELLO, tools=[tool], tool_choice=choice)
            (call,) = reply.choices[0].message.tool_calls
            assert (call.function.name, call.function.arguments) == ("get_weather", arguments)
            assert reply.choices[0].finish_reason == "tool_calls"
        stream = await client.chat_completion(HELLO, tools=[tool], stream=True)
        chunks = [chunk.choices[0] async for chunk in stream]
        parts = [part for chunk in chunks for part in chunk.delta.tool_calls or []]
        assert "".join(part.function.arguments for part in parts) == arguments
        await client.chat_completion(HELLO, response_format={"type": "json", "value": schema})
        await client.chat_completion(
            HELLO, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        )
        assert [asked.grammar.kind for asked in front.engine.requests[-2:]] == ["json_schema"] * 2
