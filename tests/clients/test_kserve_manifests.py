"""What examples/kserve tells KServe to do fits KServe's schemas, Kubernetes', and the server itself."""

import json
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from clients.environments import FOLDER, client_python

from textgen_server.settings import parse

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "kserve").glob("*.yaml"))
RUNTIMES = [path for path in EXAMPLES if path.stem.startswith("runtime")]
WRONG = {
    "kind": "ServingRuntime",
    "spec": {"protocolVersions": "v2", "containers": [{"name": "kserve-container", "livenessProb": {}}]},
}

each_runtime = pytest.mark.parametrize("file", RUNTIMES, ids=lambda path: path.stem)


def read(file: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = yaml.safe_load(file.read_text())
    return manifest


def container(file: Path) -> dict[str, Any]:
    (only,) = read(file)["spec"]["containers"]
    return dict(only)


@pytest.fixture(scope="module")
def misfits(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of the examples, and of a manifest that is wrong."""
    wrong = tmp_path_factory.mktemp("kserve") / "wrong.yaml"
    wrong.write_text(json.dumps(WRONG))
    command = [client_python("kserve"), FOLDER / "kserve_manifests.py", *EXAMPLES, wrong]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def test_the_examples_fit_kserves_schemas(misfits: list[str]) -> None:
    assert len(EXAMPLES) == 3
    assert [found for found in misfits if not found.startswith("wrong.yaml")] == []


def test_what_does_not_fit_is_noticed(misfits: list[str]) -> None:
    assert "wrong.yaml.spec.protocolVersions is no list" in misfits
    assert "wrong.yaml.spec.containers[0].livenessProb is not known" in misfits


@each_runtime
def test_runtimes_make_valid_pods(file: Path) -> None:
    spec = read(file)["spec"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "it"},
        "spec": {"containers": spec["containers"], "volumes": spec["volumes"]},
    }
    kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


@each_runtime
def test_the_server_understands_what_it_is_told(file: Path) -> None:
    (service,) = [read(path) for path in EXAMPLES if path not in RUNTIMES]
    told = container(file)
    settings = parse([*told["args"], *service["spec"]["predictor"]["model"]["args"]])
    assert settings.model_id == "/mnt/models"
    served = {settings.port, settings.grpc_port}
    asked = {port["containerPort"] for port in told.get("ports", [])}
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        (how,) = [told[name][kind] for kind in ("httpGet", "grpc", "tcpSocket") if kind in told[name]]
        asked.add(how["port"])
    assert asked <= served


def test_the_service_names_a_runtime_that_speaks_its_protocol() -> None:
    runtimes = {read(file)["metadata"]["name"]: read(file)["spec"] for file in RUNTIMES}
    (service,) = [read(path) for path in EXAMPLES if path not in RUNTIMES]
    model = service["spec"]["predictor"]["model"]
    runtime = runtimes[model["runtime"]]
    assert model["protocolVersion"] in runtime["protocolVersions"]
    assert model["modelFormat"]["name"] in [known["name"] for known in runtime["supportedModelFormats"]]
