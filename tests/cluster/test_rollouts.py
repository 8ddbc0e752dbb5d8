"""Which pods are replaced when a spec changes, beside Kubernetes' own StatefulSet controller."""

from typing import Any

import pytest
from cluster.kube import Namespace, Refused, ended, eventually
from cluster.operator_process import Operator

from textgen_operator.kinds import CLAIMS, JOBS, PODS, SERVICES_OF_OURS, STATEFUL_SETS, Kind

STORAGE_CLASSES = Kind("storage.k8s.io/v1", "StorageClass", "storageclasses")


def edit(namespace: Namespace, **spec: Any) -> None:
    namespace.edit(SERVICES_OF_OURS, "chat", {"spec": spec})


def serve(namespace: Namespace, **spec: Any) -> None:
    """Create `chat`, with all its pods ready."""
    namespace.serve("chat", **spec)
    eventually(lambda: namespace.stands("chat"))
    namespace.make_ready("chat")
    eventually(lambda: is_ready(namespace))


def is_ready(namespace: Namespace) -> None:
    assert namespace.condition("chat", "Ready")["status"] == "True"


def uids(namespace: Namespace) -> dict[str, str]:
    """Name -> uid of each pod that stays."""
    pods = [pod["metadata"] for pod in namespace.list(PODS, "chat")]
    return {pod["name"]: pod["uid"] for pod in pods if "deletionTimestamp" not in pod}


def dtypes(namespace: Namespace) -> dict[str, str]:
    """Name -> the dtype that each pod that stays was made with."""
    found = {}
    for pod in namespace.list(PODS, "chat"):
        args = pod["spec"]["containers"][0]["args"]
        if "deletionTimestamp" not in pod["metadata"]:
            found[pod["metadata"]["name"]] = args[args.index("--dtype") + 1] if "--dtype" in args else ""
    return found


def await_dtypes(namespace: Namespace, *expected: str) -> None:
    def found() -> None:
        assert list(dtypes(namespace).values()) == list(expected)

    eventually(found)


def report(namespace: Namespace, name: str, *, ready: bool = True) -> None:
    namespace.report(namespace.get(PODS, name), ready=ready)


def test_a_broken_spec_costs_one_pod_of_several_and_a_better_one_mends_it(
    operator: Operator, namespace: Namespace
) -> None:
    serve(namespace, replicas=2)
    good = uids(namespace)["chat-0"]
    edit(namespace, dtype="float16")
    await_dtypes(namespace, "", "float16")
    # chat-1 never gets ready: the next spec replaces it, and still not the one that serves.
    edit(namespace, dtype="bfloat16")
    await_dtypes(namespace, "", "bfloat16")
    assert uids(namespace)["chat-0"] == good
    report(namespace, "chat-1")
    await_dtypes(namespace, "bfloat16", "bfloat16")
    report(namespace, "chat-0")
    eventually(lambda: is_ready(namespace))

    # The one that serves is now the one that Kubernetes would take first.
    report(namespace, "chat-0", ready=False)
    good = uids(namespace)["chat-1"]
    edit(namespace, dtype="float32")
    await_dtypes(namespace, "float32", "bfloat16")
    assert uids(namespace)["chat-1"] == good
    report(namespace, "chat-0")
    await_dtypes(namespace, "float32", "float32")
    report(namespace, "chat-1")
    eventually(lambda: is_ready(namespace))

    # What is paused waits, with pods that come back as they were.
    edit(namespace, rollout={"paused": True}, dtype="float16")
    namespace.delete(PODS, "chat-0")
    await_dtypes(namespace, "float32", "float32")
    report(namespace, "chat-0")
    edit(namespace, rollout={"paused": False})
    await_dtypes(namespace, "float32", "float16")


def test_a_surge_never_has_fewer_pods_that_answer(operator: Operator, namespace: Namespace) -> None:
    serve(namespace, rollout={"strategy": "Surge"})
    old = uids(namespace)["chat-0"]
    edit(namespace, dtype="float16")
    await_dtypes(namespace, "", "float16")
    assert uids(namespace)["chat-0"] == old
    report(namespace, "chat-1")
    await_dtypes(namespace, "float16", "float16")
    report(namespace, "chat-0")
    await_dtypes(namespace, "float16")
    eventually(lambda: is_ready(namespace))


