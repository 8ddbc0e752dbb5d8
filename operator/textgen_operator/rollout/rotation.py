"""Secrets that pods read into their environment: when their values change, the pods are replaced once.

A hash of the values stands in an annotation of the pod template. Secrets that are mounted as files need none: the
kubelet renews the files. Called by steering.py.
"""

import asyncio
import hashlib
import json
from collections.abc import Iterator

from textgen_operator.client import ApiError, Client
from textgen_operator.kinds import SECRETS, Manifest
from textgen_operator.resource import GROUP

ANNOTATION = f"{GROUP}/secrets"

LOOK_AGAIN = 60.0
"""Seconds between looks at a service that reads secrets: they can only be asked for by name."""


async def checksum(client: Client, namespace: str, pod_spec: Manifest) -> str | None:
    """The hash of the values that the pod's environment takes from secrets; "" where it takes none, None where they
    cannot be read. Raises ApiError."""
    wanted = sorted(set(_references(pod_spec)))
    if not wanted:
        return ""
    names = sorted({name for name, _ in wanted})
    try:
        found = await asyncio.gather(*(client.get(SECRETS.path(namespace, name)) for name in names))
    except ApiError as error:
        if error.status == 403:  # an installation may withhold the right
            return None
        raise
    data = {name: (secret or {}).get("data") or {} for name, secret in zip(names, found, strict=True)}
    values = [[name, key, data[name].get(key) if key else data[name]] for name, key in wanted]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _references(pod_spec: Manifest) -> Iterator[tuple[str, str]]:
    """Secret and key; an empty key is the whole secret."""
    for container in [*pod_spec.get("initContainers", []), *pod_spec["containers"]]:
        for variable in container.get("env", []):
            if ref := variable.get("valueFrom", {}).get("secretKeyRef"):
                yield ref["name"], ref["key"]
        for source in container.get("envFrom", []):
            if ref := source.get("secretRef"):
                yield ref["name"], ""
