"""A service whose replicas are groups of pods on several nodes, by LeaderWorkerSet."""

from datetime import UTC, datetime
from typing import Any

import kubernetes_validate
import pytest
import yaml
from foreign_definitions import assert_fits
from operator_rendered import manifests, statefulset
from operator_samples import EXAMPLES, custom_resource, service
from pydantic import ValidationError

from textgen_operator.describe import describe
from textgen_operator.diagnosis import Evidence
from textgen_operator.kinds import Manifest
from textgen_operator.plan import Plan, Step
from textgen_operator.plan import describe as describe_plan
from textgen_operator.render.metadata import selector
from textgen_operator.rollout.pinning import pin, record
from textgen_operator.status import Intent, Observed, status_of
from textgen_operator.workloads import workload_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
TWO: dict[str, Any] = {"nodes": 2, "gpu": {"count": 8}}
EVERYTHING: dict[str, Any] = TWO | {
    "gpu": {"count": 8, "products": ["H100"], "runtimeClassName": "nvidia"},
    "cache": {"type": "Shared"},
    "huggingFace": {"tokenSecretRef": {"name": "hf", "key": "token"}},
    "auth": {"apiKeySecretRef": {"name": "keys", "key": "key"}},
    "tls": {"secretName": "certificate"},
    "imagePullSecrets": [{"name": "registry"}],
    "scheduling": {"nodeSelector": {"pool": "a"}, "tolerations": [{"key": "dedicated", "operator": "Exists"}]},
    "envFrom": [{"configMapRef": {"name": "more"}}],
    "network": {"policy": {"enabled": True}},
    "replicas": 2,
}


def group(**spec: Any) -> Manifest:
    return manifests(**TWO | spec)["LeaderWorkerSet chat"]


def templates(**spec: Any) -> tuple[Manifest, Manifest]:
    leader, follower = workload_of(group(**spec)).templates(group(**spec))
    return leader, follower


def server(template: Manifest) -> Manifest:
    (container,) = template["spec"]["containers"]
    return dict(container)


# --- what is rendered -------------------------------------------------------------------------------------------------


EXAMPLE = yaml.safe_load(next(file for file in EXAMPLES if file.stem == "two-nodes").read_text())["spec"]


@pytest.mark.parametrize("spec", [TWO, EVERYTHING, EXAMPLE, {"gpu": {"claimTemplateName": "gpus"}}], ids=len)
def test_it_fits_the_definition_of_leaderworkersets_and_there_is_no_statefulset(spec: dict[str, Any]) -> None:
    found = manifests(**TWO | spec)
    assert_fits(found["LeaderWorkerSet chat"], "leaderworkersets")
    assert "StatefulSet chat" not in found
    for template in workload_of(found["LeaderWorkerSet chat"]).templates(found["LeaderWorkerSet chat"]):
        named = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": template["metadata"] | {"name": "chat-0"}}
        kubernetes_validate.validate(named, "1.33", strict=True)


def test_one_node_is_a_statefulset_that_knows_of_no_other() -> None:
    assert statefulset(nodes=1, gpu={"count": 8}) == statefulset(gpu={"count": 8})
    assert "--nnodes" not in server(statefulset()["spec"]["template"])["args"]


def test_nodes_get_the_same_options_and_learn_who_they_are_from_leaderworkersets_variables() -> None:
    for container in map(server, templates()):
        options = dict(zip(container["args"][::2], container["args"][1::2], strict=True))
        assert (options["--nnodes"], options["--num-shard"], options["--master-port"]) == ("2", "8", "29500")
        variables = {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}
        assert variables["NODE_RANK"] == "$(LWS_WORKER_INDEX)"
        assert variables["MASTER_ADDR"] == "$(LWS_LEADER_ADDRESS)"
        secret = {"name": "chat-nodes", "key": "secret", "optional": False}
        assert variables["NODE_SECRET"] == {"secretKeyRef": secret}


