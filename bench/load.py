"""Clients of an OpenAI-compatible server: each streams one completion after another, and notes when what came."""

import asyncio
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import aiohttp

WORDS = """river stone window market letter garden winter bridge music teacher doctor engine paper forest captain mirror
village harvest planet signal copper island""".split()  # noqa: SIM905
SECONDS_AT_MOST = 900


@dataclass(frozen=True)
class Ask:
    """A prompt and the number of tokens that must follow it; `after` seconds from the beginning it is sent."""

    prompt: str
    new_tokens: int
    after: float = 0.0


@dataclass(frozen=True)
class Reply:
    """When a request was sent and its pieces of text came, in seconds of time.perf_counter; and its tokens."""

    sent: float
    pieces: list[float]
    tokens: int

    @property
    def first(self) -> float:
        """Seconds to the first token."""
        return self.pieces[0] - self.sent

    @property
    def gaps(self) -> list[float]:
        """Seconds between tokens."""
        return [later - earlier for earlier, later in pairwise(self.pieces)]


@dataclass(frozen=True)
class Load:
    """What clients saw: tokens per second over all, and all their replies."""

    tokens_per_second: float
    replies: list[Reply] = field(repr=False)

    @property
    def tokens(self) -> int:
        return sum(reply.tokens for reply in self.replies)

    def first(self, share: float) -> float:
        """Quantile of the seconds to the first token."""
        return quantile([reply.first for reply in self.replies], share)

    def gap(self, share: float) -> float:
        """Quantile of the seconds between tokens."""
        return quantile([gap for reply in self.replies for gap in reply.gaps], share)


def quantile(numbers: Sequence[float], share: float) -> float:
    """The number below which `share` of `numbers` lie; 0 of none."""
    ordered = sorted(numbers)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


def prompts(count: int, words: int, seed: int) -> list[str]:
    """Random words; the same for the same seed."""
    rng = random.Random(seed)
    return [" ".join(rng.choice(WORDS) for _ in range(words)) for _ in range(count)]


def chats(count: int, rate: float, seed: int) -> list[Ask]:
    """Requests at random times, `rate` a second (Poisson), as long as people's: lognormal, prompts of 8 to 512 words
    around 100, answers of 8 to 256 tokens around 80."""
    rng, now, asks = random.Random(seed), 0.0, []
    for _ in range(count):
        now += rng.expovariate(rate)
        words = min(max(int(rng.lognormvariate(4.6, 0.9)), 8), 512)
        tokens = min(max(int(rng.lognormvariate(4.4, 0.75)), 8), 256)
        asks.append(Ask(" ".join(rng.choice(WORDS) for _ in range(words)), tokens, now))
    return asks


async def run(url: str, clients: Sequence[Sequence[Ask]]) -> Load:
    """Every client sends what it has, one after another. Raises RuntimeError when a reply is not whole."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=SECONDS_AT_MOST)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        model = await _model(session, url)
        started = time.perf_counter()
        lists = await asyncio.gather(*(_client(session, url, model, asks, started) for asks in clients))
        seconds = time.perf_counter() - started
    replies = [reply for of_client in lists for reply in of_client]
    return Load(sum(reply.tokens for reply in replies) / seconds, replies)


async def _model(session: aiohttp.ClientSession, url: str) -> str:
    async with session.get(f"{url}/v1/models") as answer:
        answer.raise_for_status()
        name: str = (await answer.json())["data"][0]["id"]
        return name


async def _client(
    session: aiohttp.ClientSession, url: str, model: str, asks: Sequence[Ask], started: float
) -> list[Reply]:
    replies = []
    for ask in asks:
        await asyncio.sleep(max(0.0, started + ask.after - time.perf_counter()))
        replies.append(await _stream(session, url, model, ask))
    return replies


async def _stream(session: aiohttp.ClientSession, url: str, model: str, ask: Ask) -> Reply:
    body = {"model": model, "prompt": ask.prompt, "max_tokens": ask.new_tokens, "temperature": 0, "ignore_eos": True}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    pieces: list[float] = []
    tokens, sent = 0, time.perf_counter()
    async with session.post(f"{url}/v1/completions", json=body) as answer:
        if answer.status != 200:
            raise RuntimeError(f"{url} answered {answer.status}: {(await answer.text())[:300]}")
        async for line in answer.content:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
                if event["choices"]:
                    pieces.append(time.perf_counter())
    if tokens != ask.new_tokens or not pieces:
        raise RuntimeError(f"{url} sent {tokens} tokens instead of {ask.new_tokens}")
    return Reply(sent, pieces, tokens)


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
