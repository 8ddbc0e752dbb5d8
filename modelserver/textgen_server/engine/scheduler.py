"""Who runs in the next step. Called by the loop: plan -> (the runner works) -> commit.

A step may be planned before the one before it is committed: lengths are known then, and its tokens are not. What
depends on more than lengths waits (`_check_foresight`).

Continuous batching with chunked prefill (Orca, Yu et al. 2022; Sarathi-Serve, Agrawal et al. 2024): each step takes
every running decode, and fills up with prompt tokens to the prefill budget. Blocks are taken when they are needed.
When none is left, the running request that was admitted last gives its blocks back and waits to be computed anew.

`waiting` (queue.py) says who is next, and its head is never passed over. `running` is in the order of admission; for
want of blocks only its last is preempted, and who was comes back before anybody new. So of those admitted the first
always advances, but for one thing: it may have to make room for a higher class, once in its life. So everybody who is
admitted ends, everybody who waits is admitted at some time, and nobody starves.
"""

import time
from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass

from textgen_server.engine.blocks import BlockManager
from textgen_server.engine.books import Books
from textgen_server.engine.events import Events
from textgen_server.engine.items import chunk_item, next_item
from textgen_server.engine.pace import Budget, Pace
from textgen_server.engine.plan import Item, Scores, StepPlan, StepResult
from textgen_server.engine.queue import Queue
from textgen_server.engine.request import Request
from textgen_server.engine.statistics import Counters
from textgen_server.errors import InvalidRequest


@dataclass(frozen=True)
class Limits:
    """Bounds on a step and on a request.

    Attributes:
        max_batch_size: requests that run at once.
        max_prefill_tokens: prompt tokens computed in one step.
        max_total_tokens: prompt plus output of one request; at most what the pool of blocks holds.
        speculate: most tokens that are guessed for a request in a step.
        long_from: prompts of more tokens are long ones, to LongRoPE; 0 where it makes no difference.
        restarts_long: so are requests that come to more tokens, and they are computed anew then.
    """

    max_batch_size: int
    max_prefill_tokens: int
    max_total_tokens: int
    speculate: int = 0
    long_from: int = 0
    restarts_long: bool = False


class _ResultNeeded(Exception):
    """What comes next depends on the result of a step under way."""


