"""Serving speed of textgen-server on this machine, side by side with other servers, turn by turn in one run.

    python bench/serving.py                                     # against transformers' `generate`
    python bench/serving.py --server 'vllm=vllm serve MODEL --port {port} ...' --program 'openvino=PYTHON SCRIPT MODEL'
    python bench/serving.py --loads closed,open,long-prompt [--json FILE] [-- FLAGS OF textgen-server]

Three loads: `closed`, so many clients at once that each send one request; `open`, chats of people's lengths that arrive
at random times, at parts of the rate that textgen's closed loop reached; `long-prompt`, eight streams while a prompt of
2,000 tokens comes. Whoever does not have its turn is stopped (SIGSTOP), and every other round has the order reversed.
The tables have medians over the rounds, and the median of the rounds' ratios.
"""

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from contestants import Contestant, Program, Server, Turn, parse, textgen, transformers
from load import Ask, chats, median_ratio, prompts, quantile

LOADS = ("closed", "open", "long-prompt")
OPEN_SHARES = (0.5, 0.8, 1.1)
OPEN_REQUESTS = 40
STREAMS, STREAM_TOKENS, LONG_WORDS = 8, 160, 1900


@dataclass
class Row:
    """What one contestant did under one load: medians of the rounds. Seconds, but for `memory`, in bytes."""

    load: str
    name: str
    tokens_per_second: float
    ratio: float
    first_p50: float
    first_p99: float
    gap_p50: float
    gap_p99: float
    cpu_seconds_per_1000: float
    memory: int


class Match:
    """Contestants, ours first, and the rows of all loads so far."""

    def __init__(self, contestants: Sequence[Contestant], rounds: int) -> None:
        self._contestants = contestants
        self._rounds = rounds
        self.rows: list[Row] = []

    def play(self, load: str, rounds: Sequence[Sequence[Sequence[Ask]]], only_servers: bool = False) -> None:
        """Let all take turns at each round's clients; `rounds` begins with one that does not count."""
        entered = [c for c in self._contestants if isinstance(c, Server) or not only_servers]
        turns: dict[str, list[Turn]] = defaultdict(list)
        for number, clients in enumerate(rounds):
            for contestant in entered if number % 2 else reversed(entered):
                turn = contestant.measure(clients)
                if number:
                    turns[contestant.name].append(turn)
        for contestant in entered:
            self.rows.append(_row(load, contestant.name, turns[contestant.name], turns[entered[0].name]))
            print(_line(self.rows[-1]), flush=True)

    def closed(self, concurrency: int, words: int, new_tokens: int) -> None:
        def burst(seed: int, tokens: int) -> list[list[Ask]]:
            return [[Ask(prompt, tokens)] for prompt in prompts(concurrency, words, seed)]

        rounds = [burst(0, 8), *(burst(1000 + number, new_tokens) for number in range(self._rounds))]
        self.play(f"{concurrency} at once", rounds)

    def open(self, share: float) -> None:
        """Chats at `share` of the tokens per second that ours reached before."""
        fastest = max(row.tokens_per_second for row in self.rows if row.name == self._contestants[0].name)
        of_one = statistics.mean(ask.new_tokens for ask in chats(1000, 1.0, 0))
        rate = share * fastest / of_one
        rounds = [[[ask] for ask in chats(OPEN_REQUESTS, rate, seed)] for seed in range(self._rounds + 1)]
        self.play(f"{rate:.2f} a second", rounds, only_servers=True)

    def long_prompt(self) -> None:
        """Streams alone, and the same with a long prompt that comes when all of them run."""
        for name, more in ((f"{STREAMS} streams", 0), (f"{STREAMS} streams and a long prompt", 1)):
            rounds = []
            for seed in range(self._rounds + 1):
                streams = [[Ask(prompt, STREAM_TOKENS)] for prompt in prompts(STREAMS, 16, seed)]
                late = [[Ask(prompt, 1, after=1.5)] for prompt in prompts(more, LONG_WORDS, 100 + seed)]
                rounds.append(streams + late)
            self.play(name, rounds, only_servers=True)


