"""How a replica starts and ends."""

from pydantic import Field

from textgen_operator.rules import Part


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
