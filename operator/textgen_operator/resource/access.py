"""Who may ask, and how the wire is protected."""

from pydantic import Field

from textgen_operator.resource.types import Key, Name
from textgen_operator.rules import Part


class ApiKeys(Part):
    """A key of a Secret in the service's namespace, whose value is API keys, one a line."""

    name: Name
    """Name of the Secret."""

    key: Key = "api-key"
    """Key inside the Secret."""


class Auth(Part):
    """Who may ask."""

    api_key_secret_ref: ApiKeys | None = None
    """API keys, any of which clients must send as `Authorization: Bearer KEY`. A change of the Secret needs no
    restart."""


class Tls(Part):
    """HTTPS instead of HTTP."""

    secret_name: Name = Field()
    """Secret of type kubernetes.io/tls, with tls.crt and tls.key. A change of it needs no restart."""
