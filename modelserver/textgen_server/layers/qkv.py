"""Where the rows of a rank's heads are in the matrices of query, key and value, as families lay them out.

Each function returns pieces for `Builder.columns`, in the order in which `SelfAttention` reads their outputs: all
queries, all keys, all values.
"""

from textgen_server.layers.build import Piece
from textgen_server.layers.partition import Heads


def separate(prefix: str, heads: Heads, dim: int) -> list[Piece]:
    """q_proj, k_proj and v_proj, a matrix each: Llama's layout."""
    return [
        (f"{prefix}.q_proj", heads.q_start * dim, heads.q_count * dim),
        (f"{prefix}.k_proj", heads.kv_start * dim, heads.kv_count * dim),
        (f"{prefix}.v_proj", heads.kv_start * dim, heads.kv_count * dim),
    ]


def stacked(name: str, heads: Heads, dim: int, num_heads: int, num_kv_heads: int) -> list[Piece]:
    """One matrix: the model's queries, then its keys, then its values (Phi-3, GPT-2)."""
    keys = num_heads + heads.kv_start
    return [
        (name, heads.q_start * dim, heads.q_count * dim),
        (name, keys * dim, heads.kv_count * dim),
        (name, (keys + num_kv_heads) * dim, heads.kv_count * dim),
    ]


def grouped(name: str, heads: Heads, dim: int, num_heads: int, num_kv_heads: int) -> list[Piece]:
    """One matrix: for each KV head in turn its query heads, its key and its value.

    With one query head for each KV head this is the interleaved layout of Megatron (BLOOM, GPT-NeoX); with one KV head
    it is `stacked` (Falcon 7B, StarCoder); Falcon 40B has it with more of both.
    """
    per_kv = num_heads // num_kv_heads
    step = per_kv + 2
    queries, end = [], heads.q_start + heads.q_count
    groups = range(heads.kv_start, heads.kv_start + heads.kv_count)
    for group in groups:
        first, last = max(heads.q_start, group * per_kv), min(end, (group + 1) * per_kv)
        queries.append((name, (first + 2 * group) * dim, (last - first) * dim))
    keys = ((name, (group * step + per_kv) * dim, dim) for group in groups)
    values = ((name, (group * step + per_kv + 1) * dim, dim) for group in groups)
    return [*queries, *keys, *values]
