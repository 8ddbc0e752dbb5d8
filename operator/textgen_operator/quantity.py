"""Kubernetes quantities ("1536Mi", "0.5", "2k"): their syntax and value.

Called by the custom resource, which checks and adds them, and by the comparison with live objects, because the API
server rewrites a quantity into its shortest form.
"""

import re
from decimal import Decimal

PATTERN = r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$"
"""Quantities without a sign: nothing in a pod is asked for in negative amounts."""

_DECIMAL_EXPONENT = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY_POWER = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}


def parse(text: str) -> Decimal:
    """The number that a quantity stands for. Raises ValueError when it is none."""
    match = re.match(PATTERN, text)
    if match is None:
        raise ValueError(f"{text!r} is not a quantity; write a number with a unit, such as 500m, 16 or 8Gi")
    number, unit = match.group(1), match.group(3) or ""
    if unit in _BINARY_POWER:
        return Decimal(number) * Decimal(1024) ** _BINARY_POWER[unit]
    if unit in _DECIMAL_EXPONENT:
        return Decimal(number).scaleb(_DECIMAL_EXPONENT[unit])
    return Decimal(number + unit)


def parse_positive(text: str) -> Decimal:
    """The number that a quantity stands for. Raises ValueError when it is none, or zero."""
    value = parse(text)
    if value == 0:
        raise ValueError("must be a positive quantity, such as 8Gi")
    return value
