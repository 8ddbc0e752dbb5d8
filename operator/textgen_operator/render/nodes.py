"""A replica on several nodes: what its pods need to find each other, and how those that follow differ from the one that
leads. render/leader_worker_set.py makes the object that carries them."""

import copy

from textgen_operator.kinds import Manifest
from textgen_operator.render.container import HEALTH_PATH, LIVE_PATH, server_of
from textgen_operator.render.metadata import COMPONENT, FOLLOWER
from textgen_operator.resource import ObjectMeta
from textgen_server.settings import env_of

SECRET_KEY = "secret"

_NODE_RANK, _MASTER_ADDR, _NODE_SECRET = map(env_of, ("node_rank", "master_addr", "node_secret"))
VARIABLES = (_NODE_RANK, _MASTER_ADDR, _NODE_SECRET)


def secret_name(service: ObjectMeta) -> str:
    """Name of the Secret by which the nodes know each other."""
    return f"{service.name}-nodes"


def leader(template: Manifest, service: ObjectMeta) -> Manifest:
    """The template of the pods that lead: `template`, with the variables by which nodes find each other."""
    secret = {"name": secret_name(service), "key": SECRET_KEY, "optional": False}
    # LeaderWorkerSet puts its own variables, to which these refer, before all others.
    variables = [
        {"name": _NODE_RANK, "value": "$(LWS_WORKER_INDEX)"},
        {"name": _MASTER_ADDR, "value": "$(LWS_LEADER_ADDRESS)"},
        {"name": _NODE_SECRET, "valueFrom": {"secretKeyRef": secret}},
    ]
    led = copy.deepcopy(template)
    server = server_of(led["spec"]["containers"])
    server["env"] += variables
    # Where a pod of the group is away, the others may have to wait long for it to come back.
    _ask_whether_it_lives(server, "livenessProbe")
    return led


def follower(led: Manifest) -> Manifest:
    """The template of the pods that follow, of the leader's.

    They get no requests, so no Service may select them. Their port is open before their leader is ready, and that they
    wait for it is no reason to restart them.
    """
    template = copy.deepcopy(led)
    template["metadata"]["labels"][COMPONENT] = FOLLOWER
    _ask_whether_it_lives(server_of(template["spec"]["containers"]), "startupProbe")
    return template


def _ask_whether_it_lives(server: Manifest, probe: str) -> None:
    """Have a probe ask for the process alone, and not whether all nodes are ready; one of the user's stays."""
    check = server.get(probe, {}).get("httpGet", {})
    if check.get("path") == HEALTH_PATH:
        server[probe] = server[probe] | {"httpGet": check | {"path": LIVE_PATH}}
