"""A service that is published as an InferenceService of KServe's."""

from datetime import UTC, datetime
from typing import Any

import pytest
from foreign_definitions import assert_fits
from operator_rendered import container, manifests, pod
from operator_samples import custom_resource, service
from pydantic import ValidationError

from textgen_operator.diagnosis import Evidence
from textgen_operator.kinds import Manifest
from textgen_operator.render.metadata import selector
from textgen_operator.rollout.pinning import pin, record
from textgen_operator.status import Intent, Observed, status_of
from textgen_operator.workloads import workload_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ENOUGH = {"requests": {"cpu": "2"}, "limits": {"cpu": "8", "memory": "64Gi"}}
PUBLISHED: dict[str, Any] = {"kserve": {"publish": "InferenceService"}, "resources": ENOUGH}
EVERYTHING: dict[str, Any] = {
    "gpu": {"count": 2, "products": ["H100"], "runtimeClassName": "nvidia"},
    "cache": {"type": "Shared"},
    "huggingFace": {"tokenSecretRef": {"name": "hf", "key": "token"}},
    "auth": {"apiKeySecretRef": {"name": "keys", "key": "key"}},
    "imagePullSecrets": [{"name": "registry"}],
    "scheduling": {"nodeSelector": {"pool": "a"}, "tolerations": [{"key": "dedicated", "operator": "Exists"}]},
    "envFrom": [{"configMapRef": {"name": "more"}}],
    "podTemplate": {
        "metadata": {"annotations": {"example.com/owner": "models"}},
        "spec": {
            "initContainers": [{"name": "first", "image": "busybox"}],
            "containers": [{"name": "server", "volumeMounts": [{"name": "x", "mountPath": "/x"}]}, {"name": "beside"}],
            "volumes": [{"name": "x", "emptyDir": {}}],
        },
    },
}


def published(**spec: Any) -> Manifest:
    return manifests(**PUBLISHED | spec)["InferenceService chat"]


def sealed(**spec: Any) -> Manifest:
    manifest = published(**spec)
    workload_of(manifest).seal(manifest)
    return manifest


@pytest.mark.parametrize("spec", [{}, EVERYTHING, {"gpu": {"claimTemplateName": "gpus"}}], ids=len)
def test_it_fits_kserves_definition_and_there_is_no_statefulset(spec: dict[str, Any]) -> None:
    found = manifests(**PUBLISHED | spec)
    assert_fits(found["InferenceService chat"], "inferenceservices")
    assert "StatefulSet chat" not in found


def test_its_pods_are_those_of_the_statefulset() -> None:
    predictor = published(**EVERYTHING)["spec"]["predictor"]
    ours = pod(**EVERYTHING | {"resources": ENOUGH, "servedModelName": "chat"})
    server, beside = ours["containers"]
    server |= {"name": "kserve-container"}
    # KServe would put its own requests where there are none, and not the limits.
    server["resources"] = server["resources"] | {"requests": server["resources"]["limits"] | {"cpu": "2"}}
    assert predictor["containers"] == [server, beside]
    assert {name: predictor[name] for name in ours if name != "containers"} == {
        name: part for name, part in ours.items() if name != "containers"
    }
    # So the Service, the budget and all else that selects pods find them.
    assert selector(service().metadata).items() <= predictor["labels"].items()


def test_clients_of_kserve_call_the_model_by_the_services_name() -> None:
    (server,) = published()["spec"]["predictor"]["containers"]
    assert server["args"][server["args"].index("--served-model-name") + 1] == "chat"
    assert "--served-model-name" not in container()["args"]


