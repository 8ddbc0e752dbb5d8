"""A Kubernetes control plane on loopback: etcd, kube-apiserver and kube-controller-manager, no kubelet or scheduler.

The binaries are envtest's: found in $KUBEBUILDER_ASSETS, else in envtest's default folder. Started once per test run by
conftest.py. The API server writes an audit log of the operators' requests, which `AuditLog` reads.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from ports import free_port

BINARIES = ("etcd", "kube-apiserver", "kube-controller-manager")
ENVTEST_FOLDER = "/usr/local/kubebuilder/bin"
ADMIN_TOKEN = "admin-token"
START_SECONDS = 120
STOP_SECONDS = 60
SILENCE_SECONDS = 60

# Named one by one, because `*` includes controllers that some distributions add and that need their own cluster.
CONTROLLERS = (
    "clusterrole-aggregation-controller",
    "deployment-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "persistentvolumeclaim-protection-controller",
    "replicaset-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "statefulset-controller",
)

# What the operator asks for, and nothing of anyone else.
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "Metadata", "userGroups": ["system:serviceaccounts:textgen-system"]},
        {"level": "None"},
    ],
}


class BinariesMissing(Exception):
    """The control plane's programs are not on this machine. The message says how to provide them."""


class StartFailed(Exception):
    """A part of the control plane did not become ready; the message ends with its log."""


@dataclass(frozen=True)
class Request:
    """One request that the operator made, from the API server's audit log."""

    verb: str
    path: str
    status: int
    group: str
    resource: str
    namespace: str
    allowed: bool
    """Whether the user has the right to it. It may be refused all the same, as while a definition is going."""

    @property
    def right(self) -> tuple[str, str]:
        """The API group and resource that a role must name for it."""
        return self.group, self.resource

    @property
    def is_write(self) -> bool:
        return self.verb not in ("get", "list", "watch")


class AuditLog:
    """Reads the requests written since `mark`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def mark(self) -> int:
        """The end of the last whole entry; the API server logs a request before it answers it."""
        return self._path.read_bytes().rfind(b"\n") + 1 if self._path.exists() else 0

    def silence(self, seconds: float) -> int:
        """The mark of now, when that many seconds have brought no write.

        Raises:
            AssertionError: there was none within SILENCE_SECONDS.
        """
        deadline = time.monotonic() + SILENCE_SECONDS
        while time.monotonic() < deadline:
            mark = self.mark()
            time.sleep(seconds)
            if not (writes := self.writes_since(mark)):
                return self.mark()
        raise AssertionError(f"writes do not end: {writes}")

    def since(self, mark: int) -> list[Request]:
        with self._path.open("rb") as file:
            file.seek(mark)
            # Behind the last line break is an entry that is still being written; it belongs to a later request.
            *entries, _unfinished = file.read().split(b"\n")
        return [_request(json.loads(entry)) for entry in entries]

    def writes_since(self, mark: int) -> list[Request]:
        """The writes, but for those that keep the operator's Lease."""
        return [request for request in self.since(mark) if request.is_write and request.resource != "leases"]


def _request(event: dict[str, Any]) -> Request:
    target = event.get("objectRef", {})
    resource = "/".join(filter(None, (target.get("resource", ""), target.get("subresource"))))
    return Request(
        verb=event["verb"],
        path=event["requestURI"],
        status=event.get("responseStatus", {}).get("code", 0),
        group=target.get("apiGroup", ""),
        resource=resource,
        namespace=target.get("namespace", ""),
        allowed=event.get("annotations", {}).get("authorization.k8s.io/decision") == "allow",
    )


@dataclass(frozen=True)
class ControlPlane:
    """A running API server, and what its users need to know of it."""

    url: str
    folder: Path
    audit: AuditLog
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def certificate(self) -> Path:
        return self.folder / "apiserver" / "apiserver.crt"

    def client(self, token: str = ADMIN_TOKEN) -> httpx.Client:
        """An HTTP client of the API server, by default with all rights."""
        return httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"},
            verify=ssl.create_default_context(cafile=str(self.certificate)),
            timeout=30,
        )

    def kubeconfig(self, name: str, token: str = ADMIN_TOKEN, namespace: str = "default") -> Path:
        """Write a kubeconfig of a user and return its path."""
        path = self.folder / f"{name}.kubeconfig"
        return _write_kubeconfig(path, self.url, self.certificate, token, namespace)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The API server answers nobody inside."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


def find_binaries() -> Path:
    """The folder that holds all BINARIES.

    Raises:
        BinariesMissing: it lacks one of them, or openssl is missing.
    """
    folder = Path(os.environ.get("KUBEBUILDER_ASSETS", ENVTEST_FOLDER))
    missing = [name for name in BINARIES if not os.access(folder / name, os.X_OK)]
    if missing:
        raise BinariesMissing(
            f"NO API SERVER: {', '.join(missing)} not in {folder}; the operator is NOT proved against a real cluster. "
            "Set KUBEBUILDER_ASSETS to a folder with envtest's binaries."
        )
    if not shutil.which("openssl"):
        raise BinariesMissing("NO API SERVER: openssl, which makes the key of its service accounts, is missing")
    return folder


