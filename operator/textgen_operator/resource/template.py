"""The way out where no field will do: parts of the pod's template, merged over what the operator renders."""

from typing import ClassVar

from pydantic import Field

from textgen_operator.resource.affinity import AsInAPod
from textgen_operator.resource.types import Annotation, LabelValue
from textgen_operator.rules import Part, Rule

OUR_LABELS = ("app.kubernetes.io/", "textgen.dev/")
"""How the labels begin that lead from a pod to its service."""

_OURS = " || ".join(f"k.startsWith('{prefix}')" for prefix in OUR_LABELS)


class TemplateMeta(Part):
    """Labels and annotations of the pods."""

    labels: dict[str, LabelValue] = Field(default={}, max_length=32)
    """More labels."""

    annotations: dict[str, Annotation] = Field(default={}, max_length=32)
    """More annotations."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "podTemplate.metadata.labels must not begin with app.kubernetes.io/ or textgen.dev/, by which the pods are "
            "found: choose other labels",
            f"!has(self.labels) || !self.labels.exists(k, {_OURS})",
            lambda meta: not any(name.startswith(OUR_LABELS) for name in meta.labels),
            ".labels",
        ),
    )


class PodTemplate(Part):
    """Parts of a pod's template, merged last over what the other fields make, as `kubectl patch` merges them: objects
    by field, lists of named things by name, null removes. What it changes is in status.overrides."""

    metadata: TemplateMeta = TemplateMeta()
    spec: AsInAPod = Field(default={})
    """Parts of the pod's spec. The server's container is called `server`."""