@pytest.mark.parametrize(
    ("rollout", "surge", "unavailable"), [({}, 0, 1), ({"strategy": "Surge"}, 1, 0)], ids=["Rolling", "Surge"]
)
def test_pods_are_replaced_as_asked_for_and_no_scaler_interferes(
    rollout: dict[str, Any], surge: int, unavailable: int
) -> None:
    found = published(rollout=rollout, replicas=3)
    strategy = found["spec"]["predictor"]["deploymentStrategy"]
    assert strategy["rollingUpdate"] == {"maxSurge": surge, "maxUnavailable": unavailable}
    assert found["spec"]["predictor"]["minReplicas"] == 3
    annotations = found["metadata"]["annotations"]
    assert annotations["serving.kserve.io/autoscalerClass"] == "none"
    assert annotations["serving.kserve.io/deploymentMode"] == "Standard"
    assert published(suspend=True)["spec"]["predictor"]["minReplicas"] == 0


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"cache": {"type": "PerReplica"}}, ".cache.type"),
        ({"tls": {"secretName": "certificate"}}, ".tls"),
        ({"network": {"ingress": {}}}, ".network"),
        ({"network": {"route": {"parentRefs": [{"name": "gateway"}]}}}, ".network"),
        ({"rollout": {"partition": 1}}, ".rollout"),
        ({"rollout": {"paused": True}}, ".rollout"),
        ({"rollout": {"strategy": "OnDelete"}}, ".rollout"),
        ({"resources": {"limits": {"memory": "8Gi"}}}, ".resources.limits"),
    ],
    ids=str,
)
def test_what_does_not_go_together_with_kserve_is_refused(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as refused:
        service(**PUBLISHED | spec)
    (error,) = refused.value.errors()
    assert (error["ctx"]["field"], "kserve.publish" in error["msg"]) == (field, True)
    service(**spec)


def test_another_operator_changes_nothing_of_pods_whose_spec_is_the_same() -> None:
    asked = service(**PUBLISHED)
    first = pin(published(), None, asked.spec, "1", roll=False).manifest
    live = first | {"metadata": first["metadata"] | {"managedFields": [_owned(first["metadata"]["annotations"])]}}
    newer = published(replicas=2, image="server:next")
    second = pin(newer, record(live), asked.spec, "2", roll=False)
    assert (second.version, second.pending) == ("1", "2")
    kept, before = second.manifest["spec"]["predictor"], first["spec"]["predictor"]
    assert (kept.pop("minReplicas"), before.pop("minReplicas")) == (2, 1)
    assert kept == before


def _owned(annotations: Manifest) -> Manifest:
    fields = {"f:metadata": {"f:annotations": {f"f:{name}": {} for name in annotations}}}
    return {"manager": "textgen-operator", "operation": "Apply", "fieldsV1": fields}


def test_what_the_operator_notes_about_pods_does_not_replace_them() -> None:
    # KServe copies annotations to pods, but for those that the predictor itself has.
    noted, again = sealed(), sealed()
    noted["metadata"]["annotations"]["textgen.dev/pods-from"] = "..."
    assert noted["metadata"]["annotations"].keys() - again["metadata"]["annotations"].keys() <= (
        again["spec"]["predictor"]["annotations"].keys()
    )
    assert sealed(replicas=4)["spec"]["predictor"]["labels"] == again["spec"]["predictor"]["labels"]
    assert sealed(image="other")["spec"]["predictor"]["labels"] != again["spec"]["predictor"]["labels"]


def running(of: Manifest, name: str = "chat-predictor-a", *, ready: bool = True, **meta: Any) -> Manifest:
    labels = of["spec"]["predictor"]["labels"]
    conditions = [{"type": "Ready", "status": str(ready)}]
    return {"metadata": {"name": name, "labels": labels, **meta}, "status": {"conditions": conditions}}


def said(status: str, message: str = "") -> Manifest:
    return {"conditions": [{"type": "Ready", "status": status, "message": message}], "url": "http://chat.example.com"}


def written(workload: Manifest, pods: list[Manifest]) -> Manifest:
    intent = Intent(service(**PUBLISHED), "http://chat.models.svc")
    observed = Observed(workload, Evidence(pods), intent=intent)
    resource = custom_resource() | {"metadata": {"name": "chat", "namespace": "models", "generation": 3}}
    return status_of(resource, observed, NOW)


def ready_of(status: Manifest) -> tuple[str, str]:
    (found,) = [each for each in status["conditions"] if each["type"] == "Ready"]
    return found["status"], found["reason"]


def test_the_status_follows_from_the_pods_and_from_what_kserve_says() -> None:
    old, new = sealed(image="old"), sealed()
    up = new | {"status": said("True")}
    status = written(up, [running(new)])
    assert ready_of(status) == ("True", "Ready")
    assert status["addresses"] == ["http://chat.models.svc", "http://chat.example.com"]
    assert ready_of(written(up, [running(old)])) == ("False", "RollingOut")
    assert ready_of(written(up, [running(old, "b"), running(new)])) == ("False", "RollingOut")
    assert ready_of(written(up, [running(new), running(old, "b", deletionTimestamp="now")])) == ("True", "Ready")
    counts = written(up, [running(old, "b"), running(new, ready=False)])
    assert [counts[name] for name in ("replicas", "readyReplicas", "updatedReplicas")] == [2, 1, 1]
    assert counts["currentRevision"] != counts["updateRevision"]
    down = new | {"status": said("False", "ingress class nginx is not there")}
    assert ready_of(written(down, [running(new)])) == ("False", "InferenceServiceNotReady")
    assert "ingress class nginx" in str(written(down, [running(new)])["conditions"])
