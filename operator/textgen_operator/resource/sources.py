"""Where weights come from: the model's address, and those of adapters."""

import re
from typing import ClassVar

from pydantic import Field

from textgen_operator.resource.types import Key, Name
from textgen_operator.rules import Part, Rule

_NAME = "[a-z0-9]([-a-z0-9.]*[a-z0-9])?"
HUB = "(hf://)?[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?"
_IMAGE = "oci://[A-Za-z0-9][A-Za-z0-9._:/@-]*(#[A-Za-z0-9._/-]+)?"
_ELSEWHERE = f"(s3|gs)://[^,[:space:]]+|pvc://{_NAME}(/[^,[:space:]]+)?|{_IMAGE}|/[^,[:space:]]*"
MODEL = f"{HUB}|package://[A-Za-z_][A-Za-z0-9_.]*|(s3|gs)://.+|pvc://{_NAME}(/.+)?|{_IMAGE}|/.+"
"""Addresses of models; as for those below, the syntax is one that CEL and Python share."""
ADAPTER = f"{HUB}|{_ELSEWHERE}"
"""Addresses of adapters, which stand in a list with commas."""


def python_pattern(pattern: str) -> str:
    """The pattern as Python writes it."""
    return pattern.replace("[:space:]", r"\s")


class Adapter(Part):
    """A LoRA adapter, which requests choose by its name."""

    name: str = Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    """Its name in the API."""

    source: str = Field(min_length=1, max_length=512)
    """Where it is, as `model`: on the hub, in a bucket, in a volume claim, in an image, or a folder in the pod."""

    revision: str | None = Field(default=None, min_length=1, max_length=128, pattern=r"^[^,\s]+$")
    """Branch, tag or commit on the hub. Default: main."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "adapters.source must be an id on the hub (org/name or hf://org/name), s3://BUCKET/PATH, gs://BUCKET/PATH, "
            "pvc://CLAIM/PATH, oci://IMAGE#PATH or an absolute path, without commas and blanks",
            f"self.source.matches('^({ADAPTER})$')",
            lambda adapter: re.fullmatch(python_pattern(ADAPTER), adapter.source) is not None,
            ".source",
        ),
        Rule(
            "adapters.revision is for adapters on the hub: leave it out",
            f"!has(self.revision) || self.source.matches('^{HUB}$')",
            lambda adapter: adapter.revision is None or re.fullmatch(HUB, adapter.source) is not None,
            ".revision",
        ),
    )


class StorageSecret(Part):
    """A Secret in the service's namespace with the credentials of a bucket."""

    name: Name
    """Name of the Secret. For s3://, its keys are environment variables of AWS's tools, such as AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL."""

    key: Key = "credentials.json"
    """For gs://, the key whose value is a service account's JSON."""
