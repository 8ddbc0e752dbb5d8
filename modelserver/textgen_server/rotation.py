"""Files that may be replaced while the server runs, as rotated keys and certificates are. Owned by the launcher.

A file is told to have changed by its content: secrets in Kubernetes are symbolic links that change their target, and
times of files are coarse.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from textgen_server.errors import StartupError

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

LOOK_SECONDS = 1.0


class Rotated(Generic[_T]):
    """What files hold.

    Args:
        paths: the files.
        load: makes the value of their contents, which come in the order of `paths`. Raises StartupError when they
            cannot be used.

    Attributes:
        value: of the last files that could be used.

    Raises:
        StartupError: the files cannot be read or used.
    """

    def __init__(self, paths: Sequence[Path], load: Callable[[Sequence[bytes]], _T]) -> None:
        self._paths = paths
        self._load = load
        self._complaint = ""
        self._contents = self._read()
        self.value = load(self._contents)

    def refresh(self) -> None:
        """Look at the files, and take over what is new. What cannot be used is logged, once, and the value stays."""
        try:
            contents = self._read()
            if contents == self._contents:
                self._complaint = ""
                return
            value = self._load(contents)
        except StartupError as error:
            self._complain(error.message)
            return
        # Files that belong together are written one after the other. `load` may have read them again by itself, so
        # they must have been at rest.
        if self._read_or_none() == contents:
            self._contents, self.value, self._complaint = contents, value, ""
            _log.info("read %s anew", self._names())

    def _read(self) -> list[bytes]:
        contents = []
        for path in self._paths:
            try:
                contents.append(path.read_bytes())
            except OSError as error:
                raise StartupError(f"cannot read {path}: {error.strerror}") from None
        return contents

    def _read_or_none(self) -> list[bytes] | None:
        try:
            return self._read()
        except StartupError:
            return None

    def _complain(self, message: str) -> None:
        if message != self._complaint:
            _log.warning("%s; going on with what %s had before", message, self._names())
        self._complaint = message

    def _names(self) -> str:
        return ", ".join(map(str, self._paths))


async def keep_fresh(files: Sequence[Rotated[Any]]) -> None:
    """Refresh `files` for as long as this runs. In a thread, because a file may lie on a slow network."""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        for each in files:
            await asyncio.to_thread(each.refresh)
