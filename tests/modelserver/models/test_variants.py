"""Variants of a family that are not served are refused with one sentence that names the field."""

import json
from pathlib import Path

import pytest
from harness import make_runner
from shapes import SHAPES, save_checkpoint

from textgen_server.errors import CheckpointError

CASES = [
    ("llama", {"hidden_act": "mish"}, r"hidden_act 'mish' is not supported; supported: silu, .*"),
    ("gpt2", {"activation_function": 3}, r"activation_function 3 is not supported; .*"),
    ("gpt2", {"add_cross_attention": True}, r"add_cross_attention true is not supported for gpt2; supported: false"),
    (
        "gemma2",
        {"use_bidirectional_attention": True},
        r"use_bidirectional_attention true is not supported for gemma2.*",
    ),
    (
        "gemma3",
        {"use_bidirectional_attention": True},
        r"use_bidirectional_attention true is not supported for gemma3.*",
    ),
    ("gemma2", {"attn_logit_softcapping": "hard"}, r"attn_logit_softcapping must be a number above 0, not 'hard'"),
    ("gemma3", {"layer_types": ["chunked_attention"] * 3}, r"layer_types must list 3 times sliding_attention or .*"),
    ("gemma3", {"layer_types": ["full_attention"]}, r"layer_types must list 3 times sliding_attention or .*"),
    ("qwen2", {"max_window_layers": -1}, r"max_window_layers must be a whole number of at least 0, not -1"),
    ("mixtral", {"num_experts_per_tok": 6}, r"num_experts_per_tok \(6\) must not exceed the experts \(5\)"),
    ("falcon", {"multi_query": "yes"}, r"multi_query must be true or false, not 'yes'"),
    (
        "falcon",
        {"new_decoder_architecture": True, "num_kv_heads": 4},
        r"num_attention_heads \(6\) must be a multiple of num_kv_heads \(4\)",
    ),
    ("gpt-neox", {"rope_parameters": {"partial_rotary_factor": 0.4}}, r"rotary embedding turns an even number .*"),
]


@pytest.mark.parametrize(("family", "fields", "complaint"), CASES, ids=str)
def test_the_field_is_named(family: str, fields: dict[str, object], complaint: str, tmp_path: Path) -> None:
    save_checkpoint(next(iter(SHAPES[family].values())), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | fields))
    with pytest.raises(CheckpointError, match=rf"^config\.json: {complaint}$"):
        make_runner(tmp_path)
