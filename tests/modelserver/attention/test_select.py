"""The backend is the one asked for, or the first that can run; what cannot run is refused with what can."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from textgen_server.attention.cpu import CpuAttention
from textgen_server.attention.native import NativeAttention
from textgen_server.attention.select import block_size_for, choose
from textgen_server.errors import StartupError
from textgen_server.registry import ATTENTION_BACKENDS


def test_on_a_cpu_our_kernels_are_the_choice_where_they_can_be_had() -> None:
    had = NativeAttention.obstacle(64) is None
    assert choose(None, "cpu", torch.float32, 64) is (NativeAttention if had else CpuAttention)
    assert choose("cpu", "cpu", torch.float32, 64) is CpuAttention


def test_triton_is_the_choice_on_a_gpu_without_flash_attn() -> None:
    pytest.importorskip("triton")
    if _installed("flash_attn"):
        pytest.skip("flash-attn is installed here")
    assert choose(None, "cuda", torch.bfloat16, 64).__name__ == "TritonAttention"


def test_a_backend_for_another_device_is_refused_with_alternatives() -> None:
    with pytest.raises(
        StartupError,
        match=r"--attention-backend triton runs on cuda only, not on cpu; .* cpu, reference$",
    ):
        choose("triton", "cpu", torch.float32, 64)


def test_a_backend_without_its_library_is_refused_with_the_librarys_name() -> None:
    if _installed("flash_attn"):
        pytest.skip("flash-attn is installed here")
    with pytest.raises(StartupError, match="flash needs flash_attn, which cannot be imported here"):
        choose("flash", "cuda", torch.bfloat16, 64)


def test_heads_that_a_backend_has_no_kernel_for_lead_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    entry = replace(ATTENTION_BACKENDS["cpu"], target=f"{__name__}:SmallHeads", devices=("cuda",))
    monkeypatch.setattr("textgen_server.attention.select.ATTENTION_BACKENDS", {**ATTENTION_BACKENDS, "flash": entry})
    monkeypatch.setitem(sys.modules, __name__, SimpleNamespace(SmallHeads=SmallHeads))
    assert choose(None, "cuda", torch.bfloat16, 128) is SmallHeads
    assert choose(None, "cuda", torch.bfloat16, 512).__name__ == "TritonAttention"
    with pytest.raises(StartupError, match=r"--attention-backend flash takes no heads of 512; .* among triton"):
        choose("flash", "cuda", torch.bfloat16, 512)


class SmallHeads(CpuAttention):
    @staticmethod
    def obstacle(head_dim: int) -> str | None:
        return None if head_dim <= 256 else f"takes no heads of {head_dim}"


def test_an_encoder_decoder_gets_a_backend_with_relative_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose("cpu", "cpu", torch.float32, 64, relative=True) is CpuAttention
    monkeypatch.setattr(CpuAttention, "relative", False)
    with pytest.raises(StartupError, match=r"--attention-backend cpu has no relative position bias, .* reference$"):
        choose("cpu", "cpu", torch.float32, 64, relative=True)


def test_a_cache_of_another_type_leads_to_a_backend_that_keeps_it() -> None:
    assert choose(None, "cpu", torch.float32, 20, cache_dtype=torch.bfloat16) is CpuAttention
    with pytest.raises(StartupError, match=r"triton keeps no KV cache in float64"):
        choose(None, "cuda", torch.float16, 64, cache_dtype=torch.float64)


@pytest.mark.parametrize(("capability", "fits"), [((8, 0), False), ((8, 9), True), ((9, 0), True)])
def test_caches_of_8_bits_are_for_gpus_that_have_such_numbers(
    capability: tuple[int, int], fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    arguments = (None, "cuda", torch.bfloat16, 64, False, torch.float8_e4m3fn)
    if fits:
        assert choose(*arguments).__name__ == "TritonAttention"
        return
    with pytest.raises(StartupError, match=r"^--kv-cache-dtype fp8_e4m3fn needs .* 8\.9 or later, .* has 8\.0; leave"):
        choose(*arguments)


def test_a_dtype_that_nobody_computes_in_is_refused_with_every_reason() -> None:
    with pytest.raises(StartupError, match=r"No attention backend runs on cpu in float64: .*cpu does not compute"):
        choose(None, "cpu", torch.float64, 64)


def test_block_size_defaults_to_what_the_backend_prefers() -> None:
    assert block_size_for(CpuAttention, None) == CpuAttention.preferred_block_size
    assert block_size_for(CpuAttention, 48) == 48


def test_a_block_size_that_does_not_fit_is_refused_with_one_that_does() -> None:
    class Paged(CpuAttention):
        block_size_multiple = 256

    with pytest.raises(StartupError, match=r"--block-size 700 does not fit Paged.*multiple of 256; try 512"):
        block_size_for(Paged, 700)


def _installed(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True
