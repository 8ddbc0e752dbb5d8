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
    "an unknown architecture": (set_config(model_type="nobodys"), "model_type 'nobodys' is not supported; supported: "),
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
    return save_checkpoint(SHAPES["llama"]["grouped-query"], tmp_path_factory.mktemp("sound"))


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


def without_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["model.layers.1.mlp.down_proj.weight"]
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


BY_THE_RANKS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a missing tensor": (without_a_tensor, "has no tensor model.layers.1.mlp.down_proj.weight"),
    "a config with fewer layers": (set_config(num_hidden_layers=2), "more tensors are of layers that config.json"),
    "a config of a wider model": (set_config(hidden_size=96, head_dim=8), "does not fit config.json, which makes it"),
}  # fmt: skip


def test_what_ranks_find_is_said_once_and_the_port_never_opens(sound: Path, tmp_path: Path) -> None:
    servers = [
        Server(tmp_path / f"{number}.log", "--model-id", str(copy(sound, tmp_path / str(number), damage)))
        for number, (damage, _) in enumerate(BY_THE_RANKS.values())
    ]
    codes = [server.process.wait(120) for server in servers]

    assert codes == [1] * len(servers)
    for server, (_, complaint) in zip(servers, BY_THE_RANKS.values(), strict=True):
        log = server.log.read_text()
        assert log.count(complaint) == 1
        assert "Traceback" not in log
        assert log.splitlines()[-1] == "error: the engine could not start; its reason is in the lines above"
        assert "ready at" not in log
