"""What OpenAI's two generating routes have in common. Used by completions.py and chat.py."""

import time
import uuid
from collections.abc import Sequence
from typing import Any, Literal

import orjson

from textgen_server.api.schemas.common import Reply
from textgen_server.api.schemas.openai import FinishReason, OpenAiErrorReply, PromptTokensDetails, Usage
from textgen_server.api.streaming import EventStream
from textgen_server.telemetry import VERSION
from textgen_server.text.generation import Generation

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": OpenAiErrorReply, "description": meaning}
    for status, meaning in {
        400: "A value is wrong",
        404: "Another model was asked for than is served",
        413: "The body is too large",
        429: "Too many requests; see Retry-After",
        500: "The engine failed on this request",
        503: "The engine is unavailable, or the server is shutting down",
    }.items()
}


def events_of(*chunks: type[Reply]) -> dict[int | str, dict[str, Any]]:
    """For the API's description: the events of a stream, each of which is one of `chunks`."""
    schema = {"anyOf": [{"$ref": f"#/components/schemas/{chunk.__name__}"} for chunk in chunks]}
    return {200: {"content": {EventStream.media_type: {"schema": schema}}}}


def envelope(prefix: Literal["cmpl", "chatcmpl"], object: str, model: str) -> dict[str, Any]:
    """The fields around the choices: the same in every chunk of a stream."""
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": object,
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": f"{VERSION}-native",
    }


def finish_reason(reason: str) -> FinishReason:
    """OpenAI's word for the end of a generation."""
    return "length" if reason == "length" else "stop"


def usage(generations: Sequence[Generation], per_prompt: int, only_echoes: bool = False) -> Usage:
    """The tokens of `generations`, of which there are `per_prompt` for each prompt. A prompt counts once."""
    prompts = generations[::per_prompt]
    prompt = sum(len(each.prompt.ids) for each in prompts)
    completion = 0 if only_echoes else sum(each.generated_tokens for each in generations)
    details = PromptTokensDetails(cached_tokens=sum(each.start.cached_tokens for each in prompts))
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=details,
    )


class ChunkWriter:
    """Writes the events of a stream. What is the same in all of them is serialized once.

    Args:
        envelope: see `envelope`.
        include_usage: end the stream with a chunk that has the token counts.
    """

    def __init__(self, envelope: dict[str, Any], include_usage: bool) -> None:
        self._include_usage = include_usage
        self._head = b"data: " + orjson.dumps(envelope)[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"

    def chunk(self, choice: bytes) -> bytes:
        """The event that brings one choice, given as JSON."""
        return self._head + choice + self._tail

    def end(self, used: Usage) -> bytes:
        """What follows the last choice."""
        done = b"data: [DONE]\n\n"
        if not self._include_usage:
            return done
        return self._head + b'],"usage":' + used.to_json() + b"}\n\n" + done
