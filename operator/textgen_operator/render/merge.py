"""`podTemplate` merged over the rendered template, as Kubernetes' strategic merge patch does it.

Objects are merged by field, lists of things with a key by that key, other lists are replaced, and null removes.
"""

from typing import Any

from textgen_operator.kinds import Manifest

_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "env": "name",
    "volumes": "name",
    "resourceClaims": "name",
    "claims": "name",
    "imagePullSecrets": "name",
    "schedulingGates": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}
"""List of a pod's template -> what tells its items apart. Lists that are not here are replaced whole."""


def merge(base: Manifest, patch: Manifest) -> tuple[Manifest, list[str]]:
    """The base with the patch over it, and the paths of what that changed, as "spec.containers[server].image"."""
    changed: list[str] = []
    merged: Manifest = _merged(base, patch, "", "", changed)
    return merged, sorted(changed)


def _merged(base: Any, patch: Any, path: str, name: str, changed: list[str]) -> Any:
    if isinstance(base, dict) and isinstance(patch, dict):
        return _merged_object(base, patch, path, changed)
    key = _KEYS.get(name)
    if key and isinstance(base, list) and _all_have(patch, key):
        return _merged_list(base, patch, path, key, changed)
    if base != patch:
        changed.append(path)
    return patch


def _merged_object(base: Manifest, patch: Manifest, path: str, changed: list[str]) -> Manifest:
    result = dict(base)
    for field, value in patch.items():
        below = f"{path}.{field}" if path else field
        if value is not None:
            result[field] = _merged(base.get(field), value, below, field, changed)
        elif result.pop(field, None) is not None:
            changed.append(below)
    return result


def _merged_list(
    base: list[Manifest], patch: list[Manifest], path: str, key: str, changed: list[str]
) -> list[Manifest]:
    items = {item[key]: item for item in base}
    for item in patch:
        below = f"{path}[{item[key]}]"
        if item.get("$patch") == "delete":
            if items.pop(item[key], None) is not None:
                changed.append(below)
        else:
            items[item[key]] = _merged(items.get(item[key]), item, below, "", changed)
    return list(items.values())


def _all_have(items: Any, key: str) -> bool:
    return isinstance(items, list) and all(isinstance(item, dict) and key in item for item in items)
