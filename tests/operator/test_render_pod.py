"""What more a service may ask of its pods: sources, keys, certificates, nodes, and whatever has no field."""

from typing import Any

import pytest
from operator_rendered import DEFAULTS, args_of, container, env_of, manifests, pod, statefulset, volumes
from operator_samples import service
from pydantic import ValidationError

from textgen_operator.render.merge import merge
from textgen_operator.render.metadata import selector
from textgen_operator.render.pod import overrides
from textgen_operator.render.server_args import server_args
from textgen_operator.render.service import url
from textgen_operator.resource import problems
from textgen_server.settings import parse


def mounted(**spec: Any) -> dict[str, dict[str, Any]]:
    """Mounts by the volume's name."""
    return {mount["name"]: mount for mount in container(**spec)["volumeMounts"]}


# --- sources ----------------------------------------------------------------------------------------------------------


def test_the_hub_needs_no_prefix_in_the_server() -> None:
    assert args_of(model="hf://org/model")["--model-id"] == "org/model"


def test_a_volume_claim_is_mounted_read_only_and_keeps_its_address_as_name() -> None:
    spec = {"model": "pvc://weights.v2/llama", "adapters": [{"name": "law", "source": "pvc://weights.v2/law"}]}
    assert args_of(**spec)["--model-id"] == "/claims/weights.v2/llama"
    assert args_of(**spec)["--served-model-name"] == "pvc://weights.v2/llama"
    assert args_of(**spec)["--lora-adapters"] == "law=/claims/weights.v2/law"
    claims = {name: volume for name, volume in volumes(**spec).items() if name.startswith("claim-")}
    assert claims == {
        "claim-0": {"name": "claim-0", "persistentVolumeClaim": {"claimName": "weights.v2", "readOnly": True}}
    }
    assert mounted(**spec)["claim-0"] == {"name": "claim-0", "mountPath": "/claims/weights.v2", "readOnly": True}


def test_an_image_is_mounted_as_a_volume() -> None:
    image = "registry.internal:5000/llama@sha256:01"
    spec = {"model": f"oci://{image}#models", "adapters": [{"name": "law", "source": "oci://ghcr.io/org/law:1"}]}
    assert args_of(**spec)["--model-id"] == "/images/0/models"
    assert args_of(**spec)["--served-model-name"] == f"oci://{image}#models"
    assert args_of(**spec)["--lora-adapters"] == "law=/images/1"
    assert volumes(**spec)["image-0"]["image"] == {"reference": image, "pullPolicy": "IfNotPresent"}
    assert mounted(**spec)["image-1"] == {"name": "image-1", "mountPath": "/images/1", "readOnly": True}


def test_adapters_reach_the_server_with_their_revisions() -> None:
    spec = service(
        adapters=[
            {"name": "support", "source": "hf://acme/support", "revision": "v3"},
            {"name": "law", "source": "s3://bucket/law"},
        ]
    ).spec
    assert parse(server_args(spec)).lora_adapters == ("support=acme/support@v3", "law=s3://bucket/law")


def test_credentials_of_s3_are_variables_and_those_of_google_a_file() -> None:
    secret = {"storageSecretRef": {"name": "bucket", "key": "sa.json"}}
    assert container(model="s3://b/m", **secret)["envFrom"] == [{"secretRef": {"name": "bucket", "optional": False}}]
    assert "GOOGLE_APPLICATION_CREDENTIALS" not in env_of(model="s3://b/m", **secret)
    google = {"model": "gs://b/m", **secret}
    assert "envFrom" not in container(**google)
    assert env_of(**google)["GOOGLE_APPLICATION_CREDENTIALS"] == "/credentials/sa.json"
    assert mounted(**google)["credentials"]["mountPath"] == "/credentials"
    assert volumes(**google)["credentials"]["secret"] == {"secretName": "bucket"}


# --- access -----------------------------------------------------------------------------------------------------------


def test_api_keys_are_a_file_that_follows_its_secret() -> None:
    spec = {"auth": {"apiKeySecretRef": {"name": "keys", "key": "all"}}}
    folder, _, file = args_of(**spec)["--api-key-file"].rpartition("/")
    assert mounted(**spec)["api-keys"] == {"name": "api-keys", "mountPath": folder, "readOnly": True}
    assert volumes(**spec)["api-keys"]["secret"]["items"] == [{"key": "all", "path": file}]
    assert volumes(**spec)["api-keys"]["secret"]["secretName"] == "keys"


