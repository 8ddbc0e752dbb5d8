"""`textgen-server quantize`: what it writes loads here and in transformers' eyes, for every family of decoders."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from harness import logits, make_runner
from packed_cases import Gptq
from quantization_cases import distance
from safetensors.torch import load_file, save_file
from shapes import SHAPES, save_checkpoint
from tiny_tokenizer import write_tokenizer

from textgen_server import quantize
from textgen_server.registry import FAMILIES
from textgen_server.weights.checkpoint import Checkpoint
from textgen_server.weights.shards import Shards

FAMILY_NAMES = [family for family in SHAPES if not FAMILIES[family].encoder_decoder]
TOKENS = torch.randint(3, 131, (41,), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "calibration.txt"
    words = torch.randint(3, 131, (160,), generator=torch.Generator().manual_seed(2)).tolist()
    file.write_text(" ".join(f"w{word}" for word in words))
    return file


def save(family: str, folder: Path) -> Path:
    save_checkpoint(next(iter(SHAPES[family].values())), folder)
    write_tokenizer(folder, end=2)
    return folder


def run(model: Path, output: Path, text: Path, *flags: str) -> int:
    small = ["--calibration", str(text), "--sequence-length", "32", "--groupsize", "16"]
    return quantize.main([str(model), str(output), *small, "--log-level", "error", "--cpu-threads", "1", *flags])


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_eight_bits_of_every_family_compute_nearly_what_the_model_does(family, text, tmp_path):
    model = save(family, tmp_path / "model")

    assert run(model, tmp_path / "out", text, "--bits", "8") == 0

    runner = make_runner(tmp_path / "out", block_size=8)
    assert runner.loaded.quantize == "gptq"
    assert distance(logits(runner, TOKENS), logits(make_runner(model, block_size=8), TOKENS)) < 0.05
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "quantize_config.json", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip


def weight_in(stored: dict[str, torch.Tensor], name: str, bits: int) -> torch.Tensor:
    """[out, in], unpacked by what the format says, bit by bit."""
    scales, groups = stored[f"{name}.scales"].float(), stored[f"{name}.g_idx"].long()

    def numbers(words: torch.Tensor, count: int) -> torch.Tensor:
        stream = np.unpackbits(words.t().contiguous().numpy().view(np.uint8), axis=1, bitorder="little")
        values = stream[:, : count * bits].reshape(len(stream), count, bits) << np.arange(bits)
        return torch.from_numpy(values.sum(-1)).t()

    codes = numbers(stored[f"{name}.qweight"], len(groups))
    zeros = numbers(stored[f"{name}.qzeros"].t(), scales.shape[1]).t() + 1
    return ((codes - zeros[groups]) * scales[groups]).t()


@pytest.mark.parametrize("flags", [("2",), ("3", "--act-order"), ("4", "--asymmetric"), ("4", "--act-order")])
def test_transformers_model_with_the_written_numbers_computes_the_same(flags, text, tmp_path):
    model, out = save("llama", tmp_path / "model"), tmp_path / "out"
    assert run(model, out, text, "--bits", *flags) == 0
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    assert transformers.GPTQConfig.from_dict(dict(config)).bits == int(flags[0])
    assert (config["desc_act"], config["sym"]) == ("--act-order" in flags, "--asymmetric" not in flags)

    theirs = transformers.AutoModelForCausalLM.from_pretrained(model)
    stored = load_file(out / "model.safetensors")
    for name in [name.removesuffix(".qweight") for name in stored if name.endswith(".qweight")]:
        theirs.get_submodule(name).weight.data.copy_(weight_in(stored, name, int(flags[0])))

    expected = theirs(torch.tensor([TOKENS])).logits[0].detach()
    torch.testing.assert_close(logits(make_runner(out, block_size=8), TOKENS), expected, rtol=1e-4, atol=1e-4)
    assert distance(expected, logits(make_runner(model), TOKENS)) > 0.05


def test_a_large_model_is_written_in_several_files(text, tmp_path, monkeypatch):
    model = save("llama", tmp_path / "model")
    monkeypatch.setattr(quantize, "Shards", lambda folder: Shards(folder, 40_000))
    assert run(model, tmp_path / "out", text) == 0
    names = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors*"))
    assert names[0] == f"model-00001-of-{len(names) - 1:05d}.safetensors"
    assert names[-1] == "model.safetensors.index.json"
    for file in (tmp_path / "out").glob("*.safetensors"):
        assert sum(tensor.nbytes for tensor in load_file(file).values()) <= 40_000
    logits(make_runner(tmp_path / "out", block_size=8), TOKENS)


@pytest.mark.parametrize(
    ("case", "complaint"),
    [
        ("there", "out exists already: give a new folder, or remove it"),
        ("packed", "config.json has a quantization_config: quantize the original model instead"),
        ("encoder", "t5 cannot be quantized by GPTQ here"),
        ("no text", "--calibration: cannot read"),
        ("empty text", "--calibration: the text has no tokens"),
        ("broken", "has no tensor model.layers.1.mlp.down_proj.weight"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_leaves_nothing(case, complaint, text, tmp_path, capsys):
    model = save("t5" if case == "encoder" else "llama", tmp_path / "model")
    match case:
        case "there":
            (tmp_path / "out").mkdir()
        case "packed":
            config = json.loads((model / "config.json").read_text())
            (model / "config.json").write_text(json.dumps(config | {"quantization_config": Gptq().config}))
        case "no text":
            text = tmp_path / "none.txt"
        case "empty text":
            text = tmp_path / "empty.txt"
            text.write_text("")
        case "broken":
            stored = load_file(model / "model.safetensors")
            del stored["model.layers.1.mlp.down_proj.weight"]
            save_file(stored, model / "model.safetensors")

    assert run(model, tmp_path / "out", text) in (1, 2)

    assert complaint in capsys.readouterr().err.splitlines()[-1]
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".txt") == (
        ["model", "out"] if case == "there" else ["model"]
    )
    assert Checkpoint.open(model)
