"""LoRA adapters against PEFT's own model: alone, mixed in one batch, over ranks, and with the prefix cache."""

import json
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from harness import generate, logits, make_request, make_runner, run
from safetensors.torch import load_file, save_file
from shapes import SHAPES, make_model
from thread_ranks import on_ranks

from textgen_server.errors import InvalidRequest
from textgen_server.parallel import Group
from textgen_server.registry import FAMILIES
from textgen_server.runner.runner import Runner
from textgen_server.settings import ServerOptions

FAMILY_NAMES = [family for family in SHAPES if not FAMILIES[family].encoder_decoder]
PROMPTS = [[5, 9, 17, 80, 3], [7] * 20, list(range(3, 60))]
NEW_TOKENS = 12

# PEFT asks transformers for something that has a new name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def save_adapter(base, folder: Path, seed: int, **options) -> None:
    """A random adapter on every linear layer of transformers' `base`."""
    # PEFT cannot name experts.
    experts = base.config.model_type in ("mixtral", "qwen3_moe")
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"] if experts else "all-linear"
    transposed = base.config.model_type == "gpt2"
    config = peft.LoraConfig(
        r=4, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM", fan_in_fan_out=transposed, **options
    )
    model = peft.get_peft_model(base, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
    model.save_pretrained(folder)
    model.unload()


def their_text(model, tokens: list[int]) -> list[int]:
    model.generation_config.eos_token_id = None
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0}
    return model.generate(input_ids=torch.tensor([tokens]), **settings)[0, len(tokens) :].tolist()


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def served(request, tmp_path_factory):
    """Our runner with two adapters, and the texts of transformers' model without, with the first, and the second."""
    folder = tmp_path_factory.mktemp("model")
    base = make_model(next(iter(SHAPES[request.param].values())))
    base.save_pretrained(folder / "base")
    texts = {"": [their_text(base, prompt) for prompt in PROMPTS]}
    runner = make_runner(folder / "base", block_size=8, lora_loading=True)
    for seed, name in enumerate(("first", "second")):
        save_adapter(make_model(next(iter(SHAPES[request.param].values()))), folder / name, seed, use_rslora=seed == 1)
        merged = peft.PeftModel.from_pretrained(
            make_model(next(iter(SHAPES[request.param].values()))), folder / name
        ).merge_and_unload()
        texts[name] = [their_text(merged, prompt) for prompt in PROMPTS]
        runner.load_adapter(name, folder / name)
    return runner, texts, folder


def test_texts_equal_those_of_pefts_merged_model_in_one_mixed_batch(served):
    runner, texts, _ = served
    assert texts["first"] != texts[""] != texts["second"]
    names = ["", "first", "second"] * len(PROMPTS)
    prompts = [prompt for prompt in PROMPTS for _ in range(3)]
    requests = [
        make_request(runner, key, prompt, NEW_TOKENS, adapter=name, cache_salt=name)
        for key, (name, prompt) in enumerate(zip(names, prompts, strict=True))
    ]
    expected = [texts[name][PROMPTS.index(prompt)] for name, prompt in zip(names, prompts, strict=True)]
    assert run(runner, requests).texts == expected


def test_without_an_adapter_the_model_is_what_it_was(served):
    runner, texts, _ = served
    assert generate(runner, PROMPTS, NEW_TOKENS) == texts[""]


def test_the_log_probabilities_of_a_prompt_are_the_adapters(served):
    runner, _, _ = served
    requests = [make_request(runner, key, PROMPTS[2], 1, adapter=name, cache_salt=name, wants_prompt_logprobs=True)
                for key, name in enumerate(("", "first", "first"))]  # fmt: skip
    scores = [request.prompt_scores.logprobs for request in run(runner, requests).requests]
    assert scores[1] == pytest.approx(scores[2], abs=1e-5)
    assert scores[0] != pytest.approx(scores[1], abs=1e-2)


def test_an_adapter_for_another_model_is_refused_and_changes_nothing(served, tmp_path):
    runner, texts, _ = served
    shape = SHAPES["llama"]["multi-head"]
    save_adapter(make_model(replace(shape, overrides={"hidden_size": 24, "num_attention_heads": 2})), tmp_path, 3)
    with pytest.raises(InvalidRequest, match="made for another model"):
        runner.load_adapter("stranger", tmp_path)
    assert generate(runner, PROMPTS[:1], NEW_TOKENS) == texts[""][:1]


def test_two_ranks_compute_what_one_does(served):
    runner, _, folder = served
    options = ServerOptions(device="cpu", cpu_kv_cache_gib=0.05, block_size=8, lora_loading=True)

    def on_one_rank(group: Group) -> torch.Tensor:
        part = Runner(options, folder / "base", torch.device("cpu"), group, {"first": folder / "first"})
        return logits(part, PROMPTS[2], "first")

    expected = logits(runner, PROMPTS[2], "first")
    assert not torch.allclose(expected, logits(runner, PROMPTS[2]), atol=1e-2)
    for share in on_ranks(2, on_one_rank):
        torch.testing.assert_close(share, expected, rtol=1e-4, atol=1e-4)


def save_by_names(base: Path, folder: Path, left_out: tuple[str, ...]) -> None:
    """A random adapter, without PEFT, on the matrices of the checkpoint in `base` but those named like `left_out`."""
    generator = torch.Generator().manual_seed(0)
    matrices = {}
    for name, weight in load_file(base / "model.safetensors").items():
        if weight.dim() == 2 and not any(part in name for part in left_out):
            for side, shape in (("A", (4, weight.shape[1])), ("B", (weight.shape[0], 4))):
                matrix = torch.randn(shape, generator=generator) * 0.2
                matrices[f"base_model.model.{name.removesuffix('weight')}lora_{side}.weight"] = matrix
    folder.mkdir()
    save_file(matrices, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))


@pytest.mark.parametrize(
    ("family", "left_out"),
    [("mixtral", ("embed", "lm_head", ".gate.")), ("t5", ("shared", "embed", "lm_head", "relative_attention_bias"))],
)
def test_layers_that_see_only_some_rows_add_adapters_to_the_right_ones(family, left_out, tmp_path):
    """Those of experts, and of an encoder and its decoder. The text is that of weights with the adapter in them."""
    make_model(next(iter(SHAPES[family].values()))).save_pretrained(tmp_path / "base")
    save_by_names(tmp_path / "base", tmp_path / "tuned", left_out)
    runner = make_runner(tmp_path / "base", block_size=8, lora_loading=True)
    runner.load_adapter("tuned", tmp_path / "tuned")
    options = ServerOptions(device="cpu", cpu_kv_cache_gib=0.05, block_size=8)
    merged = Runner(options, tmp_path / "base", torch.device("cpu"), Group(), merge=tmp_path / "tuned")
    plain, tuned = (generate(model, PROMPTS, NEW_TOKENS) for model in (runner, merged))
    assert plain != tuned
    requests = [make_request(runner, key, PROMPTS[key // 2], NEW_TOKENS, adapter=("", "tuned")[key % 2],
                             cache_salt=str(key % 2)) for key in range(2 * len(PROMPTS))]  # fmt: skip
    assert run(runner, requests).texts == [text for both in zip(plain, tuned, strict=True) for text in both]