def test_with_a_certificate_everything_speaks_https() -> None:
    spec = {"tls": {"secretName": "cert"}}
    args = args_of(**spec)
    assert (args["--ssl-certfile"], args["--ssl-keyfile"]) == ("/tls/tls.crt", "/tls/tls.key")
    assert mounted(**spec)["tls"]["mountPath"] == "/tls"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container(**spec)[probe]["httpGet"]["scheme"] == "HTTPS"
    (port,) = manifests(**spec)["Service chat"]["spec"]["ports"]
    assert (port["port"], port["appProtocol"]) == (443, "https")
    assert url(service(**spec)) == "https://chat.models.svc"


def test_the_service_may_have_another_type_port_and_annotations() -> None:
    wanted = {"type": "LoadBalancer", "port": 8000, "annotations": {"a/b": "c"}}
    found = manifests(network={"service": wanted})["Service chat"]
    assert (found["spec"]["type"], found["spec"]["ports"][0]["port"]) == ("LoadBalancer", 8000)
    assert found["metadata"]["annotations"] == {"a/b": "c"}
    assert url(service(network={"service": wanted})) == "http://chat.models.svc:8000"
    assert url(service()) == "http://chat.models.svc"


def test_traces_go_where_the_spec_says() -> None:
    assert args_of(tracing={"endpoint": "http://otel:4317"})["--otlp-endpoint"] == "http://otel:4317"


def test_variables_from_whole_objects() -> None:
    sources = [{"secretRef": {"name": "a"}, "prefix": "A_"}, {"configMapRef": {"name": "b", "optional": True}}]
    assert container(envFrom=sources)["envFrom"] == [
        {"secretRef": {"name": "a", "optional": False}, "prefix": "A_"},
        {"configMapRef": {"name": "b", "optional": True}},
    ]


# --- nodes ------------------------------------------------------------------------------------------------------------


def required(**spec: Any) -> list[dict[str, Any]]:
    """The terms of the required affinity to nodes."""
    nodes = pod(**spec)["affinity"]["nodeAffinity"]
    return list(nodes["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"])


def test_gpus_may_be_chosen_by_product_and_memory() -> None:
    gpu = {"products": ["A100", "H100"], "minMemory": "40Gi"}
    demands = [
        {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["A100", "H100"]},
        {"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": ["40959"]},
    ]
    assert required(gpu=gpu) == [{"matchExpressions": demands}]
    zones = [{"key": "zone", "operator": "In", "values": [zone]} for zone in ("a", "b")]
    nodes = {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [zone]} for zone in zones]
        }
    }
    scheduling = {"affinity": {"nodeAffinity": nodes, "podAffinity": {"anything": [1]}}}
    assert required(gpu=gpu, scheduling=scheduling) == [{"matchExpressions": [zone, *demands]} for zone in zones]
    assert pod(gpu=gpu, scheduling=scheduling)["affinity"]["podAffinity"] == {"anything": [1]}
    assert "affinity" not in pod()


@pytest.mark.parametrize(
    ("spread", "keys"),
    [("Hostname", ["kubernetes.io/hostname"]), ("Zone", ["topology.kubernetes.io/zone"]), ("None", [])],
)
def test_replicas_are_spread(spread: str, keys: list[str]) -> None:
    found = pod(scheduling={"spread": spread}).get("topologySpreadConstraints", [])
    assert [constraint["topologyKey"] for constraint in found] == keys
    for constraint in found:
        assert constraint["labelSelector"]["matchLabels"] == selector(service().metadata)


def test_gpus_may_come_by_a_claim() -> None:
    gpu = {"count": 2, "claimTemplateName": "two-gpus"}
    assert pod(gpu=gpu)["resourceClaims"] == [{"name": "gpu", "resourceClaimTemplateName": "two-gpus"}]
    assert container(gpu=gpu)["resources"] == {"claims": [{"name": "gpu"}]}
    assert args_of(gpu=gpu)["--num-shard"] == "2"


def test_pods_have_the_scheduler_runtime_and_account_of_the_spec() -> None:
    found = pod(scheduling={"schedulerName": "kueue"}, gpu={"runtimeClassName": "nvidia"}, serviceAccountName="s3")
    assert (found["schedulerName"], found["runtimeClassName"], found["serviceAccountName"]) == ("kueue", "nvidia", "s3")
    assert found["automountServiceAccountToken"] is False


