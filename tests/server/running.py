"""A running textgen-server on loopback, as its users have it: a process and an address."""

import contextlib
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from ports import free_port

START_SECONDS = 120
WAIT_SECONDS = 90


class Server:
    """One `textgen-server`; `log` holds what it has printed."""

    def __init__(
        self, log: Path, *flags: str, environment: dict[str, str] | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.port = free_port()
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.tls = tls
        self.log = log
        command = [Path(sys.executable).with_name("textgen-server"), "--hostname", "127.0.0.1", "--port", self.port]
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [str(part) for part in (*command, *flags)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
            )

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self.health() != 200:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not become ready:\n{self.log.read_text()}")
            time.sleep(0.1)

    def health(self) -> int | None:
        """Status of /health, or None while nothing listens."""
        try:
            return httpx.get(f"{self.url}/health", timeout=5, verify=self.tls or True).status_code
        except httpx.HTTPError:
            return None

    @property
    def grpc_address(self) -> str:
        """Where gRPC is served, with `--grpc-port`."""
        return re.findall(r"gRPC at (\S+)", self.log.read_text())[0]

    def generate(self, inputs: str, **parameters) -> httpx.Response:
        body = {"inputs": inputs, "parameters": parameters}
        return httpx.post(f"{self.url}/generate", json=body, timeout=120)

    def metric(self, name: str) -> float:
        for line in httpx.get(f"{self.url}/metrics", timeout=10).text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[-1])
        raise LookupError(name)

    def ranks(self) -> list[int]:
        """Process ids of the model's ranks."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [pid for pid in map(int, children) if b"engine_process" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal the server; returns its exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)


@contextlib.contextmanager
def running(log: Path, *flags: str, **options) -> Iterator[Server]:
    """A server that is ready; ended by force if the test has not ended it."""
    server = Server(log, *flags, **options)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def wait_for(condition, what: str, seconds: float = WAIT_SECONDS) -> None:
    """Poll until `condition()` holds; RuntimeError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not within {seconds} s")
        time.sleep(0.05)
