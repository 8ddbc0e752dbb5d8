"""The chart in a real cluster: who may do what, and that it is enough and not too much."""

from collections.abc import Iterator

import pytest
from cluster.control_plane import ControlPlane
from cluster.kube import Kube, Namespace, eventually
from cluster.operator_process import RELEASE, SYSTEM, Operator
from helm.chart import CHART, helm

from textgen_operator.kinds import PERMISSIONS, PODS, PRUNED, SECRETS, SERVICES_OF_OURS, STATEFUL_SETS, Kind

ROLE_BINDINGS = Kind("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings")
EVERY_VERB = ("get", "list", "watch", "create", "patch", "delete")
CHECKED_INSIDE = {
    ("apps", "statefulsets", "create"),
    ("", "services", "create"),
    ("", "services", "delete"),
    ("", "events", "create"),
    ("textgen.dev", "textgenerationservices/finalizers", "update"),
}
"""Rights that the API server asks for while it handles a patch: when that creates the object, and when it sets an
owner, also of an object that was there before. They are no requests of their own."""

USED_ELSEWHERE = {
    ("", "pods", "delete"),
    ("", "secrets", "create"),
    ("", "persistentvolumeclaims", "list"),
    ("", "persistentvolumeclaims", "patch"),
    ("", "persistentvolumeclaims", "delete"),
    *((rule_kind.group, rule_kind.plural, verb) for rule_kind in PRUNED for verb in EVERY_VERB),
}
"""Rights for rollouts, several nodes, and objects that only some services have: of tests in other files."""

ACCOUNT = f"system:serviceaccount:{SYSTEM}:{RELEASE}"


def test_the_operators_pod_is_admitted_where_only_restricted_pods_are(kube: Kube) -> None:
    def made() -> None:
        assert [pod["spec"]["serviceAccountName"] for pod in kube.list(PODS, SYSTEM)] == [RELEASE]

    eventually(made)


@pytest.mark.parametrize(
    ("verb", "kind"),
    [
        ("list", SECRETS),
        ("watch", SECRETS),
        ("delete", SERVICES_OF_OURS),
        ("patch", SERVICES_OF_OURS),
        ("create", PODS),
    ],
    ids=str,
)
def test_the_operator_may_not(kube: Kube, verb: str, kind: Kind) -> None:
    assert not kube.allows(ACCOUNT, verb, kind, "default")


def test_the_life_of_a_service_needs_every_right_that_the_chart_grants(
    operator: Operator, namespace: Namespace, plane: ControlPlane
) -> None:
    operator.stop()
    mark = plane.audit.mark()
    operator.start()
    namespace.serve("chat")
    eventually(lambda: namespace.stands("chat"))
    old = namespace.get(STATEFUL_SETS, "chat")["metadata"]["uid"]
    (pod,) = namespace.list(PODS, "chat")
    namespace.report(pod, ready=False)
    # Whatever a pod needs is looked for by its name.
    variable = {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "x", "key": "x"}}}
    cache = {"type": "Existing", "claimName": "x"}
    namespace.serve("wanting", huggingFace={"tokenSecretRef": {"name": "x"}}, env=[variable], cache=cache)
    # A claim for each replica cannot be added to a StatefulSet: it has to be made anew.
    namespace.edit(SERVICES_OF_OURS, "chat", {"spec": {"cache": {"type": "PerReplica"}}})

    def made_anew() -> None:
        assert namespace.get(STATEFUL_SETS, "chat")["metadata"]["uid"] != old
        used = {(*request.right, request.verb) for request in plane.audit.since(mark)}
        assert granted() - used <= CHECKED_INSIDE | USED_ELSEWHERE

    eventually(made_anew)


def granted() -> set[tuple[str, str, str]]:
    """Every right, but for those on kinds that only some services have."""
    seldom = {(kind.group, kind.plural) for kind in PRUNED}
    return {
        (group, resource, verb)
        for rule in PERMISSIONS
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        if (group, resource) not in seldom
    }


# --- people -----------------------------------------------------------------------------------------------------------


def bind(namespace: Namespace, role: str) -> str:
    """Give a user one of Kubernetes' own roles in the namespace; the user's name."""
    user = f"{role}-of-{namespace.name}"
    binding = {
        "metadata": {"name": role},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    }
    namespace.kube.post(ROLE_BINDINGS.path(namespace.name), binding)
    return user


@pytest.mark.parametrize(("role", "may_write"), [("view", False), ("edit", True), ("admin", True)])
def test_who_works_in_a_namespace_may_do_so_with_its_services(namespace: Namespace, role: str, may_write: bool) -> None:
    user = bind(namespace, role)

    def may(verb: str, subresource: str = "") -> bool:
        return namespace.kube.allows(user, verb, SERVICES_OF_OURS, namespace.name, subresource)

    def aggregated() -> None:
        assert may("list")

    eventually(aggregated)
    assert may("get", "status")
    for verb in ("create", "patch", "delete"):
        assert may(verb) == may_write
    assert may("patch", "scale") == may_write
    assert not may("patch", "status")


# --- a release for some namespaces ------------------------------------------------------------------------------------


@pytest.fixture
def small_operator(no_operator: None, namespace: Namespace, plane: ControlPlane) -> Iterator[Operator]:
    """The operator of a second release, for the test's namespace alone."""
    values = {"watch": {"namespaces": [namespace.name]}, "crds": {"enabled": False}, "fullnameOverride": "small"}
    cluster = ("--namespace", SYSTEM, "--kubeconfig", plane.kubeconfig("helm"))
    helm("install", "small", CHART, *cluster, values=values)
    token = namespace.kube.token(SYSTEM, "small")
    kubeconfig = plane.kubeconfig("small", token, SYSTEM)
    operator = Operator(kubeconfig, namespaces=(namespace.name,), release="small")
    operator.start()
    yield operator
    operator.stop()
    helm("uninstall", "small", *cluster)


def test_with_roles_in_some_namespaces_it_works_there_and_nowhere_else(
    kube: Kube, namespace: Namespace, plane: ControlPlane, small_operator: Operator
) -> None:
    mark = plane.audit.mark()
    elsewhere = Namespace(kube, f"{namespace.name}-elsewhere")
    kube.create_namespace(elsewhere.name)
    elsewhere.serve("chat")
    namespace.serve("chat")
    eventually(lambda: namespace.stands("chat"))
    elsewhere.delete_services()
    assert elsewhere.list(STATEFUL_SETS) == []
    requests = [request for request in plane.audit.since(mark) if request.resource and request.resource != "leases"]
    assert {request.namespace for request in requests} == {namespace.name}
    assert {request.status for request in requests} <= {200, 201, 404}
