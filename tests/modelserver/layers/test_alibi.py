"""ALiBi's slopes are those of transformers, for any number of heads."""

import pytest
import torch
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

from textgen_server.layers.alibi import alibi_slopes


@pytest.mark.parametrize("heads", [1, 2, 6, 8, 14, 16, 71, 112])
def test_slopes(heads: int) -> None:
    biases = build_alibi_tensor(torch.ones(1, 2, dtype=torch.long), heads, torch.float32)
    torch.testing.assert_close(alibi_slopes(heads), biases[:, 0, 1])
