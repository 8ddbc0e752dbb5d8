"""spec -> manifests, one file for each kind. Pure: no clock, no cluster, the same input gives the same output.

Called by the reconciler and, without a cluster, by `textgen-operator run` and `render`. A new manifest is a new file
and a line in `render`.
"""

from collections.abc import Set

from textgen_operator.kinds import Kind, Manifest
from textgen_operator.render import (
    cache,
    disruption,
    download,
    interception,
    monitor,
    policy,
    routes,
    scaling,
    workload,
)
from textgen_operator.render import service as services
from textgen_operator.render.defaults import Defaults
from textgen_operator.resource import TextGenerationService
from textgen_operator.workloads import pod_spec

__all__ = ["Defaults", "render"]


def render(service: TextGenerationService, defaults: Defaults, served: Set[Kind] = frozenset()) -> list[Manifest]:
    """Every object that should exist for a service, in the order in which to make them.

    Args:
        service: the custom resource.
        defaults: what the installation decides.
        served: optional kinds that the cluster knows; what the spec asks for in so many words is rendered anyway.

    Raises:
        pydantic.ValidationError: the server would not take the options that the spec asks for.
    """
    pods = workload.render(service, defaults)
    return [
        services.render_headless(service),
        services.render(service),
        *policy.render(service, served),
        *cache.shared_claim(service),
        *download.render(service, pod_spec(pods)),
        pods,
        *disruption.render(service),
        *interception.render(service, served),
        *scaling.render(service, served),
        *routes.render(service, served),
        *monitor.render(service, served),
    ]
