"""A generation ends exactly once, and whatever ends it frees its place and the engine."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from front import FakeEngine, until, write_model_folder

from textgen_server.errors import GenerationError, IncompleteGeneration, InvalidRequest, Overloaded, TemplateError
from textgen_server.settings import ServerOptions
from textgen_server.text.generation import Generation, Piece, TextGenerator, run_all
from textgen_server.text.prompt import Chat, PromptEncoder
from textgen_server.text.request import GenerationRequest

TEXT = "deep learning is the fox"


class Recorder:
    """Remembers what an Observer hears."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.in_flight = 0

    def received(self, requests: int) -> None:
        self.heard.append(("received", requests))

    def admitted(self, adapter: str) -> None:
        self.in_flight += 1

    def left(self, adapter: str) -> None:
        self.in_flight -= 1

    def first_token(self, seconds: float, adapter: str) -> None:
        assert seconds >= 0
        self.heard.append("first")

    def next_token(self, seconds: float, adapter: str) -> None:
        assert seconds >= 0
        self.heard.append("next")

    def finished(self, generation: Generation) -> None:
        self.heard.append(("finished", generation.finish_reason))

    def failed(self, label: str) -> None:
        self.heard.append(("failed", label))


class World:
    """A generator over a scripted engine."""

    def __init__(self, folder: Path) -> None:
        settings = ServerOptions(max_concurrent_requests=4)
        self.encoder = PromptEncoder.load(folder, settings)
        self.tokenizer = self.encoder.tokenizer
        self.engine = FakeEngine(self.tokenizer.encode(TEXT, add_special_tokens=False), eos=1)
        self.observer = Recorder()
        self.generator = TextGenerator(self.engine, self.encoder, settings, self.observer)

    async def run(self, **fields: Any) -> tuple[Generation, list[Piece]]:
        request = GenerationRequest(**{"prompt": "hello"} | fields)
        async with self.generator.begin([request]) as [generation], aclosing(generation.pieces()) as pieces:
            return generation, [piece async for piece in pieces]

    @property
    def idle(self) -> bool:
        return self.engine.running == self.generator.admission.in_flight == self.observer.in_flight == 0


@pytest.fixture
async def world(model_folder: Path) -> AsyncIterator[World]:
    made = World(model_folder)
    yield made
    made.encoder.close()


async def test_a_generation_ends_with_its_reason_and_text(world: World) -> None:
    generation, pieces = await world.run()
    assert generation.text == TEXT == "".join(piece.delta for piece in pieces)
    assert generation.finish_reason == pieces[-1].finish == "eos_token"
    assert generation.generated_tokens == len(pieces) == len(world.engine.script) + 1
    assert world.observer.heard[0] == ("received", 1)
    assert world.observer.heard[-1] == ("finished", "eos_token")
    assert world.observer.heard.count("next") == len(pieces) - 1
    assert world.idle


async def test_times_add_up(world: World) -> None:
    times = (await world.run())[0].times
    assert times.queue_seconds == 0.25
    assert times.validation >= 0
    assert times.validation + times.queue_seconds + times.inference == pytest.approx(times.total)


async def test_special_tokens_have_text_of_their_own_but_are_not_generated_text(world: World) -> None:
    eos = world.tokenizer.encode("<eos>", add_special_tokens=False)
    world.engine.script[2:2] = eos
    generation, pieces = await world.run(ignore_eos=True, max_new_tokens=len(world.engine.script))
    assert (pieces[2].special, pieces[2].text, pieces[2].delta) == (True, "<eos>", "")
    assert generation.text == TEXT
    assert generation.finish_reason == "length"


async def test_an_incomplete_character_before_the_end_is_not_lost(world: World) -> None:
    world.engine.script = world.tokenizer.encode("🦊", add_special_tokens=False)[:3]
    generation, pieces = await world.run()
    assert generation.text == "\N{REPLACEMENT CHARACTER}"
    assert [piece.text for piece in pieces] == ["", "", "", "\N{REPLACEMENT CHARACTER}<eos>"]


@pytest.mark.parametrize(("keep", "text"), [(True, "deep lear"), (False, "deep l")])
async def test_a_stop_string_ends_the_engines_work(world: World, keep: bool, text: str) -> None:
    generation, _ = await world.run(stop=("ear",), keep_stop_text=keep)
    assert generation.text == text
    assert generation.finish_reason == "stop_sequence"
    assert world.engine.aborted == 1
    assert world.observer.heard[-1] == ("finished", "stop_sequence")
    assert world.idle


