"""A real API server, the chart installed into it, and the operator beside it with the chart's rights.

Skipped with one line where the binaries are missing. One control plane serves all tests; each has its own namespace.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.control_plane import BinariesMissing, ControlPlane, api_server, controller_manager, find_binaries
from cluster.kube import Kube, Namespace, eventually
from cluster.operator_process import RELEASE, SYSTEM, Operator
from helm.chart import CHART, HelmMissing, find_helm, helm

from textgen_operator.kinds import SERVICES_OF_OURS

HERE = Path(__file__).parent

_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("cluster")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    # In a hook, not in a fixture, so that all tests are skipped with one line.
    if "plane" in getattr(item, "fixturenames", ()):
        try:
            find_binaries()
            find_helm()
        except (BinariesMissing, HelmMissing) as missing:
            pytest.skip(str(missing))


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    """The API server."""
    with api_server(find_binaries()) as plane:
        yield plane


@pytest.fixture(scope="session")
def kube(plane: ControlPlane) -> Iterator[Kube]:
    """The cluster with all rights, and the chart installed into it."""
    with plane.client() as http:
        kube = Kube(http)
        kube.create_namespace(SYSTEM)
        helm("install", RELEASE, CHART, "--namespace", SYSTEM, "--kubeconfig", plane.kubeconfig("helm"))

        def served() -> None:
            assert kube.serves(SERVICES_OF_OURS)

        eventually(served)
        with controller_manager(find_binaries(), plane):
            yield kube


@pytest.fixture(scope="session")
def _operator(plane: ControlPlane, kube: Kube, request: pytest.FixtureRequest) -> Iterator[Operator]:
    operator = Operator(plane.kubeconfig("operator", kube.token(SYSTEM, RELEASE), SYSTEM))
    yield operator
    if operator.running:
        operator.stop()
    if request.session.testsfailed:
        print(operator.log_tail())


@pytest.fixture
def operator(plane: ControlPlane, _operator: Operator) -> Iterator[Operator]:
    """The operator for the whole cluster, running when the test begins; at the end, it had every right that it used."""
    mark = plane.audit.mark()
    if not _operator.running:
        _operator.start()
    yield _operator
    assert [request for request in plane.audit.since(mark) if not request.allowed] == []


@pytest.fixture
def no_operator(_operator: Operator) -> None:
    """Nobody but the API server and its controllers."""
    if _operator.running:
        _operator.stop()


@pytest.fixture
def namespace(kube: Kube) -> Iterator[Namespace]:
    """An empty namespace, in which restricted pods may be made. At the end its services are deleted; the namespace
    itself stays, because that would take seconds."""
    namespace = Namespace(kube, f"test-{next(_numbers)}")
    kube.create_namespace(namespace.name)
    yield namespace
    namespace.delete_services()
