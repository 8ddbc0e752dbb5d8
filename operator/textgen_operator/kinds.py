"""The kinds of objects that the operator deals with: their REST paths, and what it must be allowed to do with them.

Used by the API client, the informers and the chart, whose role must grant `PERMISSIONS`.
"""

from dataclasses import dataclass
from typing import Any

from textgen_operator.resource import API_VERSION, GROUP, KIND, PLURAL

Manifest = dict[str, Any]
"""A Kubernetes object as JSON."""


@dataclass(frozen=True)
class Kind:
    """One kind of object.

    Attributes:
        api_version: "group/version", or "v1" for the core group.
        name: the kind, as "StatefulSet".
        plural: its name in paths.
    """

    api_version: str
    name: str
    plural: str

    @property
    def group(self) -> str:
        """The API group; empty for the core group."""
        return self.api_version.rpartition("/")[0]

    def path(self, namespace: str | None = None, name: str | None = None) -> str:
        """The REST path of one object, of a namespace's objects, or of all."""
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"
        scope = f"/namespaces/{namespace}" if namespace else ""
        return f"{root}{scope}/{self.plural}" + (f"/{name}" if name else "")


SERVICES_OF_OURS = Kind(API_VERSION, KIND, PLURAL)
STATEFUL_SETS = Kind("apps/v1", "StatefulSet", "statefulsets")
SERVICES = Kind("v1", "Service", "services")
PODS = Kind("v1", "Pod", "pods")

OWNED = (STATEFUL_SETS, SERVICES)
"""What is rendered and applied."""

_BY_NAME = {(kind.api_version, kind.name): kind for kind in OWNED}


def kind_of(manifest: Manifest) -> Kind:
    """The kind of a rendered manifest."""
    return _BY_NAME[manifest["apiVersion"], manifest["kind"]]


def _rule(group: str, resource: str, *verbs: str) -> dict[str, list[str]]:
    return {"apiGroups": [group], "resources": [resource], "verbs": list(verbs)}


PERMISSIONS = (
    _rule(GROUP, PLURAL, "get", "list", "watch"),
    _rule(GROUP, f"{PLURAL}/status", "patch"),
    # An owner reference that blocks the owner's deletion needs this where OwnerReferencesPermissionEnforcement is on.
    _rule(GROUP, f"{PLURAL}/finalizers", "update"),
    # Apply asks for "patch", and for "create" too when the object is not there yet.
    _rule(STATEFUL_SETS.group, STATEFUL_SETS.plural, "get", "list", "watch", "create", "patch", "delete"),
    # An owner may only be set, where it was lost, by who might delete the object.
    _rule(SERVICES.group, SERVICES.plural, "get", "list", "watch", "create", "patch", "delete"),
    _rule(PODS.group, PODS.plural, "list", "watch"),
)
"""Rules of the operator's role."""
