"""Where pages of results lie: what holds for a CPU in a folder of its level, so that no machine replaces another's.

The project's README and docs/benchmarks/README.md show every level that has been measured.
"""

from __future__ import annotations

from pathlib import Path

from tools.bench.engines import ROOT
from xamc.targets.kernels.isa import LEVELS, Isa

PAGES = ROOT / "docs/benchmarks"
"""What holds for every CPU, and the folders of levels."""
README = ROOT / "README.md"
RATIOS = "ratios.md"
"""A level's part of the README."""
RACE = ("<!-- race: written by make bench -->", "<!-- race: end -->")
INDEX = ("<!-- levels: written by make bench -->", "<!-- levels: end -->")
_TITLES = {
    "speed.md": "speed beside other engines",
    "fidelity.md": "fidelity",
    "batch.md": "batches",
    "long.md": "long contexts",
    "graphs.md": "ONNX graphs",
}


def level_pages() -> Path:
    """The folder of this machine's level."""
    return PAGES / Isa.host().name


def measured_levels(pages: Path = PAGES) -> list[Path]:
    """The folders of levels that have pages, the narrowest first."""
    return [pages / name for name in LEVELS if any((pages / name / page).is_file() for page in _TITLES)]


def publish(pages: Path = PAGES, readme: Path = README) -> None:
    """Writes what shows all levels: the ratios in the README, and the index of the pages."""
    levels = measured_levels(pages)
    ratios = [(level / RATIOS).read_text(encoding="utf-8") for level in levels if (level / RATIOS).is_file()]
    replace_block(readme, RACE, "\n".join(ratios))
    lines = []
    for level in levels:
        found = [f"[{title}]({level.name}/{page})" for page, title in _TITLES.items() if (level / page).is_file()]
        lines.append(f"- `{level.name}`: {', '.join(found)}")
    replace_block(pages / "README.md", INDEX, "\n".join([*lines, ""]))


def replace_block(page: Path, markers: tuple[str, str], block: str) -> None:
    """Puts a block of whole lines between its markers in a page.

    Raises:
        ValueError: the page does not have both markers, in their order.
    """
    begin, end = markers
    head, opened, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, tail = rest.partition(end)
    if not opened or not closed:
        raise ValueError(f"{page} lacks {begin if not opened else end}")
    page.write_text(f"{head}{begin}\n{block}\n{end}{tail}", encoding="utf-8")
