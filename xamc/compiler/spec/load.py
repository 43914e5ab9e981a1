"""Loads a spec: YAML with locations → checked keys → rules → frozen dataclasses."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from xamc.compiler.frontends.huggingface.hub_cache import find_in_hub_cache, repository_name
from xamc.compiler.spec.check import Checked, check
from xamc.compiler.spec.document import STDIN, from_mapping, is_regular, parse, read_text
from xamc.compiler.spec.errors import SET_PATH, SpecErrors
from xamc.compiler.spec.misspelled import refuse_misspelled, warn_of_similar_input
from xamc.compiler.spec.model import (
    DTYPES_OF_QUANTIZE,
    Backend,
    Frontend,
    LoadedSpec,
    ModelKwargs,
    Passes,
    Quantize,
    Runtime,
    Spec,
    SpecWarning,
    Verify,
    Workspace,
)
from xamc.compiler.spec.overrides import apply_overrides, set_text
from xamc.compiler.spec.registry import registry
from xamc.compiler.spec.rules import apply_rules, backend_type, frontend_type, max_batch
from xamc.errors import InputError, Location, XamcError

DEFAULT_WORKSPACE = "./vacc_deploy"
_COMPILE = "backend.compile."
DEFAULT_W4_GROUP_SIZE = 32


def load_spec(source: Path | str | Mapping[str, Any], overrides: Sequence[str] = ()) -> LoadedSpec:
    """Loads and checks a build spec.

    Args:
        source: path of a YAML file, ``-`` for stdin, or the same keys as Python data. Relative checkpoint paths are
            against the YAML file's folder; for Python data, stdin and pipes, against the current folder.
        overrides: `key.path=value`, applied in order before any check.

    Raises:
        SpecErrors: with every error of the spec, in the order of the file.
    """
    path = None if isinstance(source, Mapping) else Path(source)
    # what comes through a pipe has neither a folder nor a name
    file = path if path is not None and is_regular(path) else None
    text = ""
    sources = {SET_PATH: set_text(overrides)}
    try:
        if path is None:
            document = from_mapping(source)
        else:
            text = read_text(path)
            shown = STDIN if str(path) == "-" else path
            sources[shown] = text
            document = parse(text, shown)
    except SpecErrors as error:
        raise SpecErrors(error.errors, sources) from error
    except InputError as error:
        raise SpecErrors([error], sources) from error
    if isinstance(document.values, dict):
        apply_overrides(document, overrides)
    checked = check(document)
    refuse_misspelled(checked)
    warn_of_similar_input(checked)
    apply_rules(checked)
    warnings = sorted((*checked.warnings, *checked.unknown.values()), key=_location)
    if checked.errors:
        raise SpecErrors(sorted(checked.errors, key=_location), sources, warnings)
    return LoadedSpec(
        spec=_build(checked, file),
        warnings=tuple(warnings),
        values=document.values,
        positions={at: entry.at for at, entry in document.entries.items()},
        text=text,
        sources=sources,
    )


def _location(problem: XamcError | SpecWarning) -> tuple[bool, int, int]:
    location = problem.locations[0] if problem.locations else Location(Path(), 0, 0)
    return location.path == SET_PATH, location.line, location.column


def _build(checked: Checked, path: Path | None) -> Spec:
    """The dataclasses, from values that have passed every check."""
    get, section = checked.get, checked.section
    quantize = _quantize(checked)
    checkpoint = _resolve_checkpoint(get("frontend.checkpoint"), path)
    stem = path.stem if path is not None else Path(repository_name(Path(checkpoint.removeprefix("package:")))).stem
    dtype = DTYPES_OF_QUANTIZE[quantize.type][0] if quantize is not None else "fp16"
    return Spec(
        source=Path(os.path.abspath(path)) if path is not None else None,
        name=get("name") or get("model") or stem or "model",
        frontend=Frontend(
            checkpoint=checkpoint,
            type=cast(Any, frontend_type(checked)),
            dtype=get("frontend.dtype"),
            shape={
                name: checked.values.get(("frontend", "shape", name), value)
                for name, value in section("frontend.shape").items()
                if value is not None
            },
            model_kwargs=ModelKwargs(
                get("frontend.model_kwargs.tp") or 1,
                bool(get("frontend.model_kwargs.build_visual")),
                section("frontend.model_kwargs"),
            ),
            quantize=quantize,
        ),
        graph=section("graph"),
        backend=Backend(
            type=backend_type(checked),
            dtype=get("backend.dtype") or dtype,
            merge_params=get("backend.merge_params"),
            remove_params=get("backend.remove_params"),
            compile=_present(
                section("backend.compile"),
                # vamc's own are kept as they are written
                **{
                    path.removeprefix(_COMPILE): get(path)
                    for path, key in registry().items()
                    if key.strict and path.startswith(_COMPILE)
                },
            ),
            quantize=_present(section("backend.quantize")),
            values=_others(section("backend"), "type dtype merge_params remove_params compile quantize"),
        ),
        dataset=section("dataset"),
        workspace=Workspace(
            path=_resolve(get("workspace.path") or get("workspace.work_dir") or DEFAULT_WORKSPACE, Path.cwd()),
            workers=get("workspace.workers"),
            pyenv=get("workspace.pyenv") or {},
            values=_others(section("workspace"), "path work_dir workers pyenv"),
        ),
        passes=Passes(tuple(get("passes.disable") or ()), get("passes.expect") or {}),
        verify=Verify(
            get("verify.passes") or "each", bool(get("verify.final")), tuple(get("verify.prompts") or ())
        ),
        runtime=Runtime(max_batch(checked), get("runtime.kv_dtype") or "auto"),
    )  # fmt: skip


def _quantize(checked: Checked) -> Quantize | None:
    get = checked.get
    kind = get("frontend.quantize.type")
    if kind is None:
        return None
    group_size = get("frontend.quantize.group_size")
    if group_size is None and kind.startswith("w4"):
        group_size = DEFAULT_W4_GROUP_SIZE
    return Quantize(
        type=kind,
        group_size=None if group_size == -1 else group_size,
        device=get("frontend.quantize.device"),
        calib_args=checked.section("frontend.quantize.calib_args"),
    )


def _resolve_checkpoint(checkpoint: str, spec: Path | None) -> str:
    if checkpoint.startswith("package:"):
        return checkpoint
    path = _resolve(checkpoint, spec.parent if spec is not None else Path.cwd())
    return str(path if path.exists() else find_in_hub_cache(checkpoint) or path)


def _resolve(path: str, folder: Path) -> Path:
    return Path(os.path.abspath(folder / os.path.expanduser(path)))


def _present(values: Mapping[str, Any], **read: Any) -> dict[str, Any]:
    """Values without nulls, some of them replaced by what their key reads (raw text for strings)."""
    merged = {**values, **{name: value for name, value in read.items() if value is not None}}
    return {name: value for name, value in merged.items() if value is not None}


def _others(values: Mapping[str, Any], known: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in known.split()}
