"""Writes statuses, also under a definition of the custom resource that is older than the operator.

A definition may be upgraded after the operator, or not at all. A field that it does not declare makes the API server
refuse a status as a whole, so such fields are left out. Called by reconcile.py.
"""

import copy
import logging
import re
from collections.abc import Callable
from datetime import datetime, timedelta

from textgen_operator import apply
from textgen_operator.client import ApiError, Client
from textgen_operator.kinds import Manifest

_log = logging.getLogger(__name__)

_UNDECLARED = re.compile(r"\.status\.([A-Za-z.]+): field not declared in schema")

_TRY_AGAIN = timedelta(minutes=10)
"""After this long the definition may have been upgraded."""


class StatusWriter:
    """Remembers which fields the definition lacks.

    Args:
        client: the API server.
        clock: the time.
    """

    def __init__(self, client: Client, clock: Callable[[], datetime]) -> None:
        self._client = client
        self._clock = clock
        self._lacking: dict[str, datetime] = {}
        """Path of a field in the status -> when it was refused."""

    async def write(self, service: Manifest, status: Manifest) -> None:
        """Make the status of a custom resource what it should be. Raises ApiError."""
        try:
            await apply.write_status(self._client, service, self._declared(status))
        except ApiError as error:
            found = _UNDECLARED.findall(str(error))
            if not found:
                raise
            _log.warning("The definition of the custom resource is too old for %s: upgrade it", ", ".join(found))
            self._lacking |= dict.fromkeys(found, self._clock())
            await apply.write_status(self._client, service, self._declared(status))

    def _declared(self, status: Manifest) -> Manifest:
        self._lacking = {path: at for path, at in self._lacking.items() if self._clock() - at < _TRY_AGAIN}
        declared = copy.deepcopy(status)
        for path in self._lacking:
            *parents, field = path.split(".")
            part = declared
            for parent in parents:
                part = part.get(parent, {})
            part.pop(field, None)
        return declared
