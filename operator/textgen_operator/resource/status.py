"""The status: what the operator writes."""

from typing import Literal

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
    """For people: Pending, Downloading, Loading, Ready, Updating, Degraded, Idle, Suspended or Failed. Programs read
    the conditions."""

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

    load: Load | None = None
    """How far the server is that starts; absent when all serve."""

    last_failure: Failure | None = None
    """The last time that a container failed, also when it has recovered since."""

    conditions: list[Condition] = Field(
        max_length=16, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    )
    """Accepted, ModelReady, Scheduled, Progressing, Available and Ready."""
