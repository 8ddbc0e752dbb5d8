"""THE custom resource: what a TextGenerationService may say, what its status says, and the names it goes by.

crd.py turns these classes into the CustomResourceDefinition; `TextGenerationService.model_validate` reads what users
and the API server send. What the server can be told (names, bounds, choices) comes from its settings and registry.
"""

import re
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic.alias_generators import to_camel

from textgen_operator import quantity
from textgen_operator.rules import Part, Rule
from textgen_server.registry import QUANTIZATION_METHODS
from textgen_server.settings import Dtype, ServerOptions, env_of, flag_of

GROUP = "textgen.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "TextGenerationService"
PLURAL = "textgenerationservices"

MAX_NAME_LENGTH = 45
"""Longest metadata.name: pods carry it plus a revision hash in a label of at most 63 characters."""

# --- types of fields --------------------------------------------------------------------------------------------------


def _quantity(text: str) -> str:
    quantity.parse(text)
    return text


def _positive_quantity(text: str) -> str:
    quantity.parse_positive(text)
    return text


def _known_quantization(name: str) -> str:
    if name not in QUANTIZATION_METHODS:
        raise ValueError(f"unknown quantization method {name!r}; available: {', '.join(QUANTIZATION_METHODS)}")
    return name


def _unique_names(items: list[Any]) -> list[Any]:
    names = [item.name for item in items]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name} is given more than once")
    return items


_IS_QUANTITY = Rule(
    "must be a positive quantity, such as 8Gi",
    "isQuantity(self) && !self.startsWith('+') && quantity(self).isGreaterThan(quantity('0'))",
    None,
)

Quantity = Annotated[
    str,
    AfterValidator(_positive_quantity),
    WithJsonSchema({"type": "string", "maxLength": 32, "x-kubernetes-validations": [_IS_QUANTITY.schema()]}),
]
"""A positive amount of bytes, as "8Gi"."""

ResourceAmount = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if type(value) is int else value),
    AfterValidator(_quantity),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "minimum": 0,
            "pattern": quantity.PATTERN,
            "maxLength": 32,
        }
    ),
]
"""An amount of a compute resource, as 4 or "500m"."""

Quantization = Annotated[
    str,
    AfterValidator(_known_quantization),
    WithJsonSchema({"type": "string", "enum": list(QUANTIZATION_METHODS)}),
]

Name = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
Key = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
AbsolutePath = Annotated[str, Field(max_length=1024, pattern=r"^/")]
LabelValue = Annotated[str, Field(max_length=63)]


def server_option(name: str) -> Any:
    """A field with the meaning and the bounds of the server's option of that name."""
    option = ServerOptions.model_fields[name]
    bounds: dict[str, Any] = {}
    for bound in option.metadata:
        bounds |= asdict(bound)
    description = re.sub(r"(?<=`)\w+(?=`)", lambda match: to_camel(match[0]), option.description or "")
    return Field(default=None, description=description, **bounds)


# --- parts of the spec ------------------------------------------------------------------------------------------------


class Gpu(Part):
    """GPUs of each replica."""

    count: int = Field(default=1, ge=0, le=16)
    """GPUs of each replica; 0 runs the model on the CPU."""

    resource_name: str = Field(
        default="nvidia.com/gpu", max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9][-A-Za-z0-9_.]*$"
    )
    """The extended resource that a GPU is, such as amd.com/gpu or nvidia.com/mig-3g.40gb."""


class Limits(Part):
    """What a replica accepts at once. What is left out, the server decides from the model and the memory it finds."""

    max_concurrent_requests: int | None = server_option("max_concurrent_requests")
    max_input_tokens: int | None = server_option("max_input_tokens")
    max_total_tokens: int | None = server_option("max_total_tokens")
    max_batch_prefill_tokens: int | None = server_option("max_batch_prefill_tokens")
    max_batch_total_tokens: int | None = server_option("max_batch_total_tokens")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "limits.maxInputTokens must be less than limits.maxTotalTokens, which counts prompt and output together",
            "!has(self.maxInputTokens) || !has(self.maxTotalTokens) || self.maxInputTokens < self.maxTotalTokens",
            lambda limits: (
                limits.max_input_tokens is None
                or limits.max_total_tokens is None
                or limits.max_input_tokens < limits.max_total_tokens
            ),
            ".maxInputTokens",
        ),
    )


