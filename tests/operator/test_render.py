"""spec -> manifests."""

import copy
from typing import Any

import kubernetes_validate
import pytest
import yaml
from operator_rendered import DEFAULTS, args_of, container, env_of, manifests, pod, statefulset, volumes
from operator_samples import EXAMPLES, custom_resource, service
from pydantic import BaseModel

from textgen_operator.kinds import OPTIONAL, PERMISSIONS, kind_of
from textgen_operator.render import render
from textgen_operator.render.container import LOG_FORMAT
from textgen_operator.render.metadata import SERVICE_LABEL, labels, pod_selector, selector
from textgen_operator.render.server_args import server_args, server_options
from textgen_operator.resource import OWNED_ENV, OWNED_OPTIONS, Spec, TextGenerationService
from textgen_server.settings import ServerOptions, flag_of, parse

KUBERNETES = ("1.30", "1.36")
"""The oldest version with the preStop action `sleep`, and the newest that was tried."""


# --- examples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_render_to_valid_manifests(example: Any, version: str) -> None:
    for resource in yaml.safe_load_all(example.read_text()):
        for manifest in render(TextGenerationService.model_validate(resource), DEFAULTS):
            if kind_of(manifest) not in OPTIONAL:
                kubernetes_validate.validate(manifest, version, strict=True)


def fields_of(part: type[BaseModel], prefix: str = "") -> set[str]:
    """The paths of all fields of a class, down to values and lists."""
    found = set()
    for field in part.model_fields.values():
        path = f"{prefix}.{field.alias}"
        inner = [field.annotation, *getattr(field.annotation, "__args__", ())]
        models = [kind for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel)]
        is_list = str(field.annotation).startswith("list")
        found |= fields_of(models[0], path) if models and not is_list else {path}
    return found


def paths_of(value: Any, prefix: str = "") -> set[str]:
    return (
        {prefix} | {path for key in value for path in paths_of(value[key], f"{prefix}.{key}")}
        if isinstance(value, dict)
        else {prefix}
    )


def test_the_maximal_example_has_every_field() -> None:
    maximal = next(example for example in EXAMPLES if example.stem == "maximal")
    given = paths_of(yaml.safe_load(maximal.read_text())["spec"])
    # Other kinds of cache, of GPUs and of buckets have fields of their own.
    others = {
        ".cache.claimName",
        ".cache.path",
        ".cache.accessModes",
        ".cache.warm",
        ".gpu.claimTemplateName",
        ".storageSecretRef.name",
    }
    assert fields_of(Spec) - given == others | {".storageSecretRef.key"}


# --- all objects ------------------------------------------------------------------------------------------------------


def test_the_same_spec_gives_the_same_manifests() -> None:
    assert render(service(), DEFAULTS) == render(service(), DEFAULTS)


def test_every_object_is_labelled_and_in_the_services_namespace() -> None:
    for manifest in manifests().values():
        assert manifest["metadata"]["namespace"] == "models"
        assert manifest["metadata"]["labels"] == labels(service().metadata)
        assert "ownerReferences" not in manifest["metadata"]


def test_in_a_cluster_the_service_owns_every_object() -> None:
    resource = custom_resource()
    resource["metadata"]["uid"] = "uid"
    for manifest in render(TextGenerationService.model_validate(resource), DEFAULTS):
        (owner,) = manifest["metadata"]["ownerReferences"]
        assert owner["uid"] == "uid"
        assert owner["controller"] is True


def test_every_rendered_kind_may_be_written() -> None:
    maximal = next(example for example in EXAMPLES if example.stem == "maximal")
    for manifest in render(TextGenerationService.model_validate(yaml.safe_load(maximal.read_text())), DEFAULTS):
        kind = kind_of(manifest)
        verbs = [rule["verbs"] for rule in PERMISSIONS if rule["resources"] == [kind.plural]]
        assert {"get", "list", "watch", "create", "patch"} <= set(verbs[0])


def test_selectors_hold_three_labels_that_pods_have() -> None:
    found = statefulset()
    pod_labels = found["spec"]["template"]["metadata"]["labels"]
    chosen = found["spec"]["selector"]["matchLabels"]
    assert len(chosen) == 3
    assert chosen == selector(service().metadata)
    assert chosen.items() <= pod_labels.items()
    assert pod_labels[SERVICE_LABEL] == "chat"
    for name in ("Service chat", "Service chat-pods"):
        assert manifests()[name]["spec"]["selector"] == chosen
    assert pod_selector(service().metadata) == ",".join(f"{key}={value}" for key, value in chosen.items())


