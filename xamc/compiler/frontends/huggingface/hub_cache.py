"""The hub cache of this machine, where `huggingface_hub` puts what it has downloaded; the network is never asked.

Layout (https://huggingface.co/docs/huggingface_hub/guides/manage-cache): a folder ``models--<owner>--<name>`` per
repository, in it ``refs/<branch>`` with a commit's name and ``snapshots/<commit>`` with links to the files' blobs.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from xamc.errors import InputError

_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_PREFIX = "models--"


def hub_cache_folder() -> Path:
    """Where the hub's library keeps its cache: HF_HUB_CACHE, HF_HOME/hub, or the default below the home folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or os.path.join(cache, "huggingface")
    hub = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub")
    return Path(os.path.abspath(os.path.expandvars(os.path.expanduser(hub))))


def find_in_hub_cache(reference: str) -> Path | None:
    """The folder of the repository `reference` in the cache, or the file of it that `reference` names.

    Args:
        reference: ``<owner>/<name>`` or ``<name>``, and for a file ``<owner>/<name>/<path>``.

    Returns:
        A path that exists; None where the cache doesn't hold it, or where `reference` is no such id.
    """
    parts = reference.split("/")
    for count in (2, 1):
        name, inner = "/".join(parts[:count]), parts[count:]
        if len(parts) < count or not _ID.fullmatch(name) or "--" in name or ".." in reference:
            continue
        folder = hub_cache_folder() / (_PREFIX + name.replace("/", "--"))
        if not is_repository(folder):
            continue
        if not inner:
            return folder
        file = snapshot(folder).joinpath(*inner)
        return file if file.exists() else None
    return None


def is_repository(folder: Path) -> bool:
    """Whether `folder` is a repository of models as the cache keeps one."""
    return folder.name.startswith(_PREFIX) and (folder / "snapshots").is_dir()


def repository_name(folder: Path) -> str:
    """``internlm3-8b-instruct`` of ``models--internlm--internlm3-8b-instruct``; other names as they are."""
    return folder.name.rpartition("--")[2] if folder.name.startswith(_PREFIX) else folder.name


def snapshot(folder: Path) -> Path:
    """The files of a repository in the cache: those of its branch main, or the only ones there are.

    Raises:
        InputError: E1101, there is none, or main names none and there are several.
    """
    commits = sorted(path for path in (folder / "snapshots").iterdir() if path.is_dir())
    try:
        main = (folder / "refs" / "main").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        main = ""
    found = [path for path in commits if path.name == main] or commits
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} snapshots, and refs/main names none of them" if found else "no snapshot"
    raise InputError(
        "E1101",
        f"{folder} holds {what}",
        "set frontend.checkpoint to one of the folders in snapshots" if found else "download the model again",
        details=tuple(map(str, found[:20])),
        keys=("frontend.checkpoint",),
    )