class Resources(Part):
    """CPU and memory of each replica, as in a pod. GPUs are asked for with `gpu`."""

    requests: dict[str, ResourceAmount] = Field(default={}, max_length=16)
    """Amounts that a node must have free."""

    limits: dict[str, ResourceAmount] = Field(default={}, max_length=16)
    """Amounts that a replica may use. Shared memory counts against the memory."""


class SecretKey(Part):
    """A key of a Secret in the service's namespace."""

    name: Name
    """Name of the Secret."""

    key: Key = "token"
    """Key inside the Secret."""


class SecretName(Part):
    """A Secret in the service's namespace."""

    name: Name
    """Name of the Secret."""


class HuggingFace(Part):
    """How the Hugging Face hub is reached."""

    token_secret_ref: SecretKey | None = None
    """Secret with the token for gated and private models."""

    endpoint: str | None = Field(default=None, max_length=512, pattern=r"^https?://")
    """URL of a mirror of the hub."""

    offline: bool = False
    """Never ask the hub: the model must be in the cache or in the image."""


class Cache(Part):
    """Where downloaded and converted weights are kept; mounted at /data in the pod."""

    type: Literal["Ephemeral", "PerReplica", "Existing", "HostPath"] | None = None
    """Ephemeral: gone with the pod. PerReplica: a volume claim for each replica. Existing: a claim that exists, shared
    by all replicas. HostPath: a folder of the node. Default: Ephemeral."""

    size: Quantity | None = None
    """Ephemeral: most bytes that may be used. PerReplica: size of each claim, 100Gi by default."""

    storage_class_name: Name | None = None
    """PerReplica: class of the claims. Default: the cluster's default class."""

    retain: bool = False
    """PerReplica: keep the claims when the service is deleted."""

    claim_name: Name | None = None
    """Existing: name of the volume claim."""

    path: AbsolutePath | None = None
    """HostPath: the folder. It must exist, and user 1000 must be able to write to it."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "cache.claimName names the volume claim of cache.type Existing: give both or neither",
            "has(self.claimName) == (has(self.type) && self.type == 'Existing')",
            lambda cache: (cache.claim_name is not None) == (cache.type == "Existing"),
            ".claimName",
        ),
        Rule(
            "cache.path is the folder of cache.type HostPath: give both or neither",
            "has(self.path) == (has(self.type) && self.type == 'HostPath')",
            lambda cache: (cache.path is not None) == (cache.type == "HostPath"),
            ".path",
        ),
        Rule(
            "cache.storageClassName and cache.retain are for volume claims: set cache.type to PerReplica",
            "(!has(self.storageClassName) && !self.retain) || (has(self.type) && self.type == 'PerReplica')",
            lambda cache: (cache.storage_class_name is None and not cache.retain) or cache.type == "PerReplica",
            ".type",
        ),
        Rule(
            "cache.size is for cache.type Ephemeral and PerReplica: leave it out",
            "!has(self.size) || !has(self.type) || self.type in ['Ephemeral', 'PerReplica']",
            lambda cache: cache.size is None or cache.type in (None, "Ephemeral", "PerReplica"),
            ".size",
        ),
        Rule(
            "cache.size and cache.storageClassName cannot be changed while cache.type is PerReplica, because the "
            "volume claims exist already: make a new service, or change cache.type first",
            "!(has(self.type) && self.type == 'PerReplica' && has(oldSelf.type) && oldSelf.type == 'PerReplica') || "
            "(has(self.size) == has(oldSelf.size) && (!has(self.size) || self.size == oldSelf.size) && "
            "has(self.storageClassName) == has(oldSelf.storageClassName) && "
            "(!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName))",
            None,
        ),
    )


class Startup(Part):
    """How long a replica may take to start."""

    timeout_seconds: int = Field(default=3600, ge=60, le=86400)
    """Seconds for download, conversion and loading, after which the replica is started anew."""


class Drain(Part):
    """How a replica ends."""

    pre_stop_seconds: int = Field(default=10, ge=0, le=300)
    """Seconds in which it still takes requests, while the cluster learns that it is leaving."""

    timeout_seconds: int = Field(default=120, ge=0, le=3600)
    """Seconds in which running requests may finish."""


class KeySelector(Part):
    """A key of a Secret or ConfigMap in the service's namespace."""

    name: Name
    """Name of the object."""

    key: Key
    """Key inside it."""

    optional: bool = False
    """Start even when it is missing."""


