"""kmock with what it lacks and the operator builds on: apply makes objects, and who applied is remembered.

Still no garbage collection, admission or watch by label: those promises are kept by tests/cluster.
"""

import itertools
import json
from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import aiohttp.web
import kmock
from kmock import Request

from textgen_operator.informers import ServiceKey
from textgen_operator.kinds import LEASES, Kind, Manifest

APPLY = "application/apply-patch+yaml"
_KEYS = ("name", "mountPath", "containerPort", "port", "protocol", "type", "uid", "topologyKey", "whenUnsatisfiable")
_WHOLE = ("args", "selector", "matchLabels", "tolerations", "volumeClaimTemplates")
"""Lists and objects that have one owner for all that is in them."""


class ApplyEmulator(kmock.KubernetesEmulator):
    """Serves `kmock.objects`, and applies to them."""

    _numbers = itertools.count(1)

    async def _handle(self, request: Request) -> aiohttp.web.StreamResponse:
        if request.resource and request.name and request.headers.get("Content-Type") == APPLY:
            key = (request.resource, request.namespace, request.name)
            if key not in self.objects or self.objects[key].deleted:
                self.objects[key] = {"metadata": {"uid": f"uid-{next(self._numbers)}", "generation": 0}}
            self._note_owner(self.objects[key], request)
        if request.method.value == "POST" and request.resource and request.resource.plural == LEASES.plural:
            # Who makes one goes on with what came back.
            made = json.loads(request.body)
            made["metadata"] = {"resourceVersion": str(next(self._numbers)), **made["metadata"]}
            self.objects[request.resource, request.namespace, made["metadata"]["name"]] = made
            return aiohttp.web.json_response(made, status=201)
        return await super()._handle(request)

    def _note_owner(self, stored: Any, request: Request) -> None:
        """Write down in managedFields which fields are applied, and count the generation."""
        applied = json.loads(request.body)
        meta = {key: value for key, value in applied["metadata"].items() if key not in ("name", "namespace", "uid")}
        fields = {key: value for key, value in applied.items() if key in ("spec", "status")}
        entry = {
            "manager": request.params["fieldManager"],
            "operation": "Apply",
            "subresource": request.subresource or "",
            "fieldsV1": _fields_of(fields | ({"metadata": meta} if meta else {})),
        }
        before = stored["metadata"].get("managedFields", [])
        others = [other for other in before if other["subresource"] != entry["subresource"]]
        changed = {"managedFields": [*others, entry], "resourceVersion": str(next(self._numbers))}
        if not request.subresource:
            changed["generation"] = stored["metadata"]["generation"] + 1
        stored.patch({"metadata": changed})


def _fields_of(value: Any, name: str = "") -> dict[str, Any]:
    """The set of fields of a value in the form of fieldsV1."""
    if name in _WHOLE:
        return {}
    if isinstance(value, dict):
        return {f"f:{key}": _fields_of(item, key) for key, item in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return {f"k:{json.dumps(_key_of(item))}": {".": {}, **_fields_of(item)} for item in value}
    return {}


def _key_of(item: Manifest) -> Manifest:
    return {key: item[key] for key in _KEYS if key in item}


def resource(kind: Kind) -> str:
    """kmock's name of a kind."""
    return f"{kind.plural}.{kind.api_version.rpartition('/')[2]}.{kind.group}" if kind.group else f"v1/{kind.plural}"


@dataclass
class Known:
    """What watches have told: the optional kinds that are served, and the objects of every service."""

    served: Set[Kind] = frozenset()
    found: Set[tuple[Kind, str]] = frozenset()

    def objects(self, service: ServiceKey) -> Set[tuple[Kind, str]]:
        """As of the inventory."""
        return self.found