class Scheduler:
    """Owns the queues and, through the block manager, the blocks."""

    def __init__(self, blocks: BlockManager, limits: Limits) -> None:
        self.blocks = blocks
        self.limits = limits
        self.waiting = Queue()
        self.running: list[Request] = []
        self.counters = Counters()
        self.pace = Pace(limits.max_prefill_tokens)
        self._books = Books(blocks, self.counters, self._remove)
        self._under_way: deque[list[Request]] = deque()  # those of each plan that is not yet committed
        self._by_key: dict[Hashable, Request] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._by_key.values())

    @property
    def tokens_claimed(self) -> int:
        """What the running requests come to with all tokens that they may generate. For any thread."""
        return sum(request.prompt_length + request.max_new_tokens for request in list(self.running))

    def add(self, request: Request) -> None:
        """Queue a request.

        Raises:
            InvalidRequest: it could never run, or its key is taken.
        """
        total = request.prompt_length + request.max_new_tokens
        if not request.tokens or request.max_new_tokens < 1:
            raise InvalidRequest("a request needs at least one prompt token and one new token")
        if total > self.limits.max_total_tokens:
            raise InvalidRequest(
                f"prompt and output together are {total} tokens; the limit is {self.limits.max_total_tokens}"
            )
        if request.key in self._by_key:
            raise InvalidRequest(f"request {request.key} exists already")
        if request.shortest_chunk > self.limits.max_prefill_tokens:
            raise InvalidRequest(
                f"the encoder takes {self.limits.max_prefill_tokens - 1} tokens at most, and the prompt has "
                f"{request.encoder_length}; raise --max-batch-prefill-tokens"
            )
        request.long = self._outgrows(request)
        self._by_key[request.key] = request
        self.waiting.add(request)

    def abort(self, key: Hashable) -> bool:
        """Forget a request and free its blocks. False when there is none of that key (it may have just ended)."""
        request = self._by_key.get(key)
        if request is None:
            return False
        self._remove(request)
        return True

    def expire(self) -> list[Request]:
        """Drop the requests that have waited for their first step longer than they may. Returns them."""
        now = time.monotonic()
        expired = [request for request in self.waiting if request.expired(now)]
        for request in expired:
            self._remove(request)
        return expired

    def plan(self) -> StepPlan | None:
        """What to compute next. Every plan is followed by one `commit` or `abandon`, in order.

        None when there is nothing, or nothing before the plan under way, of which there may be one, is committed.
        """
        try:
            self._check_foresight()
            return self._plan()
        except _ResultNeeded:
            return None

    def _check_foresight(self) -> None:
        """Raise _ResultNeeded where the next step depends on tokens that are not known yet. (So does a preemption.)"""
        if self._under_way and (
            self.limits.speculate
            or any(not request.foreseeable for request in self.running)
            or (self.limits.restarts_long and any(map(self._outgrows, self.running)))
        ):
            raise _ResultNeeded

    def _plan(self) -> StepPlan | None:
        decodes = self._plan_decodes()
        guesses = self._guess_for(decodes)
        chunks = self._plan_chunks(self._budget(len(decodes), sum(map(len, guesses.values()))))
        # An older request's claim on blocks may have preempted a younger one that was planned before it.
        decodes = [request for request in decodes if request.blocks]
        chunks = [(request, length) for request, length in chunks if request.blocks]
        plain = [request for request in decodes if request not in guesses] if guesses else decodes
        guessed = [request for request in decodes if request in guesses] if guesses else []
        planned = [*plain, *guessed, *(request for request, _ in chunks)]
        if not planned:
            return None
        items = [next_item(request) for request in plain]
        items += [next_item(request, guesses[request]) for request in guessed]
        items += [chunk_item(request, length) for request, length in chunks]
        self._begin(planned, items)
        return StepPlan(items, num_decodes=len(plain))

    def _begin(self, planned: list[Request], items: list[Item]) -> None:
        """Book what the step of `items` will have done, but for what its guesses add."""
        self._under_way.append(planned)
        now = time.monotonic()
        choice = 0
        for request, item in zip(planned, items, strict=True):
            if request.queue_seconds is None:
                request.queue_seconds = now - request.arrival
            request.num_computed += len(item.tokens) - item.drafts
            if item.sample is not None:
                request.num_chosen += 1
                request.follows = choice
                choice += item.drafts + 1

    def _outgrows(self, request: Request) -> bool:
        """Is it longer than LongRoPE's short sequences, and still computed as one of them?"""
        return not request.long and 0 < self.limits.long_from < request.length

    def _restart(self, request: Request) -> None:
        """Have all of a request that has become long computed again, before anything younger."""
        request.long = True
        request.block_keys = []
        self.blocks.release(request)
        self._make_room(request, 1)

    def _plan_decodes(self) -> list[Request]:
        if self.limits.restarts_long:
            for request in [request for request in self.running if self._outgrows(request)]:
                if request.blocks:
                    self._restart(request)
        decodes, size = [], self.blocks.block_size
        for request in list(self.running):
            length = request.length
            # One whose last token is being chosen is left out, and one that an older has just sent away.
            decodes_on = length - request.num_computed == 1 and length < request.longest and request.blocks
            if decodes_on and (length <= len(request.blocks) * size or self._make_room(request, length)):
                decodes.append(request)
        return decodes

    def _guess_for(self, decodes: list[Request]) -> dict[Request, list[int]]:
        """Guesses for those for which there are any; half of the prefill budget at most, so that prompts go on."""
        if not self.limits.speculate:
            return {}
        room = self.limits.max_prefill_tokens // 2
        guesses = {}
        for request in decodes:
            if found := self._guess(request, min(self.limits.speculate, room)):
                guesses[request] = found
                room -= len(found)
        return guesses

    def _guess(self, request: Request, most: int) -> list[int]:
        """Tokens that may follow, if blocks are free for them. None for a grammar, whose state cannot go back."""
        most = min(most, request.max_new_tokens - request.num_generated - 1)
        if self.limits.restarts_long and not request.long:
            most = min(most, self.limits.long_from - len(request.tokens))
        if most < 1 or not request.blocks or request.constraint is not None:
            return []
        guesses = request.lookup.guess(request.tokens, most)
        if not guesses or not self.blocks.can_grow(request, len(request.tokens) + len(guesses)):
            return []
        self.blocks.grow(request, len(request.tokens) + len(guesses))
        return guesses

    def _make_room(self, request: Request, num_tokens: int) -> bool:
        """Cover `num_tokens` tokens, preempting younger requests if need be. False when it was itself preempted."""
        while not self.blocks.can_grow(request, num_tokens):
            if self._under_way:
                raise _ResultNeeded
            youngest = self.running[-1]
            self._preempt(youngest)
            if youngest is request:
                return False
        self.blocks.grow(request, num_tokens)
        return True

    def _preempt(self, request: Request) -> None:
        self._stop(request)
        self.waiting.set_back(request)

    def _budget(self, decodes: int, guesses: int) -> Budget:
        room = self.limits.max_batch_size - len(self.running)
        prompts = len(self.running) - decodes + min(len(self.waiting), room)
        return Budget(self.limits.max_prefill_tokens - guesses, self.pace.chunk(decodes, prompts))

    def _plan_chunks(self, budget: Budget) -> list[tuple[Request, int]]:
        planned: list[tuple[Request, int]] = []
        for request in list(self.running):
            if request.num_uncomputed > 1 and request.blocks and budget.allows(request):
                self._plan_chunk(request, budget, planned)
        preemptions = self.counters.preemptions  # who makes room now does not come back in the same step
        while (head := self.waiting.head()) and budget.allows(head) and self._admit(head):
            self._plan_chunk(head, budget, planned)
            if self.counters.preemptions > preemptions:
                break
        return planned

    def _plan_chunk(self, request: Request, budget: Budget, planned: list[tuple[Request, int]]) -> None:
        """Plan the next chunk of a running prompt as far as budget and blocks go."""
        if self._make_room(request, request.num_computed + request.shortest_chunk):
            room = (len(request.blocks) + self.blocks.num_free) * self.blocks.block_size
            end = min(len(request.tokens), request.num_computed + budget.most(request), room)
            self.blocks.grow(request, end)
            planned.append((request, end - request.num_computed))
            budget.spend(request, end - request.num_computed)

    def _admit(self, request: Request) -> bool:
        """Let the head of the queue run if all of its tokens find room now, or do in place of lower classes."""
        if self.limits.restarts_long and self._outgrows(request):
            request.long, request.block_keys = True, []
        # What is found in the cache is not computed, so it cannot be scored.
        prefix = [] if request.needs_scores else self.blocks.find_prefix(request)
        for victim in self._victims(request, prefix):
            self._stop(victim)
            self.waiting.displace(victim)
        if len(self.running) >= self.limits.max_batch_size or self._missing(request, prefix) > 0:
            return False
        self.waiting.take(request)
        self.blocks.start(request, prefix)
        self.running.append(request)
        self.counters.admissions += 1
        if request.queue_seconds is None:
            request.cached_tokens = request.num_computed
            request.account.served += request.num_uncomputed
            self.counters.prompt_tokens += request.prompt_length
            self.counters.cached_tokens += request.num_computed
        return True

    def _missing(self, request: Request, prefix: list[int]) -> int:
        return self.blocks.missing(request, prefix, sum(map(self._claim, self.running)))

    def _claim(self, request: Request) -> int:
        """Blocks that a running request will need for what it has, and has not yet taken."""
        # Those that guess hold a few more than they need; that is nobody's to give away.
        return max(self.blocks.blocks_for(len(request.tokens)) - len(request.blocks), 0)

    def _victims(self, request: Request, prefix: list[int]) -> list[Request]:
        """Requests of lower classes that have to make room for `request`, the last admitted first. Empty where there
        is room, or where not even all of them would make it."""
        victims: list[Request] = []
        lower = [r for r in reversed(self.running) if r.priority > request.priority and not r.displaced]
        if not lower:
            return []
        slots, missing = len(self.running) + 1 - self.limits.max_batch_size, self._missing(request, prefix)
        while missing > 0 or len(victims) < slots:
            if len(victims) == len(lower):
                return []
            victims.append(lower[len(victims)])
            missing -= self.blocks.num_alone(victims[-1], besides=prefix) + self._claim(victims[-1])
        if victims and self._under_way:
            raise _ResultNeeded
        return victims

    def _stop(self, request: Request) -> None:
        """Take all from a running request that it can get anew."""
        self.running.remove(request)
        self.blocks.release(request)
        if request.needs_scores:
            request.prompt_scores = Scores([], [])
        self.counters.preemptions += 1

    def commit(self, plan: StepPlan, result: StepResult) -> Events:
        """Book the results of `plan`, the oldest under way. Requests that ended meanwhile are passed over."""
        return self._books.enter(self._under_way.popleft(), plan, result)

    def abandon(self) -> list[Request]:
        """Drop the requests of the oldest plan under way, whose step failed. Returns them."""
        dropped = [request for request in self._under_way.popleft() if not request.ended]
        for request in dropped:
            self._remove(request)
        return dropped

    def _remove(self, request: Request) -> None:
        request.ended = True
        del self._by_key[request.key]
        if request in self.running:
            self.running.remove(request)
        else:
            self.waiting.remove(request)
        self.blocks.release(request)
