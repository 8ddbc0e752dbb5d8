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
