"""`textgen-operator status`: what people read."""

from datetime import UTC, datetime

from operator_samples import custom_resource

from textgen_operator.describe import describe
from textgen_operator.kinds import Manifest

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def resource(generation: int = 3) -> Manifest:
    status = {
        "observedGeneration": 3,
        "phase": "Downloading",
        "replicas": 2,
        "readyReplicas": 1,
        "updatedReplicas": 2,
        "url": "http://chat.models.svc",
        "shards": 4,
        "model": {"name": "org/model", "resolvedRevision": "abc123", "sizeBytes": 14_500_000_000},
        "load": {
            "stage": "Downloading", "percent": 34, "totalBytes": 14_500_000_000, "bytesPerSecond": 500_000_000,
            "remainingSeconds": 19,
        },
        "startup": {"lastSeconds": 120, "stages": {"pull": 25, "load": 10}},
        "lastFailure": {"time": "2026-01-01T11:00:00Z", "count": 2, "message": "Pod chat-0 ran out of memory"},
        "conditions": [
            {
                "type": "Accepted", "status": "True", "reason": "Accepted", "message": "The spec is valid",
                "lastTransitionTime": "2025-12-30T12:00:00Z",
            },
            {
                "type": "Ready", "status": "False", "reason": "Starting", "message": "Pod chat-1 loads\nslowly",
                "lastTransitionTime": "2026-01-01T11:57:00Z",
            },
        ],
    }  # fmt: skip
    found = custom_resource(quantize="awq", replicas=2)
    return found | {"metadata": found["metadata"] | {"generation": generation}, "status": status}


def pod(name: str, **status: object) -> Manifest:
    meta = {"name": name, "creationTimestamp": "2026-01-01T11:59:30Z"}
    return {"metadata": meta, "spec": {"nodeName": "gpu-1"}, "status": status}


READY = pod("chat-0", conditions=[{"type": "Ready", "status": "True"}], containerStatuses=[{"restartCount": 2}])

EXPECTED = """\
chat in models: Downloading
  model         org/model at abc123, 14.5 GB, awq, 4 shards
  replicas      1 of 2 ready, 2 up to date
  address       http://chat.models.svc
  load          Downloading 34 % of 14.5 GB, 0.50 GB/s, 19 s left
  last start    120 s: pull 25 s, load 10 s
  last failure  2026-01-01T11:00:00Z, 2 times: Pod chat-0 ran out of memory

Not ready: Starting
  Pod chat-1 loads
  slowly

Conditions
  Accepted  True   Accepted  for 2 d    The spec is valid
  Ready     False  Starting  for 3 min  Pod chat-1 loads

Pods
  chat-0  ready    2 restarts  gpu-1  30 s
  chat-1  pending  0 restarts  gpu-1  30 s
"""


def test_everything_that_is_known_is_said() -> None:
    assert describe(resource(), [pod("chat-1", phase="Pending"), READY], NOW) == EXPECTED


def test_a_service_that_no_operator_has_seen_is_said_to_be_so() -> None:
    assert describe(custom_resource(), [], NOW) == (
        "chat in models: no operator has looked at it yet\n  model         org/model\n"
    )


def test_a_status_about_an_older_spec_is_not_taken_for_the_newest() -> None:
    assert "has not been looked at yet" in describe(resource(generation=4), [], NOW)
