"""Compile for GPUs that need not be here what layers of packed weights would launch. See compiled_kernels.py."""

import sys

import torch
from compiled_kernels import compile_for

from textgen_server.quantization import rounding_triton
from textgen_server.quantization.grouped import Grouped
from textgen_server.quantization.grouped_linear import FEW_ROWS, GroupedLinear
from textgen_server.quantization.scaled import Scaled
from textgen_server.quantization.scaled_triton import DequantizingTiles

SIZE, OUT = 4096, 512


def block(bits: int, groups: torch.Tensor) -> Grouped:
    count = int(groups.max()) + 1
    codes, zeros = torch.zeros(SIZE, OUT, dtype=torch.uint8), torch.zeros(count, OUT, dtype=torch.uint8)
    return Grouped(codes, torch.ones(count, OUT, dtype=torch.float16), zeros, groups, bits)


def main() -> None:
    in_order = torch.arange(SIZE) // 128
    # Compiling takes long: each says something that the others do not.
    grouped = [((86, 90), 4, in_order, torch.bfloat16), ((90,), 8, in_order.flip(0), torch.float16)]
    scaled = [((86, 90), torch.int8, SIZE, torch.bfloat16), ((90,), torch.float8_e4m3fn, 96, torch.float16)]
    for capability in map(int, sys.argv[1:]):
        compile_for(capability)
        for capabilities, bits, groups, dtype in grouped:
            if capability in capabilities:
                layer = GroupedLinear(block(bits, groups), torch.device("cpu"), dtype)
                for rows in (1, FEW_ROWS + 1):
                    layer(torch.zeros(rows, SIZE, dtype=dtype))
        for capabilities, kind, group_size, dtype in scaled:
            if capability in capabilities:
                scales = torch.ones(OUT, -(-SIZE // group_size))
                tiles = DequantizingTiles(Scaled(torch.zeros(OUT, SIZE).to(kind), scales, group_size, 0, None))
                for rows in (1, FEW_ROWS + 1):
                    tiles(torch.zeros(rows, SIZE, dtype=dtype))
                rounding_triton.rounded(torch.zeros(1, SIZE, dtype=dtype), kind)


if __name__ == "__main__":
    main()
