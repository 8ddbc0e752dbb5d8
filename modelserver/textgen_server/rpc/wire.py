"""What both ends of the engine's wire agree on beyond engine.proto."""

from dataclasses import asdict, fields

from textgen_server.rpc import engine_pb2 as pb
from textgen_server.sampling import SamplingParams

# Prompts may be as long as the body limit lets them be; neither side should refuse what the other sends.
CHANNEL_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

FINISH_NAMES = {pb.UNFINISHED: "", pb.LENGTH: "length", pb.END_OF_SEQUENCE: "eos_token"}
"""Why a request ended, in TGI's words."""


def sampling_to_wire(params: SamplingParams) -> pb.Sampling:
    """The message has the dataclass's fields, by the same names."""
    return pb.Sampling(**asdict(params))


def sampling_from_wire(message: pb.Sampling) -> SamplingParams:
    return SamplingParams(**{field.name: getattr(message, field.name) for field in fields(SamplingParams)})
