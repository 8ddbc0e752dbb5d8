"""Adapters over HTTP: loaded, listed, chosen, unloaded, and refused."""

import json
from pathlib import Path

import pytest
from front import Front, write_model_folder


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """What the front sees of an adapter; the engine reads the rest."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    return folder


@pytest.fixture
async def front(tmp_path: Path):
    front = Front(write_model_folder(tmp_path / "model"), "hello world", lora_loading=True)
    yield front
    await front.close()


async def test_an_adapter_is_listed_and_chosen_by_either_name_after_it_was_loaded(front: Front, adapter: Path):
    reply = await front.post("/v1/load_lora_adapter", {"lora_name": "sql", "lora_path": str(adapter)})
    assert [card["id"] for card in reply.json()["data"]] == ["test-model", "sql"]
    body = {"inputs": "hello", "parameters": {"adapter_id": "sql", "max_new_tokens": 2}}
    assert (await front.post("/generate", body)).status_code == 200
    await front.post("/v1/completions", {"model": "sql", "prompt": "hello", "max_tokens": 2})
    await front.post("/v1/completions", {"prompt": "hello", "max_tokens": 2})
    assert [request.adapter for request in front.engine.requests] == ["sql", "sql", ""]
    reply = await front.post("/v1/unload_lora_adapter", {"lora_name": "sql"})
    assert [card["id"] for card in reply.json()["data"]] == ["test-model"]
    assert (await front.post("/generate", body)).status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("load", {"lora_name": "test-model", "lora_path": "/tmp"}, 400, "lora_name"),
        ("load", {"lora_name": "a,b", "lora_path": "/tmp"}, 400, "lora_name"),
        ("load", {"lora_name": "sql"}, 400, "lora_path"),
        ("load", {"lora_name": "sql", "lora_path": "/nonexistent/sql"}, 400, "lora_path"),
        ("unload", {"lora_name": "sql"}, 404, "model"),
    ],
)
async def test_what_cannot_be_loaded_or_unloaded_is_refused_by_field(front: Front, path, body, status, param):
    reply = await front.post(f"/v1/{path}_lora_adapter", body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (status, param)


async def test_without_the_flag_nothing_is_loaded(tmp_path: Path, adapter: Path):
    front = Front(write_model_folder(tmp_path / "model"), "hello world")
    reply = await front.post("/v1/load_lora_adapter", {"lora_name": "sql", "lora_path": str(adapter)})
    assert reply.status_code == 400
    assert "--lora-loading true" in reply.json()["error"]["message"]
    await front.close()
