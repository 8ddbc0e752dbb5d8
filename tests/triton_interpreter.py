"""Triton's interpreter, made to run beside today's numpy and to round as GPUs do: fixtures for the conftest.py of
folders whose tests run kernels."""

from typing import Any

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def interpreter_takes_scalars_of_one_element(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton 3.6 keeps scalars as arrays of one element, which numpy 2.4 no longer converts for a loop's bounds."""
    if torch.cuda.is_available():
        return
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    patch = interpreter._patch_lang_tensor

    def patch_with_index(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch_with_index)


FLOATS = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8e4nv": torch.float8_e4m3fn,
    "fp8e5": torch.float8_e5m2,
}
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


@pytest.fixture(autouse=True)
def interpreter_rounds_as_gpus_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's truncates bfloat16, and loses the carry where a mantissa of 8-bit floats is rounded up to the next power
    of two, half of the number with it."""
    if torch.cuda.is_available():
        return
    interpreter = pytest.importorskip("triton.runtime.interpreter")

    def convert(numbers: np.ndarray, source: Any, target: Any, rounding: object) -> np.ndarray:
        floats = torch.from_numpy(numbers.copy()).view(FLOATS[source.name]).to(FLOATS[target.name])
        unsigned = f"uint{8 * floats.itemsize}"
        return floats.view(INTEGERS[floats.itemsize]).numpy().view(unsigned).reshape(numbers.shape)

    monkeypatch.setattr(interpreter, "_convert_float", convert)
