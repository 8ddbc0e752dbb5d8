"""An executor without a model, for load tests of the front (`--mock-engine`). Used by engine_process.py.

Everything around it is real: scheduler, blocks, loop and wire. A step takes the time that the flags say, and every
request gets the tokens of one text, over and over, until its limit.
"""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from textgen_server.engine.executor import FinishedStep
from textgen_server.engine.plan import Constraint, Item, Sample, Scores, StepPlan, StepResult, Tops
from textgen_server.errors import CheckpointError, InvalidRequest
from textgen_server.settings import ServerOptions
from textgen_server.text.tokenizer import Tokenizer
from textgen_server.weights.config_files import read_json

TEXT = (
    "This text comes from textgen's mock engine, which has no model: it answers every prompt with these words, at a "
    "set rate, so that the rest of the server can be measured alone. Some words are harder than others: naïve, Łódź, "
    'Ελλάδα, 東京, 🦜. Some need escapes in JSON: "quotes", a \\ and a new line.\n'
)
LOGPROB = float(np.float32(math.log(0.5)))

PREFILL_TOKENS = 4096
BLOCK_SIZE = 16
CACHE_TOKENS = 1_000_000
MAX_POSITIONS = 8192  # where config.json does not tell


class MockExecutor:
    """See engine.executor.Executor. Its other attributes are what a model's runner would know.

    Args:
        folder: config.json and the tokenizer's files.
    """

    ahead = 0

    def __init__(self, options: ServerOptions, folder: Path) -> None:
        config = read_json(folder, "config.json") or {}
        self.model_type = str(config.get("model_type", ""))
        self.vocab_size = _whole_number(config, "vocab_size", None)
        self.max_positions = _whole_number(config, "max_position_embeddings", MAX_POSITIONS)
        self.max_prefill_tokens = min(options.max_batch_prefill_tokens or PREFILL_TOKENS, self.max_positions)
        self.block_size = options.block_size or BLOCK_SIZE
        cached = options.max_batch_total_tokens or max(CACHE_TOKENS, self.max_positions)
        self.num_blocks = -(-cached // self.block_size)
        self._step_seconds = 1 / options.mock_engine_tokens_per_second
        self._prompt_token_seconds = 1 / (options.mock_engine_prefill_tokens_per_second or math.inf)
        self._text = Tokenizer.load(folder).encode(TEXT, add_special_tokens=False)
        self._due = 0.0

    @property
    def longest_step_seconds(self) -> float:
        return self._step_seconds + self.max_prefill_tokens * self._prompt_token_seconds

    def launch(self, plan: StepPlan) -> FinishedStep:
        """See engine.executor.Executor."""
        self._wait(sum(len(item.tokens) for item in plan.items if not item.is_decode))
        samples = [sample for item in plan.items for sample in item.choices()]
        tokens = [self._choose(sample) for sample in samples]
        tops = [self._tops(token, sample.params.top_tokens) for token, sample in zip(tokens, samples, strict=True)]
        scores = [self._score(item) for item in plan.items if item.targets]
        return FinishedStep(StepResult(tokens, [LOGPROB] * len(tokens), tops if any(tops) else [], scores))

    def load_adapter(self, name: str, folder: Path) -> None:
        """See engine.executor.Executor."""
        raise InvalidRequest("the mock engine has no model that an adapter could change")

    def unload_adapter(self, name: str) -> None:
        """See engine.executor.Executor. There is none."""

    def _wait(self, prompt_tokens: int) -> None:
        """Steps end at an even beat. The first after a rest ends at once, but for its prompt; the beat starts there."""
        now = time.monotonic()
        self._due = max(self._due + self._step_seconds, now) + prompt_tokens * self._prompt_token_seconds
        time.sleep(self._due - now)

    def _choose(self, sample: Sample) -> int:
        token = self._text[sample.position % len(self._text)]
        return token if sample.constraint is None else _allowed(sample.constraint, token, self.vocab_size)

    def _tops(self, token: int, count: int) -> Tops:
        """`token` and those after it in the vocabulary, each half as likely as the one before."""
        return tuple(((token + rank) % self.vocab_size, LOGPROB * (rank + 1)) for rank in range(count))

    def _score(self, item: Item) -> Scores:
        tops = [self._tops(target, item.top_targets) for target in item.targets] if item.top_targets else []
        return Scores([LOGPROB] * len(item.targets), tops)


def _allowed(constraint: Constraint, token: int, vocab_size: int) -> int:
    """`token` where the grammar allows it, else the first that it allows."""
    masks = np.zeros((1, -(-vocab_size // 32)), dtype=np.int32)
    constraint.fill_masks([constraint], masks)
    allowed = np.unpackbits(masks[0].view(np.uint8), bitorder="little")[:vocab_size]
    return token if allowed[token] or not allowed.any() else int(allowed.argmax())


def _whole_number(config: dict[str, Any], name: str, default: int | None) -> int:
    value = config.get(name, default)
    if type(value) is not int or value < 1:
        raise CheckpointError(f"config.json: {name} must be a whole number of at least 1, not {value!r}")
    return value
