"""What must be so of the tree as a whole, whoever adds to it."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LARGEST = 1 << 20
EXTRAS = ("server", "bitsandbytes", "tracing", "operator", "dev")

# Folders of the machines that the project is made on.
PRIVATE_PATHS = re.compile(r"/(?:root|work)/|/opt/(?:wheels|pypi)|/Users/\w+/")


def tracked_files() -> list[Path]:
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("NO GIT: not a checkout, so which files belong to the project is not known")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)


def test_imports_go_one_way() -> None:
    done = run(str(Path(sys.executable).with_name("lint-imports")), "--no-cache")
    assert done.returncode == 0, done.stdout


def test_generated_files_have_not_drifted() -> None:
    done = run("-m", "tools.generate", "--check")
    assert done.returncode == 0, done.stdout + done.stderr + "run `make generate`"


@pytest.mark.parametrize("folder", ["operator", "modelserver"])
def test_source_roots_are_no_packages(folder: str) -> None:
    """operator/__init__.py would hide the standard library's `operator` from whatever runs in the project's folder."""
    assert not (ROOT / folder / "__init__.py").exists()


def test_tests_are_no_packages() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_every_package_is_in_the_distribution() -> None:
    """Editable installs see all folders; wheels, and so the images, only those that pyproject.toml lists."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    roots = (ROOT / "modelserver", ROOT / "operator")
    folders = {
        ".".join(file.parent.relative_to(root).parts)
        for root in roots
        for file in tracked_files()
        if file.suffix == ".py" and file.is_relative_to(root)
    }
    assert sorted(listed) == sorted(folders)


def test_files_are_small() -> None:
    assert [str(file) for file in tracked_files() if file.stat().st_size > LARGEST] == []


def test_no_file_names_a_private_folder() -> None:
    found = []
    for file in tracked_files():
        if file == Path(__file__):
            continue
        for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1):
            if PRIVATE_PATHS.search(line):
                found.append(f"{file.relative_to(ROOT)}:{number}: {line.strip()}")
    assert found == []


def test_every_library_that_is_needed_has_its_version_in_the_constraints() -> None:
    """What the project's requirements lead to in this environment, with the versions that are installed."""
    text = (ROOT / "constraints.txt").read_text()
    pins = {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE)}
    needed = {name: distribution(name).version.partition("+")[0] for name in closure()}
    assert needed == {name: pins.get(name) for name in needed}


def closure() -> set[str]:
    """Names of all distributions that textgen with its extras needs here."""
    found: set[str] = set()
    seen: set[str] = set()
    queue = [Requirement(f"textgen[{','.join(EXTRAS)}]")]
    while queue:
        requirement = queue.pop()
        for wanted in map(Requirement, distribution(requirement.name).requires or []):
            extras = ("", *requirement.extras)
            applies = wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in extras)
            if applies and str(wanted) not in seen:
                seen.add(str(wanted))
                found.add(canonicalize_name(wanted.name))
                queue.append(wanted)
    return found