class EnvSource(Part):
    """Where the value of an environment variable comes from."""

    secret_key_ref: KeySelector | None = None
    """A key of a Secret."""

    config_map_key_ref: KeySelector | None = None
    """A key of a ConfigMap."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "valueFrom needs exactly one of secretKeyRef and configMapKeyRef",
            "has(self.secretKeyRef) != has(self.configMapKeyRef)",
            lambda source: (source.secret_key_ref is None) != (source.config_map_key_ref is None),
        ),
    )


class EnvVar(Part):
    """An environment variable of the server."""

    name: str = Field(min_length=1, max_length=128, pattern=r"^[-._a-zA-Z][-._a-zA-Z0-9]*$")
    """Its name."""

    value: str | None = Field(default=None, max_length=4096)
    """Its value."""

    value_from: EnvSource | None = None
    """Where its value comes from."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "env needs exactly one of value and valueFrom for each variable",
            "has(self.value) != has(self.valueFrom)",
            lambda variable: (variable.value is None) != (variable.value_from is None),
        ),
    )


class Toleration(Part):
    """A taint of nodes that replicas put up with, as in a pod."""

    key: str | None = Field(default=None, max_length=316)
    """The taint's key; left out with operator Exists, every taint."""

    operator: Literal["Exists", "Equal"] = "Equal"
    """Whether the value counts."""

    value: LabelValue | None = None
    """The taint's value."""

    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The taint's effect. Default: all."""

    toleration_seconds: int | None = Field(default=None, ge=0)
    """With effect NoExecute, seconds until the pod is evicted all the same."""


class Scheduling(Part):
    """On which nodes replicas may run."""

    node_selector: dict[str, LabelValue] = Field(default={}, max_length=16)
    """Labels that a node must have."""

    tolerations: list[Toleration] = Field(default=[], max_length=16)
    """Taints that replicas put up with, beside the one named as the GPU resource."""

    priority_class_name: Name | None = None
    """PriorityClass of the pods."""


# --- the spec ---------------------------------------------------------------------------------------------------------

_HUB_ID = "(hf://)?[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?"
_DNS_LABEL = "[a-z]([-a-z0-9]*[a-z0-9])?"
_MODEL = f"{_HUB_ID}|package://[A-Za-z_][A-Za-z0-9_.]*|/.+"

OWNED_OPTIONS = (
    *("model_id", "revision", "dtype", "quantize", "served_model_name", "num_shard", "sharded"),
    *Limits.model_fields,
    *("max_input_length", "huggingface_hub_cache", "graceful_termination_timeout", "hostname", "port"),
)
"""Options of the server that fields of the custom resource, or the operator itself, set."""

