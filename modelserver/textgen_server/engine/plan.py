"""What one step computes. The scheduler writes plans, the runner carries them out, worker ranks receive them whole."""

from dataclasses import dataclass

from textgen_server.sampling import SamplingParams


@dataclass(frozen=True, slots=True)
class Sample:
    """Choose the next token of an item after its last row.

    Attributes:
        position: how many tokens the request has generated so far; with the seed it fixes the random draw.
        history: prompt and generated tokens, where a penalty needs them, else None.
    """

    params: SamplingParams
    position: int
    history: list[int] | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One request's share of a step.

    Attributes:
        tokens: the token ids whose keys and values are computed.
        start: position of the first of them in the sequence.
        blocks: all blocks of the sequence, in order; they cover start + len(tokens) tokens.
        sample: how to choose the next token, or None for a chunk that is not the prompt's last.
    """

    tokens: list[int]
    start: int
    blocks: list[int]
    sample: Sample | None


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The items of one step: first those that decode (one token and a sample), then the prefill chunks."""

    items: list[Item]
    num_decodes: int


@dataclass(frozen=True, slots=True)
class StepResult:
    """For each item of the plan that samples, in order: the chosen token, and its log-probability."""

    tokens: list[int]
    logprobs: list[float]
