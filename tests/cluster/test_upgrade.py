"""The definition changes while the operator runs, as in an upgrade of the chart."""

import copy
from collections.abc import Iterator

import pytest
from cluster.kube import Kube, Namespace, Refused, eventually, service
from cluster.operator_process import Operator

from textgen_operator.kinds import SERVICES_OF_OURS, STATEFUL_SETS, Kind, Manifest
from textgen_operator.resource import GROUP, PLURAL

DEFINITIONS = Kind("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions")
DEFINITION = f"{PLURAL}.{GROUP}"
PROBE = service("probe", shards=99)
"""A service that the definition refuses, and a looser one does not."""


def accepts_probe(kube: Kube) -> bool:
    try:
        kube.post(SERVICES_OF_OURS.path("default"), PROBE, dry_run=True)
    except Refused:
        return False
    return True


@pytest.fixture
def loose_definition(kube: Kube) -> Iterator[None]:
    """A definition that takes any spec, as an older or newer one might; at the end the chart's own is back."""
    original = kube.get(DEFINITIONS, "", DEFINITION)
    assert original is not None
    loose = copy.deepcopy(original)
    (version,) = loose["spec"]["versions"]
    version["schema"]["openAPIV3Schema"]["properties"]["spec"] = {
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": True,
        # What the scale subresource needs.
        "properties": {"replicas": {"type": "integer", "default": 1}},
    }
    put_definition(kube, loose, accepts=True)
    yield
    put_definition(kube, original, accepts=False)


def put_definition(kube: Kube, definition: Manifest, *, accepts: bool) -> None:
    kube.patch(DEFINITIONS, "", DEFINITION, {"spec": definition["spec"]})

    def in_force() -> None:
        assert accepts_probe(kube) == accepts

    eventually(in_force)


def test_a_spec_that_the_definition_let_in_is_reported_and_what_runs_is_left_alone(
    operator: Operator, namespace: Namespace, loose_definition: None
) -> None:
    namespace.serve("chat")
    before = eventually(lambda: namespace.stands("chat"))["spec"]
    namespace.edit(SERVICES_OF_OURS, "chat", {"spec": {"shards": 99, "dtype": "float16", "colour": "red"}})

    def reported() -> None:
        for kind in ("Accepted", "Ready"):
            condition = namespace.condition("chat", kind)
            assert (condition["status"], condition["reason"]) == ("False", "InvalidSpec")
            for words in ("spec.shards", "spec.colour: there is no such field"):
                assert words in condition["message"]

    eventually(reported)
    assert namespace.get(STATEFUL_SETS, "chat")["spec"] == before

    namespace.edit(SERVICES_OF_OURS, "chat", {"spec": {"shards": None, "colour": None}})

    def applied() -> None:
        (container,) = namespace.get(STATEFUL_SETS, "chat")["spec"]["template"]["spec"]["containers"]
        assert "float16" in container["args"]

    eventually(applied)
