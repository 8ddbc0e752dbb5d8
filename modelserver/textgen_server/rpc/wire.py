"""What both ends of the engine's wire agree on beyond engine.proto."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any, cast

from textgen_server.rpc import engine_pb2 as pb
from textgen_server.sampling import Grammar, GrammarKind, SamplingParams

# Prompts may be as long as the body limit lets them be; neither side should refuse what the other sends.
CHANNEL_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

FINISH_NAMES = {pb.UNFINISHED: "", pb.LENGTH: "length", pb.END_OF_SEQUENCE: "eos_token"}
"""Why a request ended, in TGI's words."""


def sampling_to_wire(params: SamplingParams) -> pb.Sampling:
    """The message has the dataclass's fields, by the same names."""
    return pb.Sampling(**asdict(params) | {"logit_bias": dict(params.logit_bias)})


def sampling_from_wire(message: pb.Sampling) -> SamplingParams:
    values: dict[str, Any] = {field.name: getattr(message, field.name) for field in fields(SamplingParams)}
    return SamplingParams(**values | {"logit_bias": tuple(sorted(message.logit_bias.items()))})


def grammar_to_wire(grammar: Grammar | None) -> pb.Grammar | None:
    return None if grammar is None else pb.Grammar(kind=grammar.kind, source=grammar.source)


def grammar_from_wire(submit: pb.Submit) -> Grammar | None:
    if not submit.HasField("grammar"):
        return None
    return Grammar(cast(GrammarKind, submit.grammar.kind), submit.grammar.source)


def alternatives_to_wire(pairs: Sequence[tuple[int, float]]) -> pb.Alternatives:
    return pb.Alternatives(tokens=[token for token, _ in pairs], logprobs=[logprob for _, logprob in pairs])


def alternatives_from_wire(message: pb.Alternatives) -> tuple[tuple[int, float], ...]:
    return tuple(zip(message.tokens, message.logprobs, strict=True))
