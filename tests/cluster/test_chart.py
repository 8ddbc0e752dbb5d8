"""The chart's release in a real cluster: `helm test`'s check, and what outlives the release."""

import subprocess

from cluster.control_plane import ControlPlane
from cluster.kube import Kube, Namespace, eventually
from cluster.operator_process import PROGRAM, RELEASE, SYSTEM, Operator
from helm.chart import CHART, helm, of_kind, render

from textgen_operator.kinds import LEASES, PODS, SERVICES, SERVICES_OF_OURS, STATEFUL_SETS, Kind, Manifest

NODES = Kind("v1", "Node", "nodes")
OBJECTS = ((SERVICES_OF_OURS, "chat"), (STATEFUL_SETS, "chat"), (SERVICES, "chat"), (PODS, "chat-0"))


def test_an_installation_that_works_passes_its_check(plane: ControlPlane, kube: Kube, operator: Operator) -> None:
    config = plane.kubeconfig("check", kube.token(SYSTEM, RELEASE), SYSTEM)
    command = [str(PROGRAM), "check", f"--operator-url={operator.url}", "--wait=60"]
    result = subprocess.run(
        command, env={"KUBECONFIG": str(config)}, capture_output=True, text=True, check=False, timeout=120
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "serves TextGenerationService (textgen.dev/v1alpha1) with every field" in result.stdout
    assert result.stdout.count("ok: ") == 3


def test_the_pod_of_helm_test_is_admitted_where_only_restricted_pods_are(kube: Kube) -> None:
    (pod,) = of_kind(render(), "Pod")
    kube.post(PODS.path(SYSTEM), pod, dry_run=True)


def test_what_is_served_outlives_the_release_and_the_next_one_takes_it_over(
    plane: ControlPlane, kube: Kube, namespace: Namespace, operator: Operator
) -> None:
    namespace.serve("chat")
    eventually(lambda: namespace.stands("chat"))
    namespace.make_ready("chat")
    eventually(lambda: is_ready(namespace))
    before = uids(namespace)
    operator.stop()
    admin = ("--namespace", SYSTEM, "--kubeconfig", plane.kubeconfig("helm"))
    helm("uninstall", RELEASE, *admin)
    try:
        assert uids(namespace) == before
        namespace.kube.post(NODES.path(), a_node_with_gpus())
    finally:
        notes = helm("install", RELEASE, CHART, *admin)
        namespace.kube.delete_all(NODES, "")
        # The account is another one of the same name.
        plane.kubeconfig("operator", kube.token(SYSTEM, RELEASE), SYSTEM)
        eventually(lambda: has_its_rights_again(kube))
    operator.start()
    # It works, and has been at this service: what somebody deletes comes back.
    namespace.delete(SERVICES, "chat-pods")
    eventually(lambda: namespace.get(SERVICES, "chat-pods"))
    eventually(lambda: is_ready(namespace))
    assert uids(namespace) == before
    assert "GPUs: 8 of nvidia.com/gpu, NVIDIA-H100-80GB-HBM3, on 1 node\n" in notes


def a_node_with_gpus() -> Manifest:
    labels = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    return {
        "metadata": {"name": "gpus", "labels": labels},
        "status": {"allocatable": {"nvidia.com/gpu": "8", "cpu": "9"}},
    }


def has_its_rights_again(kube: Kube) -> None:
    account = f"system:serviceaccount:{SYSTEM}:{RELEASE}"
    assert kube.allows(account, "list", SERVICES_OF_OURS, "default")
    assert kube.allows(account, "patch", LEASES, SYSTEM)


def is_ready(namespace: Namespace) -> bool:
    assert namespace.condition("chat", "Ready")["status"] == "True"
    return True


def uids(namespace: Namespace) -> dict[str, str]:
    """What is there, by kind."""
    return {kind.name: namespace.get(kind, name)["metadata"]["uid"] for kind, name in OBJECTS}
