"""The hand-off's folder: built aside, published by one rename, and never put over files that xamc didn't write."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xamc
from xamc.artifact.digests import sha256_of
from xamc.artifact.staging import StagingFolder, disk_errors, free_bytes, refuse_foreign
from xamc.errors import InputError

MARKER = "xamc-handoff.json"
FORMAT_VERSION = 1


class HandoffWriter(StagingFolder):
    """The folder of a hand-off, which is being filled."""

    def __init__(self, destination: Path) -> None:
        """Prepare the folder beside `destination`, which is followed if it is a symbolic link.

        Raises:
            InputError: E1453 the destination holds something else than a hand-off of ours; E1506, E1507.
        """
        super().__init__(Path(os.path.realpath(destination)), check_replaceable)

    def require_room(self, nbytes: int) -> None:
        """Checks the disk before hours of writing.

        Raises:
            InputError: E1454.
        """
        free = free_bytes(self.destination)
        if nbytes > free:
            raise InputError(
                "E1454",
                f"the hand-off takes {nbytes / 1e9:.1f} GB, {self.destination.parent} has {free / 1e9:.1f} GB free",
                fix="choose another folder with -o, or write one route only (--route llama)",
            )

    def publish(self, facts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Writes the marker with a digest of every file, and puts the folder in place.

        Args:
            facts: what the marker says beside the files; JSON.

        Returns:
            Path → size and SHA-256 of every file.

        Raises:
            InputError: E1453 the destination became something else meanwhile; E1506, E1507.
        """
        paths = sorted(p for p in self.folder.rglob("*") if p.is_file())
        files = {
            str(path.relative_to(self.folder)): {"nbytes": path.stat().st_size, "sha256": sha256_of(path)}
            for path in paths
        }
        marker = {"format_version": FORMAT_VERSION, "xamc_version": xamc.__version__, **facts, "files": files}
        with disk_errors(self.destination):
            text = json.dumps(marker, indent=1, sort_keys=True, ensure_ascii=False)
            (self.folder / MARKER).write_text(text + "\n", encoding="utf-8")
        self.put_in_place()
        return files


def check_replaceable(destination: Path) -> None:
    """Refuses to replace anything but nothing, an empty folder, or a hand-off with no foreign files in it.

    Raises:
        InputError: E1453.
    """
    fix = "choose another folder with -o, or move this one away yourself"

    def known(present: set[str]) -> set[str]:
        try:
            return {MARKER, *json.loads((destination / MARKER).read_text(encoding="utf-8"))["files"]}
        except (OSError, ValueError, TypeError, KeyError) as error:
            message = f"{destination} has no readable {MARKER}, so it is no hand-off of xamc's ({error})"
            raise InputError("E1453", message, fix=fix) from None

    refuse_foreign(destination, "hand-off", "E1453", fix, known)
