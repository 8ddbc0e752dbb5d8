"""Mixtures of experts (Shazeer et al. 2017). Every rank holds a part of every expert."""

import torch
from torch import Tensor, nn

from textgen_server.layers.build import Builder
from textgen_server.layers.linear import dense
from textgen_server.layers.lora import AdapterRows


class SparseMoE(nn.Module):
    """The weighted sum of the `top_k` experts that the router prefers for a token; `normalized`, the weights sum to 1.

    Experts must not sum over the ranks: it is done once for all of them here. The router is small and never quantized.
    """

    capturable = False  # the host must know how many tokens each expert gets

    def __init__(self, build: Builder, router: str, experts: list[nn.Module], top_k: int, normalized: bool) -> None:
        super().__init__()
        self.router = dense(build.vector(router))
        self.experts = nn.ModuleList(experts)
        self.top_k = top_k
        self.normalized = normalized
        self.group = build.group
        self.adapter_rows = build.adapter_rows or AdapterRows()

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.router(x).float().softmax(-1).topk(self.top_k)
        if self.normalized:
            weights = weights / weights.sum(-1, keepdim=True)
        weights = weights.to(x.dtype).flatten()
        # Places in `chosen`, by expert; how many each has is the one thing that the host must know.
        order = chosen.flatten().argsort(stable=True)
        counts: list[int] = torch.bincount(chosen.flatten(), minlength=len(self.experts)).tolist()
        out = torch.zeros_like(x)
        for expert, places in zip(self.experts, order.split(counts), strict=True):
            if len(places):
                tokens = places // self.top_k
                with self.adapter_rows.among(tokens):
                    out.index_add_(0, tokens, expert(x[tokens]) * weights[places, None])
        return self.group.all_reduce(out)
