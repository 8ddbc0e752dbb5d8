"""The PodDisruptionBudget: how many replicas a drained node may take away at once."""

from textgen_operator.kinds import DISRUPTION_BUDGETS, Manifest
from textgen_operator.render.metadata import object_meta, selector, selector_of_all
from textgen_operator.resource import TextGenerationService


def render(service: TextGenerationService) -> list[Manifest]:
    """None for a single replica: it would keep its node from being drained for ever."""
    if service.spec.pods_wanted <= 1:
        return []
    meta = service.metadata
    budget = {
        "maxUnavailable": service.spec.disruption.max_unavailable,
        # When one pod of a group goes, none of the group is ready.
        "selector": selector_of_all(meta) if service.spec.nodes > 1 else {"matchLabels": selector(meta)},
        # Pods that do not serve must not keep a node from being drained.
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
    return [
        {
            "apiVersion": DISRUPTION_BUDGETS.api_version,
            "kind": DISRUPTION_BUDGETS.name,
            "metadata": object_meta(meta, meta.name),
            "spec": budget,
        }
    ]
