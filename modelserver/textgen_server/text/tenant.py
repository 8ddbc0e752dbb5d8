"""Who asks, as far as the engine's queue is to know: a digest, "" where nobody is told apart.

With API keys a tenant is a key, whatever the body says. Without them it is the `user` of OpenAI's bodies: clients that
trust each other may say who they are, and nobody can be kept from saying many names.
"""

from contextvars import ContextVar
from hashlib import sha256

key_holder: ContextVar[str] = ContextVar("key_holder", default="")
"""The tenant by the key of the request that this task answers. Set where keys are checked."""


def tenant_named(name: str) -> str:
    """The tenant for a name, or for a key."""
    return sha256(name.encode(errors="surrogatepass")).hexdigest()[:16] if name else ""
