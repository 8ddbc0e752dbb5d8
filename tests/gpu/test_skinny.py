"""Products of few rows on a real GPU: what is chosen by measuring is right, and can be captured."""

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="NO CUDA DEVICE: skinny products are NOT tested"),
]


@pytest.mark.parametrize("rows", [1, 5, 16, 17])
@pytest.mark.parametrize("shape", [(6144, 4096), (1032, 1000)], ids=str)
def test_a_product_is_right_at_once_and_in_a_graph(shape: tuple[int, int], rows: int) -> None:
    from textgen_server.layers.skinny import FEW_ROWS, SkinnyLinear

    weight = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
    layer = SkinnyLinear(weight, torch.randn(shape[0], device="cuda", dtype=torch.bfloat16))
    x = torch.randn(rows, shape[1], device="cuda", dtype=torch.bfloat16)
    with torch.inference_mode():
        outs = [layer(x)]  # measures
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outs.append(layer(x))
        for _ in range(2):
            graph.replay()
        if rows <= FEW_ROWS:
            outs.append(layer.multiplied(x))
        expected = x.float() @ weight.float().t() + layer.bias.float()
    for out in outs:
        assert ((out.float() - expected).norm() / expected.norm()).item() < 0.01
