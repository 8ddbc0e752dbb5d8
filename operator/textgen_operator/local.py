"""The rendered pod as processes on this machine, without a cluster: `textgen-operator run`.

What is run is taken from the StatefulSet that the operator would apply. `to_process` is the one place that knows what
a machine without kubelet and container runtime needs otherwise.
"""

import asyncio
import contextlib
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from textgen_operator.kinds import Manifest
from textgen_operator.render.cache import VOLUME_NAME
from textgen_operator.render.container import CONTAINER_NAME, LOG_FORMAT
from textgen_operator.render.sources import CLAIM_VOLUME, IMAGE_VOLUME
from textgen_operator.resource import Gpu
from textgen_server.settings import ServerOptions, env_of, flag_of

ENTRYPOINT = "textgen-server"
"""What the server's image runs."""

POLL_SECONDS = 0.5

_FOR_THE_CLUSTER = ("HOME", "NVIDIA_VISIBLE_DEVICES", "GOOGLE_APPLICATION_CREDENTIALS", LOG_FORMAT)
_SERVER_OPTIONS = {env_of(name) for name in ServerOptions.model_fields}
_REFERENCE = re.compile(r"\$(\$)?\(([-._a-zA-Z][-._a-zA-Z0-9]*)\)")


class LocalError(Exception):
    """The pod cannot be run on this machine; the message says why, and what to do."""


@dataclass(frozen=True)
class Machine:
    """What this machine has instead of a kubelet.

    Attributes:
        environ: the caller's environment.
        executable: the server's program.
        cache: folder for weights.
        hostname: address to listen on.
        port: port to listen on.
    """

    environ: Mapping[str, str]
    executable: Path
    cache: Path
    hostname: str = "127.0.0.1"
    port: int = 8080


@dataclass(frozen=True)
class Process:
    """A container, ready to be started.

    Attributes:
        command: program and arguments.
        env: its whole environment.
        url: where its port is reached.
        ready_path: answers 200 there when the container is ready.
        startup_seconds: how long it may take until then.
        grace_seconds: how long it may take to end after SIGTERM.
    """

    command: list[str]
    env: dict[str, str]
    url: str
    ready_path: str
    startup_seconds: float
    grace_seconds: float


def to_process(statefulset: Manifest, machine: Machine) -> Process:
    """The server's container of a rendered StatefulSet, as a process of this machine.

    What differs from the pod, and nothing else does:
    - the image's entry point is `textgen-server` of this Python environment;
    - it listens on the machine's address and port; the pod has a network of its own;
    - the cache at /data is a local folder (a HostPath keeps its own); /dev/shm and /tmp are the machine's;
    - values from Secrets and ConfigMaps come from the caller's environment, under the same variable's name, and so do
      the paths of files that are Secrets in the pod, under the name of their option;
    - variables of `envFrom` are the caller's, as far as there are any;
    - HOME, NVIDIA_VISIBLE_DEVICES and GOOGLE_APPLICATION_CREDENTIALS, which are meant for the container's file system
      and runtime, stay the caller's;
    - its log is for people, and not JSON for the operator;
    - the rest of the caller's environment is visible too (PATH, proxies, CUDA_VISIBLE_DEVICES), but not what the
      server would take for its options.

    Raises:
        LocalError: a value from a Secret or ConfigMap is not in the caller's environment, or the pod has a volume that
            no machine has.
    """
    pod = statefulset["spec"]["template"]["spec"]
    container = next(each for each in pod["containers"] if each["name"] == CONTAINER_NAME)
    inherited = {name: value for name, value in machine.environ.items() if name not in _SERVER_OPTIONS}
    env = _env(container, machine.environ)
    folders = _folders(pod, container, machine)
    args = [_moved(expanded(arg, env), folders) for arg in container["args"]]
    args = _with_files(args, _secret_folders(pod, container), machine.environ)
    args = _with_option(_with_option(args, "port", str(machine.port)), "hostname", machine.hostname)
    startup, check = container["startupProbe"], container["readinessProbe"]["httpGet"]
    return Process(
        command=[str(machine.executable), *args],
        env=inherited | env,
        url=f"{check.get('scheme', 'HTTP').lower()}://{_reachable(machine.hostname)}:{machine.port}",
        ready_path=check["path"],
        startup_seconds=startup["periodSeconds"] * startup["failureThreshold"],
        grace_seconds=pod["terminationGracePeriodSeconds"],
    )


