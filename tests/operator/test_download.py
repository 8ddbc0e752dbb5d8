"""The shared cache, and the Job that fills it before pods start."""

from datetime import UTC, datetime
from typing import Any

import pytest
from kmock import KubernetesEmulator
from kube_emulator import Known, resource
from operator_samples import custom_resource, service

from textgen_operator.client import Client
from textgen_operator.kinds import (
    AUTOSCALERS,
    CLAIMS,
    EVENTS,
    JOBS,
    LEADER_WORKER_SETS,
    PODS,
    SECRETS,
    SERVICES,
    SERVICES_OF_OURS,
    STATEFUL_SETS,
    Manifest,
)
from textgen_operator.reconcile import Reconciler
from textgen_operator.render import Defaults, render

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SHARED = {"type": "Shared", "size": "9Gi"}


def objects(kind: str, image: str = "server:1", **spec: Any) -> list[Manifest]:
    return [found for found in render(service(**spec), Defaults(image=image)) if found["kind"] == kind]


def test_all_replicas_share_one_claim_that_several_nodes_can_mount() -> None:
    (claim,) = objects("PersistentVolumeClaim", cache=SHARED, replicas=2)
    assert claim["metadata"]["name"] == "chat-cache"
    assert claim["spec"] == {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "9Gi"}}}
    (statefulset,) = objects("StatefulSet", cache=SHARED)
    assert "volumeClaimTemplates" not in statefulset["spec"]


