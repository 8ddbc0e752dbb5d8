"""What the operator's installation decides where a service does not."""

from dataclasses import dataclass
from importlib.metadata import version

SERVER_IMAGE = f"textgen-server:{version('textgen')}"


@dataclass(frozen=True)
class Defaults:
    """Values of an installation.

    Attributes:
        image: the server's image, for services without one.
    """

    image: str = SERVER_IMAGE