def _env(container: Manifest, environ: Mapping[str, str]) -> dict[str, str]:
    """The container's variables, without those that only a cluster has a use for."""
    env: dict[str, str] = {}
    for variable in container["env"]:
        name = variable["name"]
        if name in _FOR_THE_CLUSTER:
            continue
        if "value" in variable:
            env[name] = expanded(variable["value"], env)
        elif name in environ:
            env[name] = environ[name]
        else:
            _require_optional(name, variable["valueFrom"])
    return env


def _require_optional(name: str, source: Manifest) -> None:
    ((kind, ref),) = source.items()
    if not ref["optional"]:
        what = "Secret" if kind == "secretKeyRef" else "ConfigMap"
        raise LocalError(
            f"{name} comes from key {ref['key']!r} of {what} {ref['name']!r} in a cluster; here, set it in the "
            f"environment: export {name}=..."
        )


def _folders(pod: Manifest, container: Manifest, machine: Machine) -> dict[str, Path]:
    """Path in the pod -> folder on this machine, for the cache."""
    path = next(mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == VOLUME_NAME)
    for volume in pod["volumes"]:
        if volume["name"].startswith(CLAIM_VOLUME):
            claim = volume["persistentVolumeClaim"]["claimName"]
            raise LocalError(
                f"volume claim {claim} is in a cluster: here, name a local folder instead of pvc://{claim}"
            )
        if volume["name"].startswith(IMAGE_VOLUME):
            image = volume["image"]["reference"]
            raise LocalError(f"a process mounts no image: name a local folder instead of oci://{image}")
        if volume["name"] == VOLUME_NAME and "hostPath" in volume:
            return {path: Path(volume["hostPath"]["path"])}
    return {path: machine.cache}


def _secret_folders(pod: Manifest, container: Manifest) -> dict[str, str]:
    """Path in the pod -> the Secret that is mounted there."""
    secrets = {volume["name"]: volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
    mounts = container["volumeMounts"]
    return {mount["mountPath"]: secrets[mount["name"]] for mount in mounts if mount["name"] in secrets}


def _with_files(args: list[str], secrets: Mapping[str, str], environ: Mapping[str, str]) -> list[str]:
    """The arguments, with files of Secrets replaced by those that the caller's environment names."""
    found = list(args)
    for at, (flag, value) in enumerate(itertools.pairwise(args)):
        secret = secrets.get(value.rpartition("/")[0])
        if secret is None:
            continue
        name = env_of(flag.removeprefix("--").replace("-", "_"))
        if name not in environ:
            raise LocalError(f"{flag} is in Secret {secret!r} in a cluster; here, name a file: export {name}=...")
        found[at + 1] = environ[name]
    return found


def _moved(arg: str, folders: Mapping[str, Path]) -> str:
    """The argument, with a path in the pod replaced by the one on this machine."""
    for inside, outside in folders.items():
        if arg == inside or arg.startswith(f"{inside}/"):
            return str(outside) + arg.removeprefix(inside)
    return arg


def expanded(text: str, env: Mapping[str, str]) -> str:
    """$(NAME) replaced as kubelet does it: $$(NAME) is the escaped form, and unknown names stay as they are."""

    def value(match: re.Match[str]) -> str:
        escaped, name = match.groups()
        return match[0][1:] if escaped else env.get(name, match[0])

    return _REFERENCE.sub(value, text)


def _with_option(args: list[str], option: str, value: str) -> list[str]:
    """The arguments with the option set to the value, in its place if it is there already."""
    flag = flag_of(option)
    if flag not in args:
        return [*args, flag, value]
    at = args.index(flag)
    return [*args[: at + 1], value, *args[at + 2 :]]


def _reachable(hostname: str) -> str:
    """Where a client on this machine finds what listens on `hostname`."""
    hostname = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(hostname, hostname)
    return f"[{hostname}]" if ":" in hostname else hostname


def find_executable(environ: Mapping[str, str]) -> Path:
    """The server's program: the one of this Python environment, else the one on the PATH. Raises LocalError."""
    beside = Path(sys.executable).parent / ENTRYPOINT
    if beside.exists():
        return beside
    found = shutil.which(ENTRYPOINT, path=environ.get("PATH"))
    if found is None:
        raise LocalError(f"{ENTRYPOINT} is not installed: pip install 'textgen[server]'")
    return Path(found)


def require_gpus(gpu: Gpu) -> None:
    """Raise LocalError when the machine has fewer NVIDIA GPUs than asked for."""
    found = _count_gpus() if gpu.resource_name.startswith("nvidia.com/") else gpu.count
    if found < gpu.count:
        raise LocalError(
            f"spec.gpu.count is {gpu.count}, but this machine has {found or 'no'} GPU{'s' * (found > 1)}: "
            f"set gpu.count: {found}" + (" to run on the CPU" if not found else "")
        )


def _count_gpus() -> int:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return len(list(Path("/dev").glob("nvidia[0-9]*")))
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False, timeout=60)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def require_free_port(hostname: str, port: int) -> None:
    """Raise LocalError when something else listens there: its answers would be taken for the server's."""
    family = socket.AF_INET6 if ":" in hostname else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((hostname, port))
        except OSError as error:
            raise LocalError(f"cannot listen on {hostname}:{port} ({error.strerror}): choose another --port") from None


