"""Clients that people already have work unchanged."""

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
