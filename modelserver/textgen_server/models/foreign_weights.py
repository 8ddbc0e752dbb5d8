"""The weights of a model that transformers' code runs: named as transformers wants them, read by our loader.

transformers builds the model without memory and finds for each parameter its tensor in the checkpoint, under older
names too. It gets views of the mapped files, so that nothing is read by that; then linear layers become ours, quantized
and adaptable like those of other families, and what is left moves to the device.
"""

import copy
from collections import Counter
from collections.abc import Set
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from textgen_server.errors import CheckpointError
from textgen_server.layers.build import Builder
from textgen_server.layers.linear import dense
from textgen_server.models.config import ModelConfig
from textgen_server.models.foreign_config import their_code
from textgen_server.quantization.unpacked import Unpacked
from textgen_server.weights.checkpoint import Checkpoint
from textgen_server.weights.loader import Part
from textgen_server.weights.survey import check_leftovers


def load_theirs(config: ModelConfig, build: Builder, attention: str) -> Any:
    """transformers' model of `config`, its attention the one registered as `attention`, on the device.

    Raises:
        CheckpointError: tensors are missing, left over, or of another shape than the model's.
    """
    views = _Views(build.loader.checkpoint)
    with their_code(config.model_type):
        model, consumed = _assemble(config, views, attention)
    _Mover(model, build, views).move(consumed)
    return model.eval()


def count_numbers(config: ModelConfig) -> tuple[int, int]:
    """How many numbers the model's linear layers have, and how many the rest of it."""
    if config.foreign is None:
        return 0, 0
    with their_code(config.model_type), torch.device("meta"):
        model = config.foreign.model_class(copy.deepcopy(config.foreign.config))
    head = model.get_output_embeddings()
    linear = sum(m.weight.numel() for m in model.modules() if type(m) is nn.Linear and m is not head)
    return linear, sum(parameter.numel() for parameter in model.parameters()) - linear


class _Views:
    """The checkpoint's tensors, for transformers to put in their places without reading them.

    Those of another type than most, and packed ones, are stood for by memory that is never touched: transformers would
    cast the first and cannot unpack the second.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        packed = {name for name in checkpoint.names if isinstance(checkpoint, Unpacked) and checkpoint.prefix(name)}
        plain = sorted(checkpoint.names - packed)
        sizes: Counter[torch.dtype] = Counter()
        for name in plain:
            sizes[checkpoint.dtype(name)] += checkpoint.tensor(name).numel()
        self.dtype = max((d for d in sizes if d.is_floating_point), key=lambda d: sizes[d], default=torch.float32)
        self.stand_ins = packed | {name for name in plain if checkpoint.dtype(name) != self.dtype}
        self.tensors = {
            name: torch.empty(checkpoint.shape(name), dtype=self.dtype)
            if name in self.stand_ins
            else checkpoint.tensor(name)
            for name in sorted(checkpoint.names)
        }
        self._names = {tensor.data_ptr(): name for name, tensor in self.tensors.items()}

    def name_of(self, name: str, tensor: Tensor) -> str | None:
        """The checkpoint's tensor that the model's `name` is; None where it was made of others."""
        stored = self._names.get(tensor.data_ptr(), name if name in self.stand_ins else None)
        return stored if stored is not None and self.tensors[stored].shape == tensor.shape else None


def _assemble(config: ModelConfig, views: _Views, attention: str) -> tuple[Any, set[str]]:
    """transformers' model, on the CPU, its parameters the views wherever it does not convert them; and the tensors that
    it had a place for."""
    from transformers.utils import logging

    if config.foreign is None:
        raise CheckpointError(f"config.json: model_type {config.model_type!r} was not read by transformers")
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    theirs = config.foreign.config
    if hasattr(theirs, "quantization_config"):
        del theirs.quantization_config  # we unpack
    model, report = config.foreign.model_class.from_pretrained(
        None,
        config=theirs,
        state_dict=dict(views.tensors),
        dtype=views.dtype,
        attn_implementation=attention,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    for name, stored, wanted in sorted(report["mismatched_keys"]):
        raise CheckpointError(f"{name} of shape {list(stored)} does not fit config.json, which makes it {list(wanted)}")
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(f"the checkpoint has no tensor {missing[0]}, and lacks {len(missing) - 1} more")
    consumed = views.tensors.keys() - report["unexpected_keys"]
    check_leftovers(views.tensors, consumed)
    return model, consumed


class _Flat(nn.Module):
    """Our linear layers map rows; transformers' code has them in batches."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        rows: Tensor = self.inner(x.flatten(0, -2))
        return rows.view(*x.shape[:-1], rows.shape[-1])


