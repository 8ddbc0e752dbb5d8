"""The chart's runtimes for KServe."""

from foreign_definitions import assert_fits
from helm.chart import of_kind, render

KIND = "ClusterServingRuntime"


def test_runtimes_for_all_namespaces_are_installed_when_asked_for() -> None:
    assert of_kind(render(), KIND) == []
    found = of_kind(render({"kserve": {"runtimes": True}, "imageRegistry": "mirror.internal"}), KIND)
    assert {runtime["metadata"]["name"] for runtime in found} == {"textgen", "textgen-grpc"}
    for runtime in found:
        assert_fits(runtime, "clusterservingruntimes")
        (container,) = runtime["spec"]["containers"]
        assert container["image"].startswith("mirror.internal/textgen/textgen-server:")
        # KServe puts the name of the InferenceService there; helm must not.
        assert "--served-model-name={{.Name}}" in container["args"]
