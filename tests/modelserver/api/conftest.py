"""An application over a scripted engine, one per test."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from front import Front, write_model_folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
async def make_front(model_folder: Path) -> AsyncIterator[Callable[..., Front]]:
    """Call with the text that the engine generates, and settings."""
    fronts: list[Front] = []

    def make(text: str = "deep learning is the fox", **options: Any) -> Front:
        fronts.append(Front(model_folder, text, **options))
        return fronts[-1]

    yield make
    for front in fronts:
        await front.close()


@pytest.fixture
def front(make_front: Callable[..., Front]) -> Front:
    return make_front()
