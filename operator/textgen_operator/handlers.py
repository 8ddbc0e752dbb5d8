"""What kopf calls. Handlers only pass things on: the work is done by the controller's workers, which kopf's own
handlers would do without memory of failures and with writes of their own."""

from typing import Any

import kopf

from textgen_operator import client
from textgen_operator.resource import GROUP, PLURAL, VERSION


@kopf.on.login()
def log_in(**_: Any) -> kopf.ConnectionInfo:
    return client.connection_info()


@kopf.on.event(GROUP, VERSION, PLURAL)
async def look_at(namespace: str | None, name: str, memo: kopf.Memo, **_: Any) -> None:
    memo.queue.add((namespace, name))


@kopf.on.cleanup()
async def end_work(memo: kopf.Memo, **_: Any) -> None:
    """kopf is ending. It would wait five seconds for tasks that it did not begin, which know of no end."""
    memo.end()
