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
        provider: what brings the kind to a cluster; empty for Kubernetes' own, which every cluster has.
    """

    api_version: str
    name: str
    plural: str
    provider: str = ""

    @property
    def group(self) -> str:
        """The API group; empty for the core group."""
        return self.api_version.rpartition("/")[0]

    @property
    def absence(self) -> str:
        """What to say of a kind that the cluster lacks."""
        what = f"{self.name} ({self.api_version})"
        return f"The cluster does not know {what}: install {self.provider}; it is then made at once"

    def path(self, namespace: str | None = None, name: str | None = None) -> str:
        """The REST path of one object, of a namespace's objects, or of all."""
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"
        scope = f"/namespaces/{namespace}" if namespace else ""
        return f"{root}{scope}/{self.plural}" + (f"/{name}" if name else "")


SERVICES_OF_OURS = Kind(API_VERSION, KIND, PLURAL)
STATEFUL_SETS = Kind("apps/v1", "StatefulSet", "statefulsets")
SERVICES = Kind("v1", "Service", "services")
PODS = Kind("v1", "Pod", "pods")
EVENTS = Kind("v1", "Event", "events")
SECRETS = Kind("v1", "Secret", "secrets")
CONFIG_MAPS = Kind("v1", "ConfigMap", "configmaps")
CLAIMS = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
JOBS = Kind("batch/v1", "Job", "jobs")
LEASES = Kind("coordination.k8s.io/v1", "Lease", "leases")

DISRUPTION_BUDGETS = Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
AUTOSCALERS = Kind("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
NETWORK_POLICIES = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
INGRESSES = Kind("networking.k8s.io/v1", "Ingress", "ingresses")
SCALED_OBJECTS = Kind("keda.sh/v1alpha1", "ScaledObject", "scaledobjects", "KEDA")
INTERCEPTOR_ROUTES = Kind("http.keda.sh/v1beta1", "InterceptorRoute", "interceptorroutes", "KEDA's HTTP add-on")
POD_MONITORS = Kind("monitoring.coreos.com/v1", "PodMonitor", "podmonitors", "the Prometheus operator")
ROUTES = Kind("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes", "the Gateway API")
INFERENCE_POOLS = Kind(
    "inference.networking.k8s.io/v1", "InferencePool", "inferencepools", "the Gateway API's inference extension"
)
LEADER_WORKER_SETS = Kind("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", "leaderworkersets", "LeaderWorkerSet (LWS)")
INFERENCE_SERVICES = Kind("serving.kserve.io/v1beta1", "InferenceService", "inferenceservices", "KServe")

OPTIONAL = (
    LEADER_WORKER_SETS,
    INFERENCE_SERVICES,
    SCALED_OBJECTS,
    INTERCEPTOR_ROUTES,
    POD_MONITORS,
    ROUTES,
    INFERENCE_POOLS,
)
"""Kinds that a cluster may lack, and that may come and go while the operator runs."""

WORKLOADS = (STATEFUL_SETS, LEADER_WORKER_SETS, INFERENCE_SERVICES)
"""Kinds that can carry the pods of a service, which has one of them."""

PRUNED = (
    STATEFUL_SETS,
    SERVICES,
    CLAIMS,
    JOBS,
    DISRUPTION_BUDGETS,
    AUTOSCALERS,
    NETWORK_POLICIES,
    INGRESSES,
    *OPTIONAL,
)
"""What a service may have at one time and not at another: when nothing asks for it any more, it is deleted."""

OWNED = PRUNED
"""What is rendered and applied."""

RIVALS = {
    kind: tuple(rival for rival in rivals if rival != kind)
    for rivals in (WORKLOADS, (AUTOSCALERS, SCALED_OBJECTS))
    for kind in rivals
}
"""Kinds of which a service may have only one: the other must be gone before the first is made."""

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
    # Apply asks for "patch", and for "create" too when the object is not there yet. An owner may only be set, where it
    # was lost, by who might delete the object.
    *(_rule(kind.group, kind.plural, "get", "list", "watch", "create", "patch", "delete") for kind in OWNED),
    # Pods are deleted to be replaced.
    _rule(PODS.group, PODS.plural, "list", "watch", "delete"),
    # How far a server is that starts.
    _rule(PODS.group, f"{PODS.plural}/log", "get"),
    # Why pods do not come to be; and our own events.
    _rule(EVENTS.group, EVENTS.plural, "get", "list", "create", "patch"),
    # Whether what a pod refers to is there, by name: nothing can be listed. And to make the one by which several nodes
    # know each other.
    _rule(SECRETS.group, SECRETS.plural, "get", "create"),
    _rule(CONFIG_MAPS.group, CONFIG_MAPS.plural, "get"),
)
"""Rules of the operator's role."""

LEASE_PERMISSIONS = (_rule(LEASES.group, LEASES.plural, "get", "create", "patch"),)
"""Rules of the operator's role in its own namespace."""
