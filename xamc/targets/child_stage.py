"""A stage of the cache whose work a child process with TVM does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xamc.artifact.staging import temporary_folder
from xamc.jobs.cache import StageCache, StageKey
from xamc.jobs.child import Limits, run_child


def child_stage(
    cache: StageCache,
    key: StageKey,
    child: str,
    request: Mapping[str, Any],
    limits: Limits,
    graph: bytes | None = None,
    dump: Path | None = None,
) -> Path:
    """The stage's folder, from the cache or from the child.

    Args:
        cache: where results are kept.
        key: of the stage.
        child: the function that does the work, as of `run_child`. It writes into the folder ``out`` of its request.
        request: JSON, without ``out``, ``dump`` and a given ``graph``.
        limits: of the child.
        graph: a serialized ONNX model; the child finds it in the file ``graph`` of its request.
        dump: where readable IR goes, or None; the child then runs even if its result is known.

    Raises:
        XamcError: what the child raised; ToolchainError: E152x it failed.
    """

    def build(out: Path) -> None:
        with temporary_folder(key.stage) as folder:
            call = {**request, "dump": str(dump) if dump else None, "out": str(out)}
            if graph is not None:
                call["graph"] = str(folder / "graph.onnx")
                (folder / "graph.onnx").write_bytes(graph)
            reproducers = cache.folder / "reproducers"
            run_child(child, call, folder=folder, limits=limits, reproducers=reproducers, without=("torch",))

    known = cache.get(key)
    if known is not None and dump is not None:
        # the result is known, the IR on the way to it is not
        with temporary_folder("dump") as shown:
            build(shown)
    return known or cache.publish(key, build)
