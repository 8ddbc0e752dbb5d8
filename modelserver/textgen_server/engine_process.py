"""A rank's process: `python -m textgen_server.engine_process`, started by the launcher and by nobody else.

Rank 0 is the engine: scheduler, loop, gRPC service, and the first shard of the model. The other ranks hold their shards
and obey. A rank reads its orders as one line of JSON from standard input, and leaves when that is closed, so that no
rank outlives a launcher that was killed.

torch is imported where there is a model: a mock engine starts without it.
"""

import asyncio
import logging
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from textgen_server import garbage
from textgen_server.engine.blocks import BlockManager
from textgen_server.engine.constraints import GrammarCompiler, Vocabulary
from textgen_server.engine.executor import Executor
from textgen_server.engine.loop import EngineLoop
from textgen_server.engine.scheduler import Limits, Scheduler
from textgen_server.errors import StartupError, TextgenError
from textgen_server.grammars import COMPILER_STACK_BYTES
from textgen_server.rpc.engine_pb2 import EngineInfo
from textgen_server.rpc.service import EngineService, serve
from textgen_server.settings import ServerOptions
from textgen_server.telemetry import configure_logging
from textgen_server.text.tokenizer import Tokenizer

_log = logging.getLogger(__name__)


class Orders(BaseModel):
    """What a rank needs to know.

    Attributes:
        folder: the model's files.
        sha: the commit of a hub repository, else "".
        adapters: folders of LoRA adapters, by name.
        merge: folder of an adapter to be added to the weights; None for none.
        rank, size: number of this rank, of how many.
        here: how many of them are on this machine.
        rendezvous: "tcp://host:port" where the ranks meet.
        plans: where rank 0 opens the pipes for plans: a Unix socket, or host and port.
        socket: path of the engine's gRPC socket.
        secret: shared by the ranks of one start, for those pipes.
    """

    options: ServerOptions
    folder: Path
    sha: str
    adapters: dict[str, Path]
    merge: Path | None
    rank: int
    size: int
    here: int
    rendezvous: str
    plans: Path | tuple[str, int]
    socket: Path
    secret: bytes


def main() -> int:
    orders = Orders.model_validate_json(sys.stdin.readline())
    configure_logging(orders.options.log_level, orders.options.json_output)
    threading.Thread(target=_leave_with_the_launcher, daemon=True).start()
    # Ctrl-C goes to the whole group; only the launcher decides when ranks end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return _run(orders)
    except TextgenError as error:
        _log.error("%s", error, extra={"fields": {"error_type": error.error_type}})
        return StartupError.exit_code


def _leave_with_the_launcher() -> None:
    while sys.stdin.readline():
        pass
    os._exit(0)


@dataclass(frozen=True)
class _Muscle:
    """What carries out plans, and what there is to know of it.

    Attributes:
        max_prefill_tokens: most prompt tokens of one step.
        max_positions: longest sequence that the model can take.
        info: as clients get it, but for the limits.
        long_from, restarts_long: as in engine.scheduler.Limits.
    """

    executor: Executor
    block_size: int
    num_blocks: int
    max_prefill_tokens: int
    max_positions: int
    info: EngineInfo
    long_from: int = 0
    restarts_long: bool = False

    @property
    def encodes(self) -> bool:
        """True for an encoder-decoder."""
        return bool(self.info.HasField("decoder_start_token"))


def _run(orders: Orders) -> int:
    if orders.options.mock_engine:
        mock = _mock(orders)
        return asyncio.run(_serve(orders, mock, _grammars(orders, mock.info.vocab_size)))
    return _run_model(orders)


def _mock(orders: Orders) -> _Muscle:
    from textgen_server.mock_engine import MockExecutor

    mock = MockExecutor(orders.options, orders.folder)
    for name, folder in orders.adapters.items():
        mock.load_adapter(name, folder)
    info = EngineInfo(
        model_type=mock.model_type,
        dtype="mock",
        device="mock",
        vocab_size=mock.vocab_size,
        attention_backend="mock",
        longest_step_seconds=mock.longest_step_seconds,
    )
    return _Muscle(mock, mock.block_size, mock.num_blocks, mock.max_prefill_tokens, mock.max_positions, info)


