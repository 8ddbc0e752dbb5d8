"""What cannot be served ends `textgen-server` with one sentence that names what is wrong, and with code 1."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fake_hub import serve_hub
from running import Server
from safetensors.torch import load_file, save_file
from shapes import SHAPES, save_checkpoint
from tiny_gguf import write_gguf
from tiny_tokenizer import write_tokenizer

from textgen_server.errors import StartupError
from textgen_server.parallel import Group
from textgen_server.runner.load import load_model
from textgen_server.settings import ServerOptions

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, content: str | bytes) -> Callable[[Path], None]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: void((folder / name).write_bytes(data))


def void(result: object) -> None:
    pass


def cut(name: str, length: int) -> Callable[[Path], None]:
    return lambda folder: void((folder / name).write_bytes((folder / name).read_bytes()[:length]))


def set_config(**fields: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | fields
        (folder / "config.json").write_text(json.dumps(config))

    return change


def header(**entries: object) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


def tensor(dtype: str = "F32", size: int = 2, end: int = 8) -> dict[str, object]:
    return {"dtype": dtype, "shape": [size], "data_offsets": [0, end]}


def repeated(folder: Path) -> None:
    text = b'{"a": %s, "a": %s}' % ((json.dumps(tensor()).encode(),) * 2)
    (folder / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))


def in_two_files(folder: Path) -> None:
    shutil.copy(folder / WEIGHTS, folder / "model-1.safetensors")
    (folder / WEIGHTS).rename(folder / "model-2.safetensors")


def index(content: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder / "model-1.safetensors")
        (folder / INDEX).write_text(content if isinstance(content, str) else json.dumps({"weight_map": content}))

    return change


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("exit 1",)


def pickled(content: object, length: int | None = None) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        torch.save(content, folder / "pytorch_model.bin")
        cut("pytorch_model.bin", length or 10**9)(folder)

    return change


def folder_for(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


def gguf(length: int | None, architecture: str = "llama") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for path in folder.iterdir():
            path.unlink()
        write_gguf(folder / "tiny.gguf", architecture=architecture)
        cut("tiny.gguf", length or 10**9)(folder)

    return change


def link(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to("/gone/file")

    return change


def adapter(base: str | None) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for path in folder.iterdir():
            path.unlink()
        (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))

    return change


BEFORE_TORCH: dict[str, tuple[Callable[[Path], None], str]] = {
    "nothing": (lambda folder: void([path.unlink() for path in folder.iterdir()]), "it holds nothing"),
    "no config": (remove("config.json"), "it has no config.json"),
    "no weights": (remove(WEIGHTS), "it has no *.safetensors"),
    "a broken config": (write("config.json", "{oops"), "config.json is not valid JSON"),
    "a config that is a list": (write("config.json", "[]"), "config.json must hold a JSON object, not list"),
    "a config without a family": (write("config.json", "{}"), "config.json lacks the field 'model_type'"),
    "empty weights": (write(WEIGHTS, ""), f"{WEIGHTS} is damaged or truncated (0 bytes): it is empty"),
    "truncated weights": (cut(WEIGHTS, -9), "bytes of tensors, and its header says"),
    "a truncated header": (cut(WEIGHTS, 100), "is damaged or truncated (100 bytes): its header is not whole"),
    "weights that are a page": (write(WEIGHTS, "<!doctype html><title>Sign in</title>"), "is damaged or truncated"),
    "a pointer to weights": (write(WEIGHTS, "version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "a header that is no JSON": (write(WEIGHTS, (9).to_bytes(8, "little") + b"{not json"), "is damaged or truncated"),
    "numbers of an unknown type": (write(WEIGHTS, header(a=tensor("F99")) + bytes(8)), "type F99, which is not known"),
    "a shape that lies": (write(WEIGHTS, header(a=tensor(size=3)) + bytes(8)), "a of shape [3] and type F32 cannot"),
    "more bytes than tensors": (write(WEIGHTS, header(a=tensor()) + bytes(9)), "it has 9 bytes of tensors"),
    "a name twice in a file": (repeated, "its header has a twice"),
    "a name in two files": (in_two_files, "both model-1.safetensors and model-2.safetensors hold the tensor"),
    "an index that is no JSON": (index("{"), f"{INDEX} is not valid JSON"),
    "an index of something else": (index(["a"]), "weight_map must map names of tensors to names of files"),
    "an index of a missing file": (index({"a": "model-9.safetensors"}), "lists model-9.safetensors, which is missing"),
    "an index of a missing tensor": (index({"a": "model-1.safetensors"}), "lists the tensor a in model-1.safetensors"),
    "a pickle with code": (pickled({"a": Evil()}), "holds more than tensors, and reading it could run code"),
    "a truncated pickle": (pickled({"a": torch.zeros(999)}, 1500), "pytorch_model.bin is damaged or truncated"),
    "a pickle of a training run": (pickled({"a": torch.zeros(2), "step": 1}), "must hold named tensors and nothing"),
    "a folder in place of the weights": (folder_for(WEIGHTS), f"{WEIGHTS} cannot be read: Is a directory"),
    "a folder in place of the config": (folder_for("config.json"), "it has no config.json"),
    "a link to weights that are gone": (link(WEIGHTS), f"{WEIGHTS} cannot be read: No such file"),
    "a config without end": (write("config.json", "[" * 100_000), "its brackets are nested too deeply"),
    "no tokenizer": (remove("tokenizer.json"), "tokenizer.json is missing; textgen needs the fast tokenizer's file"),
    "a broken tokenizer": (write("tokenizer.json", "{"), "tokenizer.json cannot be read as a tokenizer"),
    "a tokenizer of a larger model": (set_config(vocab_size=99), "has 131 tokens, and config.json says vocab_size 99"),
    "a tokenizer_config that is no JSON": (write("tokenizer_config.json", "{"), "tokenizer_config.json is not valid"),
    "a chat template that is none": (write("chat_template.jinja", "{{ oops"), "the model's chat template is damaged"),
    "a chat template that is no text": (write("chat_template.jinja", b"\xff"), "chat_template.jinja is not text in"),
    "a generation_config that is no JSON": (write("generation_config.json", "{"), "generation_config.json is not"),
    "an end that is no token": (write("generation_config.json", '{"eos_token_id": "</s>"}'), "eos_token_id must be a "),
    "a truncated gguf": (gguf(-100), "tiny.gguf is not a usable GGUF file: it is truncated"),
    "a gguf of another architecture": (gguf(None, architecture="mamba"), "architecture 'mamba' is not supported"),
    "an adapter without a base": (adapter(None), "base_model_name_or_path must name the adapter's base model"),
    "an adapter whose base is gone": (adapter("/gone/base"), "no such folder or file: /gone/base"),
    "an adapter whose base is gated": (adapter("org/gated"), "org/gated is gated: accept its terms at http://"),
}  # fmt: skip

SOURCES = {
    "/no/such/model": "no such folder or file: /no/such/model",
    "./no-such.gguf": "no-such.gguf (model_id './no-such.gguf')",
    "package://no_such_package": "no package no_such_package is installed",
    "org/missing": "org/missing is not on http://",
    "org/gated": "org/gated is gated: accept its terms",
    "ftp://host/model": "ftp:// is not supported",
    "no model": "'no model' is neither an existing path nor a hub id",
}

# Runs the program's own entry point for each line of arguments, in one process; none of them gets as far as torch.
DRIVER = """
import contextlib, io, json, sys
from textgen_server.launcher import main
outcomes = []
for args in json.loads(sys.argv[1]):
    sys.argv = ["textgen-server", "--hostname", "127.0.0.1", "--port", "0", *args]
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr):
        code = main()
    outcomes.append((code, stderr.getvalue()))
