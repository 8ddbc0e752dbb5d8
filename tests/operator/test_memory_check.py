"""Whether the weights fit, before a pod is scheduled."""

from typing import Any

import pytest
from operator_samples import service

from textgen_operator.status import Intent, Observed
from textgen_operator.status.memory import parameters_in, verdicts

STORED = {"model": {"name": "org/chat-7b", "sizeBytes": 30_000_000_000}}


LONG = {"limits": {"maxTotalTokens": 10_000}}


def verdict(status: dict[str, Any] | None = None, **spec: Any) -> tuple[str, str] | None:
    """Status and message, or None when nothing is said."""
    asked = service(**{"model": "org/chat-7b", **spec}).model_copy(update={"status": status or {}})
    found = list(verdicts(Observed(intent=Intent(asked, "http://chat"))))
    return (found[0].status, found[0].message) if found else None


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("zephyr-7b-beta", 7_000_000_000),
        ("Qwen2.5-0.5B-Instruct", 500_000_000),
        ("SmolLM2-360M", 360_000_000),
        ("Llama-3.1-70B", 70_000_000_000),
        ("Mixtral-8x7B", None),
        ("Qwen3-30B-A3B", 30_000_000_000),
        ("merge-7b-13b", None),
        ("phi-2", None),
        ("mt0-base", None),
    ],
)
def test_a_name_says_how_large_a_model_is_or_nothing(name: str, parameters: int | None) -> None:
    assert parameters_in(name) == parameters


@pytest.mark.parametrize(
    ("spec", "status", "words"),
    [
        ({"gpu": {"minMemory": "10G"}}, "False", "guess from the model's name, 7 billion numbers of 16 bits: 14.0 GB"),
        (
            {"gpu": {"minMemory": "10G"}},
            "False",
            "15.5 GB on each GPU; gpu.minMemory takes GPUs of 10.0 GB; raise gpu.",
        ),
        ({"gpu": {"minMemory": "10G", "count": 2}}, "True", ": 7.0 GB of weights, 1.5 GB besides: 8.5 GB on each GPU"),
        ({"gpu": {"minMemory": "10G"}, "quantize": "bitsandbytes-nf4"}, "True", "4.5 bits: 3.9 GB"),
        ({"gpu": {"minMemory": "10G"}, "dtype": "float32"}, "False", "32 bits: 28.0 GB"),
        # 10,000 tokens of 61,304 numbers: 1.2 GB of two bytes each, on one GPU or on two.
        (LONG | {"gpu": {"minMemory": "16G"}}, "False", "14.0 GB of weights, 1.2 GB of KV cache for limits.maxTotalT"),
        (LONG | {"gpu": {"minMemory": "16G"}}, "False", "16.7 GB on each GPU"),
        (LONG | {"gpu": {"minMemory": "16G"}}, "False", "lower limits.maxTotalTokens"),
        (LONG | {"gpu": {"minMemory": "17G"}}, "True", "(10000), 1.5 GB besides: 16.7 GB"),
        (LONG | {"gpu": {"minMemory": "9.2G", "count": 2}}, "True", "0.6 GB of KV cache"),
        (LONG | {"gpu": {"minMemory": "17G"}, "kvCacheDtype": "fp8_e4m3fn"}, "True", "0.7 GB of KV cache"),
        ({"gpu": {"products": ["Tesla-T4", "NVIDIA-L4"]}}, "True", "gpu.products takes GPUs of 16.0 GB"),
        ({}, "Unknown", "15.5 GB on each GPU; how much its GPUs have is not known: set gpu.minMemory, or gpu.products"),
        ({"gpu": {"products": ["NVIDIA-L4", "New-1"]}}, "Unknown", "set gpu.minMemory"),
        ({"gpu": {"resourceName": "nvidia.com/mig-1g.10gb"}}, "False", "nvidia.com/mig-1g.10gb has 10.0 GB"),
        ({"gpu": {"products": ["NVIDIA-H100-80GB-HBM3", "NVIDIA-A100-SXM4-40GB"]}}, "True", "GPUs of 40.0 GB"),
    ],
)
def test_the_arithmetic_is_in_the_message(spec: dict[str, Any], status: str, words: str) -> None:
    found = verdict(**spec)
    assert found is not None
    assert found[0] == status
    assert words in found[1]


def test_what_a_server_found_is_better_than_a_guess() -> None:
    found = verdict(STORED, gpu={"minMemory": "20G"})
    assert found is not None
    assert found[0] == "False"
    assert found[1].startswith(
        "The model is stored in 30.0 GB: 30.0 GB of weights, 1.5 GB besides: 31.5 GB on each GPU"
    )
    other = verdict(STORED, model="org/other-1b", gpu={"minMemory": "20G"})
    assert other is not None
    assert other[0] == "True"


@pytest.mark.parametrize(
    "spec",
    [
        {"gpu": {"count": 0}},
        {"model": "org/chat", "gpu": {"minMemory": "1G"}},
        {"model": "org/chat-7b-awq", "gpu": {"minMemory": "1G"}},
        {"quantize": "gptq", "gpu": {"minMemory": "1G"}},
    ],
)
def test_what_is_not_known_is_not_said(spec: dict[str, Any]) -> None:
    assert verdict(**spec) is None