OWNED_ENV = (
    *("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HOME", "NVIDIA_VISIBLE_DEVICES"),
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
    """What to serve: an id on the Hugging Face hub (org/name, or hf://org/name), a folder or .gguf file inside the pod
    as an absolute path, or package://NAME, weights inside a Python package of the image."""

    revision: str | None = Field(default=None, min_length=1, max_length=128)
    """Branch, tag or commit of the model on the hub. Default: main."""

    served_model_name: str | None = Field(default=None, min_length=1, max_length=256)
    """The model's name in the API. Default: `model`."""

    quantize: Quantization | None = None
    """Quantization method. Default: what the checkpoint says, else none."""

    dtype: Dtype | None = None
    """Type of weights and activations. Default: bfloat16 where the GPU has it, else float16; float32 on CPU."""

    gpu: Gpu = Gpu()
    shards: int | None = Field(default=None, ge=1, le=16)
    """Ranks of tensor parallelism in each replica. Default: `gpu.count`, or 1 without a GPU."""

    limits: Limits = Limits()
    replicas: int = Field(default=1, ge=0, le=1000)
    """Number of pods, each with the whole model."""

    resources: Resources = Resources()
    image: str | None = Field(default=None, min_length=1, max_length=512)
    """Image of the server. Default: the one that the operator was installed with."""

    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When the image is pulled."""

    image_pull_secrets: Annotated[list[SecretName], AfterValidator(_unique_names)] = Field(
        default=[],
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    """Secrets for the image's registry."""

    hugging_face: HuggingFace = HuggingFace()
    cache: Cache = Cache()
    shared_memory: Quantity | None = None
    """Size of /dev/shm, over which the ranks talk. Default: 1Gi for each shard."""

    startup: Startup = Startup()
    drain: Drain = Drain()
    scheduling: Scheduling = Scheduling()
    env: Annotated[list[EnvVar], AfterValidator(_unique_names)] = Field(
        default=[],
        max_length=64,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    """More environment variables of the server."""

    extra_args: list[Annotated[str, Field(max_length=1024)]] = Field(default=[], max_length=64)
    """More arguments of the server, as on its command line; for options that have no field here."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "model must be an id on the hub (org/name or hf://org/name), an absolute path inside the pod, or "
            "package://NAME",
            f"self.model.matches('^({_MODEL})$')",
            lambda spec: re.fullmatch(_MODEL, spec.model) is not None,
            ".model",
        ),
        Rule(
            "revision is for models on the hub: leave it out when model is a path or package://NAME",
            f"!has(self.revision) || self.model.matches('^{_HUB_ID}$')",
            lambda spec: spec.revision is None or re.fullmatch(_HUB_ID, spec.model) is not None,
            ".revision",
        ),
        Rule(
            "shards must not exceed gpu.count: raise gpu.count, or leave shards out to use every GPU",
            "!has(self.shards) || self.gpu.count == 0 || self.shards <= self.gpu.count",
            lambda spec: spec.shards is None or spec.gpu.count == 0 or spec.shards <= spec.gpu.count,
            ".shards",
        ),
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
    def num_shards(self) -> int:
        """Ranks of tensor parallelism in each replica."""
        return self.shards or max(self.gpu.count, 1)

    @property
    def hub_id(self) -> str:
        """The model as the server takes it: hf:// is the hub, which needs no prefix there."""
        return self.model.removeprefix("hf://")


# --- the status -------------------------------------------------------------------------------------------------------


class Condition(Part):
    """One observation, in the form that Kubernetes prescribes."""

    type: str = Field(max_length=64)
    """What is observed."""

    status: Literal["True", "False", "Unknown"]
    """Whether it is so."""

    observed_generation: int = Field(ge=0)
    """The metadata.generation that was looked at."""

    last_transition_time: str = Field(max_length=64, json_schema_extra={"format": "date-time"})
    """When `status` last changed."""

    reason: str = Field(min_length=1, max_length=64)
    """One word, stable, for programs."""

    message: str = Field(max_length=4096)
    """A sentence, for people."""


class Status(Part):
    """What the operator saw when it last looked."""

    observed_generation: int = Field(ge=0)
    """The metadata.generation that the rest is about."""

    replicas: int = Field(ge=0)
    """Pods that exist."""

    ready_replicas: int = Field(ge=0)
    """Pods that answer."""

    updated_replicas: int = Field(ge=0)
    """Pods of the newest revision."""

    selector: str = Field(max_length=1024)
    """Label selector of the pods, for autoscalers."""

    shards: int = Field(ge=0)
    """Ranks of tensor parallelism in each replica."""

    url: str = Field(max_length=512)
    """Where the API is reached inside the cluster."""

    conditions: list[Condition] = Field(
        max_length=16, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    )
    """Accepted, Available, Progressing and Ready."""


# --- the whole --------------------------------------------------------------------------------------------------------


class ObjectMeta(BaseModel):
    """The part of metadata that the operator reads."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    namespace: str = "default"
    uid: str | None = None
    generation: int = 0


class TextGenerationService(Part):
    """A model, served."""

    api_version: Literal["textgen.dev/v1alpha1"]
    kind: Literal["TextGenerationService"]
    metadata: ObjectMeta
    spec: Spec
    status: dict[str, Any] = Field(default={})

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"metadata.name must have at most {MAX_NAME_LENGTH} characters, begin with a lower-case letter and hold "
            "only lower-case letters, digits and hyphens, because it names a Service",
            f"size(self.metadata.name) <= {MAX_NAME_LENGTH} && self.metadata.name.matches('^{_DNS_LABEL}$')",
            lambda service: (
                len(service.metadata.name) <= MAX_NAME_LENGTH
                and re.fullmatch(_DNS_LABEL, service.metadata.name) is not None
            ),
            ".metadata.name",
        ),
    )


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a custom resource.

    Attributes:
        path: the field, as ("spec", "env", 0, "name"); empty for the whole.
        message: what is wrong, and how to put it right.
    """

    path: tuple[str | int, ...]
    message: str

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.path))}: {self.message}" if self.path else self.message


def problems(error: ValidationError) -> list[Problem]:
    """What a failed `TextGenerationService.model_validate` found, each thing with its field."""
    found = []
    for detail in error.errors():
        field = detail.get("ctx", {}).get("field", "") if detail["type"] == "rule" else ""
        path = (*detail["loc"], *filter(None, field.split(".")))
        found.append(Problem(path, _MESSAGES.get(detail["type"], detail["msg"].removeprefix("Value error, "))))
    return found


_MESSAGES = {"extra_forbidden": "there is no such field", "missing": "is required"}
