"""Triton's interpreter, made to run beside today's numpy."""

from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True)
def _interpreter_takes_scalars_of_one_element(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton 3.6 keeps scalars as arrays of one element, which numpy 2.4 no longer converts for a loop's bounds."""
    if torch.cuda.is_available():
        return
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    patch = interpreter._patch_lang_tensor

    def patch_with_index(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch_with_index)
