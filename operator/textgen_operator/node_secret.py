"""The Secret by which the nodes of a service know each other: made once, with a random value, and never changed.

One that somebody else made is used as it is. Called by reconcile.py.
"""

import secrets
from base64 import b64encode

from textgen_operator.client import ApiError, Client
from textgen_operator.kinds import SECRETS, Manifest
from textgen_operator.render.metadata import object_meta
from textgen_operator.render.nodes import SECRET_KEY, secret_name
from textgen_operator.resource import ObjectMeta, TextGenerationService
from textgen_operator.status import Obstacle


async def introduce(client: Client, service: TextGenerationService) -> Obstacle | None:
    """Give several nodes their Secret, if there is none; what is in the way, if something is. Raises ApiError."""
    if service.spec.nodes == 1:
        return None
    try:
        await _ensure(client, service.metadata)
    except ApiError as error:
        if not error.is_refusal:
            raise
        return Obstacle("ReconcileError", f"The Secret of the nodes cannot be made: {error}", accepted=True)
    return None


async def _ensure(client: Client, service: ObjectMeta) -> None:
    name = secret_name(service)
    try:
        if await client.get(SECRETS.path(service.namespace, name)) is None:
            await client.create(SECRETS.path(service.namespace), _manifest(service, name))
    except ApiError as error:
        # Where an installation withholds the right to read it, the kubelet finds out whether it is there; and another
        # may have been faster.
        if error.status != 409 and not (error.status == 403 and error.is_read):
            raise


def _manifest(service: ObjectMeta, name: str) -> Manifest:
    value = b64encode(secrets.token_hex(32).encode()).decode()
    return {
        "apiVersion": SECRETS.api_version,
        "kind": SECRETS.name,
        "metadata": object_meta(service, name),
        "type": "Opaque",
        "data": {SECRET_KEY: value},
    }