def test_recreate_has_no_old_pod_beside_a_new_one(operator: Operator, namespace: Namespace) -> None:
    serve(namespace, replicas=2, rollout={"strategy": "Recreate"})
    old = set(uids(namespace).values())
    edit(namespace, dtype="float16")
    await_dtypes(namespace, "float16", "float16")
    assert not old & set(uids(namespace).values())
    namespace.make_ready("chat")
    eventually(lambda: is_ready(namespace))


def test_pods_get_claims_that_are_new_one_after_the_other(operator: Operator, namespace: Namespace) -> None:
    serve(namespace, replicas=2)
    old = uids(namespace)
    edit(namespace, cache={"type": "PerReplica", "size": "1Gi"})
    # Kubernetes' controller cannot give pods volumes that they lack, and stops at the first.
    eventually(lambda: is_another(namespace, "chat-0", old))
    assert uids(namespace)["chat-1"] == old["chat-1"]
    report(namespace, "chat-0")
    eventually(lambda: is_another(namespace, "chat-1", old))
    report(namespace, "chat-1")
    eventually(lambda: is_ready(namespace))
    namespace.get(CLAIMS, "cache-chat-1")


def is_another(namespace: Namespace, name: str, old: dict[str, str]) -> None:
    found = uids(namespace)
    assert name in found
    assert found[name] != old[name]


@pytest.fixture
def growing_class(namespace: Namespace) -> str:
    name = f"grows-{namespace.name}"
    body = {"metadata": {"name": name}, "provisioner": "test/none", "allowVolumeExpansion": True}
    namespace.kube.post(STORAGE_CLASSES.path(), body)
    return name


def test_claims_grow_without_a_restart_and_go_when_they_are_not_asked_for_any_more(
    operator: Operator, namespace: Namespace, growing_class: str
) -> None:
    serve(namespace, cache={"type": "PerReplica", "size": "1Gi", "storageClassName": growing_class})
    pod, statefulset = uids(namespace)["chat-0"], namespace.get(STATEFUL_SETS, "chat")["metadata"]["uid"]
    bound = {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}
    namespace.edit(CLAIMS, "cache-chat-0", {"status": bound}, "status")
    edit(namespace, cache={"size": "2Gi"})

    def grown() -> None:
        assert namespace.get(CLAIMS, "cache-chat-0")["spec"]["resources"]["requests"]["storage"] == "2Gi"
        assert namespace.get(STATEFUL_SETS, "chat")["metadata"]["uid"] != statefulset
        is_ready(namespace)

    eventually(grown)
    assert uids(namespace) == {"chat-0": pod}

    edit(namespace, cache={"type": "Ephemeral", "size": None, "storageClassName": None})

    def gone() -> None:
        assert not namespace.exists(CLAIMS, "cache-chat-0")
        namespace.stands("chat")

    eventually(gone)


def test_pods_wait_until_a_shared_cache_is_filled(operator: Operator, namespace: Namespace) -> None:
    once = {"type": "Shared", "accessModes": ["ReadWriteOnce"]}
    with pytest.raises(Refused, match=r"cache.accessModes must hold ReadWriteMany"):
        namespace.serve("chat", model="org/model", replicas=2, cache=once)
    namespace.serve("chat", model="org/model", cache={"type": "Shared"})

    def reason() -> Any:
        return namespace.condition("chat", "Ready")["reason"]

    def downloads() -> str:
        names = [str(job["metadata"]["name"]) for job in namespace.list(JOBS)]
        assert (len(names), reason()) == (1, "Downloading")
        return names[0]

    name = eventually(downloads)
    assert not namespace.exists(STATEFUL_SETS, "chat")
    namespace.get(CLAIMS, "chat-cache")
    namespace.edit(JOBS, name, {"status": ended("Failed", "FailureTarget")}, "status")

    def failed() -> None:
        assert reason() == "DownloadFailed"

    eventually(failed)
    # Another model is another download, and the one that failed goes.
    edit(namespace, revision="v2")

    def another() -> str:
        other = downloads()
        assert other != name
        return other

    namespace.edit(JOBS, eventually(another), {"status": ended("Complete", "SuccessCriteriaMet")}, "status")
    eventually(lambda: namespace.stands("chat"))
    # What the claim was for is over.
    edit(namespace, cache={"type": None})

    def gone() -> None:
        assert namespace.list(JOBS) == []
        assert not namespace.exists(CLAIMS, "chat-cache")

    eventually(gone)
