"""The compiler: from a build.yaml to an artifact. `compile` is its Python API; `xamc.cli.main` its command line.

>>> import xamc.compiler
>>> compiled = xamc.compiler.compile("build.yaml", backend={"dtype": "fp16"})  # doctest: +SKIP
>>> compiled.path  # doctest: +SKIP
PosixPath('vacc_deploy/smollm2')
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xamc.compiler.pipeline import Compiled

__all__ = ["compile"]


def compile(
    spec: Path | str | Mapping[str, Any],
    *,
    output: Path | str | None = None,
    allow_rtn: bool = False,
    dump_ir: Path | str | None = None,
    use_cache: bool = True,
    **overrides: Any,
) -> Compiled:
    """Compile a build spec to an artifact.

    Args:
        spec: a YAML file, or its content as a mapping.
        output: the artifact's folder; ``workspace.path``/``name`` when None.
        allow_rtn: round to nearest where the spec asks for a calibrated quantization.
        dump_ir: folder for readable IR after every stage.
        use_cache: whether the stage cache is read and filled.
        **overrides: keys of the spec to override, nested as in the file: ``name="x", backend={"dtype": "fp16"}``.

    Returns:
        An object with the artifact's ``path``, its ``manifest`` and the build ``report``.

    Raises:
        xamc.errors.XamcError: its class says whose fault it is. Nothing is left half-published.

    What the command line shows as warnings are `UserWarning`s here.
    """
    from xamc.compiler.pipeline import compile_spec
    from xamc.compiler.stages.job import CompileOptions

    options = CompileOptions(
        allow_rtn=allow_rtn,
        dump_ir=None if dump_ir is None else Path(dump_ir),
        use_cache=use_cache,
        output=None if output is None else Path(output),
    )
    return compile_spec(spec, list(_flat(overrides)), options)


def _flat(overrides: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Nested overrides as ``key.path=value`` strings; values are written as JSON, which YAML reads alike."""
    import json

    for key, value in overrides.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{path}.")
        else:
            text = str(value) if isinstance(value, Path) else value
            yield f"{path}={json.dumps(text)}"
