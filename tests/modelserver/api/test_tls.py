"""HTTPS by files that may be rotated, and the same certificate for gRPC. Certificates are made here."""

import asyncio
import socket
import ssl
from pathlib import Path

import grpc
import httpx
import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from front import Front, listening

from textgen_server.errors import StartupError
from textgen_server.settings import ServerOptions
from textgen_server.tls import Certificate

NAME = "127.0.0.1"


class Files:
    """A certificate for NAME and its key."""

    def __init__(self, folder: Path, authority: trustme.CA) -> None:
        self.certificate, self.key = folder / "tls.crt", folder / "tls.key"
        leaf = authority.issue_cert(NAME)
        self.write_certificate(leaf)
        self.write_key(leaf)

    def write_certificate(self, leaf: trustme.LeafCert) -> None:
        self.certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))

    def write_key(self, leaf: trustme.LeafCert) -> None:
        self.key.write_bytes(leaf.private_key_pem.bytes())

    def load(self, **others: str) -> Certificate:
        options = ServerOptions(ssl_certfile=str(self.certificate), ssl_keyfile=str(self.key), **others)
        certificate = Certificate.load(options)
        assert certificate is not None
        return certificate


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def new_authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(tmp_path: Path, authority: trustme.CA) -> Files:
    return Files(tmp_path, authority)


def client(address: str, trusted: trustme.CA, shown: trustme.LeafCert | None = None) -> httpx.AsyncClient:
    """A client that trusts one authority, and shows a certificate of its own."""
    context = ssl.create_default_context()
    trusted.configure_trust(context)
    if shown:
        shown.configure_cert(context)
    return httpx.AsyncClient(base_url=address, verify=context)


async def health(address: str, trusted: trustme.CA, shown: trustme.LeafCert | None = None) -> int:
    """Status of /health over a new connection."""
    async with client(address, trusted, shown) as calling:
        return (await calling.get("/health")).status_code


async def test_without_files_there_is_no_certificate() -> None:
    assert Certificate.load(ServerOptions()) is None


async def test_https_is_served(front: Front, files: Files, authority: trustme.CA, new_authority: trustme.CA) -> None:
    async with listening(front, files.load()) as address:
        async with client(address, authority) as calling:
            body = {"inputs": "hello", "parameters": {"max_new_tokens": 3}}
            assert (await calling.post("/generate_stream", json=body)).text.count("data:") == 3
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await health(address, new_authority)
        async with httpx.AsyncClient() as plain:
            with pytest.raises(httpx.TransportError):
                await plain.get(address.replace("https", "http"))
        assert await health(address, authority) == 200


async def test_new_connections_get_the_new_certificate_and_old_ones_go_on(
    front: Front, files: Files, authority: trustme.CA, new_authority: trustme.CA
) -> None:
    certificate = files.load()
    async with listening(front, certificate) as address, client(address, authority) as early:
        assert (await early.get("/health")).status_code == 200
        leaf = new_authority.issue_cert(NAME)
        files.write_certificate(leaf)
        files.write_key(leaf)
        certificate.files.refresh()
        assert (await early.get("/health")).status_code == 200
        assert await health(address, new_authority) == 200
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await health(address, authority)


async def test_a_half_written_rotation_keeps_the_old_certificate(
    front: Front, files: Files, authority: trustme.CA, new_authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    certificate = files.load()
    leaf = new_authority.issue_cert(NAME)
    async with listening(front, certificate) as address:
        files.write_certificate(leaf)
        certificate.files.refresh()
        assert await health(address, authority) == 200
        assert "KEY_VALUES_MISMATCH" in caplog.text
        files.write_key(leaf)
        certificate.files.refresh()
        assert await health(address, new_authority) == 200


async def test_clients_need_a_certificate_where_authorities_are_named(
    front: Front, files: Files, tmp_path: Path, authority: trustme.CA, new_authority: trustme.CA
) -> None:
    authorities = tmp_path / "clients.crt"
    authority.cert_pem.write_to_path(str(authorities))
    certificate = files.load(ssl_ca_certs=str(authorities))
    ours, strange = authority.issue_cert("client.example"), new_authority.issue_cert("client.example")
    async with listening(front, certificate) as address:
        assert await health(address, authority, ours) == 200
        for shown in (None, strange):
            with pytest.raises(httpx.TransportError):
                await health(address, authority, shown)
        new_authority.cert_pem.write_to_path(str(authorities))
        certificate.files.refresh()
        assert await health(address, authority, strange) == 200
        with pytest.raises(httpx.TransportError):
            await health(address, authority, ours)


def test_files_that_cannot_be_used_end_the_start(files: Files, tmp_path: Path, authority: trustme.CA) -> None:
    key = files.key.read_bytes()
    garbage = tmp_path / "garbage"
    garbage.write_text("garbage")
    with pytest.raises(StartupError, match="garbage has no certificates of authorities"):
        files.load(ssl_ca_certs=str(garbage))
    files.write_key(authority.issue_cert(NAME))
    with pytest.raises(StartupError, match=r"tls\.crt and .*tls\.key are no certificate with its key: KEY_VALUES_MISM"):
        files.load()
    secret = serialization.BestAvailableEncryption(b"passphrase")
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)
    files.key.write_bytes(serialization.load_pem_private_key(key, None).private_bytes(*form))
    with pytest.raises(StartupError, match="the private key has a passphrase: store it without"):
        files.load()
    files.key.unlink()
    with pytest.raises(StartupError, match=r"cannot read .*tls\.key: No such file or directory"):
        files.load()


async def test_grpc_serves_the_same_certificate_and_follows_it(
    files: Files, authority: trustme.CA, new_authority: trustme.CA
) -> None:
    certificate = files.load()
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", certificate.grpc_credentials())
    await server.start()
    assert await _can_connect(port, authority)
    leaf = new_authority.issue_cert(NAME)
    files.write_certificate(leaf)
    files.write_key(leaf)
    certificate.files.refresh()
    await asyncio.to_thread(_shake_hands, port, new_authority)
    assert await _can_connect(port, new_authority)
    await server.stop(None)


async def _can_connect(port: int, trusted: trustme.CA) -> bool:
    credentials = grpc.ssl_channel_credentials(trusted.cert_pem.bytes())
    async with grpc.aio.secure_channel(f"{NAME}:{port}", credentials) as channel, asyncio.timeout(60):
        await channel.channel_ready()
        return True


def _shake_hands(port: int, trusted: trustme.CA) -> None:
    """Raises SSLError when the server shows a certificate of another authority."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2"])
    trusted.configure_trust(context)
    with socket.create_connection((NAME, port), timeout=10) as raw, context.wrap_socket(raw, server_hostname=NAME):
        pass
