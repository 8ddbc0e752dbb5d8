"""The spec: what users write."""

import re
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from textgen_operator import quantity
from textgen_operator.resource.access import Auth, Tls
from textgen_operator.resource.cache import Cache
from textgen_operator.resource.hardware import Gpu, Resources, Scheduling
from textgen_operator.resource.kserve import KSERVE_RULES, KServe
from textgen_operator.resource.lifecycle import Drain, Rollout, Startup
from textgen_operator.resource.model import HuggingFace, Limits
from textgen_operator.resource.network import Network
from textgen_operator.resource.nodes import NODES_RULES
from textgen_operator.resource.observability import Metrics, Tracing
from textgen_operator.resource.references import EnvFrom, EnvVar, SecretName
from textgen_operator.resource.scaling import Autoscaling, Disruption
from textgen_operator.resource.sources import HUB, MODEL, Adapter, StorageSecret
from textgen_operator.resource.template import PodTemplate
from textgen_operator.resource.types import Name, Quantity, Quantization, unique_names
from textgen_operator.rules import Part, Rule
from textgen_server.settings import Dtype, KvCacheDtype, env_of, flag_of

OWNED_OPTIONS = (
    *("model_id", "revision", "dtype", "quantize", "served_model_name", "num_shard", "sharded"),
    *Limits.model_fields,
    *("max_input_length", "huggingface_hub_cache", "graceful_termination_timeout", "hostname", "port"),
    *("kv_cache_dtype", "trust_remote_code", "lora_adapters"),
    *("nnodes", "node_rank", "node_secret", "master_addr", "master_port"),
    *("api_key", "api_key_file", "ssl_certfile", "ssl_keyfile", "otlp_endpoint"),
)
"""Options of the server that fields of the custom resource, or the operator itself, set."""

OWNED_ENV = (
    *("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HOME", "NVIDIA_VISIBLE_DEVICES", "GOOGLE_APPLICATION_CREDENTIALS"),
    *map(env_of, OWNED_OPTIONS),
)
"""Environment variables that do the same."""

_OWNED_ARG = "({})(=.*)?".format("|".join([*map(flag_of, OWNED_OPTIONS), "-p", "-g"]))


_GPU_VENDORS = ("nvidia.com/", "amd.com/")


def _no_gpus_among(part: Literal["requests", "limits"]) -> Rule:
    vendors = " || ".join(f"k.startsWith('{vendor}')" for vendor in _GPU_VENDORS)
    return Rule(
        f"resources.{part} must not ask for GPUs: use gpu.count and gpu.resourceName",
        f"!has(self.resources) || !has(self.resources.{part}) || "
        f"!self.resources.{part}.exists(k, k == self.gpu.resourceName || {vendors})",
        lambda spec: (
            not any(
                name == spec.gpu.resource_name or name.startswith(_GPU_VENDORS)
                for name in getattr(spec.resources, part)
            )
        ),
        f".resources.{part}",
    )


