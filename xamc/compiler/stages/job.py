"""What every stage of one compile shares: options, the cache, and where progress and warnings go."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from xamc.artifact.staging import disk_errors
from xamc.jobs.cache import StageCache
from xamc.jobs.progress import Progress

# a worker that packs weights takes about 0.15 GiB, and the disk is the limit before this many are busy
MOST_WORKERS = 8


def packing_workers(wanted: int | None) -> int:
    """Processes that pack weights: as the spec wants, else one per CPU of this process, up to `MOST_WORKERS`."""
    return wanted or min(MOST_WORKERS, len(os.sched_getaffinity(0)))


@dataclass(frozen=True)
class CompileOptions:
    """What the command line adds to a spec.

    Attributes:
        allow_rtn: take round-to-nearest where the spec asks for a calibrated quantization.
        dump_ir: folder for readable IR after every stage, or None.
        use_cache: whether earlier results are used and new ones kept.
        output: the artifact's folder; `workspace.path`/`name` when None.
        allow_pickle: read weights that lie in a folder as pickles alone.
    """

    allow_rtn: bool = False
    dump_ir: Path | None = None
    use_cache: bool = True
    output: Path | None = None
    allow_pickle: bool = False


@dataclass
class Job:
    """One compile."""

    options: CompileOptions
    cache: StageCache
    progress: Progress
    workers: int

    def dump(self, name: str, text: str) -> None:
        """Writes `text` to the dump folder, if there is one.

        Raises:
            InputError: E1506, E1507.
        """
        if self.options.dump_ir is not None:
            place = self.options.dump_ir / name
            with disk_errors(place):
                place.write_text(text)
