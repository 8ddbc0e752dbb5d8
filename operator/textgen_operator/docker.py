"""The rendered pod as one `docker run` command: `textgen-operator run FILE --print-docker`.

What a pod has and a container of Docker's cannot have is told in comments above the command. No secret is in it: values
are passed by the name of a variable, and files by the path that a variable holds.
"""

import itertools
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from textgen_operator import quantity
from textgen_operator.kinds import Manifest
from textgen_operator.local import LocalError, expanded
from textgen_operator.render.cache import VOLUME_NAME
from textgen_operator.render.container import CONTAINER_NAME
from textgen_operator.render.service import SERVER_PORT
from textgen_operator.resource import Gpu
from textgen_server.settings import env_of

_UNITS = ((2**30, "g"), (2**20, "m"), (2**10, "k"), (1, "b"))
_PULL = {"Always": "always", "Never": "never"}


@dataclass
class _Command:
    """A command while it is put together.

    Attributes:
        options: of `docker run`, a line each, quoted for a shell.
        comments: what to know or do before.
    """

    options: list[str] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)

    def add(self, *option: str) -> None:
        """Add an option and its value."""
        self.options.append(shlex.join(option))

    def mount_file(self, variable: str, inside: str) -> None:
        """Mount the file whose path the caller's environment holds; the shell says so when it does not."""
        self.options.append(f'--volume "${{{variable}:?names no file}}":{shlex.quote(inside)}:ro')


def docker_command(name: str, pod: Manifest, gpu: Gpu, *, hostname: str, port: int) -> str:
    """The lines of a shell that run the server's container as the pod does.

    Args:
        name: of the service.
        pod: spec of the rendered pod.
        gpu: what the pod asks for, which Docker knows under other names.
        hostname: address of the host where the server is reached.
        port: port of the host.

    Raises:
        LocalError: a value of the pod's refers to a secret, so that it cannot be told without it.
    """
    container = next(each for each in pod["containers"] if each["name"] == CONTAINER_NAME)
    env = _literal_env(container)
    args = [_expanded(arg, container, env) for arg in [*container.get("command", [])[1:], *container.get("args", [])]]
    command = _Command()
    command.add("--rm")
    command.add("--name", name)
    command.add("--publish", f"{_bracketed(hostname)}:{port}:{SERVER_PORT}")
    _add_gpus(command, gpu)
    _add_resources(command, pod, container)
    _add_security(command, pod, container)
    _add_volumes(command, name, pod, container, _files(args, env))
    _add_environment(command, container, env)
    if entry := container.get("command"):
        command.add("--entrypoint", entry[0])
    others = [each["name"] for each in [*pod.get("initContainers", []), *pod["containers"]] if each is not container]
    command.comments += [f"Not run: container {other}." for other in others]
    lines = ["docker run", *command.options, shlex.quote(container["image"]), *_lines(args)]
    comments = (" ".join(comment.split()) for comment in command.comments)
    return "".join(f"# {comment}\n" for comment in comments) + " \\\n  ".join(lines) + "\n"


def _lines(args: list[str]) -> Iterator[str]:
    """The arguments, a flag and its value on one line."""
    line: list[str] = []
    for arg in args:
        if line and (arg.startswith("--") or len(line) == 2 or not line[0].startswith("--")):
            yield shlex.join(line)
            line = []
        line.append(arg)
    if line:
        yield shlex.join(line)


def _bracketed(hostname: str) -> str:
    return f"[{hostname}]" if ":" in hostname else hostname


def _add_gpus(command: _Command, gpu: Gpu) -> None:
    if gpu.count and gpu.resource_name == "nvidia.com/gpu":
        command.add("--gpus", str(gpu.count))
    elif gpu.count:
        command.comments.append(f"Add the options by which Docker gives it {gpu.count} of {gpu.resource_name}.")


def _add_resources(command: _Command, pod: Manifest, container: Manifest) -> None:
    limits = container.get("resources", {}).get("limits", {})
    if "cpu" in limits:
        command.add("--cpus", f"{quantity.parse(str(limits['cpu'])).normalize():f}")
    if "memory" in limits:
        command.add("--memory", _size(limits["memory"]))
    if pull := _PULL.get(container.get("imagePullPolicy", "")):
        command.add("--pull", pull)
    if "terminationGracePeriodSeconds" in pod:
        command.add("--stop-timeout", str(pod["terminationGracePeriodSeconds"]))


def _size(amount: str) -> str:
    """A quantity of bytes in Docker's units, which are powers of two."""
    size = int(quantity.parse(str(amount)))
    factor, unit = next(each for each in _UNITS if size % each[0] == 0)
    return f"{size // factor}{unit}"


