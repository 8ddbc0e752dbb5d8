"""How large a step and a KV cache the device's memory allows, found by trying. Called by the runner, on every rank.

The largest step runs first, on a cache just large enough. What it leaves is the cache's. What does not fit is tried
smaller: a server that takes shorter steps, or holds fewer tokens, is better than none.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch

from textgen_server import host_memory
from textgen_server.errors import OutOfMemory
from textgen_server.models.base import LayerCache
from textgen_server.parallel import Group
from textgen_server.runner.kv_cache import CacheLayout
from textgen_server.runner.room import device_name, free_bytes
from textgen_server.settings import ServerOptions

_log = logging.getLogger(__name__)

LEAST_PREFILL_TOKENS = 16
# Of what is free of main memory, for what is not measured: other processes of the container, the allocator's scraps.
SPARED = 0.1
DEFAULT_CPU_BYTES = 1 << 30
# Of main memory that is free, as long as nobody asks for more.
DEFAULT_CPU_SHARE = 0.25

# What the KV cache leaves on a GPU where adapters are loaded while serving: three of rank 64 on all of a 7B model.
ROOM_FOR_ADAPTERS = 1 << 30

Caches = list[LayerCache]


@dataclass(frozen=True)
class Step:
    """The largest step: its prompt tokens, and the bytes that it takes while it runs."""

    tokens: int
    num_bytes: int


@dataclass(frozen=True)
class Sizer:
    """Sizes one rank's steps and cache, and agrees with the other ranks.

    Attributes:
        longest: tokens of the longest sequence that there can be.
        rehearse: run the largest prefill of so many tokens, and a decode, on these caches, without the other ranks.
            Raises torch.OutOfMemoryError.
        later: bytes of a GPU that are taken once the cache is there, known when a step has been rehearsed.
    """

    options: ServerOptions
    layout: CacheLayout
    device: torch.device
    group: Group
    longest: int
    rehearse: Callable[[Caches, int], None]
    later: Callable[[], int] = lambda: 0

    def largest_step(self, tokens: int) -> Step:
        """The step of `tokens` prompt tokens, or of as many as fit.

        Raises:
            OutOfMemory: not even the smallest step fits.
        """
        while (num_bytes := self._bytes_of_step(tokens)) is None:
            if tokens <= LEAST_PREFILL_TOKENS:
                raise OutOfMemory(
                    f"a step of {tokens} prompt tokens does not fit on {device_name(self.device)} beside the weights: "
                    "raise --num-shard, choose a --quantize with fewer bits, or load fewer adapters"
                )
            _log.warning("no memory for a step of %d prompt tokens; trying %d", tokens, tokens // 2)
            tokens = max(tokens // 2, LEAST_PREFILL_TOKENS)
        return Step(self.group.min(tokens), num_bytes)

    def cache(self, step: Step) -> Caches:
        """The KV cache beside which `step` fits, of the same size on all ranks.

        Raises:
            OutOfMemory: there is no room for two blocks.
        """
        blocks = wanted = self._wanted_blocks(step)
        while (caches := self._try_cache(blocks, step)) is None:
            blocks = blocks * 19 // 20
            if blocks < 2:
                raise OutOfMemory(self._no_room(0))
        agreed = self.group.min(blocks)
        if agreed < blocks:
            del caches  # before there are others
            caches = self.layout.allocate(agreed, self.device)
        if agreed < wanted:
            _log.warning("%d blocks of KV cache would fit, and did not; %d do, on every rank", wanted, agreed)
        size = self.layout.block_size
        _log.info(
            "KV cache: %d blocks of %d tokens = %d tokens, %.2f GB of %s on %s",
            agreed, size, agreed * size, agreed * self.layout.block_bytes / 1e9, self.layout.dtype,
            device_name(self.device),
        )  # fmt: skip
        return caches

    def _bytes_of_step(self, tokens: int) -> int | None:
        """What the step takes beside what is held anyway; None where it does not fit."""
        blocks = -(-tokens // self.layout.block_size)
        _forget_peak(self.device)
        peak: int | None = None
        try:
            self.rehearse(self.layout.allocate(blocks, self.device), tokens)
            peak = _peak(self.device) - blocks * self.layout.block_bytes
        except torch.OutOfMemoryError:
            pass
        # Only now have the step's tensors gone, which an error holds on to.
        _release(self.device)
        return None if peak is None else max(peak - _held(self.device), 0)

    def _try_cache(self, blocks: int, step: Step) -> Caches | None:
        try:
            caches = self.layout.allocate(blocks, self.device)
            if self.device.type == "cuda":  # main memory is taken when it is written to, not before
                self.rehearse(caches, step.tokens)
            return caches
        except torch.OutOfMemoryError:
            caches = []
        _release(self.device)
        return None

    def _wanted_blocks(self, step: Step) -> int:
        """As the flags say, within what the step leaves on every rank."""
        self.group.min(0)  # until all ranks hold what they hold
        room = free_bytes(self.options, self.device, self.group)
        if room is not None:
            room -= step.num_bytes + self.later()
            if self.options.lora_loading and self.device.type == "cuda":
                room -= ROOM_FOR_ADAPTERS
        wanted = room if self.device.type == "cuda" else self._wanted_of_main_memory(room)
        blocks = (wanted or 0) // self.layout.block_bytes
        if self.options.max_batch_total_tokens:
            blocks = min(blocks, -(-self.options.max_batch_total_tokens // self.layout.block_size))
        blocks = self.group.min(blocks)
        if blocks < 2:
            raise OutOfMemory(self._no_room(wanted or 0))
        return blocks

    def _wanted_of_main_memory(self, room: int | None) -> int:
        """By --cpu-kv-cache-gib, else enough for the longest sequence within bounds; and no more than there is."""
        if self.options.cpu_kv_cache_gib is not None:
            wanted = int(self.options.cpu_kv_cache_gib * 2**30) // self.group.size_here
        else:
            longest = -(-self.longest // self.layout.block_size) * self.layout.block_bytes
            wanted = max(DEFAULT_CPU_BYTES // self.group.size_here, min(longest, int((room or 0) * DEFAULT_CPU_SHARE)))
        most = wanted if room is None else max(int(room * (1 - SPARED)), 0)
        if wanted > most:
            _log.warning(
                "a KV cache of %.2f GB does not fit into the memory that is free; it gets %.2f GB",
                wanted / 1e9, most / 1e9,
            )  # fmt: skip
        return min(wanted, most)

    def _no_room(self, room: int) -> str:
        flag = "--cuda-memory-fraction" if self.device.type == "cuda" else "--cpu-kv-cache-gib, the container's memory"
        return (
            f"no room for a KV cache: a block of {self.layout.block_size} tokens takes "
            f"{self.layout.block_bytes / 1e6:.1f} MB, and {max(room, 0) / 1e6:.1f} MB are left for two at least; raise "
            f"{flag}, lower --max-batch-prefill-tokens, or quantize the model"
        )


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        host_memory.forget_peak()


def _peak(device: torch.device) -> int:
    """Most bytes that this process has held since `_forget_peak`."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else host_memory.peak_bytes()


def _held(device: torch.device) -> int:
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else host_memory.held_bytes()


def _release(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
