"""Quantities are read as Kubernetes reads them."""

from decimal import Decimal

import pytest

from textgen_operator import quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", "0"),
        ("16", "16"),
        ("500m", "0.5"),
        ("0.5", "0.5"),
        (".5", "0.5"),
        ("2k", "2000"),
        ("1Ki", "1024"),
        ("1.5Gi", "1610612736"),
        ("1G", "1000000000"),
        ("3E", "3000000000000000000"),
        ("1e3", "1000"),
        ("1E-3", "0.001"),
        ("100n", "0.0000001"),
    ],
)
def test_a_quantity_has_its_value(text: str, value: str) -> None:
    assert quantity.parse(text) == Decimal(value)


@pytest.mark.parametrize("text", ["", "Gi", "1 Gi", "8GB", "-1", "+1", "1.2.3", "lots", "0x10"])
def test_what_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity; write a number with a unit, such as 500m, 16 or 8Gi"):
        quantity.parse(text)


def test_zero_is_not_positive() -> None:
    with pytest.raises(ValueError, match="must be a positive quantity"):
        quantity.parse_positive("0Gi")
