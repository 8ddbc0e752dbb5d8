"""What the engine's own Python costs in each step: planning, booking and sending off the tokens of many decodes.

    python bench/engine.py [--requests 32,256] [--steps 300] [--ahead 0,1]

Scheduler, blocks and wire are real, the executor answers at once with any tokens. The table has microseconds of
processor time of a step: the median over the steps, and the least.
"""

import argparse
import gc
import statistics
import time
from collections import deque

from textgen_server.engine.blocks import BlockManager
from textgen_server.engine.plan import StepPlan, StepResult
from textgen_server.engine.request import Request
from textgen_server.engine.scheduler import Limits, Scheduler
from textgen_server.rpc.service import step_messages

PROMPT_TOKENS, BLOCK_SIZE = 1000, 16
PARTS = ("plan", "commit", "publish")


def answer(plan: StepPlan) -> StepResult:
    tokens = [17] * sum(item.sample is not None for item in plan.items)
    return StepResult(tokens, [-0.5] * len(tokens))


def measure(requests: int, steps: int, ahead: int) -> dict[str, list[float]]:
    """Seconds of each part in each of `steps` decoding steps of so many requests."""
    total = PROMPT_TOKENS + steps + 50
    blocks = BlockManager(requests * -(-total // BLOCK_SIZE), BLOCK_SIZE, prefix_caching=True)
    scheduler = Scheduler(blocks, Limits(requests, PROMPT_TOKENS * requests, total))
    for number in range(requests):
        scheduler.add(Request((0, number), [number + 2] * PROMPT_TOKENS, steps + 50))
    under_way: deque[StepPlan] = deque()
    seconds: dict[str, list[float]] = {part: [] for part in PARTS}
    gc.collect()
    gc.freeze()
    for step in range(steps + 10):
        times = [time.thread_time()]
        plan = scheduler.plan()
        times.append(time.thread_time())
        if plan is None:
            raise SystemExit("nothing was planned")
        under_way.append(plan)
        if len(under_way) <= ahead:
            continue
        oldest = under_way.popleft()
        result = answer(oldest)
        began = time.thread_time()
        events = scheduler.commit(oldest, result)
        times.append(times[-1] + time.thread_time() - began)
        for message in step_messages(events).values():
            message.SerializeToString()
        times.append(time.thread_time() - began + times[1])
        if step >= 10:
            for part, start, end in zip(PARTS, times, times[1:], strict=False):
                seconds[part].append(end - start)
    gc.unfreeze()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", default="32,256")
    parser.add_argument("--ahead", default="0,1")
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    print("| requests | ahead | " + " | ".join(f"{part}, median and least" for part in PARTS) + " | together |")
    print("|---" * (len(PARTS) + 3) + "|")
    for requests in map(int, args.requests.split(",")):
        for ahead in map(int, args.ahead.split(",")):
            seconds = measure(requests, args.steps, ahead)
            middle = {part: statistics.median(values) * 1e6 for part, values in seconds.items()}
            cells = [f"{middle[part]:.0f}, {min(seconds[part]) * 1e6:.0f} µs" for part in PARTS]
            print(f"| {requests} | {ahead} | " + " | ".join(cells) + f" | {sum(middle.values()):.0f} µs |", flush=True)


if __name__ == "__main__":
    main()
