"""The scratch folder of a measurement, and the commands that run in it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.watched_run import Watched, watched_run

GIB = 2**30
MARKER = ".xamc-scale"

SPEC = """\
name: scale-w4
frontend:
  checkpoint: {checkpoint}
  type: huggingface
  shape:
    input_ids: [[512], [8192]]
  quantize:
    type: w4a16_rtn
    group_size: 32
backend:
  type: tvm_cpu
  dtype: int4
workspace:
  path: {workspace}
"""


class ScaleError(Exception):
    """A step failed; the message says which and how."""


class Scratch:
    """The scratch folder and the commands that run in it."""

    def __init__(self, root: Path) -> None:
        """Makes the folder; a leftover of ours is cleared.

        Raises:
            ScaleError: it holds something else.
        """
        self.root = root.absolute()
        if self.root.exists() and any(self.root.iterdir()) and not (self.root / MARKER).exists():
            raise ScaleError(f"{self.root} holds other files; set XAMC_SCALE_DIR to a new or empty folder")
        self.checkpoint = self.root / "checkpoint"
        self.deploy = self.root / "deploy"
        self.artifact = self.deploy / "scale-w4"
        self.cache = self.root / "cache"
        self.temporary = self.root / "tmp"
        self.spec = self.root / "scale.yaml"

    def prepare(self) -> None:
        """Empties the folder but for a finished checkpoint that `--keep` left."""
        for folder in (self.deploy, self.cache, self.temporary):
            shutil.rmtree(folder, ignore_errors=True)
        self.temporary.mkdir(parents=True)
        (self.root / MARKER).touch()
        self.spec.write_text(SPEC.format(checkpoint=self.checkpoint, workspace=self.deploy), encoding="utf-8")

    @property
    def environment(self) -> dict[str, str]:
        """Keeps everything that a compile writes inside the folder."""
        return {"XAMC_CACHE": str(self.cache), "TMPDIR": str(self.temporary)}

    def watch(self, arguments: Sequence[str], limit: Any = None) -> Watched:
        """Runs Python with `arguments`, watched; its status is the caller's to judge."""
        return watched_run([sys.executable, *arguments], folders=[self.root], environment=self.environment, limit=limit)

    def compile(
        self,
        overrides: Sequence[str] = (),
        limit: Any = None,
        spec: Path | None = None,
        options: Sequence[str] = (),
    ) -> tuple[Watched, dict[str, Any]]:
        """`xamc compile`, watched, and its report; of `self.spec` unless another is given.

        Raises:
            ScaleError: it failed.
        """
        sets = [part for override in overrides for part in ("--set", override)]
        command = ["-m", "xamc", "compile", str(spec or self.spec), *sets, *options, "--json"]
        watched = self.watch(command, limit)
        if watched.status:
            why = "the watchdog ended it above the limit" if watched.ended_by_watchdog else f"exit {watched.status}"
            raise ScaleError(f"compile failed ({why}); peak PSS was {watched.peak_pss / GIB:.2f} GiB")
        return watched, json.loads(watched.output)["report"]

    def remove(self) -> None:
        """Deletes everything."""
        shutil.rmtree(self.root, ignore_errors=True)