def _say(message: str) -> None:
    print(f"textgen-operator: {message}", file=sys.stderr, flush=True)


async def run(process: Process, announcement: str) -> int:
    """Run a process until it ends, or until SIGINT, SIGTERM or SIGHUP ask for its end; the exit code.

    Its output goes to ours. When it is ready, the announcement is printed on standard output.
    """
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # A session of its own: Ctrl-C in the terminal is for us, who then end it in order.
    server = await asyncio.create_subprocess_exec(*process.command, env=process.env, start_new_session=True)
    ended = asyncio.create_task(server.wait())
    stopped = asyncio.create_task(stop.wait())
    ready = asyncio.create_task(_until_ready(process))
    try:
        await asyncio.wait({ended, stopped, ready}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done() and not ready.result():
            _say(f"not ready after {process.startup_seconds:.0f} s (startup.timeoutSeconds); giving up")
            return 1
        if ready.done():
            print(announcement, flush=True)
            await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            _say(f"the server exited with code {ended.result()}; its last lines are above")
            return ended.result() or 1
        return await _end(server, ended, stop, process.grace_seconds)
    finally:
        ready.cancel()
        stopped.cancel()
        _kill_group(server.pid)
        await ended


async def _end(
    server: asyncio.subprocess.Process, ended: asyncio.Task[int], stop: asyncio.Event, grace_seconds: float
) -> int:
    """SIGTERM, and time to finish running requests; a second Ctrl-C cuts it short."""
    _say(f"ending the server; running requests have {grace_seconds:.0f} s (Ctrl-C again: none)")
    server.terminate()
    stop.clear()
    again = asyncio.create_task(stop.wait())
    await asyncio.wait({ended, again}, timeout=grace_seconds, return_when=asyncio.FIRST_COMPLETED)
    again.cancel()
    if ended.done():
        return 0
    _say("killed the server, which had not ended yet")
    return 1


async def _until_ready(process: Process) -> bool:
    """Whether the readiness check succeeded within the time that starting may take."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + process.startup_seconds
    # Whose certificate it is does not matter: the server was started a moment ago.
    connector = aiohttp.TCPConnector(ssl=False)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=5)) as session:
        while loop.time() < deadline:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(process.url + process.ready_path) as reply:
                    if reply.status == 200:
                        return True
            await asyncio.sleep(POLL_SECONDS)
    return False


def _kill_group(leader: int) -> None:
    """End whatever is left of a process and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
