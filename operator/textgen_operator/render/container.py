"""The server's container."""

from collections.abc import Iterable

from textgen_operator.kinds import Manifest
from textgen_operator.render import sources, volumes
from textgen_operator.render.defaults import Defaults
from textgen_operator.render.server_args import server_args
from textgen_operator.render.service import PORT_NAME, SERVER_PORT
from textgen_operator.resource import EnvFrom, EnvVar, Spec
from textgen_server.settings import env_of

CONTAINER_NAME = "server"
KSERVE_CONTAINER_NAME = "kserve-container"
"""What KServe calls the container that serves, and insists on."""

GPU_CLAIM = "gpu"
HEALTH_PATH = "/health"
LIVE_PATH = "/v2/health/live"
LOG_FORMAT = env_of("json_output")

_STARTUP_PERIOD = 10


def server_of(containers: Iterable[Manifest]) -> Manifest:
    """The server's among the containers of a pod, or among their statuses; empty when it is not there."""
    names = (CONTAINER_NAME, KSERVE_CONTAINER_NAME)
    return next((container for container in containers if container.get("name") in names), {})


def server_container(spec: Spec, defaults: Defaults) -> Manifest:
    """The container that serves the model."""
    return {
        "name": CONTAINER_NAME,
        "image": spec.image or defaults.image,
        "imagePullPolicy": spec.image_pull_policy,
        "args": server_args(spec),
        **environment(spec),
        "ports": [{"name": PORT_NAME, "containerPort": SERVER_PORT, "protocol": "TCP"}],
        "resources": _resources(spec),
        "volumeMounts": volumes.mounts(spec),
        **_probes(spec),
        **_pre_stop(spec),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        # The last log lines of a crash reach the status of the pod, and from there the status of the service.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _probes(spec: Spec) -> dict[str, Manifest]:
    """The server's port opens when the model is loaded; until then only the startup probe counts."""
    check = {"httpGet": {"path": HEALTH_PATH, "port": PORT_NAME} | ({"scheme": "HTTPS"} if spec.tls else {})}
    attempts = -(-spec.startup.timeout_seconds // _STARTUP_PERIOD)
    return {
        "startupProbe": check | {"periodSeconds": _STARTUP_PERIOD, "timeoutSeconds": 5, "failureThreshold": attempts},
        "readinessProbe": check | {"periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 2},
        # Two minutes: an overloaded server is not a dead one, and a restart costs a whole load.
        "livenessProbe": check | {"periodSeconds": 15, "timeoutSeconds": 10, "failureThreshold": 8},
    }


def _pre_stop(spec: Spec) -> dict[str, Manifest]:
    seconds = spec.drain.pre_stop_seconds
    return {"lifecycle": {"preStop": {"sleep": {"seconds": seconds}}}} if seconds else {}


def environment(spec: Spec) -> Manifest:
    """The container's `env` and `envFrom`."""
    return {"env": _env(spec), **_env_from(spec)}


def _env(spec: Spec) -> list[Manifest]:
    hub = spec.hugging_face
    # The root file system is read-only; libraries put their small caches into the home folder.
    env: list[Manifest] = [{"name": "HOME", "value": "/tmp"}]
    if LOG_FORMAT not in {variable.name for variable in spec.env}:
        # Lines with numbers, from which the status tells how far a start is, and why it failed.
        env.append({"name": LOG_FORMAT, "value": "true"})
    if spec.gpu.count == 0:
        # CUDA images ask their runtime for every GPU of the node, unless told otherwise.
        env.append({"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"})
    if hub.token_secret_ref:
        secret = {"name": hub.token_secret_ref.name, "key": hub.token_secret_ref.key, "optional": False}
        env.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": secret}})
    if hub.endpoint:
        env.append({"name": "HF_ENDPOINT", "value": hub.endpoint})
    if hub.offline:
        env.append({"name": "HF_HUB_OFFLINE", "value": "1"})
    return env + sources.env(spec) + [_as_manifest(variable) for variable in spec.env]


def _env_from(spec: Spec) -> dict[str, list[Manifest]]:
    env_from = sources.env_from(spec) + [_as_manifest(source) for source in spec.env_from]
    return {"envFrom": env_from} if env_from else {}


def _as_manifest(part: EnvVar | EnvFrom) -> Manifest:
    return part.model_dump(by_alias=True, exclude_none=True)


def _resources(spec: Spec) -> Manifest:
    claimed = spec.gpu.claim_template_name is not None
    gpus = {spec.gpu.resource_name: str(spec.gpu.count)} if spec.gpu.count and not claimed else {}
    resources = {
        "requests": spec.resources.requests | gpus,
        "limits": spec.resources.limits | gpus,
        "claims": [{"name": GPU_CLAIM}] if claimed else [],
    }
    return {name: amounts for name, amounts in resources.items() if amounts}