def test_the_job_downloads_what_the_server_reads_into_where_it_reads() -> None:
    spec = {"cache": SHARED, "revision": "v1", "huggingFace": {"tokenSecretRef": {"name": "hf"}}, "gpu": {"count": 2}}
    (job,) = objects("Job", **spec)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"] == [
        "download-weights",
        "org/model",
        "--revision",
        "v1",
        "--huggingface-hub-cache",
        "/data",
    ]
    assert "HF_TOKEN" in {variable["name"] for variable in container["env"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert "resources" not in container
    # No Service and no StatefulSet may take its pods for servers.
    assert job["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"] == "download"


def test_the_job_runs_as_the_server_does_but_for_its_gpus_and_asks_for_less() -> None:
    spec = {
        "cache": SHARED,
        "auth": {"apiKeySecretRef": {"name": "keys"}},
        "resources": {
            "requests": {"cpu": "16", "memory": "200Gi"},
            "limits": {"memory": "220Gi", "hugepages-2Mi": "1Gi"},
        },
        "imagePullSecrets": [{"name": "registry"}],
        "scheduling": {"tolerations": [{"key": "dedicated", "operator": "Exists"}], "priorityClassName": "low"},
        "podTemplate": {
            "metadata": {"annotations": {"sidecar": "no"}, "labels": {"team": "a"}},
            "spec": {
                "containers": [
                    {
                        "name": "server",
                        "env": [{"name": "HTTPS_PROXY", "value": "http://proxy"}],
                        "volumeMounts": [{"name": "ca", "mountPath": "/ca"}],
                    },
                    {"name": "sidecar", "image": "x"},
                ],
                "volumes": [{"name": "ca", "emptyDir": {}}],
            },
        },
    }
    (job,) = objects("Job", **spec)
    template = job["spec"]["template"]
    pod = template["spec"]
    (container,) = pod["containers"]
    assert container["resources"] == {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "220Gi"}}
    env = {variable["name"]: variable["value"] for variable in container["env"]}
    assert (env["HTTPS_PROXY"], env["NVIDIA_VISIBLE_DEVICES"]) == ("http://proxy", "void")
    assert {volume["name"] for volume in pod["volumes"]} == {"cache", "tmp", "ca"}
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert [each["key"] for each in pod["tolerations"]] == ["dedicated", "nvidia.com/gpu"]
    assert pod["priorityClassName"] == "low"
    assert template["metadata"]["annotations"] == {"sidecar": "no"}
    assert template["metadata"]["labels"].items() >= {"team": "a", "app.kubernetes.io/component": "download"}.items()


def test_the_job_has_another_name_for_another_model_and_not_for_another_operator() -> None:
    def name(image: str = "server:1", **spec: Any) -> str:
        (job,) = objects("Job", image, **{"cache": SHARED, **spec})
        return str(job["metadata"]["name"])

    assert name() == name("server:2") == name(replicas=3) == name(cache=SHARED | {"size": "10Gi"})
    assert len({name(), name(revision="v2"), name(model="org/other"), name(image="x", dtype="float16")}) == 3


@pytest.mark.parametrize(
    ("cache", "jobs"),
    [
        (SHARED, 1),
        (SHARED | {"warm": False}, 0),
        ({"type": "Existing", "claimName": "x"}, 0),
        ({"type": "Existing", "claimName": "x", "warm": True}, 1),
        ({"type": "PerReplica"}, 0),
    ],
    ids=str,
)
def test_a_shared_cache_is_warmed_and_an_existing_one_on_demand(cache: dict[str, Any], jobs: int) -> None:
    assert len(objects("Job", cache=cache)) == jobs


async def test_pods_wait_for_the_download(client: Client, kmock: KubernetesEmulator) -> None:
    for kind in (AUTOSCALERS, EVENTS, CLAIMS, JOBS, PODS, SERVICES, STATEFUL_SETS):
        kmock.resources[resource(kind)] = {}
    stored = custom_resource(cache=SHARED)
    stored["metadata"] |= {"uid": "uid-of-chat", "generation": 1}
    kmock.objects[resource(SERVICES_OF_OURS), "models", "chat"] = stored
    reconciler = Reconciler(client, Defaults(), clock=lambda: NOW)
    (job,) = objects("Job", cache=SHARED)
    name = job["metadata"]["name"]

    async def look() -> tuple[str, str]:
        await reconciler.reconcile("models", "chat")
        status = kmock.objects[resource(SERVICES_OF_OURS), "models", "chat"]["status"]
        (ready,) = [found for found in status["conditions"] if found["type"] == "Ready"]
        return status["phase"], ready["reason"]

    async def exists() -> bool:
        return await client.get(STATEFUL_SETS.path("models", "chat")) is not None

    assert await look() == ("Downloading", "Downloading")
    assert not await exists()
    assert await client.get(CLAIMS.path("models", "chat-cache")) is not None
    live = kmock.objects[resource(JOBS), "models", name]
    live.patch({"status": {"conditions": [{"type": "Failed", "status": "True", "message": "BackoffLimitExceeded"}]}})
    assert await look() == ("Failed", "DownloadFailed")
    assert not await exists()
    # Whoever gives it more memory wants another try; what is downloaded is the same.
    stored["spec"]["resources"] = {"limits": {"memory": "9Gi"}}
    kmock.objects[resource(SERVICES_OF_OURS), "models", "chat"] = stored
    await look()
    assert await client.get(JOBS.path("models", name)) is None
    assert await look() == ("Downloading", "Downloading")
    live = kmock.objects[resource(JOBS), "models", name]
    (container,) = live["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == {"requests": {"memory": "2Gi"}, "limits": {"memory": "9Gi"}}
    live.patch({"status": {"conditions": [{"type": "Complete", "status": "True"}]}})
    assert await look() == ("Pending", "RollingOut")
    assert await exists()


async def test_what_serves_is_kept_until_the_download_of_what_takes_its_place_is_done(
    client: Client, kmock: KubernetesEmulator
) -> None:
    for kind in (AUTOSCALERS, EVENTS, CLAIMS, JOBS, LEADER_WORKER_SETS, PODS, SECRETS, SERVICES, STATEFUL_SETS):
        kmock.resources[resource(kind)] = {}
    known = Known(frozenset({LEADER_WORKER_SETS}), frozenset({(CLAIMS, "chat-cache")}))
    reconciler = Reconciler(client, Defaults(), clock=lambda: NOW, holdings=known)

    async def look(**spec: Any) -> None:
        stored = custom_resource(**spec)
        stored["metadata"] |= {"uid": "uid-of-chat", "generation": 1}
        kmock.objects[resource(SERVICES_OF_OURS), "models", "chat"] = stored
        await reconciler.reconcile("models", "chat")

    async def there() -> tuple[bool, ...]:
        kinds = (STATEFUL_SETS, LEADER_WORKER_SETS)
        return tuple([await client.get(kind.path("models", "chat")) is not None for kind in kinds])

    await look(cache=SHARED | {"warm": False})
    assert await there() == (True, False)
    # Its claim goes neither, while pods have it.
    after: dict[str, Any] = {"nodes": 2, "cache": {"type": "Existing", "claimName": "weights", "warm": True}}
    kmock.objects[resource(CLAIMS), "models", "weights"] = {"metadata": {"name": "weights"}}
    for _ in range(2):  # before the Job is there, and while it runs
        await look(**after)
        assert await there() == (True, False)
        assert await client.get(CLAIMS.path("models", "chat-cache")) is not None
    (job,) = objects("Job", **after)
    live = kmock.objects[resource(JOBS), "models", job["metadata"]["name"]]
    live.patch({"status": {"conditions": [{"type": "Complete", "status": "True"}]}})
    await look(**after)
    assert await there() == (False, False)
    assert await client.get(CLAIMS.path("models", "chat-cache")) is None
    await look(**after)
    assert await there() == (False, True)
