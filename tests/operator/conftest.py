"""An API server in miniature, and a client of it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kmock import RawHandler
from kube_emulator import ApplyEmulator

from textgen_operator.client import Client


@pytest.fixture
def kmock_options(kmock_options: dict[str, Any]) -> dict[str, Any]:
    return kmock_options | {"cls": ApplyEmulator}


@pytest.fixture
async def client(kmock: RawHandler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Client]:
    """A client of the emulated API server, which finds it as it would find any: by a kubeconfig."""
    config = {
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": {"server": str(kmock.url)}}],
        "users": [{"name": "test", "user": {"token": "secret"}}],
    }
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(file))
    async with Client() as client:
        yield client
