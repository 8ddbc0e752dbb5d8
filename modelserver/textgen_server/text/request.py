"""What a client asks for, whichever API it came through, and the rules that it must obey. The schemas of api/ make a
`GenerationRequest`; generation.py checks it and turns it into the engine's words.

Names, bounds and messages are TGI's. An API whose fields have other names gives them as `FieldNames`.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from textgen_server.errors import InvalidRequest
from textgen_server.sampling import SamplingParams
from textgen_server.text.prompt import Prompt

# Above this TGI does not compare `max_new_tokens` with the limit: such a request runs until the limit is reached.
_CHECKED_NEW_TOKENS = 1024
# JSON numbers beyond these would overflow the engine's float32; at the bounds the effect is already total.
_SMALLEST, _LARGEST = 1e-6, 1e6


@dataclass(frozen=True)
class FieldNames:
    """How the client's API calls the fields that messages speak of."""

    inputs: str = "inputs"
    max_new_tokens: str = "max_new_tokens"


@dataclass(frozen=True)
class Limits:
    """What the server and the model allow."""

    max_stop_sequences: int
    max_input_tokens: int
    max_total_tokens: int
    vocab_size: int


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One prompt and how to continue it. None stands for what the client left out.

    Attributes:
        max_new_tokens: None generates up to the model's limit.
        do_sample: draw tokens even if no other parameter asks for it.
        stop: strings that end the text; `keep_stop_text` tells whether they stay in it.
        truncate: keep only the last so many tokens of the prompt.
        ignore_eos: go on after an end-of-sequence token.
    """

    prompt: Prompt
    max_new_tokens: int | None = None
    do_sample: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    keep_stop_text: bool = True
    truncate: int | None = None
    ignore_eos: bool = False
    names: FieldNames = FieldNames()

    def check(self, limits: Limits) -> None:
        """Everything that can be checked before the prompt is tokenized. Raises InvalidRequest for what is wrong."""
        for wrong, field, rule in self._rules(limits):
            if wrong:
                raise InvalidRequest(f"`{field}` {rule}", field)

    def _rules(self, limits: Limits) -> Iterator[tuple[bool, str, str]]:
        """(broken, field, what it must be), in TGI's order."""
        positive = "must be strictly positive"
        probability = "must be > 0.0 and < 1.0, or 1.0 to turn it off"
        most = limits.max_stop_sequences
        yield _outside(self.temperature, above=0), "temperature", positive
        yield _outside(self.repetition_penalty, above=0), "repetition_penalty", positive
        yield _beyond(self.frequency_penalty, 2), "frequency_penalty", "must be >= -2.0 and <= 2.0"
        yield _outside(self.top_p, above=0, most=1), "top_p", probability
        yield _outside(self.typical_p, above=0, most=1), "typical_p", probability
        yield _outside(self.top_k, above=0), "top_k", positive
        yield _outside(self.max_new_tokens, above=0), self.names.max_new_tokens, positive
        yield len(self.stop) > most, "stop", f"supports up to {most} stop sequences. Given: {len(self.stop)}"
        yield "" in self.stop, "stop", "must not contain an empty string"
        yield not self.prompt, self.names.inputs, "cannot be empty"
        yield from self._prompt_rules(limits)

    def _prompt_rules(self, limits: Limits) -> Iterator[tuple[bool, str, str]]:
        longest = limits.max_input_tokens
        rule = f"must be strictly positive and less than {longest}. Given: {self.truncate}"
        yield _outside(self.truncate, above=0, most=longest), "truncate", rule
        if isinstance(self.prompt, list):
            unknown = next((id for id in self.prompt if not 0 <= id < limits.vocab_size), None)
            yield unknown is not None, self.names.inputs, f"has token id {unknown}; ids end at {limits.vocab_size - 1}"

    def new_tokens(self, prompt_tokens: int, limits: Limits) -> int:
        """How many tokens to generate at most after a prompt of `prompt_tokens`.

        Raises:
            InvalidRequest: the prompt is empty or too long, alone or together with what is to be generated.
        """
        inputs, total = self.names.inputs, limits.max_total_tokens
        if prompt_tokens == 0:
            raise InvalidRequest(f"`{inputs}` cannot be empty", inputs)
        if prompt_tokens > limits.max_input_tokens:
            raise InvalidRequest(
                f"`{inputs}` must have less than {limits.max_input_tokens} tokens. Given: {prompt_tokens}", inputs
            )
        room = total - prompt_tokens
        asked = room if self.max_new_tokens is None else self.max_new_tokens
        if min(asked, _CHECKED_NEW_TOKENS) > room:
            name = self.names.max_new_tokens
            raise InvalidRequest(
                f"`{inputs}` tokens + `{name}` must be <= {total}. "
                f"Given: {prompt_tokens} `{inputs}` tokens and {asked} `{name}`",
                name,
            )
        return min(asked, room)

    def sampling(self, vocab_size: int) -> SamplingParams:
        """The engine's parameters. A request that samples and names no seed gets a random one."""
        return SamplingParams(
            greedy=not self._samples,
            temperature=_bounded(self.temperature),
            top_k=min(self.top_k or 0, vocab_size),
            top_p=1.0 if self.top_p is None else self.top_p,
            typical_p=1.0 if self.typical_p is None else self.typical_p,
            repetition_penalty=_bounded(self.repetition_penalty),
            frequency_penalty=self.frequency_penalty or 0.0,
            seed=_random_seed() if self.seed is None and self._samples else self.seed or 0,
        )

    @property
    def _samples(self) -> bool:
        """TGI's rule: any parameter that shapes the distribution turns sampling on; its neutral value does not."""
        return (
            self.do_sample
            or self.top_k is not None
            or any(value not in (None, 1.0) for value in (self.temperature, self.top_p, self.typical_p))
        )


def _outside(value: float | None, above: float, most: float = float("inf")) -> bool:
    return value is not None and not above < value <= most


def _beyond(value: float | None, bound: float) -> bool:
    return value is not None and not -bound <= value <= bound


def _bounded(value: float | None) -> float:
    return 1.0 if value is None else min(max(value, _SMALLEST), _LARGEST)


def _random_seed() -> int:
    # 53 bits, so that every JSON reader can echo it back exactly.
    return random.getrandbits(53)
