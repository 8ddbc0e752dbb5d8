"""`textgen-server download-weights`: fetch and convert what a server will read, and end. Started by launcher.py.

For init containers and Jobs. Running it again is cheap. Ends with 0 when everything is there, and its folder is the one
line on standard output; with 1 when something cannot be had; with 2 when an option is wrong.
"""

import argparse
import logging
from collections.abc import Sequence

from textgen_server.errors import StartupError
from textgen_server.settings import ServerOptions, flag_of, parse
from textgen_server.telemetry import configure_logging, report_failure
from textgen_server.weights.progress import log_progress
from textgen_server.weights.source import locate_all

DONE, FAILED, WRONG_OPTION = 0, 1, 2

# Flags of the server that matter here; their environment variables do, too.
_SHARED = ("revision", "lora_adapters", "huggingface_hub_cache", "trust_remote_code", "json_output", "log_level")

_log = logging.getLogger(__name__)


def main(args: Sequence[str]) -> int:
    """Returns the exit code."""
    given = vars(_parser().parse_args(args))
    flags = [part for name, value in given.items() if value is not None for part in (flag_of(name), value)]
    try:
        settings = parse(flags)
    except StartupError as error:
        report_failure(error)
        return WRONG_OPTION
    configure_logging(settings.log_level, settings.json_output)
    try:
        model, adapters = locate_all(settings, log_progress(_log))
    except StartupError as error:
        report_failure(error)
        return FAILED
    for name, folder in adapters.items():
        _log.info("adapter %s in %s", name, folder)
    _log.info("model %s in %s%s", settings.model_id, model.path, f", commit {model.sha}" if model.sha else "")
    print(model.path)
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "textgen-server download-weights",
        description="Fetch and convert what a server with the same options will read. Flags may also be given as "
        f"environment variables, as the server's. Ends with {DONE} when all is there, {FAILED} when it cannot be had, "
        f"{WRONG_OPTION} when an option is wrong.",
    )
    parser.add_argument("model_id", nargs="?", metavar="MODEL", help=_help("model_id"))
    for name in _SHARED:
        if ServerOptions.model_fields[name].annotation is bool:
            parser.add_argument(flag_of(name), nargs="?", const="true", metavar="true|false", help=_help(name))
        else:
            parser.add_argument(flag_of(name), metavar="VALUE", help=_help(name))
    return parser


def _help(name: str) -> str:
    return " ".join((ServerOptions.model_fields[name].description or "").split()).replace("%", "%%")
