"""The ranks' processes on this node: started, watched, ended. Used by whoever leads (supervisor.py) and by followers
(nodes/follower.py); nothing else owns processes."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import orjson
from pydantic import BaseModel

from textgen_server.errors import StartupError
from textgen_server.settings import ServerOptions
from textgen_server.weights.source import ModelFolder

# What a rank's environment has unless the user's has it already. Threads of a parallel region that wait for the last
# one spin only briefly: where something else wants the core that the last one needs, long spinning made a step on two
# busy cores 4 to 15 times slower, and short spinning costs nothing measurable on quiet ones.
RANK_ENVIRONMENT = {"GOMP_SPINCOUNT": "2000"}


class Meeting(BaseModel):
    """Where the ranks of one start meet: the same on every node.

    Attributes:
        number: of the start, from 1.
        rendezvous: "tcp://host:port" of the process group.
        plans: of the pipes from rank 0: a Unix socket, or host and port.
        nonce: what the pipes' key is made of, with the secret.
    """

    number: int
    rendezvous: str
    plans: Path | tuple[str, int]
    nonce: str


class Ranks:
    """The ranks of this node."""

    def __init__(self, options: ServerOptions, model: ModelFolder) -> None:
        self.count = shard_count(options)
        self._options = options
        self._model = model
        self._processes: list[asyncio.subprocess.Process] = []

    async def start(self, meeting: Meeting, key: bytes, engine_socket: Path, adapters: Mapping[str, Path]) -> None:
        """Start every rank.

        Args:
            key: of the pipes that carry plans.
            engine_socket: where rank 0 will answer.
            adapters: what the model has from the start, by name.
        """
        for place in range(self.count):
            orders: dict[str, object] = {
                "options": self._options.model_dump(exclude_unset=True),
                "folder": str(self._model.path),
                "sha": self._model.sha,
                "adapters": {name: str(folder) for name, folder in adapters.items()},
                "merge": str(self._model.merge) if self._model.merge else None,
                "rank": self._options.node_rank * self.count + place,
                "size": self._options.nnodes * self.count,
                "here": self.count,
                "rendezvous": meeting.rendezvous,
                "plans": str(meeting.plans) if isinstance(meeting.plans, Path) else meeting.plans,
                "socket": str(engine_socket),
                "secret": key.hex(),
            }
            self._processes.append(await _spawn(orders))

    async def first_exit(self) -> int:
        """The exit code of the first rank that ends."""
        waits = [asyncio.create_task(process.wait()) for process in self._processes]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
        return done.pop().result()

    async def stop(self, seconds: float) -> None:
        """End every rank: politely, and after `seconds` by force. Stuck ranks are not asked: give them 0."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM if seconds else signal.SIGKILL)
        waiting = asyncio.gather(*(process.wait() for process in self._processes))
        try:
            await asyncio.wait_for(asyncio.shield(waiting), seconds or None)
        except TimeoutError:
            for process in self._processes:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            await waiting
        self._processes = []


async def _spawn(orders: dict[str, object]) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "textgen_server.engine_process",
        stdin=asyncio.subprocess.PIPE,
        start_new_session=True,  # signals from the terminal are the launcher's alone
        env={**RANK_ENVIRONMENT, **os.environ},
    )
    if process.stdin is None:
        raise StartupError("the engine process has no standard input")
    process.stdin.write(orjson.dumps(orders) + b"\n")
    await process.stdin.drain()
    return process


def shard_count(options: ServerOptions) -> int:
    """--num-shard, else as many as the variables that container runtimes set list, else 1 (TGI's rule)."""
    if options.mock_engine:
        return 1
    if options.num_shard is not None:
        return options.num_shard
    if options.sharded is False or options.device == "cpu":
        return 1
    listed = os.environ.get("CUDA_VISIBLE_DEVICES") or os.environ.get("NVIDIA_VISIBLE_DEVICES") or ""
    count = len(list(Path("/dev").glob("nvidia[0-9]*"))) if listed in ("all", "void") else len(listed.split(","))
    if options.sharded and count < 2:
        raise StartupError("--sharded true needs more than one GPU; give --num-shard, or leave it out")
    return max(count, 1)
