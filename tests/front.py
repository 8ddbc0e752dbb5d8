"""The front without a model: a tiny tokenizer, an engine that replays a script, and clients for the application."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from textgen_server.api.app import create_app
from textgen_server.api.http import uvicorn_config
from textgen_server.api.keys import ApiKeys
from textgen_server.api.state import ServerContext
from textgen_server.api.tracing import Tracing
from textgen_server.errors import (
    EngineUnavailable,
    IncompleteGeneration,
    InvalidRequest,
    ModelNotFound,
    TextgenError,
)
from textgen_server.histogram import Histogram
from textgen_server.rpc import engine_pb2
from textgen_server.rpc.client import Alternatives, EngineInfo, EngineRequest, EngineStatus, Receiver, Start, Token
from textgen_server.settings import ServerOptions
from textgen_server.telemetry import BATCH_SIZE_BUCKETS, DURATION_BUCKETS, SKIPPED_TOKENS_BUCKETS
from textgen_server.text.prompt import PromptEncoder
from textgen_server.tls import Certificate

BOS, EOS, TURN = "<bos>", "<eos>", "<turn>"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<turn>{{ message.role }}\n{{ message.content }}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)
_CORPUS = ["the quick brown fox jumps over the lazy dog", "hello world, what is deep learning?"] * 4


def write_model_folder(folder: Path, template: str | None = TEMPLATE) -> Path:
    """The text files of a model whose tokenizer is byte-level BPE with a BOS."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=[AddedToken(text, special=True) for text in (BOS, EOS, TURN)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_CORPUS, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, backend.token_to_id(BOS))]
    )
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {"bos_token": BOS, "eos_token": {"content": EOS}}
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


class FakeEngine:
    """Replays `script` and then end-of-sequence, whatever the prompt.

    Attributes:
        pace: seconds between tokens.
        requests: what was asked for, in order.
        running, aborted: requests in progress, and those that were closed before their last token.
        delivered: tokens of all requests so far.
        fail_after, error: raise `error` in place of the token with this index.
        hang_after: do not bring the token with this index before `released`.
        truncate_after: end without a last token there.
        cached_tokens: of every prompt.
        logprobs: of the tokens of the first request, the second, and so on; -0.5 for those that are not listed.
    """

    def __init__(self, script: list[int], eos: int, **limits: Any) -> None:
        self.script = script
        self.pace = 0.0
        self.healthy = True
        self.requests: list[EngineRequest] = []
        self.running = 0
        self.aborted = 0
        self.delivered = 0
        self.fail_after: int | None = None
        self.error: Exception = EngineUnavailable("the engine died")
        self.hang_after: int | None = None
        self.released = asyncio.Event()
        self.truncate_after: int | None = None
        self.logprobs: list[float] = []
        self.status_hangs = False
        self.cached_tokens = 0
        self._eos = eos
        self._ended: set[asyncio.Task[None] | None] = set()
        self.info = EngineInfo(
            **{"device": "cpu", "dtype": "float32", "num_shard": 1, "block_size": 16, "num_blocks": 64}
            | {"max_input_tokens": 255, "max_total_tokens": 256, "vocab_size": 330}
            | limits
        )

    def submit(self, request: EngineRequest, receiver: Receiver) -> Callable[[], None]:
        if not self.healthy:
            raise EngineUnavailable("the engine is down")
        logprob = self.logprobs[len(self.requests)] if len(self.requests) < len(self.logprobs) else -0.5
        self.requests.append(request)
        self.running += 1
        replaying = asyncio.create_task(self._replay(request, receiver, logprob))

        def stop() -> None:
            if replaying not in self._ended:
                self._end(replaying, aborted=True)
                replaying.cancel()

        return stop

    def _end(self, task: asyncio.Task[None] | None, aborted: bool) -> None:
        self._ended.add(task)
        self.running -= 1
        self.aborted += aborted

    async def _replay(self, request: EngineRequest, receiver: Receiver, logprob: float) -> None:
        try:
            for index in range(request.max_new_tokens):
                await self._before(index)
                id = self.script[index] if index < len(self.script) else self._eos
                finish = "eos_token" if id in request.stop_tokens else ""
                finish = "length" if index + 1 == request.max_new_tokens else finish
                self.delivered += 1
                if finish:
                    self._end(asyncio.current_task(), aborted=False)
                start = self._start(request) if index == 0 else None
                receiver.take(Token(id, logprob, finish, self._top(request, id), start))
                if finish:
                    return
        except Exception as error:
            self._end(asyncio.current_task(), aborted=True)
            receiver.fail(error)

    def _top(self, request: EngineRequest, id: int) -> Alternatives:
        """The token itself, and then ids from 10."""
        return ((id, -0.5), *((10 + rank, -1.0 - rank) for rank in range(request.sampling.top_tokens - 1)))[
            : request.sampling.top_tokens
        ]

    def _start(self, request: EngineRequest) -> Start:
        if not request.prompt_logprobs:
            return Start(queue_seconds=0.25, cached_tokens=self.cached_tokens)
        logprobs = [-0.25 * place for place in range(1, len(request.prompt))]
        tops = [self._top(request, id) for id in request.prompt[1:]] if request.sampling.top_tokens else []
        return Start(queue_seconds=0.25, prompt_logprobs=logprobs, prompt_tops=tops)

    async def _before(self, index: int) -> None:
        if not self.healthy:
            raise EngineUnavailable("the engine is down")
        if index == self.fail_after:
            raise self.error
        if index == self.truncate_after:
            raise IncompleteGeneration("the engine ended the request without a last token")
        if index == self.hang_after:
            await self.released.wait()
        await asyncio.sleep(self.pace)

    async def load_adapter(self, name: str, folder: Path) -> None:
        if name in self.info.adapters:
            raise InvalidRequest(f"there is an adapter `{name}` already", "lora_name")
        self.info.adapters.append(name)

    async def unload_adapter(self, name: str) -> None:
        if name not in self.info.adapters:
            raise ModelNotFound(f"there is no adapter `{name}`")
        self.info.adapters.remove(name)

    async def status(self) -> EngineStatus:
        if self.status_hangs:
            await asyncio.Event().wait()
        if not self.healthy:
            raise EngineUnavailable("the engine is down")
        numbers = {"waiting": 2, "running": 3, "blocks_used": 16, "tokens_claimed": 600}
        totals = {"prompt_tokens": 100, "cached_tokens": 40, "generated_tokens": 70}
        guesses = {"skipped_tokens": engine_histogram(SKIPPED_TOKENS_BUCKETS, 0, 0, 3), "guessed_tokens": 8}
        joins = {
            "joined": engine_histogram(BATCH_SIZE_BUCKETS, 1, 2),
            "join_seconds": engine_histogram(DURATION_BUCKETS, 0.001),
        }
        steps = [self._steps("prefill", failures=1), self._steps("decode", failures=0)]
        return EngineStatus(**numbers, **totals, **joins, **guesses, statistics=steps)

    def _steps(self, method: str, failures: int) -> Any:
        """Two steps that went well."""
        parts = {"inference": 0.02, "forward": 0.01, "decode": 0.002, "filter": 0.001}
        histograms = {part: engine_histogram(DURATION_BUCKETS, seconds, seconds) for part, seconds in parts.items()}
        return engine_pb2.StepStatistics(method=method, failures=failures, **histograms)


