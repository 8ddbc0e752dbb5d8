"""Every test here runs the real helm binary."""

import pytest
from helm.chart import HelmMissing, find_helm


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    # In a hook, not in a fixture, so that all tests are skipped with one line.
    try:
        find_helm()
    except HelmMissing as missing:
        pytest.skip(str(missing))
