"""What the chart installs."""

import re
import tomllib
from typing import Any

import kubernetes_validate
import pytest
import yaml
from helm.chart import CHART, ROOT, HelmFailed, Manifest, helm, of_kind, render

from textgen_operator.cli import _parser
from textgen_operator.crd import custom_resource_definition
from textgen_operator.kinds import OPTIONAL, PERMISSIONS, kind_of
from textgen_operator.render import Defaults
from textgen_operator.render import render as render_service
from textgen_operator.resource import TextGenerationService

DIGEST = "sha256:" + "0" * 64

VALUE_SETS: dict[str, Manifest] = {
    "defaults": {},
    "two namespaces": {"watch": {"namespaces": ["models", "staging"]}},
    "one namespace, nothing cluster-wide": {"watch": {"namespaces": ["models"]}, "crds": {"enabled": False}},
    "own account and roles": {"rbac": {"create": False}, "serviceAccount": {"create": False, "name": "robot"}},
    "definition goes with the release": {"crds": {"keep": False}},
    "everything": {
        "imageRegistry": "mirror.internal",
        "image": {"digest": DIGEST, "pullPolicy": "Always"},
        "serverImage": {"registry": "gpu.internal", "tag": "1.2.3"},
        "imagePullSecrets": [{"name": "login"}],
        "serviceAccount": {"annotations": {"example.com/role": "operator"}},
        "log": {"level": "debug", "format": "json"},
        "resources": {"limits": {"cpu": 1, "memory": "1Gi", "ephemeral-storage": "1Gi"}},
        "podAnnotations": {"example.com/a": "b"},
        "podLabels": {"team": "ml"},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "control", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "system-cluster-critical",
        "metrics": {"monitor": "Enabled", "alerts": True, "labels": {"release": "prometheus"}},
        "dashboards": {"annotations": {"grafana_folder": "textgen"}},
        "nameOverride": "tg",
        "fullnameOverride": "operator-of-textgen",
    },
}
NAMESPACED = ("ConfigMap", "Deployment", "Pod", "Role", "RoleBinding", "Service", "ServiceAccount")
OF_PROMETHEUS = ("PrometheusRule", "ServiceMonitor")
"""Kinds that the Prometheus operator brings; tests/helm/test_monitoring.py looks at what is in them."""


def minimum_version() -> str:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    found = re.fullmatch(r">=(\d+\.\d+)\.0-0", chart["kubeVersion"])
    assert found
    return found[1]


def deployment(values: Manifest | None = None) -> Manifest:
    (found,) = of_kind(render(values), "Deployment")
    return found


def container(values: Manifest | None = None) -> Manifest:
    (found,) = deployment(values)["spec"]["template"]["spec"]["containers"]
    return dict(found)


