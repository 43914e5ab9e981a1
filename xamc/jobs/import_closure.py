"""Which modules of xamc a piece of it runs: those it imports, those that they import, and so on.

They are found in the source, without importing anything, so that the compiling process can name what a child process
will run. Counted are

- imports anywhere in a module, also inside functions, but not those for type checking alone;
- a child process or a worker that a string names, as `run_child` does;
- all modules of a package that imports them by names that it makes of its own and a dot;
- the packages that a module lies in, as their ``__init__`` runs first, but of them only what runs on import: their
  functions are called by those who import the package by its own name.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import xamc

_ROOT = xamc.__name__
_CHILD = re.compile(rf"""["']({_ROOT}(?:\.\w+)+):\w+["']""")
_BY_NAME = re.compile(r"""\bimport_module\(["']([\w.]+)["']""")
_SIBLINGS = re.compile(r"""\bf["']\{__name__\}\.""")
_DATA_SUFFIXES = (".json", ".jinja")
# CPython 3.11 ends in a SystemError where two threads make syntax trees at the same time
_PARSING = threading.Lock()

_Name = tuple[str, str]
"""``from M import n`` as (M, n), where n may be a module or not; ``import M`` as (M, "")."""


@dataclass(frozen=True)
class Closure:
    """What some entry points run.

    Attributes:
        modules: dotted names of modules of xamc, sorted.
        libraries: top-level names of what they import from elsewhere, sorted; without the standard library.
    """

    modules: tuple[str, ...]
    libraries: tuple[str, ...]

    def sources(self) -> Mapping[str, str]:
        """Package → SHA-256 over the sources of its modules that are in the closure, and its data files."""
        parts: dict[str, list[str]] = {}
        for module in self.modules:
            file = _file_of(module)
            assert file is not None
            package = module if file.name == "__init__.py" else module.rpartition(".")[0]
            lines = parts.setdefault(package, [])
            lines.append(f"{file.name}\0{_read(file).digest}")
            if len(lines) == 1:
                data = sorted(path for path in file.parent.iterdir() if path.suffix in _DATA_SUFFIXES)
                lines += [f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in data]
        return {
            package: hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest() for package, lines in parts.items()
        }


def import_closure(entries: Iterable[str]) -> Closure:
    """The closure of modules, or of functions in them: ``xamc.targets.cpu.prove:prove`` is the module's.

    Raises:
        ValueError: an entry is no module of xamc.
    """
    file_of = cache(_file_of)
    seen: dict[str, bool] = {}
    libraries: set[str] = set()
    waiting: list[tuple[str, bool]] = []
    for entry in entries:
        module = entry.partition(":")[0]
        if file_of(module) is None:
            raise ValueError(f"{entry} is no module of {_ROOT}")
        waiting.append((module, True))
    while waiting:
        module, whole = waiting.pop()
        if seen.get(module, False) or (module in seen and not whole):
            continue
        seen[module] = whole
        file = file_of(module)
        assert file is not None
        source = _read(file)
        waiting += [(package, False) for package in _packages(module)]
        for name in source.everywhere if whole else source.on_import:
            own = _own_module(name, module, file.name == "__init__.py", file_of)
            if own is not None:
                waiting.append((own, True))
            elif not name[0].startswith((".", f"{_ROOT}.")) and name[0] != _ROOT:
                libraries.add(name[0].partition(".")[0])
        if whole and source.names_siblings:
            waiting += [(sibling, True) for sibling in _modules_below(file.parent, module)]
    return Closure(tuple(sorted(seen)), tuple(sorted(libraries - sys.stdlib_module_names)))


def all_sources() -> str:
    """SHA-256 over all of xamc's modules and data files, whoever imports them."""
    root = Path(xamc.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.suffix in (".py", *_DATA_SUFFIXES):
            digest.update(
                f"{path.relative_to(root).as_posix()}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
            )
    return digest.hexdigest()


def own_digest(module: str) -> str:
    """SHA-256 of a module's own source.

    Raises:
        ValueError: it is no module of xamc.
    """
    file = _file_of(module)
    if file is None:
        raise ValueError(f"{module} is no module of {_ROOT}")
    return _read(file).digest


@dataclass(frozen=True)
class _Source:
    """A module's digest and what it imports: when it is imported itself, and in all."""

    digest: str
    on_import: frozenset[_Name]
    everywhere: frozenset[_Name]
    names_siblings: bool


def _read(file: Path) -> _Source:
    status = file.stat()
    return _parse(file, status.st_mtime_ns, status.st_size)


@cache
def _parse(file: Path, mtime_ns: int, nbytes: int) -> _Source:
    """Parsing takes a millisecond or two, so that it is done once for every state of a file."""
    content = file.read_bytes()
    text = content.decode("utf-8")
    on_import: set[_Name] = set()
    later = {(name, "") for name in (*_CHILD.findall(text), *_BY_NAME.findall(text))}
    with _PARSING:
        tree = ast.parse(content)
    _collect(tree.body, on_import, later)
    siblings = _SIBLINGS.search(text) is not None
    return _Source(hashlib.sha256(content).hexdigest(), frozenset(on_import), frozenset(on_import | later), siblings)


def _collect(body: Iterable[ast.stmt], now: set[_Name], later: set[_Name]) -> None:
    """Adds the imports of statements to `now`, those in functions to `later`."""
    for node in body:
        if isinstance(node, ast.Import):
            now.update((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            now.update((module, alias.name) for alias in node.names)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            _collect(node.body, later, later)
        elif isinstance(node, ast.If) and _is_type_checking(node.test):
            _collect(node.orelse, now, later)
        else:
            for part in ("body", "orelse", "finalbody"):
                _collect(getattr(node, part, ()), now, later)
            for block in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
                _collect(block.body, now, later)


def _is_type_checking(test: ast.expr) -> bool:
    name = test.id if isinstance(test, ast.Name) else test.attr if isinstance(test, ast.Attribute) else ""
    return name == "TYPE_CHECKING"


def _own_module(name: _Name, importer: str, is_package: bool, file_of: Callable[[str], Path | None]) -> str | None:
    """The module of xamc that an import means: ``from M import n`` means M.n if that is one, and else M."""
    base, member = name
    level = len(base) - len(base.lstrip("."))
    if level:
        up = importer.split(".")[: len(importer.split(".")) - level + is_package]
        base = ".".join([*up, *([base[level:]] if base[level:] else [])])
    if member and file_of(f"{base}.{member}") is not None:
        return f"{base}.{member}"
    return base if file_of(base) is not None else None


def _file_of(module: str) -> Path | None:
    first, *rest = module.split(".")
    if first != _ROOT:
        return None
    place = Path(xamc.__file__).parent.joinpath(*rest)
    for file in (place / "__init__.py", place.with_suffix(".py")) if rest else (place / "__init__.py",):
        if file.is_file():
            return file
    return None


def _packages(module: str) -> Iterator[str]:
    parts = module.split(".")
    return (".".join(parts[:length]) for length in range(1, len(parts)))


def _modules_below(folder: Path, package: str) -> Iterator[str]:
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        yield ".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))