def engine_histogram(bounds: Sequence[float], *values: float) -> Any:
    """A histogram as the engine's status has it."""
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    return engine_pb2.Histogram(counts=histogram.counts, sum=histogram.sum)


class Front:
    """An application over a `FakeEngine`, and a client that calls it in this process."""

    def __init__(self, folder: Path, text: str, *, tracing: Tracing | None = None, **options: Any) -> None:
        self.settings = ServerOptions(model_id="test-model", **options)
        encoder = PromptEncoder.load(folder, self.settings)
        self.tokenizer = encoder.tokenizer
        (eos,) = self.tokenizer.eos_ids
        self.engine = FakeEngine(self.tokenizer.encode(text, add_special_tokens=False), eos)
        keys = ApiKeys.load(self.settings)
        self.context = ServerContext.create(self.settings, self.engine, encoder, keys, tracing)
        self.app = create_app(self.context)
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=False), base_url="http://test"
        )

    async def post(self, path: str, body: Any = None, **kwargs: Any) -> httpx.Response:
        return (
            await self.client.post(path, json=body, **kwargs)
            if body is not None
            else await self.client.post(path, **kwargs)
        )

    async def get(self, path: str, **kwargs: Any) -> httpx.Response:
        return await self.client.get(path, **kwargs)

    async def close(self) -> None:
        await self.client.aclose()
        self.context.encoder.close()


def events(response: httpx.Response) -> list[Any]:
    """The JSON of each server-sent event; the closing [DONE] as that string."""
    frames = response.text.split("\n\n")
    assert frames.pop() == ""
    return [_payload(frame) for frame in frames if not frame.startswith(":")]


def _payload(frame: str) -> Any:
    assert frame.startswith("data: "), frame
    data = frame.removeprefix("data: ")
    return data if data == "[DONE]" else json.loads(data)


async def metric(front: Front, name: str) -> float:
    """The value of one sample of /metrics, labels included in the name; 0 where there is none."""
    for line in (await front.get("/metrics")).text.splitlines():
        sample, _, value = line.rpartition(" ")
        if sample == name:
            return float(value)
    return 0.0


class _QuietServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


@contextlib.asynccontextmanager
async def listening(front: Front, certificate: Certificate | None = None) -> AsyncIterator[str]:
    """Serve over a real socket; yields the address, "http://127.0.0.1:PORT", with a certificate "https://..."."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = _QuietServer(uvicorn_config(front.app, front.settings, certificate))
    serving = asyncio.create_task(server.serve([listener]))
    try:
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
        listener.close()


async def until(condition: Any, seconds: float = 60.0) -> None:
    """Wait until `condition()` holds. Raises TimeoutError when it does not in time."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - any condition, also one that nobody announces
            await asyncio.sleep(0.005)


__all__ = ["FakeEngine", "Front", "TextgenError", "events", "listening", "metric", "until", "write_model_folder"]
