"""Kinds that other projects bring to a cluster, and that come and go in tests."""

from collections.abc import Iterator
from contextlib import contextmanager

from cluster.kube import Kube, eventually

from textgen_operator.kinds import Kind, Manifest

DEFINITIONS = Kind("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions")


def anything(kind: Kind) -> Manifest:
    """A definition of a kind that takes anything."""
    names = {"kind": kind.name, "plural": kind.plural, "singular": kind.name.lower()}
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": kind.api_version.rpartition("/")[2], "served": True, "storage": True}
    versions = [version | {"schema": {"openAPIV3Schema": schema}}]
    return {
        "metadata": {"name": f"{kind.plural}.{kind.group}"},
        "spec": {"group": kind.group, "scope": "Namespaced", "names": names, "versions": versions},
    }


@contextmanager
def served(kube: Kube, kind: Kind, definition: Manifest | None = None) -> Iterator[None]:
    """The cluster knows the kind inside."""
    made = kube.post(DEFINITIONS.path(), definition or anything(kind))

    def known() -> None:
        assert kube.serves(kind)

    def gone() -> None:
        assert kube.get(DEFINITIONS, "", made["metadata"]["name"]) is None

    try:
        eventually(known)
        yield
    finally:
        kube.delete(DEFINITIONS, "", made["metadata"]["name"])
        eventually(gone)
