"""What a client asks for, whichever API it came through, and the rules that it must obey. The schemas of api/ make a
`GenerationRequest`; generation.py checks it and turns it into the engine's words.

Names, bounds and messages are TGI's. An API whose fields have other names and bounds gives them as its `Dialect`.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from textgen_server.errors import ContextExceeded, InvalidRequest
from textgen_server.priority import Priority
from textgen_server.sampling import Grammar, SamplingParams
from textgen_server.text.prompt import Prompt

# Above this TGI does not compare `max_new_tokens` with the limit: such a request runs until the limit is reached.
_CHECKED_NEW_TOKENS = 1024
# JSON numbers beyond these would overflow the engine's float32; at the bounds the effect is already total.
_SMALLEST, _LARGEST = 1e-6, 1e6


@dataclass(frozen=True)
class Dialect:
    """How the client's API calls the fields that messages speak of, and bounds that it sets itself.

    Attributes:
        most_top_tokens: bound of `top_tokens`; None takes the server's.
        streams_prompt_logprobs: TGI's does not.
    """

    inputs: str = "inputs"
    max_new_tokens: str = "max_new_tokens"
    top_tokens: str = "top_n_tokens"
    grammar: str = "grammar"
    most_top_tokens: int | None = None
    streams_prompt_logprobs: bool = False


@dataclass(frozen=True)
class Limits:
    """What the server and the model allow."""

    max_best_of: int
    max_stop_sequences: int
    max_top_n_tokens: int
    max_input_tokens: int
    max_total_tokens: int
    vocab_size: int
    grammars: bool = True


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One prompt and how to continue it. None stands for what the client left out.

    Attributes:
        max_new_tokens: None generates up to the model's limit.
        best_of: TGI's: generate so many, of which the likeliest is the reply. See `samples`.
        do_sample: draw tokens even if no other parameter asks for it.
        frequency_penalty: TGI's, of a token's share of the text; `count_penalty` and `presence_penalty` are OpenAI's.
        stop: strings that end the text; `keep_stop_text` tells whether they stay in it.
        shown_tokens: special tokens that are text in this output, for who reads it knows them.
        truncate: keep only the last so many tokens of the prompt.
        top_tokens: so many of the likeliest tokens of each place.
        prompt_logprobs: log-probabilities of the prompt's tokens as well.
        adapter: name of the adapter, "" for the model itself.
        ignore_eos: go on after an end-of-sequence token.
        stream: the client wants the tokens as they come.
        user: whom the client asks for (see tenant.py).
    """

    prompt: Prompt
    max_new_tokens: int | None = None
    best_of: int | None = None
    do_sample: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    count_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    watermark: bool = False
    grammar: Grammar | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    keep_stop_text: bool = True
    shown_tokens: frozenset[int] = frozenset()
    truncate: int | None = None
    top_tokens: int = 0
    raw_logprobs: bool = False
    prompt_logprobs: bool = False
    adapter: str = ""
    ignore_eos: bool = False
    stream: bool = False
    priority: Priority = Priority.NORMAL
    user: str = ""
    dialect: Dialect = Dialect()

    def check(self, limits: Limits) -> None:
        """Everything that can be checked before the prompt is tokenized. Raises InvalidRequest for what is wrong."""
        for wrong, name, rule in self._rules(limits):
            if wrong:
                raise InvalidRequest(rule if f"`{name}`" in rule else f"`{name}` {rule}", name)

    def _rules(self, limits: Limits) -> Iterator[tuple[bool, str, str]]:
        """(broken, field, what it must be, or a sentence that names it), in TGI's order."""
        yield from self._sequence_rules(limits)
        yield from self._number_rules()
        most, several = limits.max_stop_sequences, (self.best_of or 1) > 1
        yield len(self.stop) > most, "stop", f"supports up to {most} stop sequences. Given: {len(self.stop)}"
        yield "" in self.stop, "stop", "must not contain an empty string"
        yield several and self.seed is not None, "seed", "must not be set when `best_of` > 1"
        most = limits.max_top_n_tokens if self.dialect.most_top_tokens is None else self.dialect.most_top_tokens
        rule = f"must be >= 0 and <= {most}. Given: {self.top_tokens}"
        yield not 0 <= self.top_tokens <= most, self.dialect.top_tokens, rule
        yield not self.prompt, self.dialect.inputs, "cannot be empty"
        yield from self._prompt_rules(limits)
        strangers = [token for token in self.logit_bias if not 0 <= token < limits.vocab_size]
        yield bool(strangers), "logit_bias", f"has token ids that do not exist: {strangers[:3]}"
        name = self.dialect.grammar
        rule = f"grammar is not supported by this server (--disable-grammar-support): leave `{name}` out"
        yield self.grammar is not None and not limits.grammars, name, rule

    def _sequence_rules(self, limits: Limits) -> Iterator[tuple[bool, str, str]]:
        most, asked = limits.max_best_of, self.best_of or 1
        yield most > 1 and asked > most, "best_of", f"must be > 0 and <= {most}. Given: {asked}"
        yield asked > most, "best_of", "!= 1 is not allowed by this server (--max-best-of 1)"
        yield self.stream and self.best_of not in (None, 1), "best_of", "!= 1 is not supported when streaming tokens"
        unstreamable = self.stream and self.prompt_logprobs and not self.dialect.streams_prompt_logprobs
        yield unstreamable, "decoder_input_details", "== true is not supported when streaming tokens"
        shaping = (self.temperature, self.top_k, self.top_p, self.typical_p)
        sampling = self.do_sample or any(value is not None for value in shaping)
        yield asked > 1 and not sampling, "best_of", "you must use sampling when `best_of` is > 1"

    def _number_rules(self) -> Iterator[tuple[bool, str, str]]:
        positive, penalty = "must be strictly positive", "must be >= -2.0 and <= 2.0"
        probability = "must be > 0.0 and < 1.0, or 1.0 to turn it off"
        yield _outside(self.temperature, above=0), "temperature", positive
        yield _outside(self.repetition_penalty, above=0), "repetition_penalty", positive
        yield _beyond(self.frequency_penalty, 2), "frequency_penalty", penalty
        yield _beyond(self.count_penalty, 2), "frequency_penalty", penalty
        yield _beyond(self.presence_penalty, 2), "presence_penalty", penalty
        yield _outside(self.top_p, above=0, most=1), "top_p", probability
        yield _outside(self.typical_p, above=0, most=1), "typical_p", probability
        yield _outside(self.top_k, above=0), "top_k", positive
        yield _outside(self.max_new_tokens, above=0), self.dialect.max_new_tokens, positive
        yield any(not -100 <= bias <= 100 for bias in self.logit_bias.values()), "logit_bias", "must be in [-100, 100]"

    def _prompt_rules(self, limits: Limits) -> Iterator[tuple[bool, str, str]]:
        longest = limits.max_input_tokens
        rule = f"must be strictly positive and less than {longest}. Given: {self.truncate}"
        yield _outside(self.truncate, above=0, most=longest), "truncate", rule
        if isinstance(self.prompt, list):
            unknown = next((id for id in self.prompt if not 0 <= id < limits.vocab_size), None)
            yield (
                unknown is not None,
                self.dialect.inputs,
                f"has token id {unknown}; ids end at {limits.vocab_size - 1}",
            )

    def new_tokens(self, prompt_tokens: int, limits: Limits) -> int:
        """How many tokens to generate at most after a prompt of `prompt_tokens`.

        Raises:
            InvalidRequest: the prompt is empty.
            ContextExceeded: it is too long, alone or together with what is to be generated.
        """
        inputs, total = self.dialect.inputs, limits.max_total_tokens
        if prompt_tokens == 0:
            raise InvalidRequest(f"`{inputs}` cannot be empty", inputs)
        room = total - prompt_tokens
        asked = max(room, 0) if self.max_new_tokens is None else self.max_new_tokens
        if min(asked, _CHECKED_NEW_TOKENS) > room:
            name = self.dialect.max_new_tokens
            raise ContextExceeded(
                f"`{inputs}` tokens + `{name}` must be <= {total}. "
                f"Given: {prompt_tokens} `{inputs}` tokens and {asked} `{name}`",
                name,
            )
        if prompt_tokens > limits.max_input_tokens:
            raise ContextExceeded(
                f"`{inputs}` must have less than {limits.max_input_tokens} tokens. Given: {prompt_tokens}", inputs
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
            count_penalty=self.count_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            logit_bias=tuple(sorted(self.logit_bias.items())),
            watermark=self.watermark,
            seed=_random_seed() if self.seed is None and self._samples else self.seed or 0,
            top_tokens=self.top_tokens,
            raw_logprobs=self.raw_logprobs,
        )

    def samples(self, count: int) -> list["GenerationRequest"]:
        """`count` requests that differ in what they draw. The first draws what this one would."""
        seeds = [self.seed, *(None if self.seed is None else _derived(self.seed, i) for i in range(1, count))]
        return [replace(self, seed=seed) for seed in seeds]

    def best_of_samples(self, most: int) -> list["GenerationRequest"]:
        """As many samples as `best_of` says, but never so many that making them is work: one more than `most`, the
        limit, is enough for `check` to refuse them."""
        return self.samples(min(self.best_of or 1, most + 1))

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


def _derived(seed: int, index: int) -> int:
    """The seed of a request's sample number `index`; far from the seeds that people choose."""
    return (seed + index * 0x9E3779B97F4A7C15) % 2**64


def _random_seed() -> int:
    # 53 bits, so that every JSON reader can echo it back exactly.
    return random.getrandbits(53)
