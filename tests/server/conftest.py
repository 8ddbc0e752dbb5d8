"""One server for all tests that do it no harm."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def model_flags(smollm2_folder) -> tuple[str, ...]:
    return ("--model-id", str(smollm2_folder), "--served-model-name", "smollm2")


@pytest.fixture(scope="session")
def server(model_flags, tmp_path_factory):
    from running import running

    with running(tmp_path_factory.mktemp("server") / "log", *model_flags, "--grpc-port", "0") as it:
        yield it
