"""Environments for clients of the server whose dependencies do not fit beside ours. Each has its exact versions in
requirements-NAME.txt, is made when a test first asks for it, and is kept for all later runs.

    python = client_python("kserve")
    subprocess.run([python, "tests/clients/kserve_client.py", ...])
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
INSTALL_SECONDS = 280


def client_python(name: str) -> Path:
    """The interpreter of an environment with what requirements-NAME.txt lists, and nothing else.

    Skips the test where pip reaches no package index.
    """
    requirements = FOLDER / f"requirements-{name}.txt"
    digest = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:12]
    home = os.environ.get("TEXTGEN_TEST_CACHE") or Path.home() / ".cache" / "textgen-tests"
    folder = Path(home) / "clients" / f"{name}-{digest}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        complete = folder / "complete"
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            _install(folder, requirements)
            complete.touch()
    return folder / "bin" / "python"


def _install(folder: Path, requirements: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=60)
    python = folder / "bin" / "python"
    done = _pip("--python", python, "install", "-q", "--no-deps", "--no-compile", "-r", requirements)
    if done.returncode == 0:
        return
    shutil.rmtree(folder)
    if _pip("download", "-q", "--no-deps", "--dest", folder / "probe", "six").returncode != 0:
        pytest.skip(f"NO PACKAGE INDEX: pip cannot install {requirements.name}")
    shutil.rmtree(folder)
    raise RuntimeError(f"pip cannot install {requirements.name}:\n{done.stderr}")


def _pip(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries", "1", "--timeout", "15"]
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS
    )