def _run_model(orders: Orders) -> int:
    import torch

    from textgen_server import parallel
    from textgen_server.models.config import read_config
    from textgen_server.runner.load import prepare_device
    from textgen_server.runner.pipes import accept_workers
    from textgen_server.runner.room import device_name
    from textgen_server.runner.runner import Runner
    from textgen_server.runner.worker import ShardedExecutor, obey

    torch.set_grad_enabled(False)
    device = prepare_device(orders.options, orders.rank % orders.here, orders.here)
    group = parallel.join(orders.rank, orders.size, orders.rendezvous, device, orders.here)
    aside = ThreadPoolExecutor(1, thread_name_prefix="grammars")
    try:
        vocab_size = read_config(orders.folder, orders.options.trust_remote_code).vocab_size
        grammars = None if orders.rank else aside.submit(_grammars, orders, vocab_size)
        runner = Runner(orders.options, orders.folder, device, group, orders.adapters, orders.merge)
        if grammars is None:
            obey(runner, orders.plans, orders.secret)
            return 0
        workers = accept_workers(orders.plans, orders.secret, orders.size - 1) if orders.size > 1 else []
        loaded = runner.loaded
        info = EngineInfo(
            model_type=loaded.config.model_type,
            dtype=str(loaded.dtype).removeprefix("torch."),
            device=device_name(loaded.device),
            vocab_size=loaded.config.vocab_size,
            attention_backend=loaded.attention.__name__,
            decoder_start_token=loaded.config.decoder_start_token,
            quantize=loaded.quantize,
            longest_step_seconds=runner.warmup_seconds,
        )
        long = loaded.config.long_rope
        muscle = _Muscle(
            ShardedExecutor(runner, workers),
            runner.layout.block_size,
            runner.num_blocks,
            runner.max_prefill_tokens,
            loaded.config.max_positions,
            info,
            long.original if long else 0,
            loaded.config.family.restarts_long,
        )
        return asyncio.run(_serve(orders, muscle, grammars.result()))
    finally:
        aside.shutdown()
        parallel.leave(group)


async def _serve(orders: Orders, muscle: _Muscle, grammars: GrammarCompiler | None) -> int:
    limits = _limits(orders.options, muscle)
    # Every key of an encoder depends on the whole prompt, so no prefix can be shared.
    caching = orders.options.prefix_caching and not muscle.encodes
    blocks = BlockManager(muscle.num_blocks, muscle.block_size, caching)
    service = EngineService(_describe(orders, muscle, limits), grammars)
    loop = EngineLoop(Scheduler(blocks, limits), muscle.executor, service.publish, list(orders.adapters))
    service.attach(loop)
    server = await serve(service, f"unix:{orders.socket}")
    garbage.take_over()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, loop.stop)
    try:
        await asyncio.to_thread(loop.run)
    except Exception:
        _log.exception("the engine broke")
        await asyncio.sleep(0.2)  # what the loop published last must still leave this process
        return 1
    finally:
        await server.stop()
    return 0


def _grammars(orders: Orders, vocab_size: int) -> GrammarCompiler | None:
    if orders.options.disable_grammar_support:
        return None
    tokenizer = Tokenizer.load(orders.folder, orders.options.tokenizer_config_path)
    # Without an end-of-sequence token, some other that is no text stands for the end.
    ends = tokenizer.eos_ids or sorted(tokenizer.special_ids)[:1]
    try:
        vocabulary = Vocabulary.read((orders.folder / "tokenizer.json").read_text(), ends, vocab_size)
    except ValueError as error:
        _log.warning("requests with a grammar will be refused: llguidance cannot read the tokenizer: %s", error)
        return None
    threading.stack_size(COMPILER_STACK_BYTES)
    return GrammarCompiler(vocabulary)


def _limits(options: ServerOptions, muscle: _Muscle) -> Limits:
    """The user's limits, within what model and cache allow."""
    positions, cached = muscle.max_positions, muscle.num_blocks * muscle.block_size
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
    return Limits(
        options.max_batch_size,
        muscle.max_prefill_tokens,
        wanted,
        options.speculate,
        muscle.long_from,
        muscle.restarts_long,
    )


def _describe(orders: Orders, muscle: _Muscle, limits: Limits) -> EngineInfo:
    # The start token of a decoder takes a place that clients do not see.
    total = limits.max_total_tokens - muscle.encodes
    longest = orders.options.longest_input or total - 1
    if muscle.encodes:
        longest = min(longest, limits.max_prefill_tokens - 1)
    info = EngineInfo(
        model_sha=orders.sha,
        num_shard=orders.size,
        block_size=muscle.block_size,
        num_blocks=muscle.num_blocks,
        max_input_tokens=longest,
        max_total_tokens=total,
        max_batch_prefill_tokens=limits.max_prefill_tokens,
        adapters=list(orders.adapters),
    )
    info.MergeFrom(muscle.info)
    return info


if __name__ == "__main__":
    sys.exit(main())