def _add_security(command: _Command, pod: Manifest, container: Manifest) -> None:
    of_pod, own = pod.get("securityContext", {}), container.get("securityContext", {})
    user, group = (own.get(key, of_pod.get(key)) for key in ("runAsUser", "runAsGroup"))
    if user is not None:
        command.add("--user", f"{user}" if group is None else f"{user}:{group}")
    if of_pod.get("fsGroup") not in (None, group):
        command.add("--group-add", str(of_pod["fsGroup"]))
    if own.get("readOnlyRootFilesystem"):
        command.add("--read-only")
    if own.get("allowPrivilegeEscalation") is False:
        command.add("--security-opt", "no-new-privileges")
    for verb in ("drop", "add"):
        for capability in own.get("capabilities", {}).get(verb, []):
            command.add(f"--cap-{verb}", capability)


def _files(args: list[str], env: Mapping[str, str]) -> dict[str, str]:
    """Path in the container -> the variable under which the caller names such a file."""
    flags = [(flag, path) for flag, path in itertools.pairwise(args) if flag.startswith("--")]
    return {path: name for name, path in env.items()} | {path: env_of(_option(flag)) for flag, path in flags}


def _option(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def _add_volumes(command: _Command, name: str, pod: Manifest, container: Manifest, files: Mapping[str, str]) -> None:
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    for mount in container.get("volumeMounts", []):
        volume, inside = volumes.get(mount["name"], {}), mount["mountPath"]
        if source := _volume_source(name, mount["name"], volume):
            command.add("--volume", f"{source}:{inside}" + (":ro" if mount.get("readOnly") else ""))
        elif inside == "/dev/shm" and "sizeLimit" in volume.get("emptyDir", {}):
            command.add("--shm-size", _size(volume["emptyDir"]["sizeLimit"]))
        elif "image" in volume:
            command.add("--mount", f"type=image,source={volume['image']['reference']},target={inside}")
        elif "emptyDir" in volume:
            # Docker's default is noexec, and compiled kernels are loaded from there.
            command.add("--tmpfs", f"{inside}:exec")
        else:
            _add_files(command, volume, inside, files)


def _volume_source(service: str, name: str, volume: Manifest) -> str:
    """The host's folder, or Docker's volume, in the place of the pod's; empty for what is neither."""
    if "hostPath" in volume:
        return str(volume["hostPath"]["path"])
    if "persistentVolumeClaim" in volume:
        return str(volume["persistentVolumeClaim"]["claimName"])
    # Kept by Docker in any case: nobody wants to download a model at each start.
    return f"{service}-{VOLUME_NAME}" if name == VOLUME_NAME else ""


def _add_files(command: _Command, volume: Manifest, inside: str, files: Mapping[str, str]) -> None:
    """Files of a Secret: those that an option or a variable of the server names."""
    what = f"Secret {volume['secret']['secretName']}" if "secret" in volume else f"volume {volume.get('name')}"
    found = [(path, variable) for path, variable in files.items() if path.startswith(f"{inside}/")]
    for path, variable in found:
        file = path.rpartition("/")[2]
        command.comments.append(f"First export {variable}=PATH: {file} of {what}, readable for the user below.")
        command.mount_file(variable, path)
    if not found:
        command.comments.append(f"Not mounted at {inside}: {what}.")


def _literal_env(container: Manifest) -> dict[str, str]:
    """The variables whose values the pod itself has, expanded."""
    env: dict[str, str] = {}
    for variable in container.get("env", []):
        if "value" in variable:
            env[variable["name"]] = _expanded(variable["value"], container, env)
    return env


def _expanded(text: str, container: Manifest, env: Mapping[str, str]) -> str:
    """A text with its references to variables expanded. Raises LocalError for one to a secret."""
    unknown = {variable["name"]: "\0" for variable in container.get("env", []) if "valueFrom" in variable}
    found = expanded(text, unknown | dict(env))
    if "\0" in found:
        raise LocalError(f"{text!r} holds a variable from a Secret or ConfigMap, which only a cluster puts in there")
    return found


def _add_environment(command: _Command, container: Manifest, env: Mapping[str, str]) -> None:
    for source in container.get("envFrom", []):
        kind, ref = ("Secret", source["secretRef"]) if "secretRef" in source else ("ConfigMap", source["configMapRef"])
        if ref.get("optional"):
            command.comments.append(f"Left out: the optional variables of {kind} {ref['name']}.")
        else:
            command.comments.append(f"First write {ref['name']}.env: NAME=value for each key of {kind} {ref['name']}.")
            command.add("--env-file", f"{ref['name']}.env")
    for variable in container.get("env", []):
        name = variable["name"]
        command.add("--env", f"{name}={env[name]}" if name in env else name)
        if name not in env:
            command.comments.append(f"First export {name}: {_origin(variable['valueFrom'])}.")


def _origin(value_from: Manifest) -> str:
    ((kind, ref),) = value_from.items()
    if "key" not in ref:
        return f"in the cluster, its {kind}"
    what = "Secret" if kind == "secretKeyRef" else "ConfigMap"
    return f"key {ref['key']} of {what} {ref['name']}" + (" (optional)" if ref.get("optional") else "")