def granted(manifests: list[Manifest]) -> set[tuple[str, str, str]]:
    """All (group, resource, verb) of the operator's own roles among the manifests."""
    bound = {binding["roleRef"]["name"] for binding in of_kind(manifests, "ClusterRoleBinding", "RoleBinding")}
    return {
        (group, resource, verb)
        for role in of_kind(manifests, "ClusterRole", "Role")
        if role["metadata"]["name"] in bound
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_lint_finds_nothing() -> None:
    helm("lint", CHART, "--strict")


@pytest.mark.parametrize("version", [minimum_version(), kubernetes_validate.latest_version()])
@pytest.mark.parametrize("values", VALUE_SETS.values(), ids=VALUE_SETS)
def test_every_manifest_is_valid_from_the_oldest_to_the_newest_kubernetes(values: Manifest, version: str) -> None:
    for manifest in render(values):
        if manifest["kind"] not in OF_PROMETHEUS:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_an_older_kubernetes_is_refused() -> None:
    major, minor = minimum_version().split(".")
    with pytest.raises(HelmFailed, match="kubeVersion"):
        helm("template", "t", CHART, "--kube-version", f"{major}.{int(minor) - 1}.0")


@pytest.mark.parametrize("values", VALUE_SETS.values(), ids=VALUE_SETS)
def test_namespaced_objects_name_their_namespace(values: Manifest) -> None:
    for manifest in render(values):
        kind = manifest["kind"]
        assert ("namespace" in manifest["metadata"]) == (kind in NAMESPACED + OF_PROMETHEUS), kind


# --- the definition ---------------------------------------------------------------------------------------------------


def test_the_definition_is_the_operators_own() -> None:
    (crd,) = of_kind(render(), "CustomResourceDefinition")
    assert crd["spec"] == custom_resource_definition()["spec"]


def test_the_definition_outlives_the_release_unless_told_otherwise() -> None:
    (kept,) = of_kind(render(), "CustomResourceDefinition")
    (dropped,) = of_kind(render({"crds": {"keep": False}}), "CustomResourceDefinition")
    assert kept["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert "helm.sh/resource-policy" not in dropped["metadata"].get("annotations", {})


# --- permissions ------------------------------------------------------------------------------------------------------


def test_the_role_is_what_the_code_asks_for() -> None:
    (role,) = [role for role in of_kind(render(), "ClusterRole") if role["metadata"]["name"] == "textgen"]
    assert role["rules"] == list(PERMISSIONS)


def test_every_rendered_kind_may_be_watched_and_applied() -> None:
    service = TextGenerationService.model_validate(yaml.safe_load((ROOT / "examples" / "maximal.yaml").read_text()))
    allowed = granted(render())
    for kind in map(kind_of, render_service(service, Defaults())):
        for verb in ("get", "list", "watch", "create", "patch"):
            assert (kind.group, kind.plural, verb) in allowed, (kind.plural, verb)


@pytest.mark.parametrize("values", VALUE_SETS.values(), ids=VALUE_SETS)
def test_nothing_is_granted_wholesale_and_no_secret_can_be_listed(values: Manifest) -> None:
    for group, resource, verb in granted(render(values)):
        assert "*" not in (group, resource, verb)
        assert resource != "pods/exec"
        assert resource != "secrets" or verb in ("get", "create")
        assert not group.startswith("rbac.")


def test_with_namespaces_the_operator_has_rights_in_these_alone() -> None:
    manifests = render({"watch": {"namespaces": ["models", "staging"]}})
    assert not of_kind(manifests, "ClusterRoleBinding")
    for kind in ("Role", "RoleBinding"):
        found = [role["metadata"]["namespace"] for role in of_kind(manifests, kind)]
        # The last is for the Lease.
        assert found == ["models", "staging", "textgen-system"]
    assert granted(manifests) == granted(render())


def test_without_the_definition_a_namespaced_release_installs_nothing_cluster_wide() -> None:
    manifests = render(VALUE_SETS["one namespace, nothing cluster-wide"])
    assert {manifest["kind"] for manifest in manifests} == set(NAMESPACED)


def test_the_roles_are_bound_to_the_account_of_the_pod() -> None:
    values = {"serviceAccount": {"create": False, "name": "robot"}}
    (binding,) = of_kind(render(values), "ClusterRoleBinding")
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "robot", "namespace": "textgen-system"}]
    assert deployment(values)["spec"]["template"]["spec"]["serviceAccountName"] == "robot"


# --- the operator's pod -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", VALUE_SETS.values(), ids=VALUE_SETS)
def test_the_operator_understands_its_arguments(values: Manifest) -> None:
    _parser().parse_args(container(values)["args"])


def test_the_operator_watches_the_namespaces_of_the_values() -> None:
    args = _parser().parse_args(container({"watch": {"namespaces": ["models", "staging"]}})["args"])
    assert args.namespace == ["models", "staging"]


