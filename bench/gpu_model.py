"""The models that gpu.py measures: random weights of Mistral-7B's shape, and what a step with them moves at least."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from textgen_server.registry import QUANTIZATION_METHODS

GROUP = 128
"""Input features that share a scale in checkpoints of GPTQ."""

LAYERS_PER_FILE = 4
# Of numbers that are repeated; no width of a matrix divides it, so that rows differ.
NOISE = (1 << 22) + 15


@dataclass(frozen=True)
class Shape:
    """A decoder of Mistral's kind."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    positions: int

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """[out, in] of a layer's, by name."""
        kv = self.head_dim * self.kv_heads
        return {
            "self_attn.q_proj": (self.hidden, self.hidden), "self_attn.k_proj": (kv, self.hidden),
            "self_attn.v_proj": (kv, self.hidden), "self_attn.o_proj": (self.hidden, self.hidden),
            "mlp.gate_proj": (self.intermediate, self.hidden), "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
        }  # fmt: skip

    @property
    def linear_numbers(self) -> int:
        """In the matrices of all layers."""
        return self.layers * sum(math.prod(shape) for shape in self.matrices.values())

    @property
    def head_numbers(self) -> int:
        return self.vocabulary * self.hidden

    def weight_bytes(self, method: str | None, itemsize: int) -> float:
        """Read by a step: the layers' matrices, and the output head in full precision. (The embedding is gathered.)"""
        return self.linear_numbers * self.linear_bits(method, itemsize) / 8 + self.head_numbers * itemsize

    def linear_bits(self, method: str | None, itemsize: int) -> float:
        """Of a number of a layer's matrix, with its share of scales."""
        if method == "gptq":
            return 4 + 20 / GROUP
        return 8 * itemsize if method is None else QUANTIZATION_METHODS[method].bits

    def kv_bytes(self, itemsize: int) -> int:
        """Of the keys and values of a token."""
        return 2 * self.layers * self.kv_heads * self.head_dim * itemsize

    def decode_bytes(self, method: str | None, itemsize: int, batch: int, context: int) -> float:
        """Moved at least by a decode step: weights, all keys and values, and those that are new."""
        return self.weight_bytes(method, itemsize) + batch * (context + 1) * self.kv_bytes(itemsize)

    def prefill_flops(self, tokens: int) -> float:
        """Two for each weight and token, causal attention, and the logits of the last token."""
        attention = 2.0 * tokens**2 * self.heads * self.head_dim * self.layers
        return 2.0 * self.linear_numbers * tokens + attention + 2 * self.head_numbers


MISTRAL = Shape(4096, 14336, 32, 32, 8, 32000, 16384)
TINY = Shape(256, 512, 2, 4, 2, 512, 1024)


def write_checkpoint(folder: Path, shape: Shape, dtype: torch.dtype, gptq: bool = False) -> Path:
    """Random weights under which activations keep their size, in full precision or as GPTQ's 4 bits."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = torch.randn(NOISE).to(dtype)
    words = torch.randint(-(1 << 31), 1 << 31, (NOISE,), dtype=torch.int32)
    starts = range(0, shape.layers, LAYERS_PER_FILE)
    groups = [range(first, min(first + LAYERS_PER_FILE, shape.layers)) for first in starts]
    files: dict[str, str] = {}

    def save(tensors: dict[str, torch.Tensor], name: str) -> None:
        save_file(tensors, folder / name)
        files.update(dict.fromkeys(tensors, name))

    def tensor(size: tuple[int, ...], source: torch.Tensor = noise) -> torch.Tensor:
        count = math.prod(size)
        return source.repeat(-(-count // len(source)))[:count].view(size)

    def write(layers: range) -> None:
        tensors: dict[str, torch.Tensor] = {}
        for layer in layers:
            for name in ("input_layernorm", "post_attention_layernorm"):
                tensors[f"model.layers.{layer}.{name}.weight"] = torch.ones(shape.hidden, dtype=dtype)
            for name, (out, size) in shape.matrices.items():
                prefix = f"model.layers.{layer}.{name}"
                if not gptq:
                    tensors[f"{prefix}.weight"] = tensor((out, size)) * size**-0.5
                    continue
                tensors[f"{prefix}.qweight"] = tensor((size // 8, out), words)
                tensors[f"{prefix}.qzeros"] = torch.full((size // GROUP, out // 8), 0x77777777, dtype=torch.int32)
                # Codes from 0 to 15 around 8 have a standard deviation of 4.6.
                tensors[f"{prefix}.scales"] = torch.full((size // GROUP, out), size**-0.5 / 4.6, dtype=torch.float16)
        save(tensors, f"layers-{layers.start:02}.safetensors")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, groups))
    ends = {
        "model.embed_tokens.weight": tensor((shape.vocabulary, shape.hidden)),
        "lm_head.weight": tensor((shape.vocabulary, shape.hidden)) * shape.hidden**-0.5,
        "model.norm.weight": torch.ones(shape.hidden, dtype=dtype),
    }
    save(ends, "ends.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    (folder / "config.json").write_text(json.dumps(_config(shape, dtype, gptq)))
    return folder


def _config(shape: Shape, dtype: torch.dtype, gptq: bool) -> dict[str, object]:
    config: dict[str, object] = {
        "model_type": "mistral", "architectures": ["MistralForCausalLM"], "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden, "intermediate_size": shape.intermediate, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "sliding_window": None,
        "max_position_embeddings": shape.positions, "torch_dtype": str(dtype).removeprefix("torch."),
        "tie_word_embeddings": False,
    }  # fmt: skip
    if gptq:
        config["quantization_config"] = {
            "quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": True,
            "checkpoint_format": "gptq",
        }  # fmt: skip
    return config
