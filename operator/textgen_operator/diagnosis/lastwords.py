"""The last lines that a server printed, as the kubelet keeps them: up to 2048 bytes, so the first may be half a line.

With --json-output, which the operator asks for, each line is an object with `message`, and the line that says why the
server cannot start has `error_type`, the word of its error class.
"""

import json
from dataclasses import dataclass

LONGEST = 1000
"""Characters that are quoted."""

_OUT_OF_GPU_MEMORY = ("CUDA out of memory", "torch.OutOfMemoryError", "HIP out of memory")
"""PyTorch's own words, for a server that could not say it better."""


@dataclass(frozen=True)
class LastWords:
    """What a server said before it ended.

    Attributes:
        text: for people: the reason that it gave, else its last lines.
        error_type: for programs: why it could not start; None when it did not say.
    """

    text: str
    error_type: str | None = None


def read(log: str) -> LastWords:
    """What the last lines of a log say."""
    lines = [line for line in map(_parse, log.splitlines()) if line.text]
    for line in lines:
        # The first to give a reason is the process that failed; those after it only say that it did.
        if line.error_type not in (None, "startup"):
            return LastWords(line.text[-LONGEST:], line.error_type)
    text = "\n".join(line.text for line in lines)[-LONGEST:]
    return LastWords(text, "out_of_memory" if any(words in text for words in _OUT_OF_GPU_MEMORY) else None)


def _parse(line: str) -> LastWords:
    try:
        entry = json.loads(line)
        message = str(entry["message"])
    except (ValueError, KeyError, TypeError):
        return LastWords(line.strip())
    trace = str(entry.get("exception", "")).strip().rpartition("\n")[2]
    kind = entry.get("error_type")
    return LastWords(f"{message}: {trace}" if trace else message, kind if isinstance(kind, str) else None)
