"""One rank's muscle: carries out plans on the device. Called by the loop (rank 0) and by worker.py (the others)."""

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from textgen_server.attention.select import block_size_for
from textgen_server.engine.plan import NO_MEMORY, Item, Masks, Sample, StepPlan
from textgen_server.errors import GenerationError, InvalidRequest
from textgen_server.models.base import LayerCache
from textgen_server.parallel import Group
from textgen_server.runner.decode import Decodes, default_sizes
from textgen_server.runner.graphs import capturable
from textgen_server.runner.inputs import StepInputs, Targets, build
from textgen_server.runner.kv_cache import CacheLayout
from textgen_server.runner.load import load_model
from textgen_server.runner.room import spare_bytes
from textgen_server.runner.sampler import Chosen, Scored, masks_of, sample, score
from textgen_server.runner.sizing import Sizer
from textgen_server.runner.step import LaunchedStep, Pass
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

    Everything about the step is in the plan: the runner remembers nothing between steps but the cache's contents, and
    on the device the tokens that the last plan chose.

    Attributes:
        ahead: see engine.executor.Executor. The other ranks would not know tokens that the host does not know.
        decodes: carries out steps that only decode; None where all steps are built anew.
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
        self.ahead = int(device.type == "cuda" and group.size == 1)
        self.decodes: Decodes | None = None
        self._previous = torch.zeros(0, dtype=torch.int64, device=device)
        self.loaded = load_model(options, folder, device, group, merge)
        self._rehearsed = next(iter(adapters), "")
        self._long = self.loaded.config.long_rope
        for name, adapter in adapters.items():  # before the cache takes what memory is left
            self.load_adapter(name, adapter)
            _log.info("loaded the adapter %s from %s", name, adapter)
        backend = self.loaded.attention
        self.layout = CacheLayout(
            self.loaded.model.cache_spec, block_size_for(backend, options.block_size), self.loaded.cache_dtype, backend
        )
        default = PREFILL_TOKENS_GPU if device.type == "cuda" else PREFILL_TOKENS_CPU
        self.warmup_seconds = 0.0
        self._watermark = Watermark(options.watermark_gamma, options.watermark_delta, options.watermark_key)
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="masks")
        positions = self.loaded.config.max_positions
        self._longest = min(options.max_total_tokens or positions, positions)
        self._most_choices = options.max_batch_size * (1 + options.speculate)
        self._graph_sizes = self._sizes_of_graphs(options)
        self._bytes_per_graph = 0
        sizer = Sizer(
            options, self.layout, device, group, self._longest, self._rehearse,
            later=lambda: self._bytes_per_graph * len(self._graph_sizes),
        )  # fmt: skip
        step = sizer.largest_step(min(options.max_batch_prefill_tokens or default, positions))
        self.max_prefill_tokens = step.tokens
        self.caches = sizer.cache(step)
        self.num_blocks = self.caches[0].keys.shape[0]
        if self._graph_sizes:
            self.num_blocks -= 1  # the padding's
        if self.loaded.adapters is not None:
            self.loaded.adapters.room = lambda: spare_bytes(options, device, group, step.num_bytes)
        if device.type == "cuda" or group.size > 1:  # once more, on the real cache and with all ranks
            self._warm_up(self.caches, step.tokens)
        if self._graph_sizes:
            try:
                self.decodes = self._captured(self.caches, self._graph_sizes)
            except torch.OutOfMemoryError:
                _log.warning("no memory for CUDA graphs, so decode steps are slower: lower --cuda-memory-fraction")

    def _sizes_of_graphs(self, options: ServerOptions) -> list[int]:
        """Of which batches decode steps are captured; none where that cannot be."""
        # Collectives could be captured too, and the ranks would have to fall back together where one of them cannot.
        if self.device.type != "cuda" or self.group.size > 1 or not capturable(self.loaded.model):
            return []
        if options.cuda_graphs:
            return sorted({size for size in options.cuda_graphs if size})
        return default_sizes(options.max_batch_size)

    def _captured(self, caches: list[LayerCache], sizes: list[int]) -> Decodes:
        """Decode steps of these sizes, as CUDA graphs if it can be. Raises torch.OutOfMemoryError."""
        self._use_adapters([])
        with torch.inference_mode():
            decodes = self.make_decodes(caches, sizes)
            decodes.capture()
        return decodes

    def make_decodes(self, caches: list[LayerCache], sizes: list[int]) -> Decodes:
        """Decode steps of batches up to the largest of `sizes`, not captured."""
        return Decodes(
            sizes, self.loaded.model, caches, self.layout.block_size, self._longest, self._most_choices, self._long
        )

    def _rehearse(self, caches: list[LayerCache], tokens: int) -> None:
        decodes: Decodes | None = None  # held while the prefill runs: what its graphs take is nobody else's
        if self._graph_sizes:  # the largest takes what the others need too, but for what the driver keeps of each
            decodes = self._captured(caches, self._graph_sizes[-1:])
            self._bytes_per_graph = decodes.driver_bytes
            self._graph_sizes = self._graph_sizes if decodes.sizes else []
        with self.group.rehearsal():
            self._warm_up(caches, tokens)
        del decodes

    def _warm_up(self, caches: list[LayerCache], tokens: int) -> None:
        """Run the largest prefill and a decode, so that no request pays for what happens only once. Raises
        torch.OutOfMemoryError."""
        size = self.layout.block_size
        blocks = list(range(min(-(-tokens // size), caches[0].keys.shape[0])))
        length = min(tokens, len(blocks) * size)
        encoder_length = length - 2 if self.loaded.config.family.encoder_decoder else 0
        first = Item(
            [0] * length, 0, blocks, Sample(SamplingParams(), 0), encoder_length=encoder_length, adapter=self._rehearsed
        )
        prefill = StepPlan([first], num_decodes=0)
        decode = StepPlan([replace(first, tokens=[0], start=length - 1)], num_decodes=1)
        started = time.monotonic()
        with torch.inference_mode():
            self._run(prefill, caches).read()
            self.warmup_seconds = time.monotonic() - started
            self._run(decode, caches).read()

    def load_adapter(self, name: str, folder: Path) -> None:
        """See engine.executor.Executor."""
        if self.loaded.adapters is None:
            raise InvalidRequest("this server takes no adapters: start it with --lora-adapters or --lora-loading true")
        self.loaded.adapters.load(name, folder, self.group)

    def unload_adapter(self, name: str) -> None:
        """See engine.executor.Executor."""
        if self.loaded.adapters is not None:
            self.loaded.adapters.unload(name)

    def _use_adapters(self, rows: list[tuple[str, Tensor]]) -> None:
        if self.loaded.adapters is not None:
            self.loaded.adapters.use(rows)

    def launch(self, plan: StepPlan) -> LaunchedStep:
        """Begin one step; on rank 0 with the tokens chosen, on others with an empty result.

        A step that does not fit into the GPU's memory is run again in halves, and those again, which changes no text:
        it writes the same keys and values to the same places. Items that do not even fit alone are `failed`.

        Raises:
            GenerationError: none of the items fits.
            torch.OutOfMemoryError: where there are several ranks, which cannot try again each for itself.
        """
        with torch.inference_mode():
            passes = self._try(plan)
            if all(part.failed for part in passes):
                raise GenerationError(NO_MEMORY)
            tokens = [part.tokens(self.device) for part in passes]
            self._previous = tokens[0] if len(tokens) == 1 else torch.cat(tokens)
        return LaunchedStep(passes)

    def _try(self, plan: StepPlan) -> list[Pass]:
        try:
            return [self._run(plan, self.caches)]
        except torch.OutOfMemoryError:
            if self.group.size > 1:
                raise
        # Only now have the step's tensors gone, which an error holds on to.
        torch.cuda.empty_cache()
        if len(plan.items) == 1:
            return [Pass(plan, failed=True)]
        _log.warning("no memory for a step of %d requests; trying it in halves", len(plan.items))
        first, second = plan.halves()
        # The second half follows the same plan as the first, whose choices may take the place of that plan's.
        self._previous = self._previous.clone()
        return [*(part.kept() for part in self._try(first)), *self._try(second)]

    def _run(self, plan: StepPlan, caches: list[LayerCache]) -> Pass:
        """Put one forward pass, and the choices after it, to work."""
        masks = self._start_masks(plan)

        def choose(logits: Tensor, samples: list[Sample]) -> Chosen:
            return sample(logits, samples, masks.result() if masks else None, self._watermark)

        if self.decodes is not None and self.decodes.takes(plan):
            self._use_adapters([])
            return Pass(plan, self.decodes.launch(plan.items, self._previous, choose))
        inputs = build(plan, self.layout.block_size, self.device, self._long, self._previous)
        self._use_adapters(inputs.adapters)
        return self._forward(plan, inputs, caches, choose)

    def _forward(
        self,
        plan: StepPlan,
        inputs: StepInputs,
        caches: list[LayerCache],
        choose: Callable[[Tensor, list[Sample]], Chosen],
    ) -> Pass:
        model = self.loaded.model
        hidden = model.forward(inputs.tokens, inputs.positions, inputs.batch, caches)
        scored = [self._score(hidden, targets) for targets in inputs.targets]
        if inputs.sample_rows is not None:
            hidden = hidden[inputs.sample_rows]
        logits = model.logits(hidden)
        if self.group.rank:
            return Pass(plan)
        return Pass(plan, choose(logits, inputs.samples) if inputs.samples else None, scored)

    def _start_masks(self, plan: StepPlan) -> Future[Masks | None] | None:
        """Have what grammars allow computed beside the forward pass, if there are any."""
        if all(item.sample is None or item.sample.constraint is None for item in plan.items):
            return None
        samples = [sample for item in plan.items for sample in item.choices()]
        return self._aside.submit(masks_of, samples, self.loaded.config.vocab_size)

    def _score(self, hidden: Tensor, targets: Targets) -> list[Scored]:
        """Log-probabilities of `targets`, a slice of rows at a time, because logits are large."""
        scored = []
        for start in range(0, len(targets.tokens), SCORED_ROWS):
            tokens = targets.tokens[start : start + SCORED_ROWS]
            first = targets.first_row + start
            scored.append(score(self.loaded.model.logits(hidden[first : first + len(tokens)]), tokens, targets.top))
        return scored
