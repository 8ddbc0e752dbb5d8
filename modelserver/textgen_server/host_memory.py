"""How much main memory this process may still take: the container's limit, where there is one, else the machine's.

Linux only; elsewhere nothing is known. Called by the ranks (runner/room.py).
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

# Pages of files that the kernel drops when memory is needed. Those that processes share (/dev/shm) are not among them.
_DROPPABLE = ("inactive_file", "active_file")


def free_bytes(root: Path = Path("/")) -> int | None:
    """What is free in the machine and in every control group of this process, whichever is least; None when the kernel
    does not tell. `root` is where /proc and /sys are."""
    known = [*_of_machine(root), *_of_groups(root)]
    return max(0, min(known)) if known else None


def forget_peak(root: Path = Path("/")) -> None:
    """Have the kernel count this process' peak from now on. Where it cannot, the peak stays that since the start."""
    with contextlib.suppress(OSError):
        (root / "proc/self/clear_refs").write_text("5")


def peak_bytes(root: Path = Path("/")) -> int:
    """The most of main memory that this process has held since `forget_peak`; 0 where the kernel does not tell."""
    return _fields(root / "proc/self/status").get("VmHWM:", 0) * 1024


def held_bytes(root: Path = Path("/")) -> int:
    """What this process holds of main memory; 0 where the kernel does not tell."""
    return _fields(root / "proc/self/status").get("VmRSS:", 0) * 1024


def _of_machine(root: Path) -> Iterator[int]:
    available = _fields(root / "proc/meminfo").get("MemAvailable:")
    if available is not None:
        yield available * 1024


def _of_groups(root: Path) -> Iterator[int]:
    """Version 2 has one hierarchy; version 1 one for memory alone. In a container, its own group is often the top."""
    base = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if number == "0":
            top, limit, usage, prefix = base, "memory.max", "memory.current", ""
        elif "memory" in controllers.split(","):
            top, limit, usage, prefix = base / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"
        else:
            continue
        group = Path(path.lstrip("/"))
        for folder in (top / group, *(top / parent for parent in group.parents)):
            yield from _of_group(folder, limit, usage, prefix)


def _of_group(folder: Path, limit: str, usage: str, prefix: str) -> Iterator[int]:
    most, used = _lines(folder / limit), _lines(folder / usage)
    if most and used and most[0].isdigit():  # "max" is no limit
        statistics = _fields(folder / "memory.stat")
        droppable = sum(statistics.get(prefix + name, 0) for name in _DROPPABLE)
        yield int(most[0]) - int(used[0]) + droppable


def _fields(path: Path) -> dict[str, int]:
    """The lines of `path` that are a name and a number, maybe with a unit."""
    words = (line.split() for line in _lines(path))
    return {name: int(number) for name, number, *_ in (w for w in words if len(w) > 1) if number.isdigit()}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
