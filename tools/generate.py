"""Write every generated file from its one source; with --check, only say which have drifted.

Each generator returns {path: text}. Adding a generated file means adding a function and its name to GENERATORS.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from pydantic.fields import FieldInfo

from textgen_operator import crd, kinds, yamlfile
from textgen_server.settings import ServerOptions, env_of, flag_of
from tools.chart_readme import readme
from tools.dashboards import dashboards

ROOT = Path(__file__).resolve().parent.parent
PROTOCOLS = ("textgen_server/rpc/engine", "textgen_server/api/predictor/open_inference")
CHART = Path("helm/textgen")
CHART_FILES = CHART / "files"

Files = dict[Path, str]


def rpc_stubs() -> Files:
    """Each .proto -> _pb2.py, its type stub and _pb2_grpc.py, beside it."""
    sources = ROOT / "modelserver"
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{sources}"]
        command += [f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}"]
        subprocess.run([*command, *(f"{protocol}.proto" for protocol in PROTOCOLS)], check=True)
        names = (protocol + suffix for protocol in PROTOCOLS for suffix in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py"))
        return {sources.relative_to(ROOT) / name: (Path(out) / name).read_text() for name in names}


def flags_page() -> Files:
    """settings.py -> docs/flags.md."""
    rows = [
        f"| `{flag_of(name)}` | `{env_of(name)}` | {_default(field)} | {' '.join((field.description or '').split())} |"
        for name, field in ServerOptions.model_fields.items()
    ]
    head = [
        "<!-- Generated from modelserver/textgen_server/settings.py by `make generate`. Do not edit. -->",
        "# Flags of textgen-server",
        "",
        "Each may be given as a flag or as an environment variable; the flag wins.",
        "",
        "| flag | environment | default | meaning |",
        "|---|---|---|---|",
    ]
    return {Path("docs/flags.md"): "\n".join([*head, *rows]) + "\n"}


def _default(field: FieldInfo) -> str:
    if field.default in (None, ()):
        return ""
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


def custom_resource() -> Files:
    """resource/ -> crds/*.yaml, and the same in the chart."""
    text = crd.file_text()
    return {Path("crds") / crd.FILE_NAME: text, CHART_FILES / "crds" / crd.FILE_NAME: text}


def permissions() -> Files:
    """kinds.py -> the rules of the operator's roles in the chart."""
    head = "# Generated from operator/textgen_operator/kinds.py by `make generate`. Do not edit.\n"
    files = {"permissions.yaml": kinds.PERMISSIONS, "lease-permissions.yaml": kinds.LEASE_PERMISSIONS}
    return {CHART_FILES / name: head + yamlfile.dump([{"rules": list(rules)}]) for name, rules in files.items()}


def optional_kinds() -> Files:
    """kinds.py -> those that the chart's notes look for in the cluster."""
    known = [{"name": f"{kind.api_version}/{kind.name}", "provider": kind.provider} for kind in kinds.OPTIONAL]
    head = "# Generated from operator/textgen_operator/kinds.py by `make generate`. Do not edit.\n"
    return {CHART_FILES / "optional-kinds.yaml": head + yamlfile.dump([{"kinds": known}])}


def kserve_runtimes() -> Files:
    """The examples of ServingRuntimes -> the chart, which installs them for the whole cluster."""
    head = "# Generated from examples/kserve/{} by `make generate`. Do not edit.\n"
    runtimes = sorted((ROOT / "examples" / "kserve").glob("runtime*.yaml"))
    return {CHART_FILES / "kserve" / file.name: head.format(file.name) + file.read_text() for file in runtimes}


def grafana() -> Files:
    """tools/dashboards.py -> the dashboards in the chart."""
    folder = CHART_FILES / "dashboards"
    return {folder / name: json.dumps(dashboard, indent=1) + "\n" for name, dashboard in dashboards().items()}


def chart_readme() -> Files:
    """The chart's values -> its README."""
    return {CHART / "README.md": readme((ROOT / CHART / "values.yaml").read_text())}


def api_description() -> Files:
    """The server's routes -> docs/openapi.json."""
    # Imported late, because the routes need the stubs that are written before.
    from textgen_server.api.app import ROUTERS
    from textgen_server.api.description import describe

    return {Path("docs/openapi.json"): json.dumps(describe(ROUTERS, "smollm2"), indent=2, ensure_ascii=False) + "\n"}


GENERATORS: list[Callable[[], Files]] = [
    rpc_stubs,
    flags_page,
    custom_resource,
    permissions,
    optional_kinds,
    kserve_runtimes,
    grafana,
    chart_readme,
    api_description,
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not up to date")
    check = parser.parse_args().check
    stale = []
    for generate in GENERATORS:
        for path, text in generate().items():
            target = ROOT / path
            if target.exists() and target.read_text() == text:
                continue
            stale.append(path)
            if not check:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text)
    for path in stale:
        print(f"{'drifted' if check else 'wrote'}: {path}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
