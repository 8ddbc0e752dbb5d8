"""What was observed -> the status of the custom resource. Pure; called by reconcile.py. One file for each concern."""

from datetime import datetime

from textgen_operator.kinds import Manifest
from textgen_operator.render.metadata import pod_selector
from textgen_operator.resource import ObjectMeta, Status
from textgen_operator.status import advance
from textgen_operator.status.addresses import addresses
from textgen_operator.status.conditions import diagnosis_of, verdicts
from textgen_operator.status.failure import last_failure
from textgen_operator.status.observed import Intent, Observed, Obstacle
from textgen_operator.status.patience import next_look
from textgen_operator.status.phase import phase_of
from textgen_operator.status.progress import LOADING
from textgen_operator.status.unknown import unknown_status
from textgen_operator.status.verdict import as_stamp

__all__ = ["Intent", "Observed", "Obstacle", "next_look", "status_of", "unknown_status"]

_LONGEST_PATH = 512
_MOST_PATHS = 256
"""Characters of an override, and overrides, that the definition takes."""


def status_of(service: Manifest, observed: Observed, now: datetime) -> Manifest:
    """The whole status.

    Args:
        service: the custom resource as the API server has it; its old conditions say since when they hold.
        observed: what its children look like.
        now: with a time zone; becomes lastTransitionTime of the conditions that turned.
    """
    meta = ObjectMeta.model_validate(service["metadata"])
    old = service.get("status", {})
    before = {condition["type"]: condition for condition in old.get("conditions", [])}
    stamp = as_stamp(now)
    load = observed.progress.as_status() if observed.progress and not observed.all_ready else None
    progressed_at = advance.progressed_at(observed, old, meta.generation, load, stamp)
    overdue = advance.overdue(observed, progressed_at, now)
    status = Status.model_validate(
        {
            "observedGeneration": meta.generation,
            "phase": phase_of(observed, diagnosis_of(observed)),
            **observed.counts,
            **observed.revisions,
            "renderVersion": observed.course.version if observed.course else old.get("renderVersion", ""),
            "pendingRenderVersion": observed.course.pending if observed.course else old.get("pendingRenderVersion", ""),
            "selector": pod_selector(meta),
            "shards": observed.shards,
            **_intended(observed, old),
            "model": _model(service, observed, old),
            "cache": _cache(observed.intent) or old.get("cache"),
            "startup": observed.startup or old.get("startup"),
            "load": load,
            "progressedAt": progressed_at,
            "lastFailure": last_failure(observed.pods, old.get("lastFailure")),
            "conditions": [each.condition(meta.generation, before, stamp) for each in verdicts(observed, overdue)],
        }
    )
    return status.model_dump(by_alias=True, exclude_none=True)


def _intended(observed: Observed, old: Manifest) -> Manifest:
    """What the spec makes of the cluster; of one that is not valid, what the last valid one said."""
    intent = observed.intent
    if intent is None:
        return {
            "url": old.get("url", ""),
            "addresses": old.get("addresses", []),
            "overrides": old.get("overrides", []),
        }
    return {
        "url": intent.url,
        "addresses": addresses(intent, observed),
        "overrides": [path[:_LONGEST_PATH] for path in intent.overrides[:_MOST_PATHS]],
    }


def _model(service: Manifest, observed: Observed, old: Manifest) -> Manifest | None:
    """What the servers found; of another model than the spec's, nothing is said any more."""
    asked = str(service.get("spec", {}).get("model", ""))
    if observed.located is None:
        known: Manifest | None = old.get("model")
        return known | _cached(observed) if known and known["name"] == asked else None
    found = {"name": asked, "sizeBytes": observed.located.total_bytes, **_cached(observed)}
    return found | ({"resolvedRevision": observed.located.revision} if observed.located.revision else {})


def _cached(observed: Observed) -> Manifest:
    loads = observed.progress is not None and observed.progress.stage == LOADING
    return {"cached": f"{min(observed.counts['readyReplicas'] + loads, observed.wanted)}/{observed.wanted}"}


def _cache(intent: Intent | None) -> Manifest | None:
    return {"type": intent.service.spec.cache.type or "Ephemeral"} if intent else None
