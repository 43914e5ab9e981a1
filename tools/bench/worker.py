"""The child's side of a benchmark: one engine in a process of its own, told what to do line by line.

It runs in that engine's environment, which holds nothing of this project, so it imports nothing but the adapter. It
reads one JSON object per line from stdin and writes one per line to stdout. Every engine does the same things:

- ``load``: from nothing to ready; seconds.
- ``generate``: prefill `ids`, then greedy tokens until there are `new_tokens`, or an engine far too slow for them has
  decoded for `seconds`; seconds of both phases, and the ids.
- ``prefill``: prefill `ids` up to the logits of the last token; seconds.
- ``logits``: logits of every position of the rows of `ids`, saved as float32[B, T, V] to the file `out`.
- ``memory``: the process's peak of resident memory so far; bytes.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol


class Engine(Protocol):
    """What is measured."""

    def load(self) -> None:
        """Loads the model; imports count too."""

    def prefill(self, ids: Sequence[int]) -> None:
        """Runs a prompt up to the logits of its last token."""

    def generate(self, ids: Sequence[int], new_tokens: int, seconds: float) -> tuple[list[int], float, float]:
        """Greedy tokens, seconds to the first of them, seconds from there to the last."""

    def logits(self, ids: Sequence[int]) -> Any:
        """float32[T, V] of every position of one row; only engines whose fidelity is measured have it."""


def peak_bytes() -> int:
    """The most resident memory this process ever had, in bytes (VmHWM: mapped files count while resident)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


def answer(engine: Engine, request: dict[str, Any]) -> dict[str, Any]:
    """Does what one line asks for."""
    started = time.perf_counter()
    what = request["do"]
    if what == "load":
        engine.load()
        return {"seconds": time.perf_counter() - started}
    if what == "prefill":
        engine.prefill(request["ids"])
        return {"seconds": time.perf_counter() - started}
    if what == "generate":
        ids, first, rest = engine.generate(request["ids"], request["new_tokens"], request["seconds"])
        return {"token_ids": ids, "first_seconds": first, "rest_seconds": rest}
    if what == "logits":
        import numpy as np

        rows = [np.asarray(engine.logits(row), np.float32) for row in request["ids"]]
        with Path(request["out"]).open("wb") as file:
            np.save(file, np.stack(rows))
        return {"seconds": time.perf_counter() - started}
    if what == "memory":
        return {"bytes": peak_bytes()}
    raise ValueError(f"unknown request {what!r}")


def main() -> None:
    """``worker.py KIND PATH OPTIONS THREADS``, options as JSON; answers requests until stdin ends.

    KIND is a module of `tools.bench.adapters`, or one anywhere by its dotted name.
    """
    kind, path, options, threads = sys.argv[1:5]
    # Libraries print to stdout as they like; answers go to a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    module = importlib.import_module(kind if "." in kind else f"tools.bench.adapters.{kind}")
    engine: Engine = module.Adapter(path, json.loads(options), int(threads))
    for line in sys.stdin:
        print(json.dumps(answer(engine, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
