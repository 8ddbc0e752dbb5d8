"""A request's grammar while its text grows: which tokens may come next. Made for rpc/service.py; whoever chooses tokens
knows only `plan.Constraint`.

llguidance (an Earley parser over lexers that are built as they are needed) works on the bytes of tokens, so a text may
fall into tokens in any way. A matcher's state is a function of the tokens it was given, and of nothing else.
"""

import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence

import numpy as np
from llguidance import LLExecutor, LLMatcher, LLTokenizer

from textgen_server.engine.plan import Masks
from textgen_server.errors import GenerationError, InvalidRequest
from textgen_server.grammars import BadGrammar, compile_with, reason
from textgen_server.sampling import Grammar

REMEMBERED = 128
"""Compiled grammars that are kept for the next request with the same."""


class Vocabulary:
    """A model's tokens as llguidance knows them, and the threads that compute masks.

    Attributes:
        words: width of llguidance's masks, in 32 tokens.
        ends: mask of the tokens that end a text.
    """

    def __init__(self, tokenizer: LLTokenizer) -> None:
        self.tokenizer = tokenizer
        self.executor = LLExecutor()
        self.words = -(-tokenizer.vocab_size // 32)
        bits = np.zeros(self.words * 32, dtype=np.uint8)
        bits[tokenizer.eos_tokens] = 1
        self.ends: Masks = np.packbits(bits, bitorder="little").view(np.int32)

    @classmethod
    def read(cls, tokenizer_json: str, ends: Collection[int], vocab_size: int) -> "Vocabulary":
        """From the text of tokenizer.json.

        Args:
            ends: the end-of-sequence tokens, at least one.
            vocab_size: of the model, which may have more tokens than its tokenizer, or fewer.

        Raises:
            ValueError: llguidance does not know this kind of tokenizer. It knows BPE on bytes, and with byte fallback.
        """
        tokenizer = LLTokenizer(tokenizer_json, eos_token=sorted(ends))
        if tokenizer.vocab_size < vocab_size:
            tokenizer = LLTokenizer(tokenizer_json, eos_token=sorted(ends), n_vocab=vocab_size)
        return cls(tokenizer)


class GrammarConstraint:
    """See `plan.Constraint`.

    Args:
        goes_on: end-of-sequence tokens are left out while anything else may come.
    """

    def __init__(self, matcher: LLMatcher, vocabulary: Vocabulary, goes_on: bool) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._goes_on = goes_on
        self._finished = False

    @property
    def finished(self) -> bool:
        """See `plan.Constraint`. True also after an end-of-sequence token."""
        return self._finished

    def accept(self, token: int) -> None:
        """See `plan.Constraint`."""
        if not self._matcher.consume_token(token):
            raise GenerationError(f"the grammar cannot go on: {reason(self._matcher.get_error())}")
        self._finished = self._matcher.is_stopped()

    @staticmethod
    def fill_masks(constraints: "Sequence[GrammarConstraint]", masks: Masks) -> None:
        """See `plan.Constraint`. A matcher that has failed gets the end-of-sequence tokens."""
        vocabulary = constraints[0]._vocabulary
        # llguidance wants rows of its own width, which may differ from the model's.
        rows = np.zeros((len(constraints), vocabulary.words), dtype=np.int32)
        pairs = [(constraint._matcher, row) for row, constraint in enumerate(constraints)]
        vocabulary.executor.unsafe_compute_mask_ptr(pairs, rows.ctypes.data, rows.strides[0], len(rows))
        for row, constraint in zip(rows, constraints, strict=True):
            if constraint._goes_on and (row & ~vocabulary.ends).any():
                row &= ~vocabulary.ends
        width = min(masks.shape[1], vocabulary.words)
        masks[:, :width] = rows[:, :width]


class GrammarCompiler:
    """Makes constraints for one model. May be called from any thread, of COMPILER_STACK_BYTES (grammars.py)."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._compiled: OrderedDict[Grammar, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def constraint(self, grammar: Grammar, goes_on: bool = False) -> GrammarConstraint:
        """A constraint at the grammar's start. See `GrammarConstraint` for `goes_on`.

        Raises:
            InvalidRequest: the grammar cannot be used.
        """
        return GrammarConstraint(self._matcher(grammar).deep_copy(), self._vocabulary, goes_on)

    def _matcher(self, grammar: Grammar) -> LLMatcher:
        with self._lock:
            if grammar in self._compiled:
                self._compiled.move_to_end(grammar)
                return self._compiled[grammar]
        try:
            matcher = compile_with(grammar, self._vocabulary.tokenizer)
        except BadGrammar as error:
            raise InvalidRequest(f"grammar is not valid: {error}", "grammar") from None
        with self._lock:
            self._compiled[grammar] = matcher
            if len(self._compiled) > REMEMBERED:
                self._compiled.popitem(last=False)
        return matcher
