"""The StatefulSet: one pod for each replica, each with the whole model."""

from typing import Any

from textgen_operator.kinds import STATEFUL_SETS, Manifest
from textgen_operator.render import cache
from textgen_operator.render.defaults import Defaults
from textgen_operator.render.metadata import labels, object_meta, pods_service_name, selector
from textgen_operator.render.server_args import CACHE_FOLDER, server_args
from textgen_operator.render.service import PORT_NAME, SERVER_PORT
from textgen_operator.resource import EnvVar, Spec, TextGenerationService, Toleration

CONTAINER_NAME = "server"
HEALTH_PATH = "/health"
USER_ID = 1000

_STARTUP_PERIOD = 10
_GRACE_AFTER_DRAIN = 15
"""Seconds that the server has left, after the drain, to close down."""


def render(service: TextGenerationService, defaults: Defaults) -> Manifest:
    """The StatefulSet of a service."""
    spec = service.spec
    rendered: dict[str, Any] = {
        "serviceName": pods_service_name(service.metadata),
        # Not one after the other: replicas are independent, and a broken revision could not be rolled back.
        "podManagementPolicy": "Parallel",
        # Delete first, then create: a second set of GPUs is seldom free.
        "updateStrategy": {"type": "RollingUpdate"},
        "revisionHistoryLimit": 5,
        "minReadySeconds": 5,
        "replicas": spec.replicas,
        "selector": {"matchLabels": selector(service.metadata)},
        "template": {"metadata": {"labels": labels(service.metadata)}, "spec": pod_spec(service, defaults)},
    }
    if spec.cache.type == "PerReplica":
        rendered["volumeClaimTemplates"] = cache.claim_templates(service)
        rendered["persistentVolumeClaimRetentionPolicy"] = cache.retention_policy(spec.cache)
    return {
        "apiVersion": STATEFUL_SETS.api_version,
        "kind": STATEFUL_SETS.name,
        "metadata": object_meta(service.metadata, service.metadata.name),
        "spec": rendered,
    }


def pod_spec(service: TextGenerationService, defaults: Defaults) -> Manifest:
    """The pod of one replica."""
    spec = service.spec
    rendered: dict[str, Any] = {
        "automountServiceAccountToken": False,
        # Variables for every Service of the namespace could be taken for the server's options.
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": spec.drain.pre_stop_seconds + spec.drain.timeout_seconds + _GRACE_AFTER_DRAIN,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            # Else every start would change the owner of every file of the model.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(spec, defaults)],
        "volumes": _volumes(spec),
        "topologySpreadConstraints": [_spread_over_nodes(service)],
    }
    optional = {
        "imagePullSecrets": [{"name": secret.name} for secret in spec.image_pull_secrets],
        "nodeSelector": spec.scheduling.node_selector,
        "tolerations": _tolerations(spec),
        "priorityClassName": spec.scheduling.priority_class_name,
    }
    return rendered | {name: value for name, value in optional.items() if value}


def _container(spec: Spec, defaults: Defaults) -> Manifest:
    return {
        "name": CONTAINER_NAME,
        "image": spec.image or defaults.image,
        "imagePullPolicy": spec.image_pull_policy,
        "args": server_args(spec),
        "env": _env(spec),
        "ports": [{"name": PORT_NAME, "containerPort": SERVER_PORT, "protocol": "TCP"}],
        "resources": _resources(spec),
        "volumeMounts": [
            {"name": cache.VOLUME_NAME, "mountPath": CACHE_FOLDER},
            {"name": "shm", "mountPath": "/dev/shm"},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
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
    check = {"httpGet": {"path": HEALTH_PATH, "port": PORT_NAME}}
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


def _env(spec: Spec) -> list[Manifest]:
    hub = spec.hugging_face
    # The root file system is read-only; libraries put their small caches into the home folder.
    env: list[Manifest] = [{"name": "HOME", "value": "/tmp"}]
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
    return env + [_env_var(variable) for variable in spec.env]


def _env_var(variable: EnvVar) -> Manifest:
    return variable.model_dump(by_alias=True, exclude_none=True)


def _resources(spec: Spec) -> Manifest:
    gpus = {spec.gpu.resource_name: str(spec.gpu.count)} if spec.gpu.count else {}
    resources = {"requests": spec.resources.requests | gpus, "limits": spec.resources.limits | gpus}
    return {name: amounts for name, amounts in resources.items() if amounts}


def _volumes(spec: Spec) -> list[Manifest]:
    shared_memory = spec.shared_memory or f"{spec.num_shards}Gi"
    return [
        *cache.pod_volumes(spec.cache),
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": shared_memory}},
        {"name": "tmp", "emptyDir": {}},
    ]


def _spread_over_nodes(service: TextGenerationService) -> Manifest:
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": selector(service.metadata)},
    }


def _tolerations(spec: Spec) -> list[Manifest]:
    """The user's, and the taint that GPU nodes usually carry, which is named as the resource."""
    tolerations = list(spec.scheduling.tolerations)
    if spec.gpu.count:
        tolerations.append(Toleration(key=spec.gpu.resource_name, operator="Exists", effect="NoSchedule"))
    return [toleration.model_dump(by_alias=True, exclude_none=True) for toleration in tolerations]
