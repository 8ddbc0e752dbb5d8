"""`textgen-server detect-watermark`: does a text carry the watermark? Started by launcher.py.

Like grep, it ends with 0 when there is one, with 1 when there is none, and with 2 when it cannot tell, because an
option is wrong or a file cannot be read.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from textgen_server.errors import StartupError
from textgen_server.settings import ServerOptions, ServerSettings, flag_of, parse
from textgen_server.text.tokenizer import Tokenizer
from textgen_server.watermark import Detection, Watermark, detect
from textgen_server.weights.source import locate_tokenizer

FOUND, NOT_FOUND, FAILED = 0, 1, 2

THRESHOLD = 4.0
"""The papers' z: one text of 30,000 that were written without the watermark reaches it."""

# Flags of the server that matter here; their environment variables do, too.
_SHARED = ("model_id", "revision", "huggingface_hub_cache", "watermark_gamma", "watermark_key")


def main(args: Sequence[str]) -> int:
    """Judge one text. Returns the exit code."""
    given = _parser().parse_args(args)
    try:
        settings = parse([part for name in _SHARED for part in _as_flag(name, getattr(given, name))])
        text = _read(given.file)
        tokens = _tokenizer(settings).encode(text, add_special_tokens=False)
    except StartupError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return FAILED
    detection = detect(tokens, Watermark(settings.watermark_gamma, key=settings.watermark_key))
    found = detection.z >= given.threshold
    if given.json:
        print(json.dumps({"watermarked": found, **asdict(detection), "tokens": len(tokens)}))
    else:
        print(_report(detection, found, given.threshold, settings.watermark_gamma))
    return FOUND if found else NOT_FOUND


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "textgen-server detect-watermark",
        description="Does a text carry the watermark of a textgen server? Give model, gamma and key as that server has "
        f"them. Ends with {FOUND} if so, {NOT_FOUND} if not, {FAILED} if it cannot be told.",
    )
    parser.add_argument("file", nargs="?", metavar="FILE", help="the text, in UTF-8. Default: standard input")
    for name in _SHARED:
        what = " ".join((ServerOptions.model_fields[name].description or "").split()).replace("%", "%%")
        parser.add_argument(flag_of(name), metavar="VALUE", help=what)
    parser.add_argument(
        "--threshold", type=float, default=THRESHOLD, metavar="Z", help=f"least z-score. Default: {THRESHOLD:g}"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _as_flag(name: str, value: str | None) -> list[str]:
    return [] if value is None else [flag_of(name), value]


def _read(file: str | None) -> str:
    """The text to judge. Raises StartupError when it cannot be read."""
    try:
        content = sys.stdin.buffer.read() if file is None else Path(file).read_bytes()
        return content.decode()
    except OSError as error:
        raise StartupError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise StartupError(f"{file or 'standard input'} is not UTF-8: byte {error.start}: {error.reason}") from None


def _tokenizer(settings: ServerSettings) -> Tokenizer:
    cache = settings.huggingface_hub_cache
    folder = locate_tokenizer(settings.model_id, settings.revision, cache, lambda line: print(line, file=sys.stderr))
    return Tokenizer.load(folder)


def _report(detection: Detection, found: bool, threshold: float, gamma: float) -> str:
    verdict = f"watermark found: z is at least {threshold:g}" if found else f"no watermark: z is below {threshold:g}"
    chance = gamma * detection.total
    counts = f"{detection.green} of {detection.total} pairs of tokens are green; chance gives {chance:.1f}"
    return f"z = {detection.z:.2f}, p = {detection.p:.2g}\n{counts}\n{verdict}"
