"""Objects of the service's namespace that the spec refers to, and the environment variables made of them."""

from typing import ClassVar

from pydantic import Field

from textgen_operator.resource.types import Key, Name
from textgen_operator.rules import Part, Rule


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


class Source(Part):
    """A Secret or ConfigMap in the service's namespace."""

    name: Name
    """Name of the object."""

    optional: bool = False
    """Start even when it is missing."""


class EnvFrom(Part):
    """Environment variables, one for each key of a Secret or ConfigMap."""

    prefix: str | None = Field(default=None, max_length=128, pattern=r"^[-._a-zA-Z][-._a-zA-Z0-9]*$")
    """What the names begin with, before the key."""

    secret_ref: Source | None = None
    """A Secret."""

    config_map_ref: Source | None = None
    """A ConfigMap."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "envFrom needs exactly one of secretRef and configMapRef for each item",
            "has(self.secretRef) != has(self.configMapRef)",
            lambda source: (source.secret_ref is None) != (source.config_map_ref is None),
        ),
    )
