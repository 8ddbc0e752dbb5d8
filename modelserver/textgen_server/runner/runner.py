"""One rank's muscle: carries out plans on the device. Called by the loop (rank 0) and by worker.py (the others)."""

import logging
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from textgen_server.attention.select import block_size_for
from textgen_server.engine.plan import Item, Masks, Sample, Scores, StepPlan, StepResult
from textgen_server.errors import GenerationError, InvalidRequest, OutOfMemory
from textgen_server.parallel import Group
from textgen_server.runner.inputs import StepInputs, Targets, build
from textgen_server.runner.kv_cache import CacheLayout
from textgen_server.runner.load import device_name, load_model
from textgen_server.runner.sampler import masks_of, sample, score
from textgen_server.sampling import SamplingParams
from textgen_server.settings import ServerOptions
from textgen_server.watermark import Watermark

_log = logging.getLogger(__name__)

PREFILL_TOKENS_GPU = 4096
PREFILL_TOKENS_CPU = 512
SCORED_ROWS = 256
"""Rows of prompt log-probabilities at a time: 256 rows of 128k logits are 131 MB."""


class Runner:
    """A model, its KV cache, and one step after another.

    Everything about the step is in the plan: the runner remembers nothing between steps but the cache's contents.
    """

    def __init__(
        self,
        options: ServerOptions,
        folder: Path,
        device: torch.device,
        group: Group,
        adapters: Mapping[str, Path] = MappingProxyType({}),
        merge: Path | None = None,
    ) -> None:
        self.group = group
        self.device = device
        self.loaded = load_model(options, folder, device, group, merge)
        for name, adapter in adapters.items():  # before the cache takes what memory is left
            self.load_adapter(name, adapter)
            _log.info("loaded the adapter %s from %s", name, adapter)
        backend = self.loaded.attention
        self.layout = CacheLayout(
            self.loaded.model.cache_spec, block_size_for(backend, options.block_size), self.loaded.dtype, backend
        )
        default = PREFILL_TOKENS_GPU if device.type == "cuda" else PREFILL_TOKENS_CPU
        self.max_prefill_tokens = min(options.max_batch_prefill_tokens or default, self.loaded.config.max_positions)
        self.warmup_seconds = 0.0
        self._watermark = Watermark(options.watermark_gamma, options.watermark_delta, options.watermark_key)
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="masks")
        self.num_blocks = self._size_cache(options)
        self.caches = self.layout.allocate(self.num_blocks, device)
        self._warm_up()

    def _size_cache(self, options: ServerOptions) -> int:
        """Blocks that fit on every rank, by the flags and by the memory that is left after the largest step."""
        if self.device.type == "cuda":
            room = self._measure_free_memory(options.cuda_memory_fraction)
        else:
            room = int(options.cpu_kv_cache_gib * 2**30) // self.group.size
        blocks = room // self.layout.block_bytes
        if options.max_batch_total_tokens:
            blocks = min(blocks, -(-options.max_batch_total_tokens // self.layout.block_size))
        blocks = self.group.min(blocks)
        if blocks < 2:
            flag = "--cuda-memory-fraction" if self.device.type == "cuda" else "--cpu-kv-cache-gib"
            raise OutOfMemory(
                f"no room for a KV cache: a block of {self.layout.block_size} tokens takes "
                f"{self.layout.block_bytes / 1e6:.1f} MB, and {max(room, 0) / 1e6:.1f} MB are left; raise {flag}, "
                "lower --max-batch-prefill-tokens, or quantize the model"
            )
        _log.info(
            "KV cache: %d blocks of %d tokens = %d tokens, %.2f GB on %s",
            blocks, self.layout.block_size, blocks * self.layout.block_size,
            blocks * self.layout.block_bytes / 1e9, device_name(self.device),
        )  # fmt: skip
        return blocks

    def _measure_free_memory(self, fraction: float) -> int:
        """Bytes of the GPU that the largest step leaves unused, found by running it on a small cache."""
        blocks = -(-self.max_prefill_tokens // self.layout.block_size)
        self.caches = self.layout.allocate(blocks, self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        self._warm_up()
        peak = torch.cuda.max_memory_reserved(self.device) - blocks * self.layout.block_bytes
        free, total = torch.cuda.mem_get_info(self.device)
        others = total - free - torch.cuda.memory_reserved(self.device)
        self.caches = []
        torch.cuda.empty_cache()
        return int(total * fraction) - others - peak

    def _warm_up(self) -> None:
        """Run the largest prefill and a decode, so that no request pays for what happens only once."""
        length = min(self.max_prefill_tokens, len(self._warmup_blocks()) * self.layout.block_size)
        choice = Sample(SamplingParams(), 0)
        encoder_length = length - 2 if self.loaded.config.family.encoder_decoder else 0
        prefill = StepPlan(
            [Item([0] * length, 0, self._warmup_blocks(), choice, encoder_length=encoder_length)], num_decodes=0
        )
        decode = StepPlan(
            [Item([0], length - 1, self._warmup_blocks(), choice, encoder_length=encoder_length)], num_decodes=1
        )
        started = time.monotonic()
        self.execute(prefill)
        self.warmup_seconds = time.monotonic() - started
        self.execute(decode)

    def _warmup_blocks(self) -> list[int]:
        needed = -(-self.max_prefill_tokens // self.layout.block_size)
        available = self.caches[0].keys.shape[0]
        return list(range(min(needed, available)))

    def load_adapter(self, name: str, folder: Path) -> None:
        """See engine.loop.Executor."""
        if self.loaded.adapters is None:
            raise InvalidRequest("this server takes no adapters: start it with --lora-adapters or --lora-loading true")
        self.loaded.adapters.load(name, folder)

    def unload_adapter(self, name: str) -> None:
        """See engine.loop.Executor."""
        if self.loaded.adapters is not None:
            self.loaded.adapters.unload(name)

    def execute(self, plan: StepPlan) -> StepResult:
        """Run one step; on rank 0 with the tokens chosen, on others with an empty result.

        Raises:
            GenerationError: the GPU's memory did not suffice for this step, and one rank is all there is.
        """
        try:
            with torch.inference_mode():
                return self._execute(build(plan, self.layout.block_size, self.device))
        except torch.OutOfMemoryError as error:
            if self.group.size > 1:
                raise
            torch.cuda.empty_cache()
            raise GenerationError("the GPU ran out of memory; lower --max-batch-prefill-tokens") from error

    def _execute(self, inputs: StepInputs) -> StepResult:
        model = self.loaded.model
        masks = self._start_masks(inputs.samples)
        if self.loaded.adapters is not None:
            self.loaded.adapters.use(inputs.adapters)
        hidden = model.forward(inputs.tokens, inputs.positions, inputs.batch, self.caches)
        scores = [self._score(hidden, targets) for targets in inputs.targets]
        if inputs.sample_rows is not None:
            hidden = hidden[inputs.sample_rows]
        logits = model.logits(hidden)
        if self.group.rank:
            return StepResult([], [])
        choice = StepResult([], [])
        if inputs.samples:
            choice = sample(logits, inputs.samples, masks.result() if masks else None, self._watermark)
        return replace(choice, scores=scores)

    def _start_masks(self, samples: list[Sample]) -> Future[Masks | None] | None:
        """Have what grammars allow computed beside the forward pass, if there are any."""
        if all(s.constraint is None for s in samples):
            return None
        return self._aside.submit(masks_of, samples, self.loaded.config.vocab_size)

    def _score(self, hidden: Tensor, targets: Targets) -> Scores:
        """Log-probabilities of `targets`, a slice of rows at a time, because logits are large."""
        scores = Scores([], [])
        for start in range(0, len(targets.tokens), SCORED_ROWS):
            tokens = targets.tokens[start : start + SCORED_ROWS]
            first = targets.first_row + start
            part = score(self.loaded.model.logits(hidden[first : first + len(tokens)]), tokens, targets.top)
            scores.logprobs.extend(part.logprobs)
            scores.tops.extend(part.tops)
        return scores
