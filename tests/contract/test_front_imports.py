"""The API process stays light: none of its code pulls in torch, also not through others."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "triton", "transformers", "safetensors", "kopf", "numpy"}
FRONT = [
    "textgen_server.api.app",
    "textgen_server.text.generation",
    "textgen_server.rpc.client",
    "textgen_server.settings",
]


@pytest.mark.parametrize("module", FRONT)
def test_the_front_imports_nothing_heavy(module: str) -> None:
    program = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(loaded)
    assert "textgen_server" in loaded
