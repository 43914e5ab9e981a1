"""Results of several CPU levels stand side by side."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.bench.machine import describe
from tools.bench.pages import INDEX, PAGES, RACE, RATIOS, README, level_pages, measured_levels, publish, replace_block
from xamc.targets.kernels.isa import LEVELS, Isa


def write_level(folder: Path, ratios: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "speed.md").write_text(f"# {folder.name}\n{ratios}")
    (folder / RATIOS).write_text(ratios)


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/README.md").write_text(f"above\n{INDEX[0]}\n{INDEX[1]}\nbelow\n")
    (tmp_path / "README.md").write_text(f"above\n{RACE[0]}\nold\n{RACE[1]}\nbelow\n")
    return tmp_path / "benchmarks", tmp_path / "README.md"


def test_measuring_a_level_leaves_the_others_as_they_are(places: tuple[Path, Path]) -> None:
    folder, readme = places
    wide, narrow = folder / "x86-64-v4+vnni", folder / "x86-64-v3"
    write_level(wide, "wide, first\n")
    write_level(narrow, "narrow\n")
    publish(folder, readme)
    assert readme.read_text() == f"above\n{RACE[0]}\nnarrow\n\nwide, first\n\n{RACE[1]}\nbelow\n"
    kept = {path: path.read_bytes() for path in narrow.iterdir()}
    write_level(wide, "wide, again\n")
    publish(folder, readme)
    assert readme.read_text() == f"above\n{RACE[0]}\nnarrow\n\nwide, again\n\n{RACE[1]}\nbelow\n"
    assert {path: path.read_bytes() for path in narrow.iterdir()} == kept
    index = (folder / "README.md").read_text()
    assert "- `x86-64-v3`: [speed beside other engines](x86-64-v3/speed.md)\n- `x86-64-v4+vnni`: [speed" in index


def test_a_level_without_a_race_is_in_the_index_alone(places: tuple[Path, Path]) -> None:
    folder, readme = places
    (folder / "aarch64").mkdir()
    (folder / "aarch64/batch.md").touch()
    (folder / "x86-64-v2").mkdir()
    publish(folder, readme)
    assert readme.read_text() == f"above\n{RACE[0]}\n\n{RACE[1]}\nbelow\n"
    assert f"{INDEX[0]}\n- `aarch64`: [batches](aarch64/batch.md)\n\n{INDEX[1]}" in (folder / "README.md").read_text()


@pytest.mark.parametrize("text", ["", RACE[0], f"{RACE[1]}\n{RACE[0]}\n"])
def test_a_page_without_markers_stays(tmp_path: Path, text: str) -> None:
    page = tmp_path / "README.md"
    page.write_text(text)
    with pytest.raises(ValueError, match="lacks <!-- race"):
        replace_block(page, RACE, "block")
    assert page.read_text() == text


def test_what_is_in_the_repository_is_what_publish_writes(tmp_path: Path) -> None:
    copy, readme = tmp_path / "benchmarks", tmp_path / "README.md"
    copy.mkdir()
    assert measured_levels()
    for level in measured_levels():
        assert level.name in LEVELS
        (copy / level.name).symlink_to(level)
    (copy / "README.md").write_bytes((PAGES / "README.md").read_bytes())
    readme.write_bytes(README.read_bytes())
    publish(copy, readme)
    assert readme.read_bytes() == README.read_bytes()
    assert (copy / "README.md").read_bytes() == (PAGES / "README.md").read_bytes()


def test_the_folder_has_the_name_that_the_pages_and_the_runtime_use() -> None:
    assert level_pages() == PAGES / Isa.host().name
    assert describe()["level"] == Isa.host().name
