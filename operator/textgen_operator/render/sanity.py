"""What the operator itself reads of a pod's template, checked once a user's podTemplate has been merged into it.

The API server checks the rest when it gets the pod; what is read before must have the shape that it will be read in.
Called by pod.py.
"""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from textgen_operator.kinds import Manifest
from textgen_operator.render.container import CONTAINER_NAME
from textgen_operator.resource.types import ResourceAmount

_Text = Annotated[str, Field(min_length=1)]


class _Read(BaseModel):
    """An object of which some fields are read; there may be others."""

    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", strict=True)


class _Item(_Read):
    key: _Text


class _Source(_Read):
    """A Secret or ConfigMap that is mounted, or read whole."""

    name: _Text | None = None
    secret_name: _Text | None = None
    optional: bool | None = None
    items: list[_Item] = []

    @model_validator(mode="after")
    def _is_named(self) -> Self:
        if not self.name and not self.secret_name:
            raise PydanticCustomError("unnamed", "names no Secret or ConfigMap: give its name")
        return self


class _Key(_Read):
    name: _Text
    key: _Text
    optional: bool | None = None


class _ValueFrom(_Read):
    secret_key_ref: _Key | None = None
    config_map_key_ref: _Key | None = None


class _Variable(_Read):
    name: _Text
    value: str | None = None
    value_from: _ValueFrom | None = None


class _Variables(_Read):
    secret_ref: _Source | None = None
    config_map_ref: _Source | None = None


class _Mount(_Read):
    name: _Text
    mount_path: _Text


class _Resources(_Read):
    requests: dict[str, ResourceAmount] = {}
    limits: dict[str, ResourceAmount] = {}


class _Get(_Read):
    path: str | None = None


class _Probe(_Read):
    http_get: _Get | None = None


class _Container(_Read):
    name: _Text
    startup_probe: _Probe | None = None
    liveness_probe: _Probe | None = None
    env: list[_Variable] = []
    env_from: list[_Variables] = []
    volume_mounts: list[_Mount] = []
    resources: _Resources = _Resources()


class _Projection(_Read):
    secret: _Source | None = None
    config_map: _Source | None = None


class _Projected(_Read):
    sources: list[_Projection] = []


class _Claim(_Read):
    claim_name: _Text


class _Volume(_Read):
    name: _Text
    secret: _Source | None = None
    config_map: _Source | None = None
    projected: _Projected | None = None
    persistent_volume_claim: _Claim | None = None


class _Pod(_Read):
    containers: list[_Container]
    init_containers: list[_Container] = []
    volumes: list[_Volume] = []

    @model_validator(mode="after")
    def _serves(self) -> Self:
        if not self.containers or self.containers[0].name != CONTAINER_NAME:
            message = f"the container {CONTAINER_NAME} must stay: without it nothing serves the model"
            raise PydanticCustomError("rule", "{message}", {"message": message, "field": "containers"})
        return self


class _Template(_Read):
    spec: _Pod


class _Spec(_Read):
    pod_template: _Template


class _Service(_Read):
    """So that what is wrong is named as the field of the custom resource that it came from."""

    spec: _Spec


def check(template: Manifest) -> None:
    """Check the template of a pod, with the user's podTemplate merged into it.

    Raises:
        pydantic.ValidationError: it cannot be read; says where.
    """
    _Service.model_validate({"spec": {"podTemplate": template}})
