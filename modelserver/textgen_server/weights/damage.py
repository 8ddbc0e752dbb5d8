"""What is wrong with a file of weights that cannot be read, as people would say it."""

import errno
import os
from pathlib import Path

_LFS_POINTER = b"version https://git-lfs"


def what_is_wrong(path: Path, error: Exception) -> str:
    """The end of a sentence that begins with the path, about a reader's `error`."""
    try:
        with path.open("rb") as file:
            head = file.read(len(_LFS_POINTER))
            size = path.stat().st_size
    except OSError as reading:
        return f"cannot be read: {reading.strerror}"
    if head == _LFS_POINTER:
        return "is only a Git LFS pointer: fetch the weights with git lfs pull"
    if not size:
        return "is damaged or truncated (0 bytes): it is empty"
    if os.strerror(errno.ENOMEM) in str(error):
        return f"({size / 1e9:.1f} GB) cannot be mapped, because it is larger than this machine's memory"
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    return f"is damaged or truncated ({size} bytes): {reason}"
