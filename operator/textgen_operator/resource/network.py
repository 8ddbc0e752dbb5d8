"""How the service is reached, and from where."""

from typing import Literal

from pydantic import Field

from textgen_operator.resource.affinity import AsInAPod
from textgen_operator.resource.types import Annotation, Hostname, Name
from textgen_operator.rules import Part


class ServicePort(Part):
    """The Service that clients use."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    """Who can reach it."""

    port: int | None = Field(default=None, ge=1, le=65535)
    """Its port. Default: 80, or 443 with `tls`."""

    annotations: dict[str, Annotation] = Field(default={}, max_length=32)
    """Annotations, such as those that cloud load balancers read."""


class Parent(Part):
    """A Gateway."""

    name: Name
    """Its name."""

    namespace: Name | None = None
    """Its namespace. Default: the service's."""

    section_name: Name | None = None
    """One of its listeners. Default: all."""


class Route(Part):
    """A route of the Gateway API (HTTPRoute) to the service."""

    parent_refs: list[Parent] = Field(min_length=1, max_length=16)
    """Gateways."""

    hostnames: list[Hostname] = Field(default=[], max_length=16)
    """Names of hosts. Default: those of the gateway."""

    annotations: dict[str, Annotation] = Field(default={}, max_length=32)
    """Annotations of the HTTPRoute."""


class Ingress(Part):
    """An Ingress to the service."""

    class_name: Name | None = None
    """IngressClass. Default: the cluster's."""

    hostname: Hostname | None = None
    """Name of the host. Default: any."""

    tls_secret_name: Name | None = None
    """Secret with the certificate that the ingress controller shows."""

    annotations: dict[str, Annotation] = Field(default={}, max_length=32)
    """Annotations, such as the timeouts of the ingress controller: answers are streamed, and may take minutes."""


class InferencePool(Part):
    """A pool of the Gateway API's inference extension over the pods, for routes that choose a pod by its load."""

    endpoint_picker: Name | None = None
    """Service of the endpoint picker, which gateways ask for each request. Default: the service's name with -epp, as
    the extension's own chart names it."""

    endpoint_picker_port: int = Field(default=9002, ge=1, le=65535)
    """Its port."""


class Policy(Part):
    """A NetworkPolicy for the pods."""

    enabled: bool = False
    """Whether there is one. Without it, whoever reaches the pods may ask."""

    from_: list[AsInAPod] = Field(default=[], max_length=32, alias="from")
    """Who may ask, each as in a NetworkPolicy (podSelector, namespaceSelector, ipBlock). Default: pods of the
    service's namespace."""


class Network(Part):
    """How the service is reached, and from where."""

    service: ServicePort = ServicePort()
    route: Route | None = None
    ingress: Ingress | None = None
    inference_pool: InferencePool | None = None
    policy: Policy = Policy()
