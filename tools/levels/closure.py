"""The files that a Python script opens, imports or maps, so that it runs on a machine that has nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

_WATCH = """import sys
_opened = set()
def _watch(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)) and arguments[1] in ("r", "rb", None):
        _opened.add(arguments[0] if isinstance(arguments[0], str) else arguments[0].decode())
sys.addaudithook(_watch)
"""
_TELL = """
import json as _json
_modules = [m for m in list(sys.modules.values()) if getattr(m, "__file__", None)]
_paths = {p for m in _modules for p in (m.__file__, getattr(m, "__cached__", None)) if p} | _opened
_paths |= {line.split(None, 5)[-1].strip() for line in open("/proc/self/maps") if "/" in line}
# packages that are installed to be edited are found by a hook, not on the path
_packages = [m for name, m in list(sys.modules.items()) if "." not in name and hasattr(m, "__path__")]
_roots = [list(m.__path__)[0].rpartition("/")[0] for m in _packages]
with open(sys.argv[-1], "w") as _file:
    _json.dump([list(dict.fromkeys([*sys.path, *_roots])), sorted(_paths)], _file)
"""


def closure(script: str, arguments: Sequence[str]) -> tuple[dict[str, Path], dict[str, str], list[str]]:
    """Runs `script` here once.

    Returns:
        The files by absolute path; the symbolic links that libraries are found by; and the command that runs the script
        where these files are, without this environment's variables.
    """
    with tempfile.TemporaryDirectory() as folder:
        program, found = Path(folder) / "script.py", Path(folder) / "found.json"
        program.write_text(_WATCH + script + _TELL)
        subprocess.run([sys.executable, str(program), *arguments, str(found)], check=True)
        path, names = json.loads(found.read_text())
    inside = ("/proc/", "/sys/", "/dev/", folder)
    kept = {Path(os.path.abspath(name)) for name in names if not name.startswith(inside)}
    files = {str(file): file for file in kept if file.is_file()}
    links: dict[str, str] = {}
    for file in kept:
        if ".so" in file.name and file.is_file():
            links |= {str(p): str(file) for p in file.parent.glob("*.so*") if p.is_symlink() and p.resolve() == file}
    loader = Path("/lib64/ld-linux-x86-64.so.2")
    interpreter = Path(sys.executable).resolve()
    files |= {str(loader): loader, str(interpreter): interpreter}
    start = f"import sys; sys.path[:] = {path!r}; exec(compile({script!r}, 'script', 'exec'))"
    return files, links, [str(interpreter), "-S", "-E", "-c", start, *arguments]
