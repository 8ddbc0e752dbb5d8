"""Tiny Llama models as .gguf files, written with the gguf library's writer as llama.cpp's converter would."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFWriter, quantize

Array = npt.NDArray[np.float32]

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, LAYERS = 64, 4, 2, 16, 96, 2
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
USER_TOKEN = "<tool>"
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "1 2"]


def byte_alphabet() -> list[str]:
    """GPT-2's printable character for each byte: itself where it is visible, else the next free one from 256."""
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) if byte in visible else chr(256 + hidden.index(byte)) for byte in range(256)]


def byte_level_tokens() -> list[str]:
    """The vocabulary: special tokens, every byte, the merges' results, one token that a user added."""
    return [*SPECIAL_TOKENS, *byte_alphabet(), *(merge.replace(" ", "") for merge in MERGES), USER_TOKEN]


def add_byte_level_tokenizer(writer: GGUFWriter, pre: str = "smollm") -> None:
    tokens = byte_level_tokens()
    special = len(SPECIAL_TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3] * special + [1] * (len(tokens) - special - 1) + [4])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{{ messages[0].content }}")


def add_llama_metadata(writer: GGUFWriter) -> None:
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD_DIM)


def llama_weights(tied: bool = True, seed: int = 0) -> dict[str, Array]:
    """Random weights by GGUF name, in the order of rows that the model has."""
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(byte_level_tokens()), HIDDEN)}
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.attn_norm.weight": (HIDDEN,),
            f"blk.{layer}.attn_q.weight": (HEADS * HEAD_DIM, HIDDEN),
            f"blk.{layer}.attn_k.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
            f"blk.{layer}.attn_v.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
            f"blk.{layer}.attn_output.weight": (HIDDEN, HEADS * HEAD_DIM),
            f"blk.{layer}.ffn_norm.weight": (HIDDEN,),
            f"blk.{layer}.ffn_gate.weight": (INTERMEDIATE, HIDDEN),
            f"blk.{layer}.ffn_up.weight": (INTERMEDIATE, HIDDEN),
            f"blk.{layer}.ffn_down.weight": (HIDDEN, INTERMEDIATE),
        }
    shapes["output_norm.weight"] = (HIDDEN,)
    if not tied:
        shapes["output.weight"] = (len(byte_level_tokens()), HIDDEN)
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def interleaved(weight: Array, heads: int) -> Array:
    """The order of rows in the file: row j * d/2 + i of a head becomes row 2i + j, for llama.cpp's rotation."""
    half = weight.shape[0] // heads // 2
    return np.ascontiguousarray(weight.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(weight.shape))


def write_gguf(
    path: Path,
    weights: Mapping[str, Array] | None = None,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    architecture: str = "llama",
    metadata: Callable[[GGUFWriter], None] = lambda writer: None,
    tokenizer: Callable[[GGUFWriter], None] = add_byte_level_tokenizer,
) -> Path:
    """Write a model. Matrices are stored as `kind`; `metadata` adds keys of its own. Returns `path`."""
    writer = GGUFWriter(path, architecture)
    add_llama_metadata(writer)
    tokenizer(writer)
    metadata(writer)
    for name, weight in (llama_weights() if weights is None else weights).items():
        heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(name.split(".")[-2])
        stored = weight if heads is None else interleaved(weight, heads)
        if stored.ndim == 1 or kind == GGMLQuantizationType.F32:
            writer.add_tensor(name, stored)
        else:
            writer.add_tensor(name, quantize(stored, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
