"""Prompts are tokenized off the event loop, and truncated from the left."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from textgen_server.settings import ServerOptions
from textgen_server.text.prompt import Chat, PromptEncoder


@pytest.fixture
async def encoder(model_folder: Path) -> AsyncIterator[PromptEncoder]:
    made = PromptEncoder.load(model_folder, ServerOptions())
    yield made
    made.close()


async def test_text_is_encoded_with_its_bos(encoder: PromptEncoder) -> None:
    encoded = await encoder.encode("the fox")
    assert encoded.ids == encoder.tokenizer.encode("the fox")
    assert encoded.characters == 7


async def test_truncation_keeps_bos_and_the_end(encoder: PromptEncoder) -> None:
    whole = (await encoder.encode("the quick brown fox")).ids
    assert (await encoder.encode("the quick brown fox", truncate=3)).ids == [whole[0], *whole[-2:]]
    assert (await encoder.encode("the quick brown fox", truncate=1)).ids == [whole[0]]
    assert (await encoder.encode("the quick brown fox", truncate=100)).ids == whole


async def test_token_ids_pass_through(encoder: PromptEncoder) -> None:
    assert (await encoder.encode([9, 8, 7])).ids == [9, 8, 7]
    assert (await encoder.encode([9, 8, 7], truncate=2)).ids == [8, 7]


async def test_a_conversation_has_one_bos_the_templates(encoder: PromptEncoder) -> None:
    encoded = await encoder.encode(Chat([{"role": "user", "content": "hello"}]))
    assert encoded.ids.count(encoder.tokenizer.bos_id or 0) == 1
    assert encoded.characters == len("<bos><turn>user\nhello<eos>\n<turn>assistant\n")


async def test_a_huge_prompt_does_not_stop_the_event_loop(encoder: PromptEncoder) -> None:
    encoding = asyncio.create_task(encoder.encode("the quick brown fox " * 100_000))
    turns = 0
    while not encoding.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert turns > 10
