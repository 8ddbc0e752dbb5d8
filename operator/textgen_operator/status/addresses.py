"""Where clients reach a service."""

from textgen_operator.status.observed import Intent


def addresses(intent: Intent) -> list[str]:
    """URLs from inside the cluster and by the Ingress; of an HTTPRoute the hosts, as its gateway decides the rest."""
    network = intent.service.spec.network
    found = [intent.url]
    if network.ingress is not None and network.ingress.hostname:
        found.append(f"{'https' if network.ingress.tls_secret_name else 'http'}://{network.ingress.hostname}")
    if network.route is not None:
        found += network.route.hostnames
    return list(dict.fromkeys(found))