async def test_text_held_back_for_a_stop_string_comes_at_the_end(world: World) -> None:
    generation, pieces = await world.run(stop=("foxtrot",), keep_stop_text=False)
    assert generation.text == TEXT == "".join(piece.delta for piece in pieces)
    assert pieces[-1].delta.endswith("fox")


async def test_leaving_early_aborts(world: World) -> None:
    world.engine.pace = 0.001
    async with world.generator.begin([GenerationRequest(prompt="hello")]) as [generation]:
        async with aclosing(generation.pieces()) as pieces:
            await anext(pieces)
            assert not world.idle
        assert world.engine.aborted == 1
    assert world.idle


async def test_cancelling_aborts_and_counts_as_dropped(world: World) -> None:
    world.engine.hang_after = 2
    task = asyncio.create_task(world.run())
    await until(lambda: world.engine.running == 1)
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.idle
    assert world.engine.aborted == 1
    assert world.observer.heard[-1] == ("failed", "dropped")


async def test_errors_of_the_engine_are_counted_and_free_the_place(world: World) -> None:
    world.engine.fail_after, world.engine.error = 2, GenerationError("bad numbers")
    with pytest.raises(GenerationError):
        await world.run()
    assert world.observer.heard[-1] == ("failed", "generation")
    assert world.idle


async def test_an_engine_that_just_ends_is_an_error(world: World) -> None:
    world.engine.truncate_after = 1
    with pytest.raises(IncompleteGeneration):
        await world.run()
    assert world.observer.heard[-1] == ("failed", "incomplete")


async def test_wrong_requests_never_reach_the_engine(world: World) -> None:
    with pytest.raises(InvalidRequest):
        await world.run(temperature=-1.0)
    with pytest.raises(InvalidRequest):
        await world.run(prompt="hello " * 300)
    with pytest.raises(InvalidRequest, match="has token id 330; ids end at 329"):
        await world.run(prompt=[5, 330])
    assert world.engine.requests == []
    assert world.observer.heard[1::2] == [("failed", "validation")] * 3
    assert world.idle


async def test_a_token_that_the_model_does_not_have_never_reaches_the_engine(world: World) -> None:
    world.engine.info.vocab_size = max(world.tokenizer.encode("hello"))

    with pytest.raises(InvalidRequest, match="a token of the tokenizer that the model does not have"):
        await world.run(prompt="hello")
    assert world.engine.requests == []


async def test_a_conversation_without_template_is_a_template_error(world: World, tmp_path: Path) -> None:
    plain = World(write_model_folder(tmp_path, template=None))
    with pytest.raises(TemplateError):
        await plain.run(prompt=Chat([{"role": "user", "content": "hello"}]))
    assert plain.observer.heard[-1] == ("failed", "template")
    plain.encoder.close()


async def test_places_are_all_or_nothing(world: World) -> None:
    one = GenerationRequest(prompt="hello")
    async with world.generator.begin([one] * 3):
        assert world.generator.admission.in_flight == 3
        with pytest.raises(Overloaded):
            async with world.generator.begin([one] * 2):
                pass
        async with world.generator.begin([one]):
            assert world.generator.admission.in_flight == 4
    assert world.generator.admission.in_flight == 0
    assert ("failed", "overloaded") in world.observer.heard


async def test_generations_run_together_until_all_are_complete(world: World) -> None:
    requests = [GenerationRequest(prompt="hello", max_new_tokens=length) for length in (1, 4, 2)]
    indices: list[int] = []
    async with world.generator.begin(requests) as generations:
        await run_all(generations, lambda index, piece: indices.append(index))
    assert [indices.count(index) for index in range(3)] == [1, 4, 2]
    assert indices != sorted(indices)
    assert world.idle


async def test_leaving_generations_aborts_all(world: World) -> None:
    world.engine.hang_after = 1
    async with world.generator.begin([GenerationRequest(prompt="a")] * 3) as generations:
        running = asyncio.create_task(run_all(generations, lambda index, piece: None))
        await until(lambda: world.engine.delivered == 3)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert world.engine.running == 0
    assert world.engine.aborted == 3


async def test_what_goes_wrong_with_a_piece_ends_its_generation_alone(world: World) -> None:
    def refuse(piece: Piece) -> None:
        raise ValueError("this piece is not wanted")

    async with world.generator.begin([GenerationRequest(prompt="a")] * 2) as [first, second]:
        with pytest.raises(ValueError, match="not wanted"):
            await first.run(refuse)
        await second.run(lambda piece: None)
    assert second.text == TEXT
    assert world.engine.aborted == 1
    assert world.observer.heard.count(("finished", "eos_token")) == 1