def test_followers_differ_in_their_label_and_are_not_restarted_because_they_wait() -> None:
    leader, follower = templates(tls={"secretName": "certificate"})
    assert leader["metadata"]["labels"].items() >= selector(service().metadata).items()
    assert follower["metadata"]["labels"]["app.kubernetes.io/component"] == "follower"
    paths = {probe: [server(pod)[probe]["httpGet"]["path"] for pod in (leader, follower)] for probe in PROBES}
    assert paths == {
        "startupProbe": ["/health", "/v2/health/live"],
        "livenessProbe": ["/v2/health/live"] * 2,
        "readinessProbe": ["/health"] * 2,
    }
    assert server(statefulset()["spec"]["template"])["livenessProbe"]["httpGet"]["path"] == "/health"
    assert follower["spec"]["terminationGracePeriodSeconds"] == leader["spec"]["terminationGracePeriodSeconds"]


def test_clients_reach_leaders_and_nodes_reach_each_other() -> None:
    found = manifests(**EVERYTHING)
    for name in ("Service chat", "Service chat-pods"):
        assert found[name]["spec"]["selector"]["app.kubernetes.io/component"] == "server"
    policy, budget = found["NetworkPolicy chat"]["spec"], found["PodDisruptionBudget chat"]["spec"]
    (either,) = policy["podSelector"]["matchExpressions"]
    assert set(either["values"]) == {"server", "follower"}
    assert budget["selector"] == policy["podSelector"]
    among = [{"podSelector": policy["podSelector"]}]
    assert {"from": among} in policy["ingress"]
    assert {"to": among} in policy["egress"]
    alone = manifests(network={"policy": {"enabled": True}})["NetworkPolicy chat"]["spec"]
    assert "matchExpressions" not in str(alone)


def test_the_download_is_of_no_node() -> None:
    (job,) = [manifest for name, manifest in manifests(**EVERYTHING).items() if name.startswith("Job ")]
    names = {variable["name"] for variable in server(job["spec"]["template"])["env"]}
    assert names.isdisjoint({"NODE_RANK", "MASTER_ADDR", "NODE_SECRET"})