def test_clients_and_pods_have_a_service_each() -> None:
    clients, pods = (manifests()[name]["spec"] for name in ("Service chat", "Service chat-pods"))
    assert [port["port"] for port in clients["ports"]] == [80]
    assert (pods["clusterIP"], pods["publishNotReadyAddresses"]) == ("None", True)
    assert statefulset()["spec"]["serviceName"] == "chat-pods"


# --- the server's command line ----------------------------------------------------------------------------------------


def test_the_server_takes_the_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PORT", "HOSTNAME", "MODEL_ID"):
        monkeypatch.delenv(name, raising=False)
    spec = service(
        model="hf://org/model", revision="v1", quantize="bitsandbytes", dtype="float16", gpu={"count": 2},
        servedModelName="m", limits={"maxInputTokens": 10, "maxTotalTokens": 20, "maxConcurrentRequests": 3},
        drain={"timeoutSeconds": 7}, extraArgs=["--json-output", "true", "--block-size", "32"],
    ).spec  # fmt: skip
    settings = parse(server_args(spec))
    asked = server_options(spec)
    assert {name: getattr(settings, name) for name in asked.model_fields_set} == asked.model_dump(exclude_unset=True)
    assert (settings.model_id, settings.num_shard, settings.graceful_termination_timeout) == ("org/model", 2, 7)
    assert (settings.json_output, settings.block_size) == (True, 32)


def test_what_the_spec_leaves_out_the_server_decides() -> None:
    assert args_of() == {
        "--model-id": "org/model",
        "--huggingface-hub-cache": "/data",
        "--num-shard": "1",
        "--port": "8080",
        "--graceful-termination-timeout": "120",
    }


def test_every_option_that_is_rendered_is_kept_from_extra_args() -> None:
    rendered = server_options(service().spec).model_fields_set | set(
        Spec.model_fields["limits"].annotation.model_fields
    )
    assert rendered <= set(OWNED_OPTIONS)
    for option in OWNED_OPTIONS:
        assert option in ServerOptions.model_fields
        with pytest.raises(ValueError, match="extraArgs must not set what another field sets"):
            service(extraArgs=[f"{flag_of(option)}=1"])


# --- the pod ----------------------------------------------------------------------------------------------------------


def test_the_image_is_the_services_else_the_installations() -> None:
    assert container()["image"] == "server:test"
    assert container(image="mine:1")["image"] == "mine:1"


def test_the_pod_is_restricted() -> None:
    security, inner = pod()["securityContext"], container()["securityContext"]
    assert (security["runAsNonRoot"], security["runAsUser"], security["fsGroup"]) == (True, 1000, 1000)
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert inner == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert pod()["automountServiceAccountToken"] is False
    assert pod()["enableServiceLinks"] is False


