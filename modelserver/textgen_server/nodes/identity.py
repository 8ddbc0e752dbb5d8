"""What nodes must agree on before their ranks can hold one model together."""

from typing import Any

from textgen_server.settings import ServerOptions, flag_of
from textgen_server.telemetry import VERSION

Identity = dict[str, Any]

# What each node may have its own way: where it listens, keeps files and logs, and what the front does for clients.
_OWN = {
    *("node_rank", "hostname", "port", "grpc_port", "master_addr", "shard_uds_path", "huggingface_hub_cache"),
    *("api_key_file", "cors_allow_origin", "ssl_certfile", "ssl_keyfile", "ssl_ca_certs", "cpu_threads"),
    *("json_output", "log_level", "otlp_endpoint", "otlp_service_name", "compute_type", "num_shard", "sharded"),
}


def identity(options: ServerOptions, ranks: int, sha: str) -> Identity:
    """What a node says of itself. `ranks` is how many it has, `sha` the commit of its model, if it has one."""
    shared = options.model_dump(mode="json", exclude=_OWN)
    return {"node": options.node_rank, "version": VERSION, "ranks": ranks, "sha": sha, "options": shared}


def disagreement(leader: Identity, follower: Identity) -> str | None:
    """Why `follower` cannot be of `leader`'s group, in one sentence; None where it can."""
    node, most = follower.get("node"), leader["options"]["nnodes"]
    if follower.get("version") != leader["version"]:
        return f"it runs version {follower.get('version')}, the leader {leader['version']}"
    if not isinstance(node, int) or not 0 < node < most:
        return f"--node-rank {node} is none of the leader's followers, 1 to {most - 1}"
    theirs = follower.get("options", {})
    different = [
        f"{flag_of(name)} {theirs.get(name)}, not {value}"
        for name, value in leader["options"].items()
        if theirs.get(name) != value
    ]
    if different:
        return f"its options differ from the leader's: {'; '.join(different)}"
    if follower.get("ranks") != leader["ranks"]:
        return f"it has {follower.get('ranks')} ranks, the leader {leader['ranks']}: give --num-shard"
    if follower.get("sha") != leader["sha"]:
        return f"its model is of commit {follower.get('sha')!r}, the leader's of {leader['sha']!r}: give --revision"
    return None
