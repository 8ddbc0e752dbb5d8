"""The other end of contestants.Program: batches come as lines of JSON, and the seconds that each took go back."""

import json
import sys
from collections.abc import Callable


def serve(run: Callable[[list[str], int], float]) -> None:
    """Answer until the standard input ends; `run` takes prompts and the new tokens of each, and returns seconds."""
    print("seconds 0", flush=True)
    for line in sys.stdin:
        batch = json.loads(line)
        print("seconds", run(batch["prompts"], batch["new_tokens"]), flush=True)
