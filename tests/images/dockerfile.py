"""Reads a Dockerfile, and carries its stages out in a folder instead of a container: the files that it copies, the
variables that it sets and the commands that it runs, with /opt and /src inside that folder. For the tests here, so that
what they prove is what the file says.

It knows what our two files use, and refuses the rest. Base images and `apt-get` are left out.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

_FOLDERS = re.compile(r"(?<![\w.])/(opt|src)(?=/|\s|:|'|$)")
_SILENT = {"ARG", "LABEL", "USER", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD"}


# What pip says when it reaches nobody.
NO_CONNECTION = "Failed to establish a new connection"


def require_package_index(pip_output: str) -> None:
    """Skip the test where a command failed because there is no network."""
    if NO_CONNECTION in pip_output:
        pytest.skip("NO PACKAGE INDEX: the images' packages cannot be installed or resolved")


@dataclass(frozen=True)
class Instruction:
    name: str
    value: str


@dataclass
class Stage:
    """`base` is the stage's image, or the name of the stage that it goes on from."""

    base: str
    instructions: list[Instruction] = field(default_factory=list)

    def values(self, name: str) -> list[str]:
        """What is said with one kind of instruction."""
        return [each.value for each in self.instructions if each.name == name]


class Dockerfile:
    """The stages of a file by name; the last one is "". `args` are build arguments."""

    def __init__(self, path: Path, **args: str) -> None:
        self.stages: dict[str, Stage] = {}
        stage = None
        for instruction in _instructions(path.read_text()):
            if instruction.name == "FROM":
                base, _, name = instruction.value.partition(" AS ")
                for arg, value in args.items():
                    base = base.replace(f"${{{arg}}}", value)
                stage = self.stages[name] = Stage(base)
            elif stage is not None:
                stage.instructions.append(instruction)

    def chain(self, name: str) -> list[Stage]:
        """A stage and those that it goes on from, the first of them first."""
        stage = self.stages[name]
        return [*(self.chain(stage.base) if stage.base in self.stages else []), stage]

    def commands(self, name: str) -> list[str]:
        """Every single command that building a stage runs, in order."""
        runs = [run for stage in self.chain(name) for run in stage.values("RUN")]
        return [command for run in runs for command in re.split(r"\s*&&\s*", run)]

    def env(self, name: str) -> dict[str, str]:
        """The variables that a stage sets, itself and through what it goes on from."""
        given = [entry for stage in self.chain(name) for entry in stage.values("ENV")]
        return dict(pair.split("=", 1) for entry in given for pair in shlex.split(entry))


def _instructions(text: str) -> list[Instruction]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [Instruction(*re.split(r"\s+", line.strip(), maxsplit=1)) for line in joined.splitlines()]


class Build:
    """Carries stages out in `folder`, with this interpreter where they call python."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PIP_NO_COMPILE": "1"}
        for name in ("PYTHONPATH", "VIRTUAL_ENV"):
            self.env.pop(name, None)
        self._workdir = folder

    def run(self, stage: Stage) -> None:
        """Carry out the instructions of one stage. Raises CalledProcessError with what a failed command said."""
        for instruction in stage.instructions:
            match instruction.name:
                case "ENV":
                    self._set(shlex.split(instruction.value))
                case "WORKDIR":
                    self._workdir = Path(self._inside(instruction.value))
                    self._workdir.mkdir(parents=True, exist_ok=True)
                case "COPY":
                    self._copy(instruction.value.split())
                case "RUN":
                    self._shell(instruction.value)
                case name if name not in _SILENT:
                    raise NotImplementedError(f"{name} {instruction.value}")

    def _inside(self, text: str) -> str:
        return _FOLDERS.sub(rf"{self.folder}/\1", text)

    def _set(self, pairs: list[str]) -> None:
        for name, value in (pair.split("=", 1) for pair in pairs):
            self.env[name] = self._inside(value).replace(f"${name}", self.env.get(name, ""))

    def _copy(self, words: list[str]) -> None:
        *sources, target = words
        several = len(sources) > 1 or target.endswith("/")
        for source in map(Path, sources):
            into = self._workdir / target / source.name if several else self._workdir / target
            into.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, into, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, into)

    def _shell(self, command: str) -> None:
        if command.startswith("apt-get "):
            return
        done = subprocess.run(
            ["sh", "-c", self._inside(command)], cwd=self._workdir, env=self.env, capture_output=True, text=True
        )
        if done.returncode:
            require_package_index(done.stderr)
            raise RuntimeError(f"{command}\n{done.stdout}{done.stderr}")
