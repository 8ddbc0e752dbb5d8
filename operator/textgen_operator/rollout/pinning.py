"""An operator of another version renders other pods: a service whose spec has not changed keeps the pods that it has.

What pods are made from is written down, beside the hash of the spec that it was rendered for, in an annotation of the
workload. While the hash stays the same, that is what is applied: drift is put back, and nothing restarts. A copy stands
in the headless Service, which outlives the workload: one that is made anew, by us or because somebody deleted it, takes
its pods over as they are. Pure.
"""

import copy
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from textgen_operator.compare import owns_annotation
from textgen_operator.kinds import Manifest
from textgen_operator.render.metadata import FIELD_MANAGER, pods_service_name
from textgen_operator.resource import ObjectMeta, Spec
from textgen_operator.rollout.rotation import ANNOTATION as SECRETS
from textgen_operator.workloads import PODS_FROM, workload_of

_NOT_IN_PODS = {"replicas", "suspend", "autoscaling", "disruption", "rollout", "network", "metrics"}
"""Parts of the spec that pods do not depend on: changing them brings no upgrade that waits. A test varies them."""


@dataclass(frozen=True)
class Pinned:
    """What pods are made from.

    Attributes:
        manifest: the workload to apply.
        version: of the operator that rendered its pods.
        pending: the version whose pods wait for the next change of the spec; empty when none does.
    """

    manifest: Manifest
    version: str
    pending: str = ""


def pin(desired: Manifest, old: dict[str, Any] | None, spec: Spec, version: str, *, roll: bool) -> Pinned:
    """The workload with the pods that it should have now.

    Args:
        desired: as this operator renders it.
        old: the record of the pods that it has, or None.
        spec: what it is rendered for.
        version: of this operator with its defaults.
        roll: whether an upgrade is to replace pods at once.
    """
    parts = workload_of(desired).made_from(desired)
    fresh = {"version": version, "spec": _hash(spec), **parts}
    if old is None or roll or old["spec"] != fresh["spec"] or all(old.get(part) == parts[part] for part in parts):
        return Pinned(_with(desired, fresh, parts), version)
    return Pinned(_with(desired, old, {part: old.get(part) for part in parts}), old["version"], version)


def record(live: Manifest | None) -> dict[str, Any] | None:
    """What was written down, or None where there is nothing, or where somebody else has written there."""
    if live is None or not owns_annotation(live, FIELD_MANAGER, PODS_FROM):
        return None
    found: dict[str, Any] = json.loads(live["metadata"]["annotations"][PODS_FROM])
    return found


def keeper_of(service: ObjectMeta) -> str:
    """Name of the object, a Service, that keeps a copy of the record."""
    return pods_service_name(service)


def keep(workload: Manifest, keeper: Manifest) -> None:
    """Put a copy of a workload's record, and of the mark of its secrets, into an object that outlives it."""
    mark = workload_of(workload).templates(workload)[0]["metadata"].get("annotations", {}).get(SECRETS)
    keeper["metadata"].setdefault("annotations", {})[PODS_FROM] = workload["metadata"]["annotations"][PODS_FROM]
    if mark:
        keeper["metadata"]["annotations"][SECRETS] = mark


def _with(desired: Manifest, pinned: dict[str, Any], parts: dict[str, Any]) -> Manifest:
    manifest = copy.deepcopy(desired)
    text = json.dumps(pinned, sort_keys=True, separators=(",", ":"))
    manifest["metadata"].setdefault("annotations", {})[PODS_FROM] = text
    workload_of(desired).remake(manifest, parts)
    return manifest


def _hash(spec: Spec) -> str:
    """Fields at their defaults are left out: a version with more fields must not take that for a change."""
    said = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=_NOT_IN_PODS)
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
