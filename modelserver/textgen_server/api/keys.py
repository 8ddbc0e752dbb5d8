"""API keys: which there are, and whether a client has one. Asked by middleware/auth.py for HTTP."""

import hmac
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Self

from textgen_server.errors import StartupError, Unauthorized
from textgen_server.rotation import Rotated
from textgen_server.settings import ServerOptions, check_key
from textgen_server.text.tenant import tenant_named


class ApiKeys:
    """The keys of --api-key and --api-key-file. They are kept as digests and never logged.

    Attributes:
        file: what is to be kept fresh, if there is a file.
    """

    def __init__(self, given: Sequence[str], file: Rotated[list[bytes]] | None) -> None:
        self._given = [_digest(key.encode()) for key in given]
        self.file = file

    @classmethod
    def load(cls, options: ServerOptions) -> Self:
        """Raises StartupError when the file cannot be used."""
        path = options.api_key_file
        return cls(options.api_key, None if path is None else Rotated([Path(path)], _digests_in))

    @property
    def required(self) -> bool:
        """Whether clients need a key."""
        return bool(self._given) or self.file is not None

    def check(self, authorization: Sequence[bytes]) -> str:
        """The tenant who holds the key, "" where none is required.

        Args:
            authorization: the values of the request's Authorization headers.

        Raises:
            Unauthorized: no key among ours was given, and one is required.
        """
        if not self.required:
            return ""
        scheme, _, key = (authorization[0] if len(authorization) == 1 else b"").partition(b" ")
        asked = _digest(key.strip())
        if not (self._knows(asked) and scheme.lower() == b"bearer"):
            problem = "The API key is wrong" if authorization else "This server requires an API key"
            raise Unauthorized(f"{problem}: send the header `Authorization: Bearer KEY`")
        return tenant_named(asked.hex())

    def _knows(self, asked: bytes) -> bool:
        known = False
        for digest in [*self._given, *(self.file.value if self.file else ())]:
            # All of them, so that the time tells nothing about which one it was.
            known |= hmac.compare_digest(digest, asked)
        return known


def _digest(key: bytes) -> bytes:
    return sha256(key).digest()


def _digests_in(contents: Sequence[bytes]) -> list[bytes]:
    """Digests of the keys in a file, one a line. Raises StartupError, which tells no key, when there are none."""
    try:
        lines = contents[0].decode().splitlines()
    except UnicodeDecodeError:
        raise StartupError("the file of --api-key-file is not text") from None
    keys = {number: line.strip() for number, line in enumerate(lines, 1) if not line.lstrip().startswith("#")}
    keys = {number: key for number, key in keys.items() if key}
    if not keys:
        raise StartupError("the file of --api-key-file has no key: write one on each line")
    for number, key in keys.items():
        try:
            check_key(key, f"line {number} of the file of --api-key-file")
        except ValueError as error:
            raise StartupError(str(error)) from None
    return [_digest(key.encode()) for key in keys.values()]
