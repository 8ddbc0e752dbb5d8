"""The command `textgen-operator`."""

import argparse
import asyncio
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from textgen_operator.kinds import Manifest
from textgen_operator.render import Defaults, render, statefulset
from textgen_operator.render.defaults import SERVER_IMAGE
from textgen_operator.resource import TextGenerationService
from textgen_operator.yamlfile import SourceError, dump, load_service, load_services


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.command(arguments)
    except (SourceError, ValidationError) as error:
        print(error, file=sys.stderr)
        return 2
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="textgen-operator", description="Serve language models, as TextGenerationServices in a cluster or here."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="be the operator of the cluster of the current kubeconfig, or around us")
    serve.add_argument("--namespace", action="append", default=[], metavar="NS", help="work only there (repeatable)")
    serve.add_argument("--workers", type=int, default=8, help="services looked at simultaneously (default: 8)")
    serve.add_argument(
        "--liveness-port", type=int, default=0, metavar="PORT", help="answer GET /healthz (default: not)"
    )
    serve.add_argument(
        "--lease-name", default="textgen-operator", metavar="NAME", help="for which operators compete: one works"
    )
    serve.add_argument(
        "--lease-seconds", type=int, default=30, metavar="S", help="until a killed leader is replaced (default: 30)"
    )
    serve.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    serve.add_argument("--log-format", default="text", choices=["text", "json"])
    _add_image(serve)
    serve.set_defaults(command=_serve)

    run = commands.add_parser("run", help="serve one service on this machine, without a cluster")
    _add_file(run)
    run.add_argument("--port", type=int, default=8080, help="port to listen on (default: 8080)")
    run.add_argument("--hostname", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    run.add_argument(
        "--print-docker", action="store_true", help="run nothing; print the `docker run` command that equals the pod"
    )
    _add_image(run)
    run.set_defaults(command=_run)

    state = commands.add_parser("status", help="say how a service of the cluster is, and why it is not ready")
    state.add_argument("name", help="which service")
    _add_namespace(state)
    state.set_defaults(command=_status)

    change = commands.add_parser("plan", help="say what applying a service would change, and which pods would restart")
    _add_file(change)
    _add_namespace(change)
    change.add_argument(
        "--server-image", metavar="IMAGE", help="for services without one (default: the one that runs now)"
    )
    change.set_defaults(command=_plan)

    well = commands.add_parser("check", help="say whether an installation of the operator works; `helm test` runs it")
    well.add_argument(
        "--operator-url", default="", metavar="URL", help="where its /healthz answers (default: not asked)"
    )
    well.add_argument("--namespace", action="append", default=[], metavar="NS", help="where it works (repeatable)")
    well.add_argument("--wait", type=float, default=0, metavar="S", help="seconds for it to come up (default: none)")
    well.set_defaults(command=_check)

    show = commands.add_parser("render", help="print the objects that the operator would make")
    _add_file(show)
    _add_image(show)
    show.set_defaults(command=_render)
    return parser


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="YAML with a TextGenerationService")
    parser.add_argument("--name", help="which service of the file")


def _add_namespace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", "--namespace", metavar="NS", help="where it is (default: the kubeconfig's)")


def _add_image(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--server-image", default=SERVER_IMAGE, metavar="IMAGE", help=f"for services without one ({SERVER_IMAGE})"
    )


def _serve(arguments: argparse.Namespace) -> int:
    import kopf

    from textgen_operator.controller import Options
    from textgen_operator.serve import serve

    kopf.configure(log_format=kopf.LogFormat.JSON if arguments.log_format == "json" else kopf.LogFormat.FULL)
    logging.getLogger().setLevel(arguments.log_level.upper())
    if arguments.log_level != "debug":
        # A line for each event of each service says nothing that our own lines do not.
        logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    options = Options(
        namespaces=tuple(arguments.namespace),
        defaults=Defaults(image=arguments.server_image),
        workers=arguments.workers,
        liveness_port=arguments.liveness_port,
        lease_name=arguments.lease_name,
        lease_seconds=arguments.lease_seconds,
        identity=os.environ.get("POD_NAME", ""),
    )
    try:
        asyncio.run(serve(options))
    except kopf.LoginError as error:
        print(f"textgen-operator: {error}", file=sys.stderr)
        return 1
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from textgen_operator.cluster_commands import status

    return status(arguments)


def _plan(arguments: argparse.Namespace) -> int:
    from textgen_operator.cluster_commands import plan

    return plan(arguments)


def _check(arguments: argparse.Namespace) -> int:
    from textgen_operator.cluster_commands import check

    return check(arguments)


def _run(arguments: argparse.Namespace) -> int:
    from textgen_operator import local

    service = load_service(arguments.file, arguments.name)
    if arguments.print_docker:
        return _print_docker(service, arguments)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "textgen"
    try:
        local.require_gpus(service.spec.gpu)
        local.require_free_port(arguments.hostname, arguments.port)
        cache.mkdir(parents=True, exist_ok=True)
        executable = local.find_executable(os.environ)
        machine = local.Machine(os.environ, executable, cache, arguments.hostname, arguments.port)
        process = local.to_process(_statefulset(service, arguments), machine)
    except local.LocalError as error:
        print(f"{arguments.file}: {error}", file=sys.stderr)
        return 1
    print(f"textgen-operator: starting {shlex.join(process.command)}", file=sys.stderr, flush=True)
    return asyncio.run(local.run(process, _what_to_try(process.url)))


def _what_to_try(url: str) -> str:
    body = '{"inputs":"What is Deep Learning?","parameters":{"max_new_tokens":20}}'
    return f"Ready. Try:\n\n  curl -s {url}/generate -H 'Content-Type: application/json' -d '{body}'\n"


def _print_docker(service: TextGenerationService, arguments: argparse.Namespace) -> int:
    from textgen_operator.docker import docker_command
    from textgen_operator.local import LocalError

    where = {"hostname": arguments.hostname, "port": arguments.port}
    try:
        pod = _statefulset(service, arguments)["spec"]["template"]["spec"]
        print(docker_command(service.metadata.name, pod, service.spec.gpu, **where), end="")
    except LocalError as error:
        print(f"{arguments.file}: {error}", file=sys.stderr)
        return 1
    return 0


def _statefulset(service: TextGenerationService, arguments: argparse.Namespace) -> Manifest:
    """What would carry the pods, if KServe did not. Raises LocalError where they are not of one machine."""
    from textgen_operator.local import LocalError

    defaults = Defaults(image=arguments.server_image)
    if service.spec.nodes > 1:
        raise LocalError("it runs over several nodes (spec.nodes): leave that out here")
    return statefulset.render(service, defaults)


def _render(arguments: argparse.Namespace) -> int:
    services = load_services(arguments.file)
    if arguments.name:
        services = [load_service(arguments.file, arguments.name)]
    defaults = Defaults(image=arguments.server_image)
    manifests = [manifest for service in services for manifest in render(service, defaults)]
    print(dump(manifests), end="")
    return 0