print(json.dumps([outcomes, "torch" in sys.modules]))
"""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_checkpoint(SHAPES["llama"]["grouped-query"], tmp_path_factory.mktemp("sound"))
    write_tokenizer(folder, end=2)
    return folder


def copy(sound: Path, folder: Path, damage: Callable[[Path], None]) -> Path:
    shutil.copytree(sound, folder)
    damage(folder)
    return folder


def test_before_torch_is_imported_each_is_one_sentence(sound: Path, tmp_path: Path) -> None:
    folders = [copy(sound, tmp_path / name, damage) for name, (damage, _) in BEFORE_TORCH.items()]
    expected = [complaint for _, complaint in BEFORE_TORCH.values()] + list(SOURCES.values())
    lines = [["--model-id", str(model)] for model in [*folders, *SOURCES]]
    with serve_hub() as hub:
        hub.files["org/gated"] = {"config.json": b"{}"}
        hub.gated.add("org/gated")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "NO_PROXY": "127.0.0.1"}
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, json.dumps(lines)],
            env=kept | env, capture_output=True, text=True, timeout=250, check=False,
        )  # fmt: skip

    assert done.returncode == 0, done.stderr
    outcomes, imported_torch = json.loads(done.stdout)
    assert not imported_torch
    for (code, stderr), complaint, line in zip(outcomes, expected, lines, strict=True):
        last = stderr.splitlines()[-1]
        assert code == 1, line
        assert last.startswith("error: "), line
        assert complaint in last, line
        assert "Traceback" not in stderr


def tensors(**changed: torch.Tensor | None) -> Callable[[Path], None]:
    """Replace tensors, or with None take them out; "__" stands for a dot."""

    def change(folder: Path) -> None:
        stored = load_file(folder / WEIGHTS) | {name.replace("__", "."): value for name, value in changed.items()}
        save_file({name: value for name, value in stored.items() if value is not None}, folder / WEIGHTS)

    return change


# For a model with 3 layers, hidden_size 48, 6 heads of 8 and 2 for keys and values, intermediate_size 80.
BY_THE_RANKS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a missing tensor": (tensors(model__layers__1__mlp__down_proj__weight=None), "no tensor model.layers.1.mlp.down_"),
    "no output head": (tensors(lm_head__weight=None), "has no tensor lm_head.weight"),
    "a narrow matrix": (tensors(model__layers__0__self_attn__o_proj__weight=torch.zeros(48, 40)), "o_proj.weight of"),
    "a matrix beside another's": (
        tensors(model__layers__0__self_attn__q_proj__weight=torch.zeros(48, 47)),
        "k_proj.weight and model.layers.0.self_attn.q_proj.weight belong side by side",
    ),
    "a vector for a matrix": (tensors(lm_head__weight=torch.zeros(131)), "lm_head.weight of shape [131] does not fit"),
    "a norm of another size": (tensors(model__norm__weight=torch.zeros(47)), "which makes it 48 in dimension 0"),
    "whole numbers": (tensors(lm_head__weight=torch.zeros(131, 48, dtype=torch.int8)), "holds int8 numbers"),
    "an unknown architecture": (set_config(model_type="nobodys"), "model_type 'nobodys' is not supported; supported: "),
    "fewer layers": (set_config(num_hidden_layers=2), "more tensors are of layers that config.json does not count"),
    "more layers": (set_config(num_hidden_layers=4), "has no tensor model.layers.3."),
    "another width": (set_config(hidden_size=96), "embed_tokens.weight of shape [131, 48] does not fit config.json, "
                      "which makes it 96, its hidden_size, in dimension 1"),
    "more heads": (set_config(num_attention_heads=12), "q_proj.weight of shape [48, 48] does not fit config.json"),
    "fewer key heads": (set_config(num_key_value_heads=1), "k_proj.weight of shape [16, 48] does not fit config.json"),
    "heads that cannot share keys": (set_config(num_attention_heads=5), "num_attention_heads (5) must be a multiple"),
    "heads of an odd size": (set_config(head_dim=7), "turns an even number of features, not 7 of head_dim 7"),
    "a larger vocabulary": (set_config(vocab_size=500), "embed_tokens.weight of shape [131, 48] does not fit config"),
    "no hidden_size": (set_config(hidden_size=None), "config.json lacks the field 'hidden_size'"),
    "a number in quotes": (set_config(hidden_size="48"), "hidden_size must be a whole number of at least 1, not '48'"),
    "an unknown activation": (set_config(hidden_act="nope"), "hidden_act 'nope' is not supported; supported: "),
    "an unknown rotary embedding": (set_config(rope_parameters={"rope_type": "nope"}), "rope_type 'nope' is not supp"),
    "an unknown quantization": (set_config(quantization_config={"quant_method": "nope"}), "'nope' cannot be read"),
    "a quantization that is none": (
        set_config(quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 16}),
        "remove quantization_config if they are in full precision",
    ),
    "a quantization that is a list": (set_config(quantization_config=[4]), "quantization_config must be an object"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "complaint"), BY_THE_RANKS.values(), ids=BY_THE_RANKS)
def test_what_ranks_find_is_one_sentence(
    damage: Callable[[Path], None], complaint: str, sound: Path, tmp_path: Path
) -> None:
    folder = copy(sound, tmp_path / "model", damage)

    with pytest.raises(StartupError) as caught:
        load_model(ServerOptions(device="cpu"), folder, torch.device("cpu"), Group())
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_ranks_find_is_said_once_and_the_port_never_opens(sound: Path, tmp_path: Path) -> None:
    damage, complaint = BY_THE_RANKS["a missing tensor"]
    server = Server(tmp_path / "log", "--model-id", str(copy(sound, tmp_path / "model", damage)))

    assert server.process.wait(250) == 1
    log = server.log.read_text()
    assert log.count(complaint) == 1
    assert "Traceback" not in log
    assert log.splitlines()[-1] == "error: the engine could not start; its reason is in the lines above"
    assert "ready at" not in log
