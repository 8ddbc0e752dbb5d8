"""What keeps a model from being served is one sentence that names the file, field or flag at fault."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from harness import make_runner
from safetensors.torch import load_file, save_file
from shapes import SHAPES, save_checkpoint

from textgen_server.engine_process import _limits, _Muscle
from textgen_server.errors import CheckpointError, OutOfMemory, StartupError
from textgen_server.models.config import read_config
from textgen_server.parallel import Group
from textgen_server.registry import FAMILIES
from textgen_server.rpc.engine_pb2 import EngineInfo
from textgen_server.runner.load import load_model, prepare_device
from textgen_server.settings import ServerOptions

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that loads: 6 query heads, 2 KV heads, 256 positions."""
    return save_checkpoint(SHAPES["llama"]["grouped-query"], tmp_path_factory.mktemp("sound"))


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return shutil.copytree(sound, tmp_path / "model")


def change(folder: Path, **fields: object) -> None:
    """Set fields of config.json; `...` removes one."""
    config = json.loads((folder / "config.json").read_text()) | fields
    kept = {name: value for name, value in config.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(kept))


def refusal(folder: Path, kind: type[StartupError] = CheckpointError, **options: object) -> str:
    """The sentence with which `folder` is refused."""
    with pytest.raises(kind) as caught:
        make_runner(folder, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def muscle(folder: Path, **options: object) -> _Muscle:
    """A model's, as far as limits depend on it."""
    runner = make_runner(folder, **options)
    positions = runner.loaded.config.max_positions
    return _Muscle(
        runner, runner.layout.block_size, runner.num_blocks, runner.max_prefill_tokens, positions, EngineInfo()
    )


def test_the_copy_is_sound(folder: Path) -> None:
    assert make_runner(folder).loaded.config.num_kv_heads == 2


class TestConfig:
    @pytest.mark.parametrize(
        ("content", "complaint"),
        [
            (None, "has no config.json, so it is not a model folder"),
            (b"{oops", "config.json is not valid JSON: .* line 1 column 2"),
            (b"", "config.json is not valid JSON"),
            (b"\xff{}", "config.json is not text in UTF-8: .*utf-8"),
            (b"[1]", "config.json must hold a JSON object, not list"),
        ],
    )
    def test_a_file_that_is_no_config_is_named(self, folder: Path, content: bytes | None, complaint: str) -> None:
        (folder / "config.json").unlink()
        if content is not None:
            (folder / "config.json").write_bytes(content)
        sentence = refusal(folder)
        assert str(folder) in sentence
        assert re.search(complaint, sentence)

    @pytest.mark.parametrize(
        "field",
        [
            "model_type",
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
        ],
    )
    @pytest.mark.parametrize("value", [..., None], ids=["absent", "null"])
    def test_a_missing_field_is_named(self, folder: Path, field: str, value: object) -> None:
        change(folder, **{field: value})
        assert refusal(folder) == f"config.json lacks the field '{field}'"

    @pytest.mark.parametrize(
        "field",
        [
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "intermediate_size",
            "max_position_embeddings",
        ],
    )
    @pytest.mark.parametrize("value", ["many", 0, -1, 1.5, True, [48]], ids=str)
    def test_a_field_that_counts_takes_whole_numbers_only(self, folder: Path, field: str, value: object) -> None:
        change(folder, **{field: value})
        assert refusal(folder) == f"config.json: {field} must be a whole number of at least 1, not {value!r}"

    @pytest.mark.parametrize(
        ("fields", "complaint"),
        [
            ({"rms_norm_eps": "small"}, "rms_norm_eps must be a number above 0, not 'small'"),
            ({"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false, not 'yes'"),
            ({"num_key_value_heads": 4}, "num_attention_heads (6) must be a multiple of num_key_value_heads (4)"),
            (
                {"hidden_size": 50, "head_dim": None},
                "without head_dim, hidden_size (50) must be a multiple of num_attention_heads (6)",
            ),
            ({"head_dim": 7}, "rotary embedding turns an even number of features, not 7 of head_dim 7"),
            ({"partial_rotary_factor": "half"}, "partial_rotary_factor must be a number above 0, not 'half'"),
            ({"rope_parameters": "yarn"}, "rope_parameters must be an object, not 'yarn'"),
            (
                {"model_type": "mistral", "sliding_window": "wide"},
                "sliding_window must be a whole number of at least 1, not 'wide'",
            ),
        ],
        ids=str,
    )
    def test_a_wrong_field_is_named(self, folder: Path, fields: dict[str, object], complaint: str) -> None:
        change(folder, **fields)
        assert refusal(folder) == f"config.json: {complaint}"

    def test_an_unknown_model_is_refused_by_name_before_its_fields_are_missed(self, folder: Path) -> None:
        change(folder, model_type="nobodys", num_attention_heads=..., n_head=12)
        known = ", ".join(sorted(name for family in FAMILIES.values() for name in family.model_types))
        others = "causal models that the installed transformers knows, which does not know this one"
        assert refusal(folder) == (
            f"config.json: model_type 'nobodys' is not supported; supported: {known}, and {others}"
        )

    @pytest.mark.parametrize(
        ("scaling", "complaint"),
        [
            (
                {"rope_type": "3d"},
                "rope_type '3d' is not supported; supported: linear, dynamic, llama3, yarn, longrope",
            ),
            (
                {"rope_type": "longrope", "original_max_position_embeddings": 64, "short_factor": [1.0, "2"]},
                "short_factor of the rope scaling must list 4 numbers above 0",
            ),
            ({"rope_type": "linear"}, "rope scaling .* lacks 'factor'"),
            ({"rope_type": "linear", "factor": "2"}, "factor of the rope scaling must be a number above 0, not '2'"),
            ({"rope_type": "yarn", "factor": 0}, "factor of the rope scaling must be a number above 0, not 0"),
            (
                {"rope_type": "yarn", "factor": 2, "attention_factor": "high"},
                "attention_factor of the rope scaling must be a number above 0, not 'high'",
            ),
            ({"rope_type": "default", "rope_theta": "big"}, "rope_theta must be a number above 0, not 'big'"),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("place", ["rope_scaling", "rope_parameters"])
    def test_an_unknown_or_incomplete_rope_scaling_is_named(
        self, folder: Path, place: str, scaling: dict[str, object], complaint: str
    ) -> None:
        change(folder, **{"rope_parameters": ..., place: scaling})
        assert re.fullmatch(f"config.json: {complaint}", refusal(folder))

    @pytest.mark.parametrize(
        ("stored", "complaint"),
        [
            ({"quant_method": "hqq", "bits": 4}, "weights quantized by 'hqq' cannot be read; .* --quantize .*"),
            ({"quant_method": "gptq", "bits": 4}, r"says that gptq has quantized .* no tensor is called \*.qweight"),
            ("gptq", "config.json: quantization_config must be an object, not 'gptq'"),
        ],
        ids=str,
    )
    def test_a_quantized_checkpoint_is_refused_with_a_way_out(
        self, folder: Path, stored: object, complaint: str
    ) -> None:
        change(folder, quantization_config=stored)
        assert re.search(complaint, refusal(folder))

    def test_what_may_be_null_is_null(self, folder: Path) -> None:
        change(folder, num_key_value_heads=None, rope_parameters=None, rms_norm_eps=None, quantization_config=None)
        config = read_config(folder)
        assert (config.num_kv_heads, config.rope.theta, config.norm_eps) == (6, 10000.0, 1e-6)


class TestWeights:
    def test_a_missing_tensor_is_named(self, folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        del tensors["model.layers.1.mlp.up_proj.weight"]
        save_file(tensors, folder / WEIGHTS)
        sentence = f"{folder} has no tensor model.layers.1.mlp.up_proj.weight (looked in {WEIGHTS})"
        assert refusal(folder) == sentence

    def test_a_layer_beyond_the_checkpoint_is_a_missing_tensor(self, folder: Path) -> None:
        change(folder, num_hidden_layers=5)
        assert "has no tensor model.layers.3." in refusal(folder)

    def test_a_tensor_smaller_than_the_config_says_is_named(self, folder: Path) -> None:
        change(folder, vocab_size=1000)
        assert refusal(folder).startswith("model.embed_tokens.weight of shape [131, 48] does not fit config.json")

    @pytest.mark.parametrize(
        ("fields", "sentence"),
        [
            ({"vocab_size": 100}, "model.embed_tokens.weight of shape [131, 48] {} 100 in dimension 0"),
            ({"intermediate_size": 72}, "model.layers.0.mlp.gate_proj.weight of shape [80, 48] {} 72 in dimension 0"),
            (
                {"num_attention_heads": 4},
                "model.layers.0.self_attn.q_proj.weight of shape [48, 48] {} 32 in dimension 0",
            ),
        ],
        ids=str,
    )
    def test_a_tensor_larger_than_the_config_says_is_named(
        self, folder: Path, fields: dict[str, int], sentence: str
    ) -> None:
        change(folder, head_dim=8, **fields)
        assert refusal(folder) == sentence.format("does not fit config.json, which makes it")

    @pytest.mark.parametrize("kept", [0.0, 0.00001, 0.5])
    def test_a_truncated_file_is_named_with_its_size(self, folder: Path, kept: float) -> None:
        content = (folder / WEIGHTS).read_bytes()
        size = int(len(content) * kept)
        (folder / WEIGHTS).write_bytes(content[:size])
        assert f"{folder / WEIGHTS} is damaged or truncated ({size} bytes)" in refusal(folder)

    def test_a_folder_without_weights_says_so(self, folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        assert refusal(folder) == f"{folder} holds no *.safetensors files"


class TestFlags:
    def test_more_shards_than_heads_are_refused_by_every_rank(self, sound: Path) -> None:
        for rank in range(7):
            with pytest.raises(StartupError, match=r"^--num-shard 7 .* 6 attention heads cannot be shared by 7 ranks"):
                load_model(ServerOptions(device="cpu"), sound, torch.device("cpu"), Group(rank, 7))

    def test_a_kv_cache_without_room_says_which_flag_gives_it_some(self, sound: Path) -> None:
        assert "raise --cpu-kv-cache-gib" in refusal(sound, OutOfMemory, cpu_kv_cache_gib=1e-6)

    @pytest.mark.parametrize(
        ("wanted", "cache", "most"), [(257, None, 256), (200, 128, 128)], ids=["positions", "KV cache"]
    )
    def test_more_total_tokens_than_fit_are_refused_with_the_most(
        self, sound: Path, wanted: int, cache: int | None, most: int
    ) -> None:
        runner = muscle(sound, max_batch_total_tokens=cache)
        with pytest.raises(StartupError, match=rf"^--max-total-tokens {wanted} is too much: .*; {most} is the most$"):
            _limits(ServerOptions(max_total_tokens=wanted), runner)
        assert _limits(ServerOptions(max_total_tokens=most), runner).max_total_tokens == most

    def test_an_input_limit_that_leaves_no_room_for_output_is_refused(self, sound: Path) -> None:
        with pytest.raises(StartupError, match=r"^--max-input-tokens 256 leaves no token .* less than the 256 "):
            _limits(ServerOptions(max_input_tokens=256), muscle(sound))

    @pytest.mark.parametrize(
        ("gpus", "complaint"),
        [(0, "--device cuda needs a GPU, .* --device cpu"), (1, "--num-shard 2 needs 2 GPUs, .* sees 1; lower it")],
    )
    def test_too_few_gpus_are_counted(self, gpus: int, complaint: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        with pytest.raises(StartupError, match=complaint):
            prepare_device(ServerOptions(device="cuda"), rank=1, size=2)

    def test_an_attention_backend_for_other_devices_is_refused(self, sound: Path) -> None:
        sentence = refusal(sound, StartupError, attention_backend="triton")
        assert sentence.startswith("--attention-backend triton runs on cuda only")