def test_gpus_are_requested_and_limited_alike_and_their_taint_is_tolerated() -> None:
    gpus = {"nvidia.com/gpu": "4"}
    found = container(gpu={"count": 4}, resources={"requests": {"cpu": 8}, "limits": {"memory": "64Gi"}})["resources"]
    assert found == {"requests": {"cpu": "8"} | gpus, "limits": {"memory": "64Gi"} | gpus}
    assert pod(gpu={"count": 4})["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    ]


def test_without_gpus_none_is_asked_for_or_seen() -> None:
    assert container(gpu={"count": 0})["resources"] == {}
    assert env_of(gpu={"count": 0})["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert "tolerations" not in pod(gpu={"count": 0})
    assert "NVIDIA_VISIBLE_DEVICES" not in env_of()


@pytest.mark.parametrize(("timeout", "attempts"), [(60, 6), (61, 7), (3600, 360)])
def test_the_startup_probe_lasts_as_long_as_starting_may(timeout: int, attempts: int) -> None:
    probe = container(startup={"timeoutSeconds": timeout})["startupProbe"]
    assert probe["failureThreshold"] == attempts
    assert attempts * probe["periodSeconds"] >= timeout


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_probes_ask_for_health(probe: str) -> None:
    assert container()[probe]["httpGet"] == {"path": "/health", "port": "http"}


def test_there_is_time_to_drain() -> None:
    drain = {"preStopSeconds": 5, "timeoutSeconds": 30}
    assert container(drain=drain)["lifecycle"] == {"preStop": {"sleep": {"seconds": 5}}}
    assert args_of(drain=drain)["--graceful-termination-timeout"] == "30"
    assert pod(drain=drain)["terminationGracePeriodSeconds"] == 50
    assert "lifecycle" not in container(drain={"preStopSeconds": 0})


@pytest.mark.parametrize(
    ("spec", "size"),
    [({}, "1Gi"), ({"gpu": {"count": 4}}, "4Gi"), ({"gpu": {"count": 4}, "sharedMemory": "8Gi"}, "8Gi")],
)
def test_shared_memory_grows_with_the_shards(spec: dict[str, Any], size: str) -> None:
    assert volumes(**spec)["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": size}


def test_every_mount_has_its_volume() -> None:
    for cache in (
        {},
        {"type": "PerReplica"},
        {"type": "Existing", "claimName": "c"},
        {"type": "HostPath", "path": "/p"},
    ):
        found = statefulset(cache=cache)["spec"]
        mounted = {mount["name"] for mount in container(cache=cache)["volumeMounts"]}
        claimed = {claim["metadata"]["name"] for claim in found.get("volumeClaimTemplates", [])}
        assert mounted == volumes(cache=cache).keys() | claimed


def test_the_cache_can_live_in_five_places() -> None:
    shared = volumes(cache={"type": "Shared"})["cache"]
    assert shared == {"name": "cache", "persistentVolumeClaim": {"claimName": "chat-cache"}}
    assert volumes()["cache"] == {"name": "cache", "emptyDir": {}}
    assert volumes(cache={"size": "9Gi"})["cache"]["emptyDir"] == {"sizeLimit": "9Gi"}
    existing = volumes(cache={"type": "Existing", "claimName": "weights"})["cache"]
    assert existing["persistentVolumeClaim"] == {"claimName": "weights"}
    folder = volumes(cache={"type": "HostPath", "path": "/srv/models"})["cache"]
    assert folder["hostPath"] == {"path": "/srv/models", "type": "Directory"}


@pytest.mark.parametrize(("retain", "policy"), [(False, "Delete"), (True, "Retain")])
def test_a_claim_for_each_replica(retain: bool, policy: str) -> None:
    cache = {"type": "PerReplica", "size": "9Gi", "storageClassName": "nvme", "retain": retain}
    found = statefulset(cache=cache)["spec"]
    (claim,) = found["volumeClaimTemplates"]
    assert claim["spec"]["resources"] == {"requests": {"storage": "9Gi"}}
    assert claim["spec"]["storageClassName"] == "nvme"
    assert found["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": policy, "whenScaled": "Retain"}


def test_the_hub_is_reached_as_the_spec_says() -> None:
    hub = {"tokenSecretRef": {"name": "hf"}, "endpoint": "https://hub.test", "offline": True}
    env = env_of(huggingFace=hub)
    assert env["HF_TOKEN"] == {"secretKeyRef": {"name": "hf", "key": "token", "optional": False}}
    assert (env["HF_ENDPOINT"], env["HF_HUB_OFFLINE"]) == ("https://hub.test", "1")
    assert not {"HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE"} & env_of().keys()


def test_variables_that_are_rendered_are_kept_from_env() -> None:
    hub = {"tokenSecretRef": {"name": "hf"}, "endpoint": "https://hub.test", "offline": True}
    assert env_of(huggingFace=hub, gpu={"count": 0}).keys() <= {*OWNED_ENV, LOG_FORMAT}


def test_logs_are_for_the_operator_unless_the_user_wants_them_otherwise() -> None:
    assert env_of()[LOG_FORMAT] == "true"
    variables = [variable["name"] for variable in container(env=[{"name": LOG_FORMAT, "value": "false"}])["env"]]
    assert variables.count(LOG_FORMAT) == 1


def test_env_is_appended() -> None:
    variable = {"name": "NCCL_DEBUG", "value": "WARN"}
    assert container(env=[variable])["env"][-1] == variable


def test_scheduling_reaches_the_pod() -> None:
    toleration = {"key": "team", "operator": "Equal", "value": "ml", "effect": "NoSchedule"}
    found = pod(
        gpu={"count": 0},
        scheduling={"nodeSelector": {"zone": "a"}, "tolerations": [toleration], "priorityClassName": "high"},
        imagePullSecrets=[{"name": "registry"}],
    )
    assert (found["nodeSelector"], found["tolerations"]) == ({"zone": "a"}, [toleration])
    assert (found["priorityClassName"], found["imagePullSecrets"]) == ("high", [{"name": "registry"}])


def test_rendering_leaves_the_service_alone() -> None:
    before = service(gpu={"count": 2})
    after = copy.deepcopy(before)
    render(after, DEFAULTS)
    assert after == before
