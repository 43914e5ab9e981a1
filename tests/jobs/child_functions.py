"""Functions that the child-process tests call in a fresh process."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from xamc.errors import InputError, Location


def double(request: dict[str, Any]) -> dict[str, Any]:
    return {"value": request["value"] * 2, "variable": os.environ.get("XAMC_TEST_VARIABLE")}


def refuse(request: dict[str, Any]) -> None:
    raise InputError("E1042", "no", "do", (Location(Path("b.yaml"), 3, 4, note="here"),), ("one", "two"), ("name",))


def fail(request: dict[str, Any]) -> None:
    raise ZeroDivisionError(f"while reading {request['file']}")


def crash(request: dict[str, Any]) -> None:
    print("about to read address zero", flush=True)
    ctypes.string_at(0)


def hang(request: dict[str, Any]) -> None:
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path(request["pid_file"]).write_text(str(grandchild.pid))
    time.sleep(60)


def grow(request: dict[str, Any]) -> None:
    blocks = []
    for _ in range(600):
        blocks.append(bytearray(b"x") * 2**20)
        time.sleep(0.005)


def fill_disk(request: dict[str, Any]) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "/somewhere/weights.bin")


def tool_on_full_disk(request: dict[str, Any]) -> None:
    print("/usr/bin/ld: final link failed: No space left on device", flush=True)
    raise RuntimeError("the linker failed")


def refuse_on_full_disk(request: dict[str, Any]) -> None:
    """The error that is to be told finds no room either; opening a file makes an empty one all the same."""

    def full(self: Path, *arguments: Any, **options: Any) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    Path.write_text = full  # type: ignore[method-assign]
    raise InputError("E1042", "no", "do")


def temporary_files(request: dict[str, Any]) -> str:
    with tempfile.NamedTemporaryFile(delete=False) as file:
        return file.name
