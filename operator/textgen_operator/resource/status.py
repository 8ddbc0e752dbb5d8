"""The status: what the operator writes."""

from typing import Annotated, Literal

from pydantic import Field

from textgen_operator.rules import Part


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


class Model(Part):
    """The model that the servers found."""

    name: str = Field(max_length=512)
    """`spec.model` at that time."""

    resolved_revision: str | None = Field(default=None, max_length=512)
    """Its commit on the hub; absent for models from elsewhere."""

    size_bytes: int | None = Field(default=None, ge=0)
    """Size of its weights as they are stored."""

    cached: str | None = Field(default=None, max_length=64)
    """How many replicas have the weights, as 2/3: those that answer, and one that loads them."""


class CacheState(Part):
    """Where weights are kept."""

    type: str = Field(max_length=64)
    """`spec.cache.type`, or what it is by default."""


class Stages(Part):
    """Seconds of a start, stage by stage. A stage is absent when the pod, or its log, does not tell of it."""

    schedule: int | None = Field(default=None, ge=0)
    """Until the pod had a node."""

    pull: int | None = Field(default=None, ge=0)
    """Until its container ran: volumes, and the image."""

    download: int | None = Field(default=None, ge=0)
    """Until all files of the model were there, converted where that is needed."""

    load: int | None = Field(default=None, ge=0)
    """Until the weights were in memory."""

    warmup: int | None = Field(default=None, ge=0)
    """Until it answered."""


class StartupRecord(Part):
    """The last start of a pod that succeeded."""

    pod: str = Field(max_length=253)
    """Which pod."""

    started_at: str = Field(max_length=64, json_schema_extra={"format": "date-time"})
    """When its container was started."""

    last_seconds: int = Field(ge=0)
    """Seconds from the pod's creation, or from the container's restart, until it was ready."""

    stages: Stages = Stages()
    """Where the time went."""


class Load(Part):
    """How far the server is that starts."""

    stage: str = Field(max_length=64)
    """Downloading, Converting or Loading."""

    percent: int = Field(ge=0, le=100)
    """Of the bytes of this stage."""

    total_bytes: int = Field(ge=0)
    """Bytes in this stage."""

    bytes_per_second: int | None = Field(default=None, ge=0)
    """Speed so far."""

    remaining_seconds: int | None = Field(default=None, ge=0)
    """Time left at that speed."""


class Failure(Part):
    """How a container ended that should not have."""

    pod: str = Field(max_length=253)
    """Its pod."""

    container: str = Field(max_length=253)
    """Its name."""

    reason: str = Field(max_length=64)
    """One word, stable, as in the conditions."""

    exit_code: int = Field(ge=-1)
    """Its exit code."""

    message: str = Field(max_length=4096)
    """Why, with its last log lines."""

    time: str = Field(max_length=64, json_schema_extra={"format": "date-time"})
    """When it ended."""

    count: int = Field(ge=0)
    """How often the container of this pod has ended."""


class Status(Part):
    """What the operator saw when it last looked."""

    observed_generation: int = Field(ge=0)
    """The metadata.generation that the rest is about."""

    phase: str = Field(default="", max_length=64)
    """For people: Pending, Downloading, Loading, Ready, Updating, Degraded, Idle, Suspended, Failed or Unknown.
    Programs read the conditions."""

    replicas: int = Field(ge=0)
    """Pods, or groups of `nodes` pods, that exist."""

    ready_replicas: int = Field(ge=0)
    """Those of them that answer."""

    updated_replicas: int = Field(ge=0)
    """Those of the newest revision."""

    render_version: str = Field(default="", max_length=64)
    """Version of the operator that rendered the pods."""

    pending_render_version: str = Field(default="", max_length=64)
    """Version of the operator whose pods wait for the next change of the spec; empty when none do."""

    current_revision: str | None = Field(default=None, max_length=253)
    """Revision of the pods that a rollout has not reached yet; all are of `updateRevision` when the two are equal."""

    update_revision: str | None = Field(default=None, max_length=253)
    """Revision of the pods of the newest spec."""

    selector: str = Field(max_length=1024)
    """Label selector of the pods, for autoscalers."""

    shards: int = Field(ge=0)
    """Ranks of tensor parallelism in each replica."""

    url: str = Field(max_length=512)
    """Where the API is reached inside the cluster."""

    addresses: list[Annotated[str, Field(max_length=512)]] = Field(default=[], max_length=32)
    """All places where the API is reached; of an HTTPRoute its hosts."""

    overrides: list[Annotated[str, Field(max_length=512)]] = Field(default=[], max_length=256)
    """What podTemplate changes in the pods, as paths in their template."""

    model: Model | None = None
    """What the servers found; absent until one has told."""

    cache: CacheState | None = None
    """Where weights are kept; absent until there was a valid spec."""

    startup: StartupRecord | None = None
    """How long the last start took; absent until there was one."""

    load: Load | None = None
    """How far the server is that starts; absent when all serve."""

    progressed_at: str | None = Field(default=None, max_length=64, json_schema_extra={"format": "date-time"})
    """When a rollout last came forward, for rollout.progressDeadlineSeconds; absent when there is none."""

    last_failure: Failure | None = None
    """The last time that a container failed, also when it has recovered since."""

    conditions: list[Condition] = Field(
        max_length=16, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    )
    """Accepted, ModelReady, Scheduled, Progressing, Available and Ready."""
