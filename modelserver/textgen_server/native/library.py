"""Compiles and loads the kernels of this folder.

    python -m textgen_server.native.library [--level x86-64-v4 ...]

compiles them ahead: for this machine into the cache, or with `--level` for kinds of machines into this folder, as an
image does, which has no compiler when it runs.
"""

import argparse
import ctypes
import hashlib
import logging
import os
import platform
import subprocess
import tempfile
from ctypes import c_float, c_int, c_int64, c_long, c_void_p
from pathlib import Path

import torch

_log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
BUILT = FOLDER / "built"
COMPILER = os.environ.get("CXX", "g++")
FLAGS = ("-O3", "-std=c++20", "-fPIC", "-shared", "-pthread")
LEVELS = {
    "x86-64-v4,avx512vnni": ["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_vnni"],
    "x86-64-v4": ["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"],
    "x86-64-v3": ["avx2", "fma", "bmi2", "f16c"],
}
"""Kinds of machines that images are compiled for, the best first (as g++ names them: a level, and what it has beyond
that), and the flags in /proc/cpuinfo that tell them."""

_SIGNATURES = {
    "textgen_use_threads": (None, [c_int]),
    "textgen_lanes": (c_long, []),
    "textgen_round_rows": (None, [c_void_p, c_long, c_void_p, c_void_p, c_long, c_long]),
    "textgen_packed_int8_size": (c_long, [c_long, c_long]),
    "textgen_smallest_form": (c_int64, [c_void_p, c_long, c_long, c_long]),
    "textgen_packed_bytes": (c_long, [c_int64, c_long, c_long]),
    "textgen_pack": (None, [c_int64, c_void_p, c_long, c_void_p, c_long, c_long]),
    "textgen_pack_int8_weights": (None, [c_void_p, c_long, c_void_p, c_long, c_long]),
    "textgen_pack_int8": (None, [c_void_p, c_long, c_void_p, c_void_p, c_long, c_long]),
    "textgen_linear": (None, [c_void_p, c_void_p, c_long, c_void_p, c_long]),
    "textgen_rms_norm": (None, [c_void_p, c_void_p, c_void_p, c_void_p, c_float, c_void_p, c_long, c_long]),
    "textgen_silu_and_multiply": (None, [c_void_p, c_void_p, c_long, c_long, c_long]),
    "textgen_argmax": (None, [c_void_p, c_void_p, c_long, c_long]),
    "textgen_log_sum_exp": (None, [c_void_p, c_void_p, c_long, c_long]),
    "textgen_rotate": (None, [c_void_p, c_long, c_void_p, c_void_p, c_long, c_long, c_long, c_long]),
    "textgen_attention": (None, [c_void_p]),
    "textgen_self_attention": (
        None,
        [c_void_p, c_void_p, c_void_p, c_void_p, c_long, c_void_p, c_void_p, c_long, c_void_p, c_long],
    ),
    "textgen_gated_mlp": (None, [c_void_p, c_void_p, c_void_p, c_long, c_void_p, c_long]),
    "textgen_layers": (None, [c_void_p, c_long, c_void_p, c_void_p, c_void_p, c_void_p, c_long, c_long]),
}

_loaded: list[ctypes.CDLL] = []


class Unavailable(Exception):
    """The kernels cannot be had here; the message says why."""


def use() -> bool:
    """Have the layers that are built from now on use the kernels; False where they cannot be had, which is logged."""
    if not _loaded:
        try:
            library = _load()
        except Unavailable as reason:
            _log.warning("going on with torch's operators, which are slower: %s", reason)
            return False
        library.textgen_use_threads(torch.get_num_threads())
        _loaded.append(library)
    return True


def kernels() -> ctypes.CDLL | None:
    """The library, once `use` has loaded it."""
    return _loaded[0] if _loaded else None


def _load() -> ctypes.CDLL:
    if platform.machine() != "x86_64":
        raise Unavailable(f"the CPU kernels are for x86-64, not for {platform.machine()}")
    flags = _cpu_flags()
    if not flags.issuperset(LEVELS["x86-64-v3"]):
        raise Unavailable("the CPU kernels need AVX2")
    ahead = (BUILT / f"{level}.so" for level, needed in LEVELS.items() if flags.issuperset(needed))
    path = next(filter(Path.exists, ahead), None) or _for_this_machine(flags)
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise Unavailable(f"{path} cannot be loaded: {error}") from None
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _for_this_machine(flags: frozenset[str]) -> Path:
    """The library in the cache; compiled if it is not there."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "textgen" / "kernels"
    key = hashlib.sha256("\n".join([*sorted(flags), *FLAGS]).encode() + b"".join(s.read_bytes() for s in _sources()))
    path = cache / f"{key.hexdigest()[:16]}.so"
    if not path.exists():
        _log.info("compiling the CPU kernels, once for this machine")
        _compile(path, "native")
    return path


def _compile(path: Path, level: str) -> None:
    """Write the library to `path`, whole or not at all. Raises Unavailable."""
    sources = [str(source) for source in _sources() if source.suffix == ".cpp"]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            target = Path(folder) / path.name
            kind, *beyond = level.split(",")
            machine = [f"-march={kind}", *(f"-m{extension}" for extension in beyond)]
            command = [COMPILER, *FLAGS, *machine, "-o", str(target), *sources]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise Unavailable(f"{COMPILER} failed: {done.stderr.strip().splitlines()[:1]}")
            target.replace(path)
    except FileNotFoundError:
        raise Unavailable(f"there is no C++ compiler ({COMPILER}) for the CPU kernels") from None
    except OSError as error:
        raise Unavailable(f"the CPU kernels cannot be written to {path.parent}: {error.strerror}") from None


def _sources() -> list[Path]:
    return sorted([*FOLDER.glob("*.cpp"), *FOLDER.glob("*.h")])


def _cpu_flags() -> frozenset[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--level", action="append", choices=LEVELS, default=[])
    levels = parser.parse_args().level
    try:
        for level in levels:
            _compile(BUILT / f"{level}.so", level)
        if not levels:
            _load()
    except Unavailable as reason:
        raise SystemExit(f"textgen: {reason}; the server will use torch's operators") from None


if __name__ == "__main__":
    main()
