"""A rank's process: `python -m textgen_server.engine_process`, started by the launcher and by nobody else.

Rank 0 is the engine: scheduler, loop, gRPC service, and the first shard of the model. The other ranks hold their shards
and obey. A rank reads its orders as one line of JSON from standard input, and leaves when that is closed, so that no
rank outlives a launcher that was killed.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
from pathlib import Path

import torch
from pydantic import BaseModel

from textgen_server import parallel
from textgen_server.engine.blocks import BlockManager
from textgen_server.engine.loop import EngineLoop
from textgen_server.engine.scheduler import Limits, Scheduler
from textgen_server.errors import StartupError, TextgenError
from textgen_server.rpc.engine_pb2 import EngineInfo
from textgen_server.rpc.service import EngineService, serve
from textgen_server.runner.load import device_name, prepare_device
from textgen_server.runner.runner import Runner
from textgen_server.runner.worker import ShardedExecutor, accept_workers, obey
from textgen_server.settings import ServerOptions
from textgen_server.telemetry import configure_logging

_log = logging.getLogger(__name__)


class Orders(BaseModel):
    """What a rank needs to know.

    Attributes:
        folder: the model's files.
        sha: the commit of a hub repository, else "".
        rendezvous: "tcp://host:port" where the ranks meet.
        socket: path of the engine's gRPC socket; the workers' pipe is beside it.
        secret: shared by the ranks of one server, for that pipe.
    """

    options: ServerOptions
    folder: Path
    sha: str
    rank: int
    size: int
    rendezvous: str
    socket: Path
    secret: bytes

    @property
    def pipe(self) -> Path:
        return self.socket.with_name(self.socket.name + "-plans")


def main() -> int:
    orders = Orders.model_validate_json(sys.stdin.readline())
    configure_logging(orders.options.log_level, orders.options.json_output)
    threading.Thread(target=_leave_with_the_launcher, daemon=True).start()
    # Ctrl-C goes to the whole group; only the launcher decides when ranks end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return _run(orders)
    except TextgenError as error:
        _log.error("%s", error)
        return StartupError.exit_code


def _leave_with_the_launcher() -> None:
    while sys.stdin.readline():
        pass
    os._exit(0)


def _run(orders: Orders) -> int:
    device = prepare_device(orders.options, orders.rank, orders.size)
    group = parallel.join(orders.rank, orders.size, orders.rendezvous, device)
    try:
        runner = Runner(orders.options, orders.folder, device, group)
        if orders.rank:
            obey(runner, orders.pipe, orders.secret)
            return 0
        return asyncio.run(_serve(orders, runner))
    finally:
        parallel.leave(group)


async def _serve(orders: Orders, runner: Runner) -> int:
    workers = accept_workers(orders.pipe, orders.secret, orders.size - 1) if orders.size > 1 else []
    limits = _limits(orders.options, runner)
    blocks = BlockManager(runner.num_blocks, runner.layout.block_size, orders.options.prefix_caching)
    service = EngineService(_describe(orders, runner, limits))
    loop = EngineLoop(Scheduler(blocks, limits), ShardedExecutor(runner, workers), service.publish)
    service.attach(loop)
    server = await serve(service, f"unix:{orders.socket}")
    gc.collect()
    gc.freeze()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, loop.stop)
    try:
        await asyncio.to_thread(loop.run)
    except Exception:
        _log.exception("the engine broke")
        await asyncio.sleep(0.2)  # what the loop published last must still leave this process
        return 1
    finally:
        await server.stop(grace=None)
    return 0


def _limits(options: ServerOptions, runner: Runner) -> Limits:
    """The user's limits, within what model and cache allow."""
    positions, cached = runner.loaded.config.max_positions, runner.num_blocks * runner.layout.block_size
    longest = min(positions, cached)
    wanted = options.max_total_tokens or longest
    if wanted > longest:
        raise StartupError(
            f"--max-total-tokens {wanted} is too much: the model has {positions} positions and the KV cache holds "
            f"{cached} tokens; {longest} is the most"
        )
    if options.longest_input is not None and options.longest_input >= wanted:
        raise StartupError(
            f"--max-input-tokens {options.longest_input} leaves no token to generate: it must be less than "
            f"the {wanted} that prompt and output may have together"
        )
    return Limits(options.max_batch_size, runner.max_prefill_tokens, wanted)


def _describe(orders: Orders, runner: Runner, limits: Limits) -> EngineInfo:
    loaded = runner.loaded
    return EngineInfo(
        model_type=loaded.config.model_type,
        model_sha=orders.sha,
        dtype=str(loaded.dtype).removeprefix("torch."),
        device=device_name(loaded.device),
        num_shard=orders.size,
        block_size=runner.layout.block_size,
        num_blocks=runner.num_blocks,
        max_input_tokens=orders.options.longest_input or limits.max_total_tokens - 1,
        max_total_tokens=limits.max_total_tokens,
        max_batch_prefill_tokens=limits.max_prefill_tokens,
        vocab_size=loaded.config.vocab_size,
        attention_backend=loaded.attention.__name__,
        quantize=loaded.quantize,
        longest_step_seconds=runner.warmup_seconds,
    )


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    sys.exit(main())
