"""A test that hangs fails after a while, and the others go on.

The alarm interrupts Python: waiting for a process, a lock or a file. Where code of a library hangs, pytest's
`faulthandler_timeout` (pyproject.toml) ends the whole process some minutes later.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from types import FrameType

import pytest

SECONDS = float(os.environ.get("XAMC_TEST_SECONDS", "600"))
"""For one test with its fixtures; the slowest takes a minute on an idle machine."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Sets the alarm around fixtures and test."""

    def expired(number: int, frame: FrameType | None) -> None:
        pytest.fail(f"{item.nodeid} took longer than {SECONDS:g} s (XAMC_TEST_SECONDS)")

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
