"""Where clients reach a service."""

from textgen_operator.render import interception
from textgen_operator.status.observed import Intent, Observed
from textgen_operator.workloads import workload_of


def addresses(intent: Intent, observed: Observed) -> list[str]:
    """URLs from inside the cluster, of KServe and of the Ingress; of an HTTPRoute the hosts, as its gateway decides."""
    network = intent.service.spec.network
    held = interception.address(intent.service, intent.served)
    found = [intent.url] + ([held] if held else [])
    if observed.workload is not None:
        found += workload_of(observed.workload).addresses(observed.workload)
    if network.ingress is not None and network.ingress.hostname:
        found.append(f"{'https' if network.ingress.tls_secret_name else 'http'}://{network.ingress.hostname}")
    if network.route is not None:
        found += network.route.hostnames
    return list(dict.fromkeys(found))
