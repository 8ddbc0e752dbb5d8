"""Checkpoints that do not fit their config.json are refused before anything is read, whichever number is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from harness import make_runner
from safetensors.torch import load_file, save_file
from shapes import SHAPES, save_checkpoint

from textgen_server.errors import CheckpointError

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module", params=["llama", "mixtral", "t5", "gpt2"])
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(next(iter(SHAPES[request.param].values())), tmp_path_factory.mktemp(request.param))


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sound, tmp_path / "model")


@pytest.mark.parametrize("change", [-1, 1])
@pytest.mark.parametrize(
    "names",
    [("vocab_size",), ("intermediate_size", "d_ff", "n_inner"), ("num_hidden_layers", "num_layers", "n_layer")],
)
def test_a_config_of_a_smaller_or_larger_model_is_refused(folder: Path, names: tuple[str, ...], change: int) -> None:
    config = json.loads((folder / "config.json").read_text())
    name = next((name for name in names if config.get(name)), None)
    if name is None:
        config, name = config | {names[-1]: 4 * config["n_embd"]}, names[-1]
    (folder / "config.json").write_text(json.dumps(config | {name: config[name] + change}))

    with pytest.raises(CheckpointError) as caught:
        make_runner(folder)
    assert "\n" not in str(caught.value)


def change_tensors(folder: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
    tensors = {name: change(name, tensor) for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def test_a_norm_of_another_size_is_refused(folder: Path) -> None:
    def longer(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return torch.ones(49) if "norm" in name or "ln_" in name else tensor

    change_tensors(folder, longer)

    with pytest.raises(CheckpointError, match=r"of shape \[49\] does not fit config\.json, which makes it 48"):
        make_runner(folder)


def test_whole_numbers_without_a_method_are_refused(folder: Path) -> None:
    change_tensors(folder, lambda name, tensor: tensor.to(torch.int8) if tensor.dim() == 2 else tensor)

    with pytest.raises(CheckpointError, match=r"holds int8 numbers, and config\.json has no quantization_config"):
        make_runner(folder)
