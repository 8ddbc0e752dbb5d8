"""The PodDisruptionBudget: how many replicas a drained node may take away at once."""

from textgen_operator.kinds import DISRUPTION_BUDGETS, Manifest
from textgen_operator.render.metadata import object_meta, selector
from textgen_operator.resource import TextGenerationService


def render(service: TextGenerationService) -> list[Manifest]:
    """None for a single replica: it would keep its node from being drained for ever."""
    if service.spec.pods_wanted <= 1:
        return []
    budget = {
        "maxUnavailable": service.spec.disruption.max_unavailable,
        "selector": {"matchLabels": selector(service.metadata)},
        # Pods that do not serve must not keep a node from being drained.
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
    return [
        {
            "apiVersion": DISRUPTION_BUDGETS.api_version,
            "kind": DISRUPTION_BUDGETS.name,
            "metadata": object_meta(service.metadata, service.metadata.name),
            "spec": budget,
        }
    ]
