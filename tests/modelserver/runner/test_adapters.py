"""Loading adapters while there is a server: on all ranks or none, and only where there is memory."""

import json
from pathlib import Path

import pytest
import torch
from harness import logits, make_runner
from safetensors.torch import load_file, save_file
from shapes import SHAPES, save_checkpoint
from thread_ranks import on_ranks

from textgen_server.errors import InvalidRequest
from textgen_server.parallel import Group
from textgen_server.runner.runner import Runner
from textgen_server.settings import ServerOptions

PROMPT = list(range(3, 40))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_checkpoint(SHAPES["llama"]["multi-head"], tmp_path / "base")


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """Of rank 4 on the queries of all layers."""
    config = json.loads((base / "config.json").read_text())
    hidden, generator = config["hidden_size"], torch.Generator().manual_seed(0)
    tensors = {
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{side}.weight": torch.randn(
            (4, hidden) if side == "A" else (hidden, 4), generator=generator
        )
        for layer in range(config["num_hidden_layers"])
        for side in "AB"
    }
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 4}))
    return folder


def test_an_adapter_that_one_rank_cannot_load_is_on_none(base, adapter):
    options = ServerOptions(device="cpu", cpu_kv_cache_gib=0.05, block_size=8, lora_loading=True)

    def on_one_rank(group: Group) -> tuple[str, torch.Tensor, torch.Tensor]:
        part = Runner(options, base, torch.device("cpu"), group)
        before = logits(part, PROMPT)
        with pytest.raises(InvalidRequest) as error:
            part.load_adapter("tuned", adapter if group.rank == 0 else adapter / "nowhere")
        return str(error.value), before, logits(part, PROMPT, "tuned")

    (of_first, *first), (of_second, *second) = on_ranks(2, on_one_rank)
    assert "another shard" in of_first
    assert "nowhere has no adapter_config.json" in of_second
    assert torch.equal(*first)
    assert torch.equal(*second)


def fail_for_memory(*_args):
    raise torch.OutOfMemoryError


def test_an_adapter_without_memory_is_refused_and_changes_nothing(base, adapter, monkeypatch):
    runner = make_runner(base, block_size=8, lora_loading=True)
    before = logits(runner, PROMPT)
    adapters = runner.loaded.adapters
    least = sum(tensor.nbytes for tensor in load_file(adapter / "adapter_model.safetensors").values())

    monkeypatch.setattr(adapters, "room", lambda: least - 1)
    with pytest.raises(InvalidRequest, match=r"no memory for the adapter in .*adapter: it takes .* MB are left"):
        runner.load_adapter("tuned", adapter)

    monkeypatch.setattr(adapters, "room", lambda: 10**9)
    with monkeypatch.context() as patched:  # as where the device's memory is in pieces
        patched.setattr(torch.Tensor, "to", fail_for_memory)
        with pytest.raises(InvalidRequest, match="no memory for the adapter"):
            runner.load_adapter("tuned", adapter)
    assert torch.equal(logits(runner, PROMPT, "tuned"), before)

    runner.load_adapter("tuned", adapter)
    assert not torch.allclose(logits(runner, PROMPT, "tuned"), before, atol=1e-2)
