"""Checkpoints in GPTQ's and AWQ's formats, made by rounding to the nearest value and packed here, bit by bit.

Nothing of textgen_server is used: what the server unpacks is compared with what was packed.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from shapes import Shape, make_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class Gptq:
    """A way to quantize and to store."""

    bits: int = 4
    group_size: int = 16
    act_order: bool = False
    symmetric: bool = True
    checkpoint_format: str = "gptq"
    with_g_idx: bool = True

    @property
    def config(self) -> dict:
        return {
            "quant_method": "gptq", "bits": self.bits, "group_size": self.group_size, "desc_act": self.act_order,
            "sym": self.symmetric, "checkpoint_format": self.checkpoint_format,
        }  # fmt: skip

    def tensors(self, prefix: str, rounded: "Rounded") -> dict[str, Tensor]:
        zeros = packed(rounded.zeros.t(), self.bits).t()
        if self.checkpoint_format == "gptq":
            zeros = self.less_one(rounded, zeros)
        tensors = {"qweight": packed(rounded.codes, self.bits), "qzeros": zeros, "scales": rounded.scales}
        if self.with_g_idx:
            tensors["g_idx"] = rounded.groups.int()
        return {f"{prefix}.{name}": tensor.contiguous() for name, tensor in tensors.items()}

    def less_one(self, rounded: "Rounded", zeros: Tensor) -> Tensor:
        """As GPTQModel does it: from all numbers of a word at once where numbers end with words, else from each."""
        if self.bits == 3:
            return packed((rounded.zeros.t() - 1) % 8, 3).t()
        ones = int("".join(["0" * (self.bits - 1) + "1"] * (32 // self.bits)), 2)
        return torch.from_numpy((zeros.numpy().view(np.uint32) - np.uint32(ones)).view(np.int32))


@dataclass(frozen=True)
class Awq:
    """Columns of a word in the order 0, 2, 4, 6, 1, 3, 5, 7."""

    group_size: int = 16
    bits: int = 4
    act_order: bool = False
    symmetric: bool = False

    @property
    def config(self) -> dict:
        return {"quant_method": "awq", "bits": 4, "group_size": self.group_size, "zero_point": True, "version": "gemm"}

    def tensors(self, prefix: str, rounded: "Rounded") -> dict[str, Tensor]:
        order = torch.arange(rounded.codes.shape[1]).view(-1, 8)[:, [0, 2, 4, 6, 1, 3, 5, 7]].flatten()
        codes, zeros = (packed(matrix[:, order].t(), 4).t() for matrix in (rounded.codes, rounded.zeros))
        tensors = {"qweight": codes, "qzeros": zeros, "scales": rounded.scales}
        return {f"{prefix}.{name}": tensor.contiguous() for name, tensor in tensors.items()}


@dataclass(frozen=True)
class Rounded:
    """codes [in, out] and zeros [groups, out] (int64), scales [groups, out] (float16), groups [in]."""

    codes: Tensor
    zeros: Tensor
    scales: Tensor
    groups: Tensor

    @property
    def weight(self) -> Tensor:
        """[out, in], float32: what the codes stand for."""
        return ((self.codes - self.zeros[self.groups]) * self.scales.float()[self.groups]).t().contiguous()


def packed(numbers: Tensor, bits: int) -> Tensor:
    """[count, columns] -> int32 [words, columns], through a stream of single bits."""
    count, columns = numbers.shape
    stream = ((numbers.numpy()[:, None, :] >> np.arange(bits)[:, None]) & 1).reshape(count * bits, columns)
    stream = np.pad(stream, ((0, -len(stream) % 32), (0, 0)))
    words = np.packbits(stream.astype(np.uint8), axis=0, bitorder="little").reshape(-1, 4, columns)
    return torch.from_numpy(words.transpose(0, 2, 1).copy().view(np.int32)[..., 0])


def rounded(weight: Tensor, how: Gptq | Awq, seed: int = 0) -> Rounded:
    """Round a matrix [out, in] to the nearest value of its groups. With act-order, features are in random groups."""
    out, size = weight.shape
    group_size = size if how.group_size == -1 else how.group_size
    groups = torch.arange(size) // group_size
    if how.act_order:
        groups = groups[torch.randperm(size, generator=torch.Generator().manual_seed(seed))]
    largest = 2**how.bits - 1
    scales, zeros = [], []
    for group in range(-(-size // group_size)):
        values = weight[:, groups == group]
        low, high = values.amin(1).clamp(max=0), values.amax(1).clamp(min=0)
        if how.symmetric:
            high = torch.maximum(high, -low)
            low = -high
        scale = ((high - low) / largest).half()
        scales.append(scale)
        zero = torch.full((out,), (largest + 1) // 2) if how.symmetric else (-low / scale).round().clamp(0, largest)
        zeros.append(zero.long())
    scales, zeros = torch.stack(scales), torch.stack(zeros)
    codes = (weight.t() / scales.float()[groups]).round() + zeros[groups]
    return Rounded(codes.clamp(0, largest).long(), zeros, scales, groups)


def save_packed(how: Gptq | Awq, shape: Shape, folder: Path) -> tuple[Path, Path]:
    """Folders with a random model in packed form, and with the same model in the values that it stands for."""
    model = make_model(shape)
    tensors = {}
    for seed, (name, module) in enumerate(list(model.named_modules())):
        if not isinstance(module, nn.Linear | Conv1D) or name in ("lm_head", "embed_out"):
            continue
        weight = module.weight.data if isinstance(module, nn.Linear) else module.weight.data.t()
        values = rounded(weight, how, 0 if "self_attn" in name else seed)
        weight.copy_(values.weight)
        tensors[name] = how.tensors(name, values)
    plain, packed_folder = folder / "plain", folder / "packed"
    model.save_pretrained(plain)
    stored = load_file(plain / "model.safetensors")
    for name, own in tensors.items():
        del stored[f"{name}.weight"]
        stored |= own
    packed_folder.mkdir()
    save_file(stored, packed_folder / "model.safetensors")
    config = json.loads((plain / "config.json").read_text())
    (packed_folder / "config.json").write_text(json.dumps(config | {"quantization_config": how.config}))
    return packed_folder, plain