def test_of_several_operators_one_leads() -> None:
    assert deployment({"replicas": 2})["spec"]["replicas"] == 2
    assert "--lease-name=textgen" in container()["args"]
    (variable,) = container()["env"]
    assert (variable["name"], variable["valueFrom"]["fieldRef"]["fieldPath"]) == ("POD_NAME", "metadata.name")


@pytest.mark.parametrize(
    "values", [{"imageRegistry": "mirror.internal"}, {"global": {"imageRegistry": "mirror.internal"}}], ids=str
)
def test_a_mirror_is_one_value_for_every_image_that_the_release_brings_into_the_cluster(values: Manifest) -> None:
    assert container()["image"].startswith("ghcr.io/")
    assert server_image(container(values)).startswith("mirror.internal/")
    images = re.findall(r"\bimage: *(\S+)", helm("template", "textgen", CHART, values=values))
    assert len(images) >= 2
    assert {image.partition("/")[0] for image in images} == {"mirror.internal"}


def test_a_digest_wins_over_a_tag() -> None:
    found = container({"image": {"tag": "1", "digest": DIGEST}, "serverImage": {"tag": "1", "digest": DIGEST}})
    assert found["image"].endswith(f"textgen-operator@{DIGEST}")
    assert server_image(found).endswith(f"textgen-server@{DIGEST}")


def test_images_and_chart_have_the_projects_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (version, version)
    assert container()["image"].endswith(f":{version}")


def server_image(found: dict[str, Any]) -> str:
    return str(_parser().parse_args(found["args"]).server_image)


# --- helm test --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", VALUE_SETS.values(), ids=VALUE_SETS)
def test_the_test_asks_the_operator_where_it_answers(values: Manifest) -> None:
    manifests = render(values)
    (pod,), (service,) = of_kind(manifests, "Pod"), of_kind(manifests, "Service")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    (check,) = pod["spec"]["containers"]
    args = _parser().parse_args(check["args"])
    operator = container(values)
    (port,) = service["spec"]["ports"]
    assert args.operator_url == f"http://{service['metadata']['name']}:{port['port']}"
    assert {"name": port["targetPort"], "containerPort": args_port(operator)} in operator["ports"]
    assert args.namespace == values.get("watch", {}).get("namespaces", [])
    assert check["image"] == operator["image"]
    template = deployment(values)["spec"]["template"]
    assert pod["spec"]["serviceAccountName"] == template["spec"]["serviceAccountName"]
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    # Else the Service would send questions to the one who asks.
    assert not service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()


def args_port(operator: Manifest) -> int:
    return int(_parser().parse_args(operator["args"]).liveness_port)


@pytest.mark.parametrize("kind", ["Pod", "Deployment"])
def test_pods_are_of_the_restricted_profile(kind: str) -> None:
    (found,) = of_kind(render(), kind)
    spec = found["spec"] if kind == "Pod" else found["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for each in spec["containers"]:
        assert each["securityContext"]["allowPrivilegeEscalation"] is False
        assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert each["securityContext"]["readOnlyRootFilesystem"]


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("values", "namespace"), [({}, "default"), ({"watch": {"namespaces": ["models"]}}, "models")])
def test_the_notes_hold_a_service_that_can_be_pasted(values: Manifest, namespace: str) -> None:
    notes = helm("install", "textgen", CHART, "--dry-run=client", values=values)
    found = re.search(r"kubectl apply -n (\S+) -f - <<EOF\n(.*?)EOF", notes, re.DOTALL)
    assert found
    assert found[1] == namespace
    TextGenerationService.model_validate(yaml.safe_load(found[2]))


def test_the_notes_say_which_kinds_the_cluster_lacks() -> None:
    notes = helm("install", "textgen", CHART, "--dry-run=client")
    for kind in OPTIONAL:
        assert f"missing  {kind.name}, of {kind.provider}" in notes


def test_the_charts_example_is_a_valid_service() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    (example,) = yaml.safe_load(chart["annotations"]["artifacthub.io/crdsExamples"])
    TextGenerationService.model_validate(example)