class Spec(Part):
    """What is served, on what, and how many times."""

    model: str = Field(min_length=1, max_length=512)
    """What to serve: an id on the Hugging Face hub (org/name, or hf://org/name), a folder in a bucket (s3://BUCKET/PATH,
    gs://BUCKET/PATH), in a volume claim (pvc://CLAIM/PATH, which is mounted read-only), in an image (oci://IMAGE, or
    oci://IMAGE#PATH for a folder of it, which needs nodes that mount images), a folder or .gguf file inside
    the pod as an absolute path, or package://NAME, weights inside a Python package of the image."""

    revision: str | None = Field(default=None, min_length=1, max_length=128)
    """Branch, tag or commit of the model on the hub. Default: main."""

    served_model_name: str | None = Field(default=None, min_length=1, max_length=256)
    """The model's name in the API. Default: `model`."""

    quantize: Quantization | None = None
    """Quantization method. Default: what the checkpoint says, else none."""

    dtype: Dtype | None = None
    """Type of weights and activations. Default: bfloat16 where the GPU has it, else float16; float32 on CPU."""

    kv_cache_dtype: KvCacheDtype | None = None
    """Type of keys and values in the cache. fp8_e4m3fn and fp8_e5m2 need GPUs that have them, and halve the cache.
    Default: auto, the type of the model."""

    trust_remote_code: bool = False
    """Run code that comes with the model, with all that the pod may do, where neither the server nor transformers knows
    the model; pin `revision` then."""

    adapters: Annotated[list[Adapter], AfterValidator(unique_names)] = Field(
        default=[],
        max_length=32,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    """LoRA adapters that are served beside the model."""

    gpu: Gpu = Gpu()
    shards: int | None = Field(default=None, ge=1, le=16)
    """Ranks of tensor parallelism in each pod. Default: `gpu.count`, or 1 without a GPU."""

    nodes: int = Field(default=1, ge=1, le=16)
    """Pods that hold the model together in each replica, each with the GPUs of `gpu`; for a model that is larger than
    the GPUs of one node. More than one need LeaderWorkerSet (LWS) in the cluster."""

    limits: Limits = Limits()
    replicas: int = Field(default=1, ge=0, le=1000)
    """Number of pods (or groups of `nodes` pods), each with the whole model. A scaler writes it too."""

    suspend: bool = False
    """Run no pod, but keep the caches, the Services and `replicas` for later."""

    autoscaling: Autoscaling | None = None
    disruption: Disruption = Disruption()

    resources: Resources = Resources()
    image: str | None = Field(default=None, min_length=1, max_length=512)
    """Image of the server. Default: the one that the operator was installed with."""

    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When the image is pulled."""

    image_pull_secrets: Annotated[list[SecretName], AfterValidator(unique_names)] = Field(
        default=[],
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    """Secrets for the image's registry."""

    service_account_name: Name | None = None
    """ServiceAccount of the pods, such as one that a cloud gives access to a bucket. Its token is not mounted."""

    hugging_face: HuggingFace = HuggingFace()
    storage_secret_ref: StorageSecret | None = None
    cache: Cache = Cache()
    shared_memory: Quantity | None = None
    """Size of /dev/shm, over which the ranks talk. Default: 1Gi for each shard."""

    startup: Startup = Startup()
    drain: Drain = Drain()
    rollout: Rollout = Rollout()
    scheduling: Scheduling = Scheduling()
    network: Network = Network()
    auth: Auth = Auth()
    tls: Tls | None = None
    kserve: KServe = KServe()
    metrics: Metrics = Metrics()
    tracing: Tracing | None = None
    env: Annotated[list[EnvVar], AfterValidator(unique_names)] = Field(
        default=[],
        max_length=64,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    """More environment variables of the server."""

    env_from: list[EnvFrom] = Field(default=[], max_length=16)
    """Environment variables from all keys of Secrets and ConfigMaps. Fields, and `env`, win over them."""

    extra_args: list[Annotated[str, Field(max_length=1024)]] = Field(default=[], max_length=64)
    """More arguments of the server, as on its command line; for options that have no field here."""

    pod_template: PodTemplate | None = None

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "cache.accessModes must hold ReadWriteMany where several pods share the claim: several nodes mount it",
            "(self.replicas <= 1 && self.nodes == 1) || !has(self.cache) || !has(self.cache.accessModes) || "
            "size(self.cache.accessModes) == 0 || self.cache.accessModes.exists(m, m == 'ReadWriteMany')",
            lambda spec: (
                (spec.replicas <= 1 and spec.nodes == 1)
                or not spec.cache.access_modes
                or "ReadWriteMany" in spec.cache.access_modes
            ),
            ".cache.accessModes",
        ),
        Rule(
            "model must be an id on the hub (org/name or hf://org/name), s3://BUCKET/PATH, gs://BUCKET/PATH, "
            "pvc://CLAIM/PATH, oci://IMAGE#PATH, an absolute path inside the pod, or package://NAME",
            f"self.model.matches('^({MODEL})$')",
            lambda spec: re.fullmatch(MODEL, spec.model) is not None,
            ".model",
        ),
        Rule(
            "revision is for models on the hub: leave it out with any other address",
            f"!has(self.revision) || self.model.matches('^{HUB}$')",
            lambda spec: spec.revision is None or re.fullmatch(HUB, spec.model) is not None,
            ".revision",
        ),
        Rule(
            "storageSecretRef is for buckets: leave it out, or set model (or the source of an adapter) to an address "
            "with s3:// or gs://",
            "!has(self.storageSecretRef) || self.model.matches('^(s3|gs)://') || "
            "(has(self.adapters) && self.adapters.exists(a, a.source.matches('^(s3|gs)://')))",
            lambda spec: spec.storage_secret_ref is None or bool({"s3", "gs"} & spec.schemes),
            ".storageSecretRef",
        ),
        Rule(
            "shards must not exceed gpu.count: raise gpu.count, or leave shards out to use every GPU",
            "!has(self.shards) || self.gpu.count == 0 || self.shards <= self.gpu.count",
            lambda spec: spec.shards is None or spec.gpu.count == 0 or spec.shards <= spec.gpu.count,
            ".shards",
        ),
        *KSERVE_RULES,
        *NODES_RULES,
        _no_gpus_among("requests"),
        _no_gpus_among("limits"),
        Rule(
            "sharedMemory must be less than resources.limits.memory, which it counts against",
            "!has(self.sharedMemory) || !has(self.resources) || !has(self.resources.limits) || "
            "!('memory' in self.resources.limits) || !isQuantity(self.sharedMemory) || "
            "!isQuantity(string(self.resources.limits['memory'])) || "
            "quantity(self.sharedMemory).isLessThan(quantity(string(self.resources.limits['memory'])))",
            lambda spec: (
                spec.shared_memory is None
                or "memory" not in spec.resources.limits
                or quantity.parse(spec.shared_memory) < quantity.parse(spec.resources.limits["memory"])
            ),
            ".sharedMemory",
        ),
        Rule(
            "env must not set what another field sets, such as HF_TOKEN (huggingFace.tokenSecretRef), QUANTIZE "
            "(quantize) or MAX_TOTAL_TOKENS (limits.maxTotalTokens): use that field",
            f"!has(self.env) || !self.env.exists(e, e.name in {list(OWNED_ENV)})",
            lambda spec: not any(variable.name in OWNED_ENV for variable in spec.env),
            ".env",
        ),
        Rule(
            "extraArgs must not set what another field sets, such as --quantize (quantize), --num-shard (shards) or "
            "--max-total-tokens (limits.maxTotalTokens): use that field",
            f"!has(self.extraArgs) || !self.extraArgs.exists(a, a.matches('^{_OWNED_ARG}$'))",
            lambda spec: not any(re.fullmatch(_OWNED_ARG, arg) for arg in spec.extra_args),
            ".extraArgs",
        ),
    )

    @property
    def sources(self) -> list[str]:
        """Every address that the server reads from: the model's and its adapters'."""
        return [self.model, *(adapter.source for adapter in self.adapters)]

    @property
    def schemes(self) -> set[str]:
        """What stands before :// in them."""
        return {source.partition("://")[0] for source in self.sources if "://" in source}

    @property
    def pods_wanted(self) -> int:
        """Pods that there should be now."""
        return 0 if self.suspend else self.replicas

    @property
    def num_shards(self) -> int:
        """Ranks of tensor parallelism in each pod."""
        return self.shards or max(self.gpu.count, 1)

    @property
    def ranks(self) -> int:
        """Ranks of tensor parallelism in each replica."""
        return self.num_shards * self.nodes
