"""Grammars are checked before they go to the engine. Called by generation.py."""

import asyncio
import hashlib
import json
import subprocess
import sys
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TextIO, cast

from textgen_server.errors import InvalidRequest
from textgen_server.sampling import Grammar

CHECK_SECONDS = 10.0
"""A grammar that takes longer is refused. The largest that fit llguidance's limits take about one second."""
REMEMBERED = 1024


class GrammarChecker:
    """Processes that check grammars (grammars.py says why processes), started when the first grammar comes, and a
    memory of what they said."""

    def __init__(self, workers: int, seconds: float = CHECK_SECONDS) -> None:
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="grammar")
        self._seconds = seconds
        self._local = threading.local()
        self._processes: list[_Process] = []
        self._verdicts: OrderedDict[bytes, str] = OrderedDict()

    async def check(self, grammar: Grammar, field: str) -> None:
        """Raises InvalidRequest, which names `field`, when the grammar is wrong or too large to work with."""
        key = hashlib.blake2b(f"{grammar.kind} {grammar.source}".encode(errors="surrogatepass")).digest()
        verdict = self._verdicts.get(key)
        if verdict is None:
            verdict = await asyncio.get_running_loop().run_in_executor(self._threads, self._ask, grammar)
        self._verdicts[key] = verdict
        self._verdicts.move_to_end(key)
        if len(self._verdicts) > REMEMBERED:
            self._verdicts.popitem(last=False)
        if verdict:
            raise InvalidRequest(f"{field} is not valid: {verdict}", field)

    def close(self) -> None:
        """End threads and processes."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.kill()
        self._threads.shutdown(wait=True)
        for process in self._processes:
            process.reap()

    def _ask(self, grammar: Grammar) -> str:
        process: _Process | None = getattr(self._local, "process", None)
        if process is None:
            process = self._local.process = _Process()
            self._processes.append(process)
        return process.ask(grammar, self._seconds)


class _Process:
    """One checker, for one thread. Started when it is needed, again when it has ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def ask(self, grammar: Grammar, seconds: float) -> str:
        """What is wrong with the grammar, or ""."""
        self._process = process = self._process or _start()
        late = threading.Event()

        def give_up() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, give_up)
        timer.start()
        try:
            answer = _exchange(process, json.dumps({"kind": grammar.kind, "source": grammar.source}))
        finally:
            timer.cancel()
        if answer:
            return str(json.loads(answer))
        self.reap()
        return f"it takes more than {seconds:g} s to prepare" if late.is_set() else "it is too large or nested too deep"

    def kill(self) -> None:
        """Let `ask`, which may be waiting in its own thread, return."""
        if self._process is not None:
            self._process.kill()

    def reap(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def _start() -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "textgen_server.grammars"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _exchange(process: subprocess.Popen[str], line: str) -> str:
    """One line there and one back; "" when the process ended meanwhile."""
    there, back = cast(TextIO, process.stdin), cast(TextIO, process.stdout)
    try:
        there.write(line + "\n")
        there.flush()
        return back.readline()
    except OSError:
        return ""
