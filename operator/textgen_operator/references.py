"""What a pod refers to by name: Secrets, ConfigMaps and volume claims that somebody else has to make.

Read from the rendered pod, so that no field of the custom resource can be forgotten. Pure; used by observation.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from textgen_operator.kinds import CLAIMS, CONFIG_MAPS, SECRETS, Kind, Manifest


@dataclass(frozen=True)
class Reference:
    """One object, or one key in it, that a pod cannot start without.

    Attributes:
        kind: what it is.
        name: its name, in the pod's namespace.
        key: the key that must be in it; None for the object as such.
        purpose: where the pod uses it.
    """

    kind: Kind
    name: str
    key: str | None
    purpose: str

    def __str__(self) -> str:
        key = f"key {self.key} of " if self.key else ""
        return f"{key}{self.kind.name} {self.name} (for {self.purpose})"


def references(pod_spec: Manifest) -> list[Reference]:
    """Everything that must exist before the pod can start; what is optional to the pod is left out."""
    found: list[Reference] = []
    for container in [*pod_spec.get("initContainers", []), *pod_spec["containers"]]:
        for variable in container.get("env", []):
            found += _of_variable(variable)
        for source in container.get("envFrom", []):
            found += _of_source(source, "envFrom", "Ref")
    for volume in pod_spec.get("volumes", []):
        found += _of_volume(volume)
    return list(dict.fromkeys(found))


def _of_variable(variable: Manifest) -> Iterator[Reference]:
    for field, kind in (("secretKeyRef", SECRETS), ("configMapKeyRef", CONFIG_MAPS)):
        ref = variable.get("valueFrom", {}).get(field)
        if ref and not ref.get("optional"):
            yield Reference(kind, ref["name"], ref["key"], variable["name"])


def _of_source(source: Manifest, purpose: str, suffix: str = "") -> Iterator[Reference]:
    for field, kind in (("secret", SECRETS), ("configMap", CONFIG_MAPS)):
        ref = source.get(f"{field}{suffix}")
        if ref and not ref.get("optional"):
            keys = [item["key"] for item in ref.get("items", [])] or [None]
            yield from (Reference(kind, ref.get("name") or ref["secretName"], key, purpose) for key in keys)


def _of_volume(volume: Manifest) -> Iterator[Reference]:
    purpose = f"volume {volume['name']}"
    yield from _of_source(volume, purpose)
    for source in volume.get("projected", {}).get("sources", []):
        yield from _of_source(source, purpose)
    claim = volume.get("persistentVolumeClaim")
    if claim:
        yield Reference(CLAIMS, claim["claimName"], None, purpose)