class _Mover:
    """Puts a model's parameters on the device, each read once, and our linear layers in place of torch's."""

    def __init__(self, model: Any, build: Builder, views: _Views) -> None:
        self._model = model
        self._build = build
        self._views = views
        self._float32 = tuple(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
        self._moved: dict[int, nn.Parameter] = {}  # tied ones stay one
        self._used: set[str] = set()

    def move(self, consumed: Set[str]) -> None:
        """`consumed` are the checkpoint's tensors that transformers found a place for."""
        head = self._model.get_output_embeddings()
        for prefix, module in list(self._model.named_modules()):
            source = self._source(prefix, module) if type(module) is nn.Linear and module is not head else None
            if source is not None:
                self._used |= {f"{source}.weight", f"{source}.bias"}
                self._model.set_submodule(prefix, _Flat(self._build.columns([(source, 0, module.out_features)])))
                continue
            self._move_tensors(prefix, module)
            if module is head and type(module) is nn.Linear:
                self._model.set_submodule(prefix, _Flat(dense(module.weight.data, module.bias)))
        if lost := (self._views.stand_ins & consumed) - self._used:
            raise CheckpointError(
                f"{min(lost)} is packed, or of another type than most tensors, and would have to be converted for "
                f"transformers' {self._model.config.model_type}; serve a checkpoint in one type of numbers"
            )

    def _source(self, prefix: str, linear: nn.Linear) -> str | None:
        """What the names of a linear layer's tensors in the checkpoint begin with; None where they were converted, or
        must not be rounded."""
        if self._stays_float32(prefix):
            return None
        weight = self._views.name_of(f"{prefix}.weight", linear.weight) or ""
        source = weight.removesuffix(".weight")
        if source == weight:
            return None
        bias = None if linear.bias is None else self._views.name_of(f"{prefix}.bias", linear.bias)
        return source if linear.bias is None or bias == f"{source}.bias" else None

    def _stays_float32(self, name: str) -> bool:
        return any(part in name.split(".") for part in self._float32)

    def _move_tensors(self, prefix: str, module: nn.Module) -> None:
        """Move what the module itself holds. Buffers keep their types."""
        device = self._build.loader.device
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if id(parameter) not in self._moved:
                moved = nn.Parameter(self._read(name, parameter.data), requires_grad=False)
                self._moved[id(parameter)] = self._moved[id(moved)] = moved
            setattr(module, name.rpartition(".")[2], self._moved[id(parameter)])
        for name, buffer in module.named_buffers(recurse=False):
            stored = self._views.name_of(f"{prefix}.{name}", buffer)
            if stored in self._views.stand_ins:
                buffer = self._build.loader.checkpoint.tensor(stored)
                self._used.add(stored)
            module._buffers[name] = buffer.to(device)

    def _read(self, name: str, parameter: Tensor) -> Tensor:
        loader = self._build.loader
        stored = self._views.name_of(name, parameter)
        if self._stays_float32(name):
            loader = replace(loader, dtype=torch.float32)
        elif parameter.dtype != self._views.dtype:  # as its code asks for
            loader = replace(loader, dtype=parameter.dtype)
        if stored is None:
            return parameter.to(loader.device, loader.dtype)
        self._used.add(stored)
        return loader.tensor([Part(stored)])
