"""The NetworkPolicy: who may reach the pods, and whom they may reach."""

import re
from collections.abc import Set

from textgen_operator.kinds import NETWORK_POLICIES, Kind, Manifest
from textgen_operator.render import interception
from textgen_operator.render.metadata import object_meta, selector, selector_of_all
from textgen_operator.render.service import PORT_NAME, USUAL_PORTS
from textgen_operator.resource import Spec, TextGenerationService

_DNS = 53
_ADDRESS = re.compile(r"(https?)://(?:\[.*?\]|[^/:]*)(?::([0-9]+))?")


def render(service: TextGenerationService, served: Set[Kind] = frozenset()) -> list[Manifest]:
    """None, unless asked for."""
    policy, several = service.spec.network.policy, service.spec.nodes > 1
    if not policy.enabled:
        return []
    everyone = selector_of_all(service.metadata)
    return [
        {
            "apiVersion": NETWORK_POLICIES.api_version,
            "kind": NETWORK_POLICIES.name,
            "metadata": object_meta(service.metadata, service.metadata.name),
            "spec": {
                "podSelector": everyone if several else {"matchLabels": selector(service.metadata)},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [
                    {
                        # An empty selector is every pod of the namespace.
                        "from": [*(policy.from_ or [{"podSelector": {}}]), *interception.visitors(service, served)],
                        "ports": [{"port": PORT_NAME, "protocol": "TCP"}],
                    },
                    # Tensors travel by ports that the system chooses.
                    *([{"from": [{"podSelector": everyone}]}] if several else []),
                ],
                "egress": [*_egress(service.spec), *([{"to": [{"podSelector": everyone}]}] if several else [])],
            },
        }
    ]


def _egress(spec: Spec) -> list[Manifest]:
    """Names, and what the server fetches weights from and sends traces to, by port: policies know no names."""
    dns = {"ports": [{"port": _DNS, "protocol": protocol} for protocol in ("UDP", "TCP")]}
    ports = sorted(_ports(spec))
    return [dns] + ([{"ports": [{"port": port, "protocol": "TCP"} for port in ports]}] if ports else [])


def _ports(spec: Spec) -> set[int]:
    hub = spec.hugging_face
    addresses = [hub.endpoint] if hub.endpoint and not hub.offline else []
    addresses += [spec.tracing.endpoint] if spec.tracing else []
    ports = {_port_of(address) for address in addresses}
    return ports if hub.offline else ports | {USUAL_PORTS["https"]}


def _port_of(address: str) -> int:
    """The port of an http or https address."""
    found = _ADDRESS.match(address)
    scheme, port = found.groups() if found else ("https", None)
    return int(port) if port else USUAL_PORTS[scheme]
