"""The rooms are what docs/architecture.md says: their order, their sizes, and where to look for what."""

from __future__ import annotations

import configparser
import re
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
LARGEST_SHARE = 0.30  # of the package's lines, in one room
LONGEST = 500  # lines of a file


def layers() -> list[str]:
    """The rooms of the import contract, from the roof down."""
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")
    return re.findall(r"\w+", contracts["importlinter:contract:rooms"]["layers"])


def lines_of_rooms() -> Counter[str]:
    found: Counter[str] = Counter()
    for file in (ROOT / "xamc").rglob("*.py"):
        found[file.relative_to(ROOT / "xamc").parts[0]] += len(file.read_text(encoding="utf-8").splitlines())
    return found


def test_the_table_has_every_room_in_the_order_of_the_contract() -> None:
    table = PAGE.split("## Rooms")[1].split("## ")[0]
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == layers()
    assert set(layers()) == {path.parent.name for path in (ROOT / "xamc").glob("*/__init__.py")}


def test_the_picture_has_every_room_in_that_order() -> None:
    picture = PAGE.split("```text")[1].split("```")[0]
    assert re.findall(r"^  (\w+)  ", picture, re.MULTILINE) == layers()


@pytest.mark.parametrize("place", sorted(set(re.findall(r"`(xamc/[\w/.]*)`", PAGE))))
def test_what_the_page_names_is_there(place: str) -> None:
    assert (ROOT / place).exists()


def test_every_room_says_what_it_is() -> None:
    for room in layers():
        assert (ROOT / "xamc" / room / "__init__.py").read_text(encoding="utf-8").startswith('"""'), room


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = grimp.build_graph("xamc", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(f"a cycle of imports: {' -> '.join(error.args[1])}")


def test_no_room_is_most_of_the_house() -> None:
    rooms = lines_of_rooms()
    room, lines = rooms.most_common(1)[0]
    assert lines <= LARGEST_SHARE * rooms.total(), f"{room} has {lines} of {rooms.total()} lines"


@pytest.mark.parametrize("folder", ["xamc", "tests", "tools"])
def test_no_file_is_long(folder: str) -> None:
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert [f"{path.relative_to(ROOT)}: {size}" for path, size in sizes.items() if size > LONGEST] == []
