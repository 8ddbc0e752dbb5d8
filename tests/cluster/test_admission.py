"""The API server itself refuses what makes no sense, before any operator sees it."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster.kube import Kube, Namespace, Refused, eventually, service
from cluster.operator_process import Operator
from pydantic import ValidationError

from textgen_operator.kinds import SERVICES_OF_OURS
from textgen_operator.resource import TextGenerationService, problems

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))

BAD_SPECS: dict[str, tuple[dict[str, Any], str]] = {
    "no model": ({"model": None}, "spec.model: Required"),
    "an unknown field": ({"modle": "x"}, 'unknown field "spec.modle"'),
    "an unknown model source": ({"model": "ftp://x"}, "spec.model: Invalid value: model must be"),
    "a revision of a folder": ({"model": "/models/x", "revision": "main"}, "spec.revision: .*leave it out"),
    "an unknown quantization": ({"quantize": "gqpt"}, "spec.quantize: Unsupported value"),
    "an unknown dtype": ({"dtype": "float8"}, "spec.dtype: Unsupported value"),
    "more shards than GPUs": ({"gpu": {"count": 1}, "shards": 2}, "spec.shards: .*gpu.count"),
    "a negative number of replicas": ({"replicas": -1}, "spec.replicas: .*greater than or equal to 0"),
    "too many GPUs": ({"gpu": {"count": 99}}, "spec.gpu.count: .*less than or equal to"),
    "a GPU resource without a vendor": ({"gpu": {"resourceName": "gpu"}}, "spec.gpu.resourceName"),
    "a GPU among the resources": (
        {"resources": {"limits": {"nvidia.com/gpu": "1"}}},
        "spec.resources.limits: .*gpu.co",
    ),
    "an input longer than the total": (
        {"limits": {"maxInputTokens": 10, "maxTotalTokens": 10}},
        "spec.limits.maxInputTokens: .*must be less than limits.maxTotalTokens",
    ),
    "a limit of zero": ({"limits": {"maxConcurrentRequests": 0}}, "spec.limits.maxConcurrentRequests: .*equal to 1"),
    "shared memory that is no quantity": ({"sharedMemory": "lots"}, "spec.sharedMemory: "),
    "negative memory": ({"resources": {"limits": {"memory": -1}}}, "spec.resources.limits"),
    "a signed quantity": ({"sharedMemory": "+1Gi"}, "spec.sharedMemory"),
    "more shared memory than memory": (
        {"sharedMemory": "2Gi", "resources": {"limits": {"memory": "1Gi"}}},
        "spec.sharedMemory: .*resources.limits.memory",
    ),
    "a claim without its cache type": ({"cache": {"claimName": "x"}}, "spec.cache.claimName: .*Existing"),
    "a cache type without its claim": ({"cache": {"type": "Existing"}}, "spec.cache.claimName: .*Existing"),
    "no time to start": ({"startup": {"timeoutSeconds": 1}}, "spec.startup.timeoutSeconds: .*60"),
    "a variable that a field sets": ({"env": [{"name": "HF_TOKEN", "value": "x"}]}, "spec.env: .*tokenSecretRef"),
    "a variable with two values": (
        {"env": [{"name": "A", "value": "x", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}]},
        r"spec.env\[0\]: .*exactly one of value and valueFrom",
    ),
    "a variable given twice": (
        {"env": [{"name": "A", "value": "x"}, {"name": "A", "value": "y"}]},
        r"spec.env\[1\]: Duplicate",
    ),
    "an argument that a field sets": ({"extraArgs": ["--num-shard=2"]}, r"spec.extraArgs: .*--num-shard \(shards\)"),
    "an unknown bucket": (
        {"adapters": [{"name": "a", "source": "ftp://x"}]},
        r"spec.adapters\[0\].source: .*must be an",
    ),
    "an adapter given twice": ({"adapters": [{"name": "a", "source": "/a"}] * 2}, r"spec.adapters\[1\]: Duplicate"),
    "credentials without a bucket": ({"storageSecretRef": {"name": "x"}}, "spec.storageSecretRef: .*for buckets"),
    "a product without a GPU": ({"gpu": {"count": 0, "minMemory": "1Gi"}}, "spec.gpu.count: .*leave them out"),
    "a key in sight": ({"extraArgs": ["--api-key", "x"]}, "spec.extraArgs: .*must not set"),
    "an affinity to no nodes": (
        {
            "scheduling": {
                "affinity": {
                    "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}
                }
            }
        },
        "nodeSelectorTerms: .*at least 1",
    ),
    "a label of ours": (
        {"podTemplate": {"metadata": {"labels": {"textgen.dev/service": "x"}}}},
        "spec.podTemplate.metadata.labels: .*choose other labels",
    ),
    "containers that are none": (
        {"podTemplate": {"spec": {"containers": "x"}}},
        "spec.podTemplate.spec.containers: .*must be of type array",
    ),
    "a container without a name": (
        {"podTemplate": {"spec": {"containers": [{"image": "x"}]}}},
        r"spec.podTemplate.spec.containers\[0\].name: Required",
    ),
    "a scaler without a limit": ({"autoscaling": {}}, "spec.autoscaling.maxReplicas: Required"),
    "nothing left by the HPA": (
        {"autoscaling": {"minReplicas": 0, "maxReplicas": 2}},
        "spec.autoscaling.minReplicas: .*needs autoscaling.engine KEDA",
    ),
    "more at least than at most": (
        {"autoscaling": {"minReplicas": 3, "maxReplicas": 2}},
        "spec.autoscaling.minReplicas: .*must not exceed",
    ),
    "KEDA without metrics": (
        {"autoscaling": {"engine": "KEDA", "maxReplicas": 2}},
        "spec.autoscaling.prometheus: .*give it with engine KEDA",
    ),
    "none may be away": ({"disruption": {"maxUnavailable": 0}}, "spec.disruption.maxUnavailable: .*equal to 1"),
    "a share of nothing": ({"disruption": {"maxUnavailable": "0%"}}, "spec.disruption.maxUnavailable: "),
    "a route without a gateway": ({"network": {"route": {"parentRefs": []}}}, "spec.network.route.parentRefs: "),
    "a host that is none": ({"network": {"ingress": {"hostname": "a b"}}}, "spec.network.ingress.hostname: "),
    "two sources of variables": (
        {"envFrom": [{"secretRef": {"name": "a"}, "configMapRef": {"name": "b"}}]},
        r"spec.envFrom\[0\]: .*exactly one",
    ),
    "a hub that is no URL": ({"huggingFace": {"endpoint": "hub.internal"}}, "spec.huggingFace.endpoint"),
}
GOOD_SPECS: dict[str, dict[str, Any]] = {
    "the least": {},
    "GPUs": {"gpu": {"count": 4}, "shards": 2},
    "another GPU": {"gpu": {"count": 1, "resourceName": "amd.com/gpu"}},
    "the hub by name": {"model": "hf://org/name", "revision": "refs/pr/1"},
    "fractions": {"sharedMemory": "1.5Gi", "resources": {"requests": {"cpu": "500m"}, "limits": {"cpu": 2}}},
    "nothing running": {"replicas": 0},
    "a bucket": {"model": "gs://bucket/a model", "storageSecretRef": {"name": "x"}},
    "a claim": {"model": "pvc://weights/llama", "adapters": [{"name": "a", "source": "pvc://weights/a"}]},
    "anything in the pod": {
        "podTemplate": {"spec": {"containers": [{"name": "x", "new": {"in": ["1.99"]}}], "a": None}}
    },
    "scaling to nothing": {
        "autoscaling": {"engine": "KEDA", "minReplicas": 0, "maxReplicas": 1, "prometheus": {"address": "http://p"}}
    },
    "a share": {"disruption": {"maxUnavailable": "25%"}},
}


def spec_of(changes: dict[str, Any]) -> dict[str, Any]:
    return dict(service("x", **changes)["spec"])


@pytest.mark.parametrize(("changes", "sentence"), BAD_SPECS.values(), ids=BAD_SPECS)
def test_a_bad_spec_is_refused_with_a_sentence_that_names_the_field(
    kube: Kube, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(Refused, match=sentence):
        kube.post(SERVICES_OF_OURS.path("default"), service("bad", **changes), dry_run=True)


@pytest.mark.parametrize("changes", [bad for bad, _ in BAD_SPECS.values()], ids=BAD_SPECS)
def test_without_a_cluster_the_verdict_is_the_same(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        TextGenerationService.model_validate(service("bad", **changes))
    assert all(problem.path[0] == "spec" for problem in problems(refused.value))


@pytest.mark.parametrize("changes", GOOD_SPECS.values(), ids=GOOD_SPECS)
def test_a_good_spec_is_accepted_with_and_without_a_cluster(kube: Kube, changes: dict[str, Any]) -> None:
    stored = kube.post(SERVICES_OF_OURS.path("default"), service("good", **changes), dry_run=True)
    here = TextGenerationService.model_validate(service("good", **changes))
    assert TextGenerationService.model_validate(stored).spec == here.spec


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_accepted(kube: Kube, example: Path) -> None:
    manifest = yaml.safe_load(example.read_text())
    manifest["metadata"]["namespace"] = "default"
    kube.post(SERVICES_OF_OURS.path("default"), manifest, dry_run=True)


@pytest.mark.parametrize("name", ["1st", "dotted.name", "x" * 46])
def test_a_name_that_no_service_may_have_is_refused(kube: Kube, name: str) -> None:
    with pytest.raises(Refused, match=r"metadata\.name must have at most 45 characters"):
        kube.post(SERVICES_OF_OURS.path("default"), service(name), dry_run=True)


def test_the_longest_name_still_gets_its_pods(namespace: Namespace, operator: Operator) -> None:
    name = "x" * 45
    namespace.serve(name)
    eventually(lambda: namespace.stands(name))


def test_claims_grow_and_never_shrink_or_change_their_class(namespace: Namespace, no_operator: None) -> None:
    namespace.serve("kept", cache={"type": "PerReplica", "size": "10Gi"})
    namespace.edit(SERVICES_OF_OURS, "kept", {"spec": {"cache": {"size": "20Gi"}}})
    with pytest.raises(Refused, match=r"spec.cache: .*cache.size can only grow"):
        namespace.edit(SERVICES_OF_OURS, "kept", {"spec": {"cache": {"size": "10Gi"}}})
    with pytest.raises(Refused, match=r"spec.cache: .*cache.storageClassName cannot be changed"):
        namespace.edit(SERVICES_OF_OURS, "kept", {"spec": {"cache": {"storageClassName": "fast"}}})
