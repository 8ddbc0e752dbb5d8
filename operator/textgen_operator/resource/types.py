"""Types of fields: quantities, names, and those that the server's own options decide."""

import re
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from textgen_operator import quantity
from textgen_operator.rules import Rule
from textgen_server.registry import QUANTIZATION_METHODS
from textgen_server.settings import ServerOptions


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


def unique_names(items: list[Any]) -> list[Any]:
    """For AfterValidator: the names of the items, which are the keys of a list for the API server, differ."""
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

_SHARE = re.compile("^([1-9][0-9]?|100)%$")


def _count_or_percent(value: int | str) -> int | str:
    if not (value >= 1 if isinstance(value, int) else _SHARE.match(value)):
        raise ValueError('must be a number from 1, or a share as "25%"')
    return value


CountOrPercent = Annotated[
    int | str,
    AfterValidator(_count_or_percent),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "minimum": 1,
            "pattern": _SHARE.pattern,
            "maxLength": 4,
        }
    ),
]
"""A number of things from 1, or a share of them, as "25%"."""

Quantization = Annotated[
    str,
    AfterValidator(_known_quantization),
    WithJsonSchema({"type": "string", "enum": list(QUANTIZATION_METHODS)}),
]

Name = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
Key = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
Hostname = Annotated[
    str,
    Field(
        min_length=1,
        max_length=253,
        pattern=r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
    ),
]
AbsolutePath = Annotated[str, Field(max_length=1024, pattern=r"^/")]
LabelValue = Annotated[str, Field(max_length=63)]
Annotation = Annotated[str, Field(max_length=4096)]


def server_option(name: str) -> Any:
    """A field with the meaning and the bounds of the server's option of that name."""
    option = ServerOptions.model_fields[name]
    bounds: dict[str, Any] = {}
    for bound in option.metadata:
        bounds |= asdict(bound)
    description = re.sub(r"(?<=`)\w+(?=`)", lambda match: to_camel(match[0]), option.description or "")
    return Field(default=None, description=description, **bounds)