def test_a_suspended_service_has_no_pods_but_all_else() -> None:
    spec = {"replicas": 3, "cache": {"type": "PerReplica"}}
    running, suspended = manifests(**spec), manifests(**spec, suspend=True)
    assert suspended["StatefulSet chat"]["spec"].pop("replicas") == 0
    del running["StatefulSet chat"]["spec"]["replicas"], running["PodDisruptionBudget chat"]
    assert suspended == running


# --- podTemplate ------------------------------------------------------------------------------------------------------


def test_the_pod_template_is_merged_by_name_and_last() -> None:
    template = {
        "metadata": {"labels": {"team": "ml"}, "annotations": {"sidecar.istio.io/inject": "false"}},
        "spec": {
            "hostNetwork": True,
            "enableServiceLinks": None,
            "containers": [
                {"name": "server", "image": "mine:2", "env": [{"name": "HOME", "value": "/data"}]},
                {"name": "sidecar", "image": "envoy:1"},
            ],
        },
    }
    found = statefulset(podTemplate=template)["spec"]["template"]
    plain = statefulset()["spec"]["template"]
    server, sidecar = found["spec"]["containers"]
    assert sidecar == {"name": "sidecar", "image": "envoy:1"}
    assert server["image"] == "mine:2"
    assert server["args"] == plain["spec"]["containers"][0]["args"]
    assert found["metadata"]["labels"] == plain["metadata"]["labels"] | {"team": "ml"}
    assert found["spec"]["hostNetwork"] is True
    assert "enableServiceLinks" not in found["spec"]
    assert overrides(service(podTemplate=template), DEFAULTS) == [
        "metadata.annotations",
        "metadata.labels.team",
        "spec.containers[server].env[HOME].value",
        "spec.containers[server].image",
        "spec.containers[sidecar]",
        "spec.enableServiceLinks",
        "spec.hostNetwork",
    ]


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"volumes": [{"name": "x", "secret": {}}]}, "volumes.3.secret: names no Secret"),
        ({"containers": [{"name": "server", "$patch": "delete"}]}, "containers: the container server must stay"),
        (
            {"containers": [{"name": "server", "env": [{"name": "X", "valueFrom": "y"}]}]},
            "valueFrom: must be an object",
        ),
        ({"containers": [{"name": "server", "envFrom": [{"secretRef": []}]}]}, "secretRef: must be an object"),
        ({"containers": [{"name": "x", "resources": {"limits": {"cpu": "lots"}}}]}, "limits.cpu: 'lots' is not a quan"),
        ({"containers": [{"name": "server", "volumeMounts": [{"mountPath": "/x"}]}]}, "volumeMounts.3.name: is requ"),
        ({"initContainers": [{"name": "x", "env": [{"name": "Y", "value": 1}]}]}, "env.0.value: must be a string"),
        ({"containers": [{"name": "server", "livenessProbe": "/live"}]}, "livenessProbe: must be an object"),
    ],
    ids=str,
)
def test_a_pod_template_that_cannot_be_read_is_a_problem_of_its_field(spec: Any, problem: str) -> None:
    with pytest.raises(ValidationError) as caught:
        pod(podTemplate={"spec": spec})
    (found,) = problems(caught.value)
    assert str(found).startswith("spec.podTemplate.spec.")
    assert problem in str(found)


def test_what_the_template_says_anyway_is_no_override() -> None:
    assert overrides(service(podTemplate={"spec": {"automountServiceAccountToken": False}}), DEFAULTS) == []
    assert overrides(service(), DEFAULTS) == []


@pytest.mark.parametrize(
    ("base", "patch", "result"),
    [
        ({"a": {"b": 1}}, {"a": {"c": 2}}, {"a": {"b": 1, "c": 2}}),
        ({"args": ["x", "y"]}, {"args": ["z"]}, {"args": ["z"]}),
        ({"volumes": [{"name": "a", "x": 1}]}, {"volumes": [{"name": "a", "$patch": "delete"}]}, {"volumes": []}),
        ({"ports": [{"containerPort": 1}]}, {"ports": "nonsense"}, {"ports": "nonsense"}),
        ({}, {"gone": None}, {}),
    ],
)
def test_merging_is_kubernetes_own(base: Any, patch: Any, result: Any) -> None:
    before = repr(base)
    assert merge(base, patch)[0] == result
    assert repr(base) == before