@contextlib.contextmanager
def api_server(binaries: Path) -> Iterator[ControlPlane]:
    """An API server with its etcd; at the end both are stopped and their data deleted.

    Raises:
        StartFailed: one of them ends or is not ready within START_SECONDS.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="textgen-cluster-")))
        etcd = stack.enter_context(_etcd(binaries, folder))
        yield stack.enter_context(_apiserver(binaries, folder, etcd))


@contextlib.contextmanager
def _etcd(binaries: Path, folder: Path) -> Iterator[str]:
    client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    command = [
        binaries / "etcd",
        "--name=default",
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
    ]
    with _running(command, folder, ready=lambda: httpx.get(f"{client}/health").json()["health"] == "true"):
        yield client


@contextlib.contextmanager
def _apiserver(binaries: Path, folder: Path, etcd: str) -> Iterator[ControlPlane]:
    port = free_port()
    plane = ControlPlane(f"https://127.0.0.1:{port}", folder, AuditLog(folder / "audit.log"))
    key = _service_account_key(folder)
    (folder / "tokens.csv").write_text(f'{ADMIN_TOKEN},admin,admin,"system:masters"\n')
    (folder / "audit.yaml").write_text(yaml.safe_dump(AUDIT_POLICY))
    command = [
        binaries / "kube-apiserver",
        f"--etcd-servers={etcd}",
        f"--cert-dir={plane.certificate.parent}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        f"--secure-port={port}",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--authorization-mode=RBAC",
        f"--token-auth-file={folder / 'tokens.csv'}",
        "--service-account-issuer=https://localhost/",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        "--endpoint-reconciler-type=none",
        # Some distributions turn it on: who sets blockOwnerDeletion must be allowed to set the owner's finalizers.
        "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
        f"--audit-policy-file={folder / 'audit.yaml'}",
        f"--audit-log-path={folder / 'audit.log'}",
    ]
    with _running(command, folder, ready=lambda: _answers_ok(plane)) as process:
        yield dataclasses.replace(plane, process=process)


def _answers_ok(plane: ControlPlane) -> bool:
    with plane.client() as client:
        return client.get("/readyz").text == "ok"


@contextlib.contextmanager
def controller_manager(binaries: Path, plane: ControlPlane) -> Iterator[None]:
    """Kubernetes' own controllers. Start them after custom resources are defined: garbage collection takes half a
    minute to notice new kinds.

    Raises:
        StartFailed: it ends or is not ready within START_SECONDS.
    """
    port = free_port()
    kubeconfig = plane.kubeconfig("controller-manager")
    command = [
        binaries / "kube-controller-manager",
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--authentication-skip-lookup=true",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={plane.folder / 'controller-manager'}",
        "--leader-elect=false",
        f"--service-account-private-key-file={plane.folder / 'service-accounts.key'}",
        f"--root-ca-file={plane.certificate}",
        f"--controllers={','.join(CONTROLLERS)}",
    ]
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    health = f"https://127.0.0.1:{port}/healthz"
    with _running(command, plane.folder, ready=lambda: httpx.get(health, verify=unverified).text == "ok"):
        yield


@contextlib.contextmanager
def _running(command: list[Any], folder: Path, ready: Callable[[], bool]) -> "Iterator[subprocess.Popen[bytes]]":
    """The process of `command`, from its readiness to the end of the block."""
    log = folder / f"{Path(command[0]).name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        _await_ready(process, log, ready)
        yield process
    finally:
        stop(process, STOP_SECONDS)


def _await_ready(process: "subprocess.Popen[bytes]", log: Path, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise StartFailed(f"{log.stem} exited with {process.returncode}:\n{log.read_text()[-3000:]}")
        with contextlib.suppress(httpx.HTTPError, OSError, ValueError):
            if ready():
                return
        time.sleep(0.1)
    raise StartFailed(f"{log.stem} not ready after {START_SECONDS} s:\n{log.read_text()[-3000:]}")


def stop(process: "subprocess.Popen[bytes]", seconds: float) -> int:
    """SIGTERM, and SIGKILL after `seconds`. Returns the exit status."""
    process.terminate()
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _service_account_key(folder: Path) -> Path:
    key = folder / "service-accounts.key"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    return key


def _write_kubeconfig(path: Path, url: str, certificate: Path, token: str, namespace: str) -> Path:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority": str(certificate)}}],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user", "namespace": namespace}}],
        "current-context": "test",
    }
    path.write_text(yaml.safe_dump(config))
    return path
