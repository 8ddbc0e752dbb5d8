"""Causal models that have no module here, run by transformers' code on the paged cache: the same logits and greedy text
as by transformers alone, and one clear sentence about those that cannot run."""

import json
import re
import sys
from pathlib import Path

import peft
import pytest
import torch
import transformers
from harness import generate, logits, make_request, make_runner, run
from safetensors.torch import load_file, save_file
from shapes import SMALL, Shape, make_model, save_checkpoint

from textgen_server.errors import CheckpointError, StartupError, TextgenError
from textgen_server.models.config import read_config
from textgen_server.parallel import Group
from textgen_server.runner.load import load_model
from textgen_server.runner.runner import Runner
from textgen_server.settings import ServerOptions
from textgen_server.weights.inspection import inspect

PROMPTS = [torch.randint(3, 131, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (1, 30, 61)]
MOE = {"num_experts": 5, "num_experts_per_tok": 2, "intermediate_size": 64, "moe_intermediate_size": 64}
MODELS = {
    "OLMo2: norms behind": Shape(transformers.Olmo2Config),
    "Cohere: scaled logits, biases nowhere": Shape(transformers.CohereConfig, {"logit_scale": 0.3}),
    "Granite: four multipliers": Shape(
        transformers.GraniteConfig,
        {"logits_scaling": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.5, "embedding_multiplier": 4.0},
    ),
    "StableLM: partial rotary, tied": Shape(
        transformers.StableLmConfig,
        {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
    ),
    "SmolLM3: layers without positions": Shape(transformers.SmolLM3Config, {"no_rope_layer_interval": 2}),
    "Cohere2: window": Shape(transformers.Cohere2Config, {"sliding_window": 8, "sliding_window_pattern": 2}),
    "Qwen2-MoE: experts that transformers joins": Shape(
        transformers.Qwen2MoeConfig, {**MOE, "shared_expert_intermediate_size": 64, "decoder_sparse_step": 1}
    ),
    "DeepSeek-V2: latent attention, its values narrower than its keys": Shape(
        transformers.DeepseekV2Config,
        {
            "num_key_value_heads": 6, "kv_lora_rank": 16, "q_lora_rank": None, "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8, "v_head_dim": 12, "head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2,
            "moe_intermediate_size": 64, "first_k_dense_replace": 1, "n_shared_experts": 1, "n_group": 1,
            "topk_group": 1,
        },
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS)
def twins(request, tmp_path_factory):
    """(transformers' model, our runner) with the same random weights."""
    folder = tmp_path_factory.mktemp("model")
    theirs = make_model(request.param)
    theirs.save_pretrained(folder)
    theirs.generation_config.eos_token_id = None
    return theirs, make_runner(folder, block_size=8)


def their_text(model, tokens: list[int], count: int) -> list[int]:
    out = model.generate(torch.tensor([tokens]), max_new_tokens=count, min_new_tokens=count, do_sample=False)
    return out[0, len(tokens) :].tolist()


def test_logits_and_greedy_text_are_the_same_batched_chunked_cached_and_preempted(twins):
    theirs, runner = twins
    with torch.inference_mode():
        expected = theirs(torch.tensor([PROMPTS[1]])).logits[0]
    torch.testing.assert_close(logits(runner, PROMPTS[1]), expected, rtol=1e-4, atol=1e-4)
    texts = [their_text(theirs, prompt, 8) for prompt in PROMPTS]
    assert generate(runner, PROMPTS, 8) == texts
    requests = [make_request(runner, key, prompt, 8) for key, prompt in enumerate([*PROMPTS, PROMPTS[2]])]
    squeezed = run(runner, requests, num_blocks=10, prefill=7)
    assert squeezed.texts == [*texts, texts[2]]
    assert squeezed.preemptions > 0


OLMO2 = MODELS["OLMo2: norms behind"]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_adapters_are_applied_and_merged_as_peft_merges_them(tmp_path: Path):
    save_checkpoint(OLMO2, tmp_path / "base")
    config = peft.LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(make_model(OLMO2), config)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.2, generator=torch.Generator().manual_seed(len(name)))
    model.save_pretrained(tmp_path / "tuned")
    with torch.inference_mode():
        expected = model.merge_and_unload()(torch.tensor([PROMPTS[1]])).logits[0]
    runner = make_runner(tmp_path / "base", block_size=8, lora_loading=True)
    runner.load_adapter("tuned", tmp_path / "tuned")
    torch.testing.assert_close(logits(runner, PROMPTS[1], "tuned"), expected, rtol=1e-4, atol=1e-4)
    options = ServerOptions(device="cpu", cpu_kv_cache_gib=0.05, block_size=8)
    merged = Runner(options, tmp_path / "base", torch.device("cpu"), Group(), merge=tmp_path / "tuned")
    torch.testing.assert_close(logits(merged, PROMPTS[1]), expected, rtol=1e-4, atol=1e-4)


def test_its_linear_layers_are_quantized_as_they_load(tmp_path: Path):
    save_checkpoint(Shape(OLMO2.config, {"hidden_size": 192, "intermediate_size": 256}), tmp_path)
    full, quantized = make_runner(tmp_path), make_runner(tmp_path, quantize="bitsandbytes")
    expected = logits(full, PROMPTS[1])
    error = (logits(quantized, PROMPTS[1]) - expected).norm() / expected.norm()
    assert 1e-3 < error < 0.1


def test_a_checkpoint_in_several_types_of_numbers_is_read_as_it_is(tmp_path: Path):
    model = make_model(OLMO2)
    for layer in model.model.layers:
        layer.mlp.to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    expected = model.float()(torch.tensor([PROMPTS[1]])).logits[0].detach()
    torch.testing.assert_close(logits(make_runner(tmp_path), PROMPTS[1]), expected, rtol=1e-4, atol=1e-4)


def test_several_shards_are_refused(tmp_path: Path):
    save_checkpoint(OLMO2, tmp_path)
    options = ServerOptions(device="cpu", cpu_kv_cache_gib=0.05)
    with pytest.raises(StartupError, match=r"--num-shard 2: model_type 'olmo2' is run by .*; set --num-shard 1"):
        load_model(options, tmp_path, torch.device("cpu"), Group(0, 2))


def test_a_missing_tensor_and_one_of_another_shape_are_named(tmp_path: Path):
    save_checkpoint(OLMO2, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    norm = weights.pop("model.norm.weight")
    save_file(weights, tmp_path / "model.safetensors")
    assert refusal(tmp_path) == "the checkpoint has no tensor model.norm.weight, and lacks 0 more"
    save_file(weights | {"model.norm.weight": norm[:40].clone()}, tmp_path / "model.safetensors")
    assert refusal(tmp_path) == "model.norm.weight of shape [40] does not fit config.json, which makes it [48]"
    more = {"model.norm.weight": norm, "model.layers.3.self_attn.q_norm.weight": norm.clone()}
    save_file(weights | more, tmp_path / "model.safetensors")
    assert refusal(tmp_path).startswith("model.layers.3.self_attn.q_norm.weight and 0 more tensors are of layers that")


def test_without_transformers_the_launcher_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save_checkpoint(OLMO2, tmp_path)
    inspect(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    for look in (inspect, read_config):
        with pytest.raises(CheckpointError, match=r"'olmo2' is not supported without .*'textgen\[transformers\]'"):
            look(tmp_path)


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_code_that_comes_with_a_model_is_run_with_trust_remote_code_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = save_checkpoint(Shape(transformers.LlamaConfig), tmp_path / "own_model")
    expected = logits(make_runner(folder), PROMPTS[1])
    (folder / "modeling_own.py").write_text(CODE)
    config = json.loads((folder / "config.json").read_text())
    code = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "own", "auto_map": code}))
    assert refusal(folder) == (
        "config.json: model_type 'own' comes with code of its own (auto_map), which is run only with "
        "--trust-remote-code true"
    )
    runner = make_runner(folder, trust_remote_code=True)
    torch.testing.assert_close(logits(runner, PROMPTS[1]), expected, rtol=1e-4, atol=1e-4)


def refusal(folder: Path, **options) -> str:
    settings = ServerOptions(device="cpu", cpu_kv_cache_gib=0.05, **options)
    with pytest.raises(TextgenError) as caught:
        load_model(settings, folder, torch.device("cpu"), Group())
    return str(caught.value)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (transformers.MambaConfig(), "it keeps a recurrent state, which a cache of keys and values cannot hold"),
        (transformers.BartConfig(), "it has an encoder and cross-attention"),
        (transformers.XLNetConfig(), "its attention does not go through transformers' attention interface"),
        (transformers.Llama4TextConfig(**SMALL), "it has layers of the kind chunked_attention, and only full and .*"),
        (transformers.LlavaConfig(), "transformers has no causal language model of it"),
        (transformers.GptOssConfig(**SMALL), "its attention takes s_aux, which paged attention has not"),
        (transformers.BertConfig(**SMALL), "it does not attend from each token to those before it"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.model_type,
)
def test_what_cannot_be_paged_is_named_with_the_reason(config, reason: str, tmp_path: Path):
    config.save_pretrained(tmp_path)
    if config.model_type in ("bert", "gpt_oss"):  # known by what they do
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    message = refusal(tmp_path)
    assert re.fullmatch(f"config.json: model_type '{config.model_type}' cannot be served: {reason}", message)
