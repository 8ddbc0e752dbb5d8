"""Who is next among those that wait. Called by the scheduler.

First come those that had to give their blocks back, in the order in which they were admitted; then

- the higher class (`Priority`);
- in a class, the tenant that has been served least (virtual token counter; Sheng et al. 2024, "Fairness in Serving
  Large Language Models", OSDI): so tenants that always want something get the same, and who asks much waits for
  himself. Service is counted in tokens, of the prompt (computed, not found in the cache) and, twice, of the output.
  Who has rested is counted as if served as much as the least served of those that wait: rest is not saved up;
- of one tenant, who came first.

Nobody starves: one in EVERY that leave is the one that came first of all. So whoever waits has left after EVERY others
for each that came before.
"""

import bisect
from collections import OrderedDict, deque
from collections.abc import Iterator

from textgen_server.engine.request import Account, Request

EVERY = 8
OUTPUT_WEIGHT = 2
"""Of a generated token, where a token of a prompt has 1, as in the paper."""
MOST_TENANTS = 10_000
"""So many are remembered, those that asked last."""


class Queue:
    """Requests that wait, those set back and those that are new.

    A request's `number` is its place in the order of arrival.
    """

    def __init__(self) -> None:
        self._set_back: deque[Request] = deque()
        self._lines: dict[tuple[int, str], list[Request]] = {}  # by class and tenant, never empty
        self._accounts: OrderedDict[str, Account] = OrderedDict()
        self._last = Account()
        self._arrivals = 0
        self._departures = 0

    def __len__(self) -> int:
        return len(self._set_back) + sum(map(len, list(self._lines.values())))

    def __iter__(self) -> Iterator[Request]:
        yield from self._set_back
        for line in self._lines.values():
            yield from line

    def add(self, request: Request) -> None:
        """A request has come."""
        self._arrivals += 1
        request.number = self._arrivals
        request.account = self._account(request.tenant)
        self._line_up(request)

    def _account(self, tenant: str) -> Account:
        account = self._accounts.setdefault(tenant, Account())
        self._accounts.move_to_end(tenant)
        if len(self._accounts) > MOST_TENANTS:
            self._accounts.popitem(last=False)
        waiting = [line[0].account for line in self._lines.values()]
        if account not in waiting:
            account.served = max(account.served, min((a.served for a in waiting), default=self._last.served))
        return account

    def _line_up(self, request: Request) -> None:
        line = self._lines.setdefault((request.priority, request.tenant), [])
        bisect.insort(line, request, key=lambda other: other.number)

    def head(self) -> Request | None:
        """Who is next, until somebody comes, leaves or is served. For a higher class those set back give way, once."""
        while self._set_back and not self._set_back[0].displaced:
            first = self._first()
            if first is None or first.priority >= self._set_back[0].priority:
                break
            self.displace(self._set_back.popleft())
        return self._set_back[0] if self._set_back else self._first()

    def _first(self) -> Request | None:
        """Who is next of those that are not set back."""
        heads = (line[0] for line in self._lines.values())
        if self._departures % EVERY == EVERY - 1:
            return min(heads, key=lambda r: r.number, default=None)
        return min(heads, key=lambda r: (r.priority, r.account.served, r.number), default=None)

    def take(self, request: Request) -> None:
        """`request`, the head, leaves to be worked on."""
        if request not in self._set_back:
            self._departures += 1
            self._last = request.account
        self.remove(request)

    def set_back(self, request: Request) -> None:
        """A request comes back that was admitted after all that run, and before all that are set back."""
        self._set_back.appendleft(request)

    def displace(self, request: Request) -> None:
        """A request comes back for the sake of a higher class, once in its life."""
        request.displaced = True
        self._line_up(request)

    def remove(self, request: Request) -> None:
        """It waits no longer."""
        if request in self._set_back:
            self._set_back.remove(request)
            return
        key = request.priority, request.tenant
        self._lines[key].remove(request)
        if not self._lines[key]:
            del self._lines[key]