def _row(load: str, name: str, turns: list[Turn], ours: list[Turn]) -> Row:
    def middle(values: Sequence[float]) -> float:
        return statistics.median(values)

    speeds = [turn.load.tokens_per_second for turn in turns]
    firsts = [reply.first for turn in turns for reply in turn.load.replies]
    gaps = [gap for turn in turns for reply in turn.load.replies for gap in reply.gaps]
    return Row(
        load,
        name,
        middle(speeds),
        median_ratio([turn.load.tokens_per_second for turn in ours], speeds),
        quantile(firsts, 0.5),
        quantile(firsts, 0.99),
        quantile(gaps, 0.5),
        quantile(gaps, 0.99),
        middle([turn.cpu_seconds_per_1000 for turn in turns]),
        int(middle([turn.memory for turn in turns])),
    )


COLUMNS = ["load", "server", "tokens/s", "textgen / it", "first token, p50 and p99", "between tokens, p50 and p99"]
COLUMNS += ["CPU s per 1,000 tokens", "memory"]


def _line(row: Row) -> str:
    first = f"{row.first_p50 * 1e3:.0f}, {row.first_p99 * 1e3:.0f} ms" if row.first_p50 else ""
    gap = f"{row.gap_p50 * 1e3:.1f}, {row.gap_p99 * 1e3:.1f} ms" if row.gap_p50 else ""
    return (
        f"| {row.load} | {row.name} | {row.tokens_per_second:.1f} | {row.ratio:.2f} | {first} | {gap} "
        f"| {row.cpu_seconds_per_1000:.2f} | {row.memory / 1e9:.2f} GB |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", default="closed", help="of " + ", ".join(LOADS))
    parser.add_argument("--concurrency", default="1,8,32", help="clients of the closed loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt-words", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--server", action="append", default=[], metavar="NAME=COMMAND", help="{port} will be its port")
    parser.add_argument(
        "--program", action="append", default=[], metavar="NAME=COMMAND", help="see contestants.Program"
    )
    parser.add_argument("--json", type=Path, help="a file for the rows")
    parser.add_argument("flags", nargs="*", help="flags for textgen-server, after --")
    args = parser.parse_args()
    loads = args.loads.split(",")
    if unknown := set(loads) - set(LOADS):
        parser.error(f"--loads: there is no {', '.join(unknown)}; there are {', '.join(LOADS)}")
    contestants: list[Contestant] = []
    try:
        contestants.append(textgen(args.flags))
        contestants += [Server(*parse(text)) for text in args.server]
        contestants += [Program(*parse(text)) for text in args.program]
        if len(contestants) == 1 and "closed" in loads:
            contestants.append(transformers())
        match = compete(contestants, loads, args)
    finally:
        for contestant in contestants:
            contestant.stop()
    if args.json:
        ready = {contestant.name: contestant.ready_seconds for contestant in contestants}
        report = {"ready_seconds": ready, "rows": [asdict(row) for row in match.rows]}
        args.json.write_text(json.dumps(report, indent=1) + "\n")


def compete(contestants: Sequence[Contestant], loads: Sequence[str], args: argparse.Namespace) -> Match:
    print("Ready after", ", ".join(f"{c.name} {c.ready_seconds:.1f} s" for c in contestants), flush=True)
    print(f"\n| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|", flush=True)
    match = Match(contestants, args.rounds)
    if "closed" in loads or "open" in loads:
        for concurrency in map(int, args.concurrency.split(",")):
            match.closed(concurrency, args.prompt_words, args.new_tokens)
    if "open" in loads:
        for share in OPEN_SHARES:
            match.open(share)
    if "long-prompt" in loads:
        match.long_prompt()
    return match


if __name__ == "__main__":
    main()
