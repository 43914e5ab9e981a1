"""A test that kills its process ends the run at once: red, and with the test's name.

Left alone, xdist starts another process, gives it the rest of the dead one's files, the deadly test included, and can
wait for ever: a process runs a test when it knows the next one, so one whose file has a single test left waits for
more, while `--dist loadfile` keeps the next file until a test ends. Without new processes (`--max-worker-restart 0`)
the deadly test goes on to the other processes and they finish what they have, which takes minutes. What is left of a
run whose process died says little: it ends here, as after Ctrl-C, with all reports so far.
"""

from __future__ import annotations

from typing import Any

import pytest

_died: list[str] = []


@pytest.hookimpl(optionalhook=True, trylast=True)
def pytest_handlecrashitem(crashitem: str, report: pytest.TestReport, sched: Any) -> None:
    """xdist's main process found a worker dead in the middle of a test."""
    sched.config.hook.pytest_runtest_logreport(report=report)
    pytest.exit(f"the process of {report.node.gateway.id} died while it ran {crashitem}", returncode=1)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object | None) -> None:
    """A worker ended; with an error it died, also where no test ran in it."""
    if error:
        _died.append(f"{node.gateway.id}: {error}")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """The run is red even where all tests had passed before a process died."""
    if _died and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
