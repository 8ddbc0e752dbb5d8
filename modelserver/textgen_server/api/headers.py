"""TGI's response headers about time and size. Used by the routes that generate."""

import re
from collections.abc import Sequence

from textgen_server.rpc.client import EngineInfo
from textgen_server.text.generation import Generation


def compute_type(info: EngineInfo) -> str:
    """What computes, as in "1-nvidia-h100-80gb-hbm3", or "cpu"."""
    device = re.sub(r"[^a-z0-9]+", "-", info.device.lower()).strip("-")
    return device if device == "cpu" else f"{info.num_shard}-{device}"


def reply_headers(compute_type: str, generations: Sequence[Generation]) -> dict[str, str]:
    """Headers of a finished reply: `x-compute-time` in seconds, other times in whole milliseconds, summed over
    `generations`."""

    def milliseconds(seconds: float) -> str:
        return str(round(seconds * 1000))

    times = [generation.times for generation in generations]
    inference = sum(each.inference for each in times)
    generated = sum(generation.generated_tokens for generation in generations)
    return {
        "x-compute-type": compute_type,
        "x-compute-time": f"{max(each.total for each in times):.6f}",
        "x-compute-characters": compute_characters(generations),
        "x-total-time": milliseconds(sum(each.total for each in times)),
        "x-validation-time": milliseconds(sum(each.validation for each in times)),
        "x-queue-time": milliseconds(sum(each.queue_seconds for each in times)),
        "x-inference-time": milliseconds(inference),
        "x-time-per-token": milliseconds(inference / generated),
        "x-prompt-tokens": str(sum(len(generation.prompt.ids) for generation in generations)),
        "x-generated-tokens": str(generated),
    }


def compute_characters(generations: Sequence[Generation]) -> str:
    """Characters of the prompts, after the chat template."""
    return str(sum(generation.prompt.characters for generation in generations))
