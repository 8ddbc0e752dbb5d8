"""Servers and batch programs that are measured side by side, and what the kernel says about their processes."""

import asyncio
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, Protocol

import aiohttp
import psutil
from load import Ask, Load, run

READY_SECONDS = 600


class Contestant(Protocol):
    """One of those that take turns.

    Attributes:
        name: in the tables.
        ready_seconds: from its start until it can answer.
    """

    name: str
    ready_seconds: float

    def measure(self, clients: Sequence[Sequence[Ask]]) -> "Turn":
        """Carry out the load."""
        ...

    def stop(self) -> None:
        """End its processes."""
        ...


class Turn:
    """One contestant's part of a round.

    Attributes:
        load: what the clients saw; a batch program has no replies, only its speed.
        cpu_seconds: of all its processes; of a batch program, with the client's part in it.
        memory: bytes that its processes hold at the end, shared pages counted once.
    """

    def __init__(self, load: Load, cpu_seconds: float, memory: int, tokens: int) -> None:
        self.load = load
        self.cpu_seconds_per_1000 = cpu_seconds / tokens * 1000
        self.memory = memory


class Processes:
    """A program and all that it starts, in a group of their own; still while it is not their turn."""

    def __init__(self, command: Sequence[str], **options: object) -> None:
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "VLLM_NO_USAGE_STATS": "1"}
        self._words = tempfile.TemporaryFile()  # noqa: SIM115  what it complains of, shown only when it fails
        self.program = subprocess.Popen(command, env=environment, start_new_session=True, stderr=self._words, **options)  # type: ignore[call-overload]

    def all(self) -> list[psutil.Process]:
        try:
            first = psutil.Process(self.program.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu_seconds(self) -> float:
        times = [process.cpu_times() for process in self.all()]
        return sum(time.user + time.system for time in times)

    def memory(self) -> int:
        return sum(process.memory_full_info().pss for process in self.all())

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Outside of this its processes do not run."""
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.pause()

    def fail(self, name: str) -> NoReturn:
        """Say why there is nothing to measure. Raises SystemExit."""
        self.end()
        self._words.seek(0)
        sys.stderr.write(self._words.read()[-3000:].decode(errors="replace"))
        raise SystemExit(f"{name} ended, or did not start: {shlex.join(self.program.args)}")

    def end(self) -> None:
        processes = self.all()
        self._signal(signal.SIGCONT)
        self.program.terminate()
        _, left = psutil.wait_procs(processes, 30)
        for process in left:
            process.kill()
        self.program.wait()

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def _signal(self, number: signal.Signals) -> None:
        for process in self.all():
            process.send_signal(number)


class Server:
    """A program that answers OpenAI's API at the port in its command."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        port = _free_port()
        self._url = f"http://127.0.0.1:{port}"
        started = time.perf_counter()
        self._processes = Processes([part.replace("{port}", str(port)) for part in command], stdout=subprocess.DEVNULL)
        asyncio.run(self._ready())
        self.ready_seconds = time.perf_counter() - started
        self._processes.pause()

    async def _ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        async with aiohttp.ClientSession() as session:
            while self._processes.program.poll() is None and time.monotonic() < deadline:
                try:
                    async with session.get(f"{self._url}/health") as reply:
                        if reply.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)
        self._processes.fail(self.name)

    def measure(self, clients: Sequence[Sequence[Ask]]) -> Turn:
        with self._processes.awake():
            before = self._processes.cpu_seconds()
            load = asyncio.run(run(self._url, clients))
            return Turn(load, self._processes.cpu_seconds() - before, self._processes.memory(), load.tokens)

    def stop(self) -> None:
        self._processes.end()


class Program:
    """A program without HTTP: reads batches of prompts as lines of JSON and answers with the seconds that each took."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        started = time.perf_counter()
        self._processes = Processes(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()
        self.ready_seconds = time.perf_counter() - started
        self._processes.pause()

    def _answer(self) -> float:
        output = self._processes.program.stdout
        line = output.readline()
        while line and not line.startswith("seconds "):  # libraries print what they like
            line = output.readline()
        if not line:
            self._processes.fail(self.name)
        return float(line.split()[1])

    def measure(self, clients: Sequence[Sequence[Ask]]) -> Turn:
        asks = [ask for of_client in clients for ask in of_client]
        if len({ask.new_tokens for ask in asks}) > 1:
            raise SystemExit(f"{self.name} takes whole batches only; leave it out of this load")
        with self._processes.awake():
            before = self._processes.cpu_seconds()
            batch = {"prompts": [ask.prompt for ask in asks], "new_tokens": asks[0].new_tokens}
            self._processes.program.stdin.write(json.dumps(batch) + "\n")
            self._processes.program.stdin.flush()
            seconds, tokens = self._answer(), len(asks) * asks[0].new_tokens
            cpu = self._processes.cpu_seconds() - before
            return Turn(Load(tokens / seconds, []), cpu, self._processes.memory(), tokens)

    def stop(self) -> None:
        self._processes.end()


def textgen(flags: Sequence[str]) -> Server:
    """A textgen-server of this environment, with the embedded model unless the flags name another."""
    program = str(Path(sys.executable).with_name("textgen-server"))
    return Server("textgen", [program, "--hostname", "127.0.0.1", "--port", "{port}", "--log-level", "warning", *flags])


def transformers() -> Program:
    """transformers' `generate` of this environment, with the embedded model."""
    return Program("transformers", [sys.executable, str(Path(__file__).parent / "peers" / "transformers_batch.py")])


def parse(text: str) -> tuple[str, list[str]]:
    """NAME=COMMAND. Raises ValueError."""
    name, _, command = text.partition("=")
    if not name or not command:
        raise ValueError(f"{text!r} is not NAME=COMMAND")
    return name, shlex.split(command)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
