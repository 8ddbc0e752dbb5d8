"""What a step's result means for its requests. Called by the scheduler."""

import itertools
from collections.abc import Callable, Sequence

from textgen_server.engine.blocks import BlockManager
from textgen_server.engine.events import Events, Failure, Output
from textgen_server.engine.plan import NO_MEMORY, Item, StepPlan, StepResult, Tops
from textgen_server.engine.queue import OUTPUT_WEIGHT
from textgen_server.engine.request import Finish, Request
from textgen_server.engine.statistics import Counters
from textgen_server.errors import GenerationError

Choice = tuple[int, float, Tops]
"""A token that was chosen, its log-probability, and the likeliest tokens of its place."""


class Books:
    """Enters results.

    Args:
        end: forgets a request that has ended.
    """

    def __init__(self, blocks: BlockManager, counters: Counters, end: Callable[[Request], None]) -> None:
        self._blocks = blocks
        self._counters = counters
        self._end = end

    def enter(self, requests: Sequence[Request], plan: StepPlan, result: StepResult) -> Events:
        """Give the plan's items, of `requests`, what they brought. Those that have ended meanwhile are passed over."""
        events = Events()
        choices = zip(result.tokens, result.logprobs, result.tops or itertools.repeat(()), strict=False)
        scores = iter(result.scores)
        failed = set(result.failed)
        for place, (request, item) in enumerate(zip(requests, plan.items, strict=True)):
            if place in failed:
                if not request.ended:
                    events.failures.append(Failure(request.key, GenerationError(NO_MEMORY)))
                    self._end(request)
                continue
            chosen: list[Choice] = []
            if item.sample is not None:
                chosen = list(itertools.islice(choices, item.drafts + 1)) if item.drafts else [next(choices)]
            score = next(scores) if item.targets else None
            if request.ended:
                continue
            if score is not None:
                request.prompt_scores.logprobs.extend(score.logprobs)
                request.prompt_scores.tops.extend(score.tops)
            self._take(request, item, chosen, events)
        self._counters.generated_tokens += len(events.outputs)
        return events

    def _take(self, request: Request, item: Item, chosen: list[Choice], events: Events) -> None:
        """Enter one item: the tokens that were chosen, as far as the guesses before them were right."""
        right = self._judge(request, item, chosen) if item.drafts else 0
        finish = Finish.UNFINISHED
        if chosen:
            request.num_chosen -= 1
            request.account.served += OUTPUT_WEIGHT * (right + 1)
            self._counters.skipped_tokens.observe(right)
            try:
                for token, logprob, top in chosen[: right + 1]:
                    finish = request.append(token)
                    events.outputs.append(Output(request, request.num_generated - 1, token, logprob, finish, top))
                    if finish:
                        break
            except GenerationError as error:
                finish = Finish.ABORTED
                events.failures.append(Failure(request.key, error))
        # The keys of guesses that were wrong, or came after the end, lie behind what is computed.
        computed = min(item.start + len(item.tokens) - item.drafts + right, len(request.tokens))
        request.num_computed = max(request.num_computed, computed)
        self._blocks.publish(request, computed)
        if finish:
            self._end(request)

    def _judge(self, request: Request, item: Item, chosen: list[Choice]) -> int:
        """How many of the item's guesses were chosen."""
        guesses = item.tokens[-item.drafts :]
        pairs = zip(guesses, chosen, strict=False)
        right = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1][0], pairs))
        request.lookup.judge(right)
        self._counters.guessed_tokens += len(guesses)
        self._counters.right_guesses += right
        return right
