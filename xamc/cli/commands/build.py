"""`xamc compile` and `xamc plan`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from xamc.artifact.onnx_manifest import OnnxManifest
from xamc.artifact.publish import distinct_bytes
from xamc.cli.commands.onnx_models import plan_onnx_model
from xamc.cli.commands.output import message_console, print_json, print_line, print_table, result_console
from xamc.cli.commands.sizes import parse_size
from xamc.cli.render import print_problems
from xamc.compiler.pipeline import compile_spec
from xamc.compiler.plan.plan import Plan, make_plan
from xamc.compiler.spec import LoadedSpec, key_uses, load_spec
from xamc.compiler.spec.locations import LocatedErrors
from xamc.compiler.spec.model_kind import model_kind
from xamc.compiler.stages.job import CompileOptions
from xamc.jobs.progress import Progress, duration, size


def compile_command(
    spec: Path,
    overrides: Sequence[str],
    *,
    output: Path | None,
    allow_rtn: bool,
    dump_ir: Path | None,
    use_cache: bool,
    as_json: bool,
    allow_pickle: bool = False,
) -> None:
    """Compile, showing the stage table; with `as_json` the table goes to stderr and the result to stdout."""
    console = message_console() if as_json else result_console()
    options = CompileOptions(allow_rtn, dump_ir, use_cache, output, allow_pickle)
    compiled = compile_spec(spec, overrides, options, Progress(console))
    nbytes = distinct_bytes(compiled.path, compiled.manifest.files)
    if as_json:
        print_json({"path": str(compiled.path), "nbytes": nbytes, "report": compiled.report})
        return
    console.print(f"→ {_shown(compiled.path)}   {size(nbytes)}", style="bold")
    manifest = compiled.manifest
    if not isinstance(manifest, OnnxManifest) and not (compiled.path / manifest.tokenizer).is_dir():
        console.print(f"  xamc.runtime.load({_shown(compiled.path)!r}).generate([1, 2, 3])", markup=False)
        return
    how = "--inputs FILE.npz" if isinstance(manifest, OnnxManifest) else '--prompt "..."'
    console.print(f"  {_to_run(compiled.path)} {how}")


def plan_command(
    spec: Path,
    overrides: Sequence[str],
    *,
    allow_rtn: bool,
    die_memory: str | None,
    as_json: bool,
    allow_pickle: bool = False,
) -> None:
    """Print the plan; then refuse it if this machine, or a die of `die_memory`, can't hold it.

    What becomes of each key is known without the checkpoint, and is printed before it is opened.
    """
    die_bytes = None if die_memory is None else parse_size(die_memory, "--die-memory")
    loaded = load_spec(spec, overrides)
    if not as_json:
        _print_keys(loaded)
    if loaded.spec.frontend.type == "onnx":
        with LocatedErrors(loaded):
            plan_onnx_model(loaded, allow_rtn, die_bytes, as_json=as_json)
        return
    plan = make_plan(loaded, (), allow_rtn, allow_pickle)
    if as_json:
        print_json(plan.to_dict())
    else:
        _print_plan(plan)
        said = set(loaded.warnings)
        for warning in plan.warnings:
            if warning not in said:
                message_console().print(f" warning: {warning}", style="yellow", soft_wrap=True, markup=False)
    if die_bytes is not None:
        plan.require_dies(die_bytes)
    plan.require_room()


def _print_keys(loaded: LoadedSpec) -> None:
    console = result_console()
    console.print(f"{loaded.spec.name}  → {loaded.spec.backend.type}, {model_kind(loaded.spec).name}", style="bold")
    if loaded.warnings:
        print_problems(loaded.warnings, loaded.sources)
    console.print("\nkeys", style="bold")
    uses = key_uses(loaded, loaded.spec.backend.type)
    print_table(console, ("key", "use", "why"), [(use.path, use.use, use.reason) for use in uses])


def _print_plan(plan: Plan) -> None:
    console = result_console()
    console.print("\nstages", style="bold")
    print_table(
        console,
        ("stage", "what", "time", "memory"),
        [(stage.name, stage.what, f"~{duration(stage.seconds)}", size(stage.peak_bytes)) for stage in plan.stages],
    )
    console.print("\npasses", style="bold")
    print_line(console, "  " + (", ".join(plan.passes) or "none"), 2)
    console.print("\nphases", style="bold")
    print_table(console, ("phase", "tokens", "ranks"), [(p.kind, p.tokens, str(p.ranks)) for p in plan.phases])
    for table in plan.tables:
        console.print(f"\n{table.title}", style="bold")
        print_table(console, table.header, table.rows)
        if table.note:
            print_line(console, f"  {table.note}", 2)
    console.print("\nfiles", style="bold")
    print_table(console, ("file", "size", "holds"), [(f.path, size(f.nbytes), f.holds) for f in plan.files])
    console.print()
    for line in plan.totals():
        print_line(console, line, 9)


def _to_run(path: Path) -> str:
    """The command that is there to be pasted, whatever name the spec gave the folder."""
    return f"xamc run {shlex.quote(_shown(path))}"


def _shown(path: Path) -> str:
    """The path relative to the current folder where that is shorter."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
