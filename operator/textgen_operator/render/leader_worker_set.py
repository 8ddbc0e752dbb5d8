"""The LeaderWorkerSet: a group of pods for each replica, which hold the model together.

Its controller numbers groups and pods: NAME-0 leads the first group, NAME-0-1 follows it.
"""

from typing import Any

from textgen_operator.kinds import LEADER_WORKER_SETS, Manifest
from textgen_operator.render import nodes
from textgen_operator.render.defaults import Defaults
from textgen_operator.render.metadata import object_meta
from textgen_operator.render.pod import pod_template
from textgen_operator.resource import Spec, TextGenerationService


def render(service: TextGenerationService, defaults: Defaults) -> Manifest:
    """The LeaderWorkerSet of a service."""
    leader = nodes.leader(pod_template(service, defaults), service.metadata)
    spec = service.spec
    rendered: dict[str, Any] = {
        "replicas": spec.pods_wanted,
        "leaderWorkerTemplate": {
            "size": spec.nodes,
            # The server's nodes find each other again, whichever of them restarts. To make the whole group anew would
            # only throw away what the others have downloaded.
            "restartPolicy": "None",
            "leaderTemplate": leader,
            "workerTemplate": nodes.follower(leader),
        },
        # The leader is ready when its followers are: they must not wait for that.
        "startupPolicy": "LeaderCreated",
        # Else its headless Service would have the name of ours.
        "networkConfig": {"subdomainPolicy": "UniquePerReplica"},
        "rolloutStrategy": {"type": "RollingUpdate", "rollingUpdateConfiguration": _pace(spec)},
    }
    return {
        "apiVersion": LEADER_WORKER_SETS.api_version,
        "kind": LEADER_WORKER_SETS.name,
        "metadata": object_meta(service.metadata, service.metadata.name),
        "spec": rendered,
    }


def _pace(spec: Spec) -> Manifest:
    """Groups are replaced as the pods of a StatefulSet would be; a group comes and goes as a whole."""
    rollout, groups = spec.rollout, spec.pods_wanted
    if rollout.strategy == "Surge":
        pace: Manifest = {"maxUnavailable": 0, "maxSurge": 1}
    else:
        pace = {"maxUnavailable": "100%" if rollout.strategy == "Recreate" else 1, "maxSurge": 0}
    kept = groups if rollout.paused else rollout.partition
    # LWS before 0.7 does not know the field.
    return pace | ({"partition": kept} if kept else {})
