"""What kopf calls. Handlers only pass things on: the work is done by the controller's workers, which kopf's own
handlers would do without memory of failures and with writes of their own."""

from typing import Any

import kopf

from textgen_operator import client
from textgen_operator.informers import ServiceKey
from textgen_operator.resource import GROUP, PLURAL, VERSION
from textgen_operator.workqueue import WorkQueue

STUCK_AFTER = 300.0
"""Seconds of delay of one service after which the operator counts as stuck, and is restarted."""


@kopf.on.login()
def log_in(**_: Any) -> kopf.ConnectionInfo:
    return client.connection_info()


@kopf.on.event(GROUP, VERSION, PLURAL)
async def look_at(namespace: str | None, name: str, memo: kopf.Memo, **_: Any) -> None:
    memo.queue.add((namespace, name))


@kopf.on.probe(id="seconds_behind")
async def seconds_behind(memo: kopf.Memo, **_: Any) -> float:
    queue: WorkQueue[ServiceKey] = memo.queue
    behind = queue.longest_overdue()
    if behind > STUCK_AFTER:
        raise kopf.PermanentError(f"a service has waited for {behind:.0f} s")
    return behind
