"""What the operator renders for a service, part by part, for tests."""

from typing import Any

from operator_samples import service

from textgen_operator.kinds import Manifest
from textgen_operator.render import Defaults, render

DEFAULTS = Defaults(image="server:test")


def manifests(**spec: Any) -> dict[str, Manifest]:
    """Rendered objects by "Kind name"."""
    rendered = render(service(**spec), DEFAULTS)
    return {f"{manifest['kind']} {manifest['metadata']['name']}": manifest for manifest in rendered}


def statefulset(**spec: Any) -> Manifest:
    return manifests(**spec)["StatefulSet chat"]


def pod(**spec: Any) -> Manifest:
    return dict(statefulset(**spec)["spec"]["template"]["spec"])


def container(**spec: Any) -> Manifest:
    (server,) = pod(**spec)["containers"]
    return dict(server)


def args_of(**spec: Any) -> dict[str, str]:
    args = container(**spec)["args"]
    return dict(zip(args[::2], args[1::2], strict=True))


def env_of(**spec: Any) -> dict[str, Any]:
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in container(**spec)["env"]}


def volumes(**spec: Any) -> dict[str, Manifest]:
    return {volume["name"]: volume for volume in pod(**spec)["volumes"]}
