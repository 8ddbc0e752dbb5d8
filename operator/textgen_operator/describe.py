"""`textgen-operator status NAME`: a service for people, from its status and its pods. Pure; called by cli.py."""

from collections.abc import Iterator
from datetime import datetime

from textgen_operator.diagnosis.finding import condition, containers, instant, name_of
from textgen_operator.kinds import Manifest

_WIDTH = 14


def describe(service: Manifest, pods: list[Manifest], now: datetime) -> str:
    """Lines about a service: what it is, how it is, its pods, and why it is not ready.

    Args:
        service: the custom resource.
        pods: its pods.
        now: with a time zone.
    """
    return "\n".join(_lines(service, pods, now)) + "\n"


def _lines(service: Manifest, pods: list[Manifest], now: datetime) -> Iterator[str]:
    meta, status = service["metadata"], service.get("status", {})
    yield f"{meta['name']} in {meta['namespace']}: {status.get('phase') or 'no operator has looked at it yet'}"
    if status and status.get("observedGeneration") != meta.get("generation"):
        yield "  The newest spec has not been looked at yet: this is about the one before. Is the operator running?"
    for title, text in _facts(service["spec"], status):
        yield f"  {title:<{_WIDTH}}{text}"
    yield from _why(status)
    yield from _table("Conditions", [_of_condition(each, now) for each in status.get("conditions", [])])
    yield from _table("Pods", [_of_pod(pod, now) for pod in sorted(pods, key=name_of)])


def _facts(spec: Manifest, status: Manifest) -> Iterator[tuple[str, str]]:
    yield "model", _model(spec, status)
    if "replicas" in status:
        counts = f"{status['readyReplicas']} of {spec.get('replicas', 1)} ready, {status['updatedReplicas']} up to date"
        yield "replicas", counts
        yield "address", status["url"]
    if "load" in status:
        yield "load", _load(status["load"])
    if "startup" in status:
        stages = ", ".join(f"{name} {seconds} s" for name, seconds in status["startup"].get("stages", {}).items())
        yield "last start", f"{status['startup']['lastSeconds']} s" + (f": {stages}" if stages else "")
    if "lastFailure" in status:
        failure = status["lastFailure"]
        times = f", {failure['count']} times" if failure["count"] > 1 else ""
        yield "last failure", f"{failure['time']}{times}: {failure['message']}"


def _model(spec: Manifest, status: Manifest) -> str:
    found = status.get("model", {})
    revision = found.get("resolvedRevision") or spec.get("revision")
    parts = [spec["model"] + (f" at {revision}" if revision else "")]
    if found.get("sizeBytes"):
        parts.append(f"{found['sizeBytes'] / 1e9:.1f} GB")
    if spec.get("quantize"):
        parts.append(spec["quantize"])
    if status.get("shards", 0) > 1:
        where = f" on {spec['nodes']} nodes" if spec.get("nodes", 1) > 1 else ""
        parts.append(f"{status['shards']} shards{where}")
    return ", ".join(parts)


def _load(load: Manifest) -> str:
    parts = [f"{load['stage']} {load['percent']} % of {load['totalBytes'] / 1e9:.1f} GB"]
    if "bytesPerSecond" in load:
        parts.append(f"{load['bytesPerSecond'] / 1e9:.2f} GB/s")
    if "remainingSeconds" in load:
        parts.append(f"{load['remainingSeconds']} s left")
    return ", ".join(parts)


def _why(status: Manifest) -> Iterator[str]:
    ready = next((each for each in status.get("conditions", []) if each["type"] == "Ready"), None)
    if ready and ready["status"] != "True":
        yield f"\nNot ready: {ready['reason']}"
        yield from (f"  {line}" for line in ready["message"].splitlines())


def _of_condition(found: Manifest, now: datetime) -> tuple[str, ...]:
    since = _ago(found["lastTransitionTime"], now)
    return found["type"], found["status"], found["reason"], f"for {since}", found["message"].partition("\n")[0]


def _of_pod(pod: Manifest, now: datetime) -> tuple[str, ...]:
    ready = condition(pod, "Ready").get("status") == "True"
    restarts = sum(status.get("restartCount", 0) for status in containers(pod))
    leaving = "deletionTimestamp" in pod["metadata"]
    state = "leaving" if leaving else "ready" if ready else pod.get("status", {}).get("phase", "Pending").lower()
    return (
        name_of(pod),
        state,
        f"{restarts} restarts",
        pod.get("spec", {}).get("nodeName", "no node"),
        _ago(pod["metadata"]["creationTimestamp"], now),
    )


def _table(title: str, rows: list[tuple[str, ...]]) -> Iterator[str]:
    if not rows:
        return
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    yield f"\n{title}"
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row[:-1], widths, strict=True)]
        yield "  " + "  ".join([*cells, row[-1]])


def _ago(time: str, now: datetime) -> str:
    """The time since then, in its largest unit."""
    seconds = max(0, int((now - instant(time)).total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
