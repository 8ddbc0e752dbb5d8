"""From a TextGenerationService to the objects that run it."""

import contextlib
import io
from pathlib import Path

import pytest
import yaml
from cluster.kube import Kube, Namespace, ended, eventually
from cluster.operator_process import SERVER_IMAGE, Operator

from textgen_operator.cli import main
from textgen_operator.kinds import (
    CLAIMS,
    JOBS,
    OPTIONAL,
    PODS,
    SERVICES,
    SERVICES_OF_OURS,
    STATEFUL_SETS,
    Kind,
    Manifest,
    kind_of,
)
from textgen_operator.references import references
from textgen_operator.rollout import rotation

FOREIGN = {"published.yaml", "two-nodes.yaml"}
"""Examples whose pods belong to a kind that other projects bring: see test_kserve.py and test_nodes.py."""

EXAMPLES = sorted(file for file in (Path(__file__).parents[2] / "examples").glob("*.yaml") if file.name not in FOREIGN)
A_VOLUME = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
OBJECTS = ((STATEFUL_SETS, "chat"), (SERVICES, "chat"), (SERVICES, "chat-pods"))


def test_objects_stand_soon_after_apply(operator: Operator, namespace: Namespace) -> None:
    namespace.serve("chat", replicas=2)
    statefulset = eventually(lambda: namespace.stands("chat"))
    assert statefulset["spec"]["podManagementPolicy"] == "Parallel"
    assert statefulset["spec"]["serviceName"] == "chat-pods"
    assert namespace.get(SERVICES, "chat")["spec"]["ports"][0]["port"] == 80
    assert namespace.get(SERVICES, "chat-pods")["spec"]["clusterIP"] == "None"
    assert [pod["metadata"]["name"] for pod in namespace.list(PODS, "chat")] == ["chat-0", "chat-1"]


def test_objects_belong_to_their_service(operator: Operator, namespace: Namespace) -> None:
    uid = namespace.serve("chat")["metadata"]["uid"]
    eventually(lambda: namespace.stands("chat"))
    for kind, name in OBJECTS:
        (owner,) = namespace.get(kind, name)["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"], owner["blockOwnerDeletion"]) == (uid, True, True)


def test_the_service_itself_is_not_written_to(operator: Operator, namespace: Namespace) -> None:
    created = namespace.serve("chat")
    eventually(lambda: namespace.condition("chat", "Accepted"))
    now = namespace.get(SERVICES_OF_OURS, "chat")
    for field in ("finalizers", "annotations", "labels", "ownerReferences"):
        assert field not in now["metadata"]
    assert (now["spec"], now["metadata"]["generation"]) == (created["spec"], 1)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_cluster_runs_what_render_prints(
    operator: Operator, kube: Kube, namespace: Namespace, example: Path, tmp_path: Path
) -> None:
    manifest = yaml.safe_load(example.read_text())
    by_hand = Namespace(kube, f"{namespace.name}-by-hand")
    kube.create_namespace(by_hand.name)
    manifest["metadata"]["namespace"] = by_hand.name
    printed = [found for found in rendered(manifest, tmp_path) if kind_of(found) not in OPTIONAL]
    for found in printed:
        kube.post(kind_of(found).path(by_hand.name), found)

    make_what_pods_refer_to(namespace, printed)
    manifest["metadata"]["namespace"] = namespace.name
    kube.post(SERVICES_OF_OURS.path(namespace.name), manifest)
    for found in printed:
        kind, name = kind_of(found), found["metadata"]["name"]
        theirs = eventually(lambda kind=kind, name=name: lasting_spec(namespace, kind, name))
        assert theirs == lasting_spec(by_hand, kind, name)
        if kind is JOBS:
            namespace.edit(JOBS, name, {"status": ended("Complete", "SuccessCriteriaMet")}, "status")


def make_what_pods_refer_to(namespace: Namespace, printed: list[Manifest]) -> None:
    """Secrets and the like, which the operator wants to see before it makes anything."""
    (statefulset,) = (found for found in printed if found["kind"] == STATEFUL_SETS.name)
    wanted: dict[tuple[Kind, str], dict[str, str]] = {}
    for reference in references(statefulset["spec"]["template"]["spec"]):
        wanted.setdefault((reference.kind, reference.name), {}).update({reference.key: ""} if reference.key else {})
    printed_claims = {found["metadata"]["name"] for found in printed if kind_of(found) is CLAIMS}
    for (kind, name), data in wanted.items():
        if kind is CLAIMS and name in printed_claims:
            continue
        body = {"spec": A_VOLUME} if kind is CLAIMS else {"data": data}
        namespace.kube.post(kind.path(namespace.name), {"metadata": {"name": name}, **body})


def rendered(service: Manifest, folder: Path) -> list[Manifest]:
    """What `textgen-operator render` prints for a service."""
    file = folder / "service.yaml"
    file.write_text(yaml.safe_dump(service))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["render", str(file), f"--server-image={SERVER_IMAGE}"]) == 0
    return [manifest for manifest in yaml.safe_load_all(printed.getvalue()) if manifest]


def lasting_spec(namespace: Namespace, kind: Kind, name: str) -> Manifest:
    """An object's spec without what only the cluster knows: the addresses of a Service, the values of secrets, and the
    labels by which a Job finds its pods."""
    spec = namespace.get(kind, name)["spec"]
    if kind is JOBS:
        return dict(spec["template"]["spec"])
    if spec.get("clusterIP") != "None":
        spec = {key: value for key, value in spec.items() if key not in ("clusterIP", "clusterIPs")}
    annotations = spec.get("template", {}).get("metadata", {}).get("annotations", {})
    if annotations.pop(rotation.ANNOTATION, None) and not annotations:
        del spec["template"]["metadata"]["annotations"]
    return dict(spec)
