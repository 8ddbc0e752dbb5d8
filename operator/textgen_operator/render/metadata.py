"""Names, labels and owner references, the same for every rendered object.

They depend on the service's metadata alone, so that they are known even when its spec is not valid.
"""

from typing import Any

from textgen_operator.resource import API_VERSION, GROUP, KIND, ObjectMeta

FIELD_MANAGER = "textgen-operator"
SERVICE_LABEL = f"{GROUP}/service"
"""The label that leads from any object back to its service."""

COMPONENT = "app.kubernetes.io/component"
SERVER, FOLLOWER = "server", "follower"
"""Components: pods that answer clients, and pods that only hold a part of the model for one that does."""

SELECT_OURS = f"app.kubernetes.io/managed-by={FIELD_MANAGER},{SERVICE_LABEL}"
"""Label selector of everything that the operator renders."""


def selector(service: ObjectMeta) -> dict[str, str]:
    """The labels that select a service's pods that answer. A StatefulSet's selector cannot change: never add here."""
    return {
        "app.kubernetes.io/name": "text-generation",
        "app.kubernetes.io/instance": service.name,
        COMPONENT: SERVER,
    }


def labels(service: ObjectMeta) -> dict[str, str]:
    """The labels of every object of a service. The user's own are not copied: other tools would act on them."""
    return selector(service) | {
        "app.kubernetes.io/part-of": "textgen",
        "app.kubernetes.io/managed-by": FIELD_MANAGER,
        SERVICE_LABEL: service.name,
    }


def object_meta(service: ObjectMeta, name: str) -> dict[str, Any]:
    """Metadata of an object named `name`; owned by the service when that exists in a cluster."""
    meta: dict[str, Any] = {"name": name, "namespace": service.namespace, "labels": labels(service)}
    if service.uid:
        meta["ownerReferences"] = [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": service.name,
                "uid": service.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ]
    return meta


def selector_of_all(service: ObjectMeta) -> dict[str, Any]:
    """The label selector of all pods of a service's replicas, those too that do not answer."""
    together = {name: value for name, value in selector(service).items() if name != COMPONENT}
    either = {"key": COMPONENT, "operator": "In", "values": [SERVER, FOLLOWER]}
    return {"matchLabels": together, "matchExpressions": [either]}


def pod_selector(service: ObjectMeta) -> str:
    """The label selector of a service's pods that answer as one string."""
    return ",".join(f"{name}={value}" for name, value in selector(service).items())


def selector_of_all_pods(service: ObjectMeta) -> str:
    """The label selector of all pods of a service's replicas as one string."""
    labels = [f"{name}={value}" for name, value in selector(service).items() if name != COMPONENT]
    return ",".join([*labels, f"{COMPONENT} in ({SERVER},{FOLLOWER})"])


def pods_service_name(service: ObjectMeta) -> str:
    """Name of the headless Service, which gives each pod a DNS name."""
    return f"{service.name}-pods"
