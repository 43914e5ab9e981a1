"""The CSV of results and the table in the page."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.reliability.results import BEGIN, CSV, END, PAGE, Row, page, publish, read, record, table

KILL = Row("kill", 300, 0, 1, "2026-01-01", "signals")


def test_a_new_result_replaces_the_old_one_of_its_check(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    assert read(path) == []
    record([KILL, Row("fuzz gguf", 10, 1, 1, "2026-01-01", 'a "note", quoted')], path)
    record([Row("kill", 1000, 2, 5, "2026-01-02", "signals")], path)
    assert [(row.check, row.tried, row.failed) for row in read(path)] == [("fuzz gguf", 10, 1), ("kill", 1000, 2)]
    assert read(path)[0].note == 'a "note", quoted'


def test_checks_that_record_at_once_keep_each_other_s_rows(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"

    def several(name: str) -> None:
        for number in range(25):
            record([Row(f"{name} {number}", 1, 0, 1, "2026-01-01", "at once")], path)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(several, "abcd"))
    assert len(read(path)) == 100


def test_the_table_replaces_what_stands_between_its_marks(tmp_path: Path) -> None:
    path, csv = tmp_path / "page.md", tmp_path / "results.csv"
    path.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    record([KILL], csv)
    publish(csv, path)
    text = path.read_text()
    assert text == f"# Title\n\n{BEGIN}\n{table([KILL])}\n{END}\n\nafter\n" and "| kill | 300 | 0 |" in text


def test_recording_keeps_the_page_beside_up_to_date(tmp_path: Path) -> None:
    beside = tmp_path / "results.md"
    beside.write_text(f"# Title\n\n{BEGIN}\n{END}\n")
    record([KILL], tmp_path / "results.csv")
    assert beside.read_text() == f"# Title\n\n{BEGIN}\n{table([KILL])}\n{END}\n"


def test_the_page_shows_the_recorded_results() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text, read(CSV)) == text, "run: python -m tools.reliability"
