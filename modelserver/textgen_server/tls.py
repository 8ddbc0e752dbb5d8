"""The server's certificate, of files that may be replaced while it runs: new connections get the new one.

For HTTP (`context`, given to uvicorn) and for gRPC (`grpc_credentials`).
"""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import grpc

from textgen_server.errors import StartupError
from textgen_server.rotation import Rotated
from textgen_server.settings import ServerOptions


@dataclass(frozen=True)
class Identity:
    """What the server shows of itself, and whom it lets in.

    Attributes:
        context: for a connection's server side.
        certificate, key: in PEM.
        authorities: of clients, in PEM; None lets in clients without a certificate.
    """

    context: ssl.SSLContext
    certificate: bytes
    key: bytes
    authorities: bytes | None


class Certificate:
    """The certificate that the options name.

    Attributes:
        files: what is to be kept fresh.
        context: for the server side of connections; each is given the newest certificate.
    """

    def __init__(self, files: Rotated[Identity]) -> None:
        self.files = files
        # A context cannot be changed as a whole, but each connection can be moved to another one. OpenSSL asks for
        # that at every client's first message, also when the client names no server.
        self.context = files.value.context
        self.context.sni_callback = self._move_to_newest

    @classmethod
    def load(cls, options: ServerOptions) -> Self | None:
        """None without --ssl-certfile. Raises StartupError when the files cannot be used."""
        names = (options.ssl_certfile, options.ssl_keyfile, options.ssl_ca_certs)
        paths = [Path(name) for name in names if name is not None]
        return cls(Rotated(paths, partial(_load, paths))) if paths else None

    def _move_to_newest(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self.files.value.context

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For a gRPC server's port; each connection gets the newest certificate."""
        served = self.files.value

        def newest() -> Any:
            # gRPC asks at every handshake; None: as before.
            nonlocal served
            if served is self.files.value:
                return None
            served = self.files.value
            return _grpc_configuration(served)

        return grpc.dynamic_ssl_server_credentials(
            _grpc_configuration(served), newest, require_client_authentication=served.authorities is not None
        )


def _load(paths: Sequence[Path], contents: Sequence[bytes]) -> Identity:
    certificate, key, *authorities = contents
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(paths[0], paths[1], password=_no_passphrase)
    except (ssl.SSLError, OSError) as error:
        raise StartupError(f"{paths[0]} and {paths[1]} are no certificate with its key: {_reason(error)}") from None
    if authorities:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(cadata=authorities[0].decode("ascii"))
        except (ssl.SSLError, ValueError) as error:
            raise StartupError(f"{paths[2]} has no certificates of authorities: {_reason(error)}") from None
    return Identity(context, certificate, key, authorities[0] if authorities else None)


def _no_passphrase() -> str:
    raise StartupError("the private key has a passphrase: store it without")


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error)


def _grpc_configuration(served: Identity) -> Any:
    return grpc.ssl_server_certificate_configuration([(served.key, served.certificate)], served.authorities)
