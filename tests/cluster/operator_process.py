"""The operator as it runs in a cluster: the real program, with the rights of its service account and no more."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
from cluster.control_plane import stop
from ports import free_port

RELEASE = "textgen"
SYSTEM = "textgen-system"
"""The Helm release that the rights come from, and its namespace."""

PROGRAM = Path(sys.executable).with_name("textgen-operator")
START_SECONDS = 90
STOP_SECONDS = 60
SERVER_IMAGE = "registry.test/textgen-server:test"


class Operator:
    """`textgen-operator serve`, started and ended at will."""

    def __init__(
        self,
        kubeconfig: Path,
        *,
        namespaces: tuple[str, ...] = (),
        release: str = RELEASE,
        pod: str = "operator-0",
        lease_seconds: int = 30,
    ) -> None:
        self._kubeconfig = kubeconfig
        self._namespaces = namespaces
        self._lease = [f"--lease-name={release}", f"--lease-seconds={lease_seconds}"]
        self._pod = pod
        self._log = kubeconfig.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""
        """Where it answers while it runs."""

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start, and return when it reports that it is alive."""
        self.launch()
        self.await_alive()

    def launch(self) -> None:
        """Start, and return at once."""
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [
            str(PROGRAM),
            "serve",
            f"--server-image={SERVER_IMAGE}",
            f"--liveness-port={port}",
            "--log-level=debug",
            *self._lease,
        ]
        command += [f"--namespace={namespace}" for namespace in self._namespaces]
        # As in its image: nothing of this machine's environment, and a home folder that cannot be written.
        environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "KUBECONFIG": str(self._kubeconfig)}
        environment["POD_NAME"] = self._pod
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)

    def await_alive(self) -> None:
        """Wait until it reports that it is alive."""
        deadline = time.monotonic() + START_SECONDS
        while not _alive(self.url):
            assert self.running, f"the operator has ended:\n{self.log_tail()}"
            assert time.monotonic() < deadline, f"the operator is not alive after {START_SECONDS} s:\n{self.log_tail()}"
            time.sleep(0.1)

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        assert self._process is not None
        return stop(self._process, STOP_SECONDS)

    def kill(self) -> None:
        """SIGKILL: it ends wherever it is."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def await_in_log(self, words: str) -> None:
        """Wait until it has said so."""
        deadline = time.monotonic() + START_SECONDS
        while words not in self.log():
            assert self.running, f"the operator has ended:\n{self.log_tail()}"
            assert time.monotonic() < deadline, f"the operator does not say {words!r}:\n{self.log_tail()}"
            time.sleep(0.1)

    def log(self) -> str:
        """All that it has said."""
        return self._log.read_text() if self._log.exists() else ""

    def log_tail(self) -> str:
        return self.log()[-5000:]


def _alive(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
