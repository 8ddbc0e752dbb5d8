"""A replica on several nodes: what its pods need to find each other, and how those that follow differ from the one that
leads. render/leader_worker_set.py makes the object that carries them."""

import copy

from textgen_operator.kinds import Manifest
from textgen_operator.render.container import server_of
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
    server_of(led["spec"]["containers"])["env"] += variables
    return led


def follower(led: Manifest) -> Manifest:
    """The template of the pods that follow, of the leader's.

    They get no requests, so no Service may select them, and that they wait for their leader is no reason to restart
    them: only whether they can be connected to decides on that.
    """
    template = copy.deepcopy(led)
    template["metadata"]["labels"][COMPONENT] = FOLLOWER
    server = server_of(template["spec"]["containers"])
    for probe in ("startupProbe", "livenessProbe"):
        if check := server.get(probe, {}).pop("httpGet", None):
            server[probe]["tcpSocket"] = {"port": check["port"]}
    return template
