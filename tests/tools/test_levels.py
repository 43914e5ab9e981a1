"""What can be said of the emulated machine without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.levels import machine
from tools.levels.__main__ import rows


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XAMC_BOCHS", "no-such-emulator")
    monkeypatch.setenv("XAMC_GUEST_KERNEL", "/no/such/kernel")
    said = machine.missing() or ""
    assert "needs Debian's bochs" in said and "no-such-emulator" in said and "XAMC_GUEST_KERNEL" in said


def test_a_row_per_level_and_no_result_of_what_was_skipped(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    cases = '<testcase name="test[a-x86-64-v4]"/><testcase name="test[b-x86-64-v4]"><failure/></testcase>'
    report.write_text(f'<r>{cases}<testcase name="test[a-x86-64-v4+vnni]"/><testcase name="of_no_level"/></r>')
    assert [(row.check, row.tried, row.failed) for row in rows(report)] == [
        ("kernels: x86-64-v4", 2, 1),
        ("kernels: x86-64-v4+vnni", 1, 0),
    ]
    report.write_text('<r><testcase name="test[a-x86-64-v4]"><skipped/></testcase></r>')
    with pytest.raises(ValueError, match="skipped"):
        rows(report)
