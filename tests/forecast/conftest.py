"""Settings shared by the tests of forecasters."""

import pytest


@pytest.fixture(autouse=True)
def _one_thread(threads):
    """Models here are too small to share, and sums keep one order."""
    threads(1)
