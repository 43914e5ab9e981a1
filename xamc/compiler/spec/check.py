"""Checks a document against the key registry: known keys, their types and values, required ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from xamc.compiler.spec.document import Document, dotted
from xamc.compiler.spec.keys import XAMC_SECTIONS
from xamc.compiler.spec.model import SpecWarning
from xamc.compiler.spec.registry import find, is_section, is_strict, names_in, suggest
from xamc.errors import InputError, Location, XamcError
from xamc.targets.spec_kinds import KeyPath, Mismatch, describe


@dataclass
class Checked:
    """A document whose keys have been judged one by one.

    Attributes:
        document: where the values came from.
        values: path → value of every known key that is present, not null and of the right kind.
        errors: what stops a compile.
        warnings: what does not.
        bad: paths of values that have an error, which no later check should judge again.
        unknown: paths of keys that nobody knows, each with its warning.
    """

    document: Document
    values: dict[KeyPath, Any] = field(default_factory=dict)
    errors: list[XamcError] = field(default_factory=list)
    warnings: list[SpecWarning] = field(default_factory=list)
    bad: set[KeyPath] = field(default_factory=set)
    unknown: dict[KeyPath, SpecWarning] = field(default_factory=dict)

    def get(self, path: str) -> Any:
        """Value of a known key by its dotted path; None when absent, null or wrong."""
        return self.values.get(tuple(path.split(".")))

    def at(self, path: str, note: str = "") -> tuple[Location, ...]:
        """Where a key's value stands, by its dotted path."""
        return self.document.at(tuple(path.split(".")), note)

    def written(self, path: KeyPath) -> Any:
        """A value as written, of a known key or not; None when absent."""
        value: Any = self.document.values
        for part in path:
            value = value.get(part) if isinstance(value, dict) else None
        return value

    def section(self, path: str) -> dict[str, Any]:
        """A section as written; empty when absent."""
        value = self.written(tuple(path.split(".")))
        return value if isinstance(value, dict) else {}

    def is_bad(self, path: str) -> bool:
        """Whether the key, or a section around it, or anything inside it has an error."""
        parts = tuple(path.split("."))
        return any(bad[: len(parts)] == parts or parts[: len(bad)] == bad for bad in self.bad)


def check(document: Document) -> Checked:
    """Judges every key of a document by itself; rules over several keys are in `rules`."""
    checked = Checked(document, errors=list(document.errors), bad=set(document.refused))
    if () in document.refused:
        return checked
    if not isinstance(document.values, dict):
        what = "is empty" if document.values is None else f"holds {describe(document.values)}"
        checked.bad.add(())
        fix = "write at least frontend: {checkpoint: ...}"
        checked.errors.append(
            InputError("E1010", f"the spec {what}; a mapping of keys is needed", fix, document.at(()))
        )
        return checked
    _walk(checked, document.values, ())
    if not checked.is_bad("frontend.checkpoint") and checked.get("frontend.checkpoint") is None:
        checked.errors.append(_missing_checkpoint(checked))
        checked.bad.add(("frontend", "checkpoint"))
    return checked


def _walk(checked: Checked, section: dict[str, Any], path: KeyPath) -> None:
    """Judges the keys of one section and of those inside."""
    for name, value in section.items():
        at = (*path, name)
        if at in checked.bad:
            continue
        key = find(at)
        if key is not None and not is_section(at):
            if value is not None:
                problems: list[Mismatch] = []
                read = key.kind.read(value, at, checked.document.raw, problems)
                _note(checked, problems, key.strict)
                if not problems:
                    checked.values[at] = read
        elif is_section(at):
            if isinstance(value, dict):
                _walk(checked, value, at)
            elif value is not None:
                message = f"expected a mapping, got {describe(value)}"
                names = ", ".join(names_in(dotted(at))[:4])
                _note(checked, [Mismatch(at, "E1022", message, f"put keys such as {names} below it")], strict=True)
        elif is_strict(at):
            checked.errors.append(_unknown_error(checked, at))
            checked.bad.add(at)
        else:
            checked.unknown[at] = _unknown_warning(checked, at, value)


def _note(checked: Checked, problems: list[Mismatch], strict: bool) -> None:
    for problem in problems:
        message = f"{dotted(problem.path)}: {problem.message}"
        location = checked.document.at(problem.path)
        if strict:
            checked.errors.append(InputError(problem.code, message, problem.fix, location))
            checked.bad.add(problem.path)
        else:
            message += "; it is recorded as it is, and nothing reads it"
            checked.warnings.append(SpecWarning("E1027", message, problem.fix, location))


def _unknown_error(checked: Checked, at: KeyPath) -> InputError:
    near = suggest(at, checked.written(at))
    section = dotted(at[:-1])
    fix = f"did you mean {near}?" if near else f"{section} takes {', '.join(names_in(section))}"
    return InputError("E1020", f"unknown key {dotted(at)}", fix, checked.document.at(at, key=True))


def _unknown_warning(checked: Checked, at: KeyPath, value: Any) -> SpecWarning:
    near = suggest(at, value)
    if near is None:
        fix = ""
    elif near.rpartition(".")[2] == at[-1] and not near.startswith(XAMC_SECTIONS):
        fix = f"did you mean {near}? It belongs there"
    else:
        fix = f"did you mean {near}?"
    location = checked.document.at(at, key=True)
    return SpecWarning("E1021", f"unknown key {dotted(at)} is ignored", fix, location, meant=near or "")


def _missing_checkpoint(checked: Checked) -> InputError:
    """The error for a missing checkpoint; swallows the warning about the key that was meant to hold it."""
    for at, warning in checked.unknown.items():
        if warning.meant in ("frontend", "frontend.checkpoint"):
            del checked.unknown[at]
            message = f"frontend.checkpoint is missing; {dotted(at)} is not a key"
            return InputError("E1024", message, f"did you mean {warning.meant}?", warning.locations)
    fix = "add frontend: {checkpoint: <folder, file, or package:<python package>/<file>>}"
    location = checked.document.at(("frontend",), key=True)
    return InputError("E1024", "frontend.checkpoint is missing", fix, location)