@pytest.mark.parametrize(
    ("rollout", "pace"),
    [
        ({}, {"maxUnavailable": 1, "maxSurge": 0}),
        ({"partition": 2}, {"partition": 2, "maxUnavailable": 1, "maxSurge": 0}),
        ({"paused": True}, {"partition": 3, "maxUnavailable": 1, "maxSurge": 0}),
        ({"strategy": "Surge"}, {"maxUnavailable": 0, "maxSurge": 1}),
        ({"strategy": "Recreate"}, {"maxUnavailable": "100%", "maxSurge": 0}),
    ],
)
def test_groups_are_replaced_as_asked_for(rollout: dict[str, Any], pace: Manifest) -> None:
    found = group(replicas=3, rollout=rollout)["spec"]
    assert found["rolloutStrategy"]["rollingUpdateConfiguration"] == pace
    assert found["replicas"] == 3
    assert group(replicas=3, suspend=True)["spec"]["replicas"] == 0


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"cache": {"type": "PerReplica"}}, "cache.type"),
        ({"cache": {"type": "Shared", "accessModes": ["ReadWriteOnce"]}}, "cache.accessModes"),
        ({"kserve": {"publish": "InferenceService"}}, "kserve.publish"),
        ({"rollout": {"strategy": "OnDelete"}}, "rollout"),
        ({"rollout": {"waitForIdleSeconds": 60}}, "rollout"),
        ({"extraArgs": ["--node-rank=1"]}, "extraArgs"),
        ({"env": [{"name": "NODE_SECRET", "value": "of mine"}]}, "env"),
    ],
)
def test_what_does_not_go_together_with_nodes_is_refused(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        service(**TWO | spec)


def test_another_operator_changes_nothing_of_groups_whose_spec_is_the_same() -> None:
    live = pin(group(), None, service(**TWO).spec, "1", roll=False).manifest
    annotations = {f"f:{name}": {} for name in live["metadata"]["annotations"]}
    owned = {
        "manager": "textgen-operator",
        "operation": "Apply",
        "fieldsV1": {"f:metadata": {"f:annotations": annotations}},
    }
    live["metadata"]["managedFields"] = [owned]
    newer = group()
    for template in workload_of(newer).templates(newer):
        server(template)["args"].append("--new")
    pinned = pin(newer, record(live), service(**TWO).spec, "2", roll=False)
    assert workload_of(live).templates(pinned.manifest) == workload_of(live).templates(live)
    assert pinned.pending == "2"


# --- status -----------------------------------------------------------------------------------------------------------


def pods_of(workload: Manifest, group: int, *, unready: int | None = None) -> list[Manifest]:
    """The pods of one group; one of them may be not ready."""
    pods = []
    for worker, template in enumerate(workload_of(workload).templates(workload)):
        labels = template["metadata"]["labels"] | {"leaderworkerset.sigs.k8s.io/group-index": str(group)}
        state = "False" if worker == unready else "True"
        pods.append(
            {
                "metadata": {"name": f"chat-{group}" + (f"-{worker}" if worker else ""), "labels": labels},
                "spec": {"nodeName": f"node{worker}"},
                "status": {"conditions": [{"type": "Ready", "status": state}]},
            }
        )
    return pods


def written(pods: list[Manifest], workload: Manifest, **spec: Any) -> Manifest:
    body = custom_resource(**TWO | spec)
    body["metadata"] |= {"generation": 1, "uid": "u"}
    intent = Intent(service(**TWO | spec), "http://chat")
    evidence = Evidence(pods, [], NOW)
    return status_of(body, Observed(workload, evidence, shards=service(**TWO | spec).spec.ranks, intent=intent), NOW)


def sealed(**spec: Any) -> Manifest:
    manifest = group(**spec)
    workload_of(manifest).seal(manifest)
    return manifest


def condition(status: Manifest, kind: str) -> tuple[str, str]:
    found = next(each for each in status["conditions"] if each["type"] == kind)
    return found["status"], found["message"]


def test_the_status_counts_groups_that_are_whole() -> None:
    workload = sealed(replicas=2)
    half = written(pods_of(workload, 0) + pods_of(workload, 1, unready=1), workload, replicas=2)
    assert (half["replicas"], half["readyReplicas"], half["updatedReplicas"], half["shards"]) == (2, 1, 2, 16)
    assert condition(half, "Ready")[0] == "False"
    assert condition(half, "Available") == ("True", "1 of 2 groups of 2 pods answer")
    assert condition(half, "Scheduled") == ("True", "4 of 4 pods of the current spec have a node")
    whole = written(pods_of(workload, 0) + pods_of(workload, 1), workload, replicas=2)
    assert condition(whole, "Ready") == ("True", "All groups of 2 pods (2) run the current spec and answer")


def test_a_follower_without_a_node_is_the_reason() -> None:
    workload = sealed()
    leader, follower = pods_of(workload, 0, unready=1)
    follower["status"]["conditions"].append({"type": "PodScheduled", "status": "False", "message": "no GPUs"})
    del follower["spec"]["nodeName"]
    status = written([leader, follower], workload)
    assert condition(status, "Scheduled") == ("False", "No node takes pod chat-0-1: no GPUs")


def test_groups_of_an_older_spec_are_not_up_to_date() -> None:
    old, new = sealed(), sealed(dtype="float16")
    status = written(pods_of(old, 0), new, dtype="float16")
    assert (status["readyReplicas"], status["updatedReplicas"]) == (1, 0)
    assert status["currentRevision"] != status["updateRevision"]


def test_memory_is_that_of_all_nodes() -> None:
    spec = {"model": "org/Llama-405B", "gpu": {"count": 8, "minMemory": "70Gi"}}
    workload = sealed(**spec)
    assert condition(written([], workload, **spec), "MemorySufficient")[0] == "True"
    alone = written([], workload, **spec | {"nodes": 1})
    assert condition(alone, "MemorySufficient")[0] == "False"


def test_events_are_read_of_the_statefulsets_whose_pods_are_missing() -> None:
    workload = sealed(replicas=3)
    pods = [*pods_of(workload, 0), *pods_of(workload, 1)[:1]]
    assert workload_of(workload).lacking(workload, pods) == ["chat", "chat-1"]


def test_people_are_told_of_nodes_and_a_plan_counts_the_gpus_of_all_pods() -> None:
    workload = sealed()
    body = custom_resource(**TWO)
    lines = describe({**body, "status": written(pods_of(workload, 0), workload)}, [], NOW)
    assert "org/model, 16 shards on 2 nodes" in lines
    restart = Step("LeaderWorkerSet chat", "update", restarts=True)
    plan = Plan(service(**TWO | {"replicas": 2}), "", [restart], workload)
    assert "pods: 2 restart" in describe_plan(plan)
    assert "GPUs (nvidia.com/gpu): 16 now, 32 at peak, 32 afterwards" in describe_plan(plan)
