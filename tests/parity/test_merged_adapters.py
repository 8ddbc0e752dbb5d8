"""A folder that holds only a LoRA adapter is served as its base model with the adapter merged, as PEFT merges it."""

import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
from harness import logits, make_runner
from safetensors.torch import load_file, save_file
from shapes import SHAPES, make_model
from thread_ranks import on_ranks

from textgen_server.adapters.merge import MergingLoader
from textgen_server.errors import CheckpointError
from textgen_server.runner.load import load_model
from textgen_server.runner.runner import Runner
from textgen_server.settings import ServerOptions
from textgen_server.weights.source import ModelFolder, locate

PROMPT = [5, 9, 17, 80, 3, 44]
OPTIONS = ServerOptions(device="cpu", cpu_kv_cache_gib=0.05, block_size=8)

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def save_both(family: str, folder: Path) -> torch.Tensor:
    """A base model in folder/base and an adapter in folder/tuned; returns the logits of PEFT's merged model."""
    shape = next(iter(SHAPES[family].values()))
    base = make_model(shape)
    base.save_pretrained(folder / "base")
    config = peft.LoraConfig(
        r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM", fan_in_fan_out=family == "gpt2"
    )
    model = peft.get_peft_model(base, config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
    model.save_pretrained(folder / "tuned")
    config = json.loads((folder / "tuned" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "base"
    (folder / "tuned" / "adapter_config.json").write_text(json.dumps(config))
    with torch.no_grad():
        return model.merge_and_unload()(torch.tensor([PROMPT])).logits[0]


@pytest.fixture(scope="module", params=["llama", "gpt2", "falcon"])
def tuned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelFolder, torch.Tensor]:
    folder = tmp_path_factory.mktemp("models")
    expected = save_both(request.param, folder)
    return locate(str(folder / "tuned"), None, str(folder / "cache"), print), expected


def test_its_base_is_found_beside_it(tuned: tuple[ModelFolder, torch.Tensor]) -> None:
    model, _ = tuned
    assert (model.name, model.path.name, model.merge) == ("tuned", "base", model.path.parent / "tuned")


@pytest.mark.parametrize("size", [1, 2])
def test_logits_equal_those_of_pefts_merged_model(tuned: tuple[ModelFolder, torch.Tensor], size: int) -> None:
    model, expected = tuned
    scores = on_ranks(
        size, lambda group: logits(Runner(OPTIONS, model.path, torch.device("cpu"), group, {}, model.merge), PROMPT)
    )

    torch.testing.assert_close(scores[0], expected, atol=2e-4, rtol=1e-4)
    assert (logits(make_runner(model.path), PROMPT) - expected).abs().max() > 0.05


def test_quantized_weights_are_those_of_the_merged_model(
    tuned: tuple[ModelFolder, torch.Tensor], tmp_path: Path
) -> None:
    model, _ = tuned
    options = OPTIONS.model_copy(update={"quantize": "bitsandbytes-nf4"})
    merged = save_merged(model, tmp_path / "merged")

    ours = logits(
        Runner(options, model.path, torch.device("cpu"), on_ranks(1, lambda group: group)[0], {}, model.merge), PROMPT
    )
    theirs = logits(make_runner(merged, quantize="bitsandbytes-nf4", block_size=8), PROMPT)

    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


def save_merged(model: ModelFolder, folder: Path) -> Path:
    from textgen_server.adapters.peft import read_adapter

    shutil.copytree(model.path, folder)
    tensors = load_file(folder / "model.safetensors")
    assert model.merge is not None
    for module, matrix in read_adapter(model.merge).matrices.items():
        delta = matrix.b @ matrix.a
        weight = tensors[f"{module}.weight"]
        tensors[f"{module}.weight"] = weight + (
            delta if delta.shape == weight.shape and "c_" not in module else delta.t()
        )
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    save_both("llama", tmp_path)
    weights = tmp_path / "tuned" / "adapter_model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if "lora_A" in name)
    save_file({**tensors, name: torch.zeros(4, 7)}, weights, {"format": "pt"})

    with pytest.raises(CheckpointError, match="was it made for another model"):
        load_model(
            OPTIONS, tmp_path / "base", torch.device("cpu"), on_ranks(1, lambda group: group)[0], tmp_path / "tuned"
        )


def test_a_part_of_an_adapter_without_a_place_is_named() -> None:
    loader = MergingLoader(None, torch.device("cpu"), torch.float32, {"extra": None})  # type: ignore[arg-type, dict-item]

    with pytest.raises(CheckpointError, match="extra cannot take an adapter in this model"):
        loader.check_all_used(Path("tuned"))


def test_an_adapter_without_a_base_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')

    with pytest.raises(CheckpointError, match="base_model_name_or_path must name the adapter's base model"):
        locate(str(tmp_path), None, str(tmp_path / "cache"), print)
