"""The status of a service whose children the operator cannot read: it says so, instead of what was true once."""

from datetime import datetime

from textgen_operator.kinds import Manifest
from textgen_operator.render.metadata import pod_selector
from textgen_operator.resource import ObjectMeta
from textgen_operator.status.conditions import CONDITIONS
from textgen_operator.status.verdict import Verdict, as_stamp


def unknown_status(service: Manifest, why: str, now: datetime) -> Manifest:
    """The status with every condition unknown, and all else as it was last seen.

    Args:
        service: the custom resource as the API server has it.
        why: what the API server said.
        now: with a time zone.
    """
    meta, old = ObjectMeta.model_validate(service["metadata"]), service.get("status", {})
    before = {condition["type"]: condition for condition in old.get("conditions", [])}
    message = f"The operator cannot read what belongs to the service, and tries again: {why}"
    verdicts = [Verdict(kind, "Unknown", "Unreadable", message) for kind in dict.fromkeys([*CONDITIONS, *before])]
    never_seen = {"replicas": 0, "readyReplicas": 0, "updatedReplicas": 0, "shards": 0, "url": ""}
    return {
        **never_seen,
        "selector": pod_selector(meta),
        **old,
        "observedGeneration": meta.generation,
        "phase": "Unknown",
        "conditions": [verdict.condition(meta.generation, before, as_stamp(now)) for verdict in verdicts],
    }
