"""The commands, their options and their exit codes; what they do is in `xamc.cli.commands`.

Exit codes: 0 done, 1 the user's input, 2 misuse of the command line, 3 unsupported, 4 toolchain, 70 a defect of xamc,
130 interrupted, 143 terminated. Imports of everything but typer are inside the commands, so that ``xamc --help``
answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import xamc
from xamc.cli import options as opt
from xamc.cli.commands.signals import Terminated, unwinding
from xamc.cli.commands.target_names import target_name
from xamc.cli.golden import golden_app

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help as plain text: frames cost a third of the time in which it answers
    context_settings=opt.CONTEXT,
    help="Compile a language model for an accelerator from one build.yaml, prove every rewrite, and run the artifact.",
)
cache_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=opt.CONTEXT,
    help="Look at and shrink the stage cache.",
)
app.add_typer(cache_app, name="cache")
app.add_typer(golden_app, name="golden")


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"xamc {xamc.__version__}\n")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback for unexpected errors.")] = False,
) -> None:
    pass


@app.command("compile")
def _compile(
    spec: opt.SpecArgument,
    set_: opt.SetOption = None,
    target: opt.TargetOption = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The artifact's folder; default: workspace.path/name.")
    ] = None,
    allow_rtn: opt.AllowRtnOption = False,
    dump_ir: Annotated[
        Path | None, typer.Option("--dump-ir", metavar="DIR", help="Write readable IR after every stage to DIR.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes at a time; default: workspace.workers.")] = None,
    allow_pickle: opt.AllowPickleOption = False,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither use nor fill the stage cache.")] = False,
    json: opt.JsonOption = False,
) -> None:
    """Compile a spec to an artifact."""
    from xamc.cli.commands.build import compile_command

    overrides = opt.overrides_of(set_, target)
    if workers is not None:
        overrides.append(f"workspace.workers={workers}")
    with unwinding():
        compile_command(
            spec,
            overrides,
            output=output,
            allow_rtn=allow_rtn,
            dump_ir=dump_ir,
            use_cache=not no_cache,
            as_json=json,
            allow_pickle=allow_pickle,
        )


@app.command("plan")
def _plan(
    spec: opt.SpecArgument,
    set_: opt.SetOption = None,
    target: opt.TargetOption = None,
    allow_rtn: opt.AllowRtnOption = False,
    die_memory: Annotated[
        str | None,
        typer.Option("--die-memory", metavar="SIZE", help="Refuse graphs that a die of SIZE can't hold, e.g. 16GB."),
    ] = None,
    allow_pickle: opt.AllowPickleOption = False,
    json: opt.JsonOption = False,
) -> None:
    """Say what a compile would do, and what it would take, before any weight is read."""
    from xamc.cli.commands.build import plan_command

    plan_command(
        spec,
        opt.overrides_of(set_, target),
        allow_rtn=allow_rtn,
        die_memory=die_memory,
        as_json=json,
        allow_pickle=allow_pickle,
    )


@app.command("export-vamc")
def _export_vamc(
    source: Annotated[
        Path, typer.Argument(metavar="SPEC_OR_ARTIFACT", help="A build.yaml, or an artifact.", show_default=False)
    ],
    set_: opt.SetOption = None,
    target: opt.TargetOption = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The folder; default: workspace.path/name-vamc.")
    ] = None,
    route: Annotated[
        list[str] | None, typer.Option("--route", metavar="ROUTE", help="llama or onnx; repeatable; default: both.")
    ] = None,
    road: Annotated[list[str] | None, typer.Option("--road", hidden=True)] = None,
    dtype: Annotated[
        str, typer.Option("--dtype", help="The Llama checkpoint's weights: float16, bfloat16, float32 or source.")
    ] = "float16",
    onnx_dtype: Annotated[
        str, typer.Option("--onnx-dtype", help="The ONNX files' weight matrices: float32 or float16.")
    ] = "float32",
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint",
            metavar="PATH",
            help="The checkpoint that an artifact was made from, where it does not hold the weights.",
        ),
    ] = None,
    dump_ir: Annotated[
        Path | None, typer.Option("--dump-ir", metavar="DIR", help="Write readable IR of every graph to DIR.")
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither use nor fill the stage cache.")] = False,
    allow_pickle: opt.AllowPickleOption = False,
    json: opt.JsonOption = False,
) -> None:
    """Write a folder that a machine with Vastai's own vamc can compile."""
    from xamc.cli.commands.handoff import export_vamc_command, handoff_options

    routes = [*(route or ()), *(road or ())] or None
    options = handoff_options(routes, dtype, onnx_dtype, output, checkpoint, dump_ir, not no_cache, allow_pickle)
    with unwinding():
        export_vamc_command(source, opt.overrides_of(set_, target), options, as_json=json, former_option=bool(road))


@app.command("convert-weights")
def _convert_weights(
    source: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="A folder with pytorch_model*.bin or safetensors, or a .gguf file."),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.", show_default=False)],
    layout: Annotated[
        str | None,
        typer.Option(
            "--layout",
            metavar="LAYOUT",
            help="How DIR names its tensors: family, fused, meta, or a .json of names.",
        ),
    ] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="float16, bfloat16, float32, or source: as stored.")] = "source",
    shard_size: Annotated[str, typer.Option("--shard-size", metavar="SIZE", help="Largest file.")] = "5GB",
    json: opt.JsonOption = False,
) -> None:
    """Write pickled weights or a GGUF file as safetensors, without running anything of theirs."""
    from xamc.cli.commands.convert import convert_weights_command

    convert_weights_command(source, output, layout, dtype, shard_size, as_json=json)


@app.command("run")
def _run(
    artifact: opt.ArtifactArgument,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="The text to continue; - reads it from stdin.")
    ] = None,
    inputs: Annotated[
        Path | None, typer.Option("--inputs", metavar="NPZ", help="Arrays for a graph; default: seeded ones.")
    ] = None,
    outputs: Annotated[
        Path | None, typer.Option("--outputs", metavar="NPZ", help="Where a graph's outputs are written.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", metavar="TARGET", help="Refuse an artifact of another target (vacc, cpu).")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompt into the model's chat template.")] = False,
    max_new_tokens: opt.NewTokensOption = None,
    temperature: opt.TemperatureOption = 0.0,
    top_k: opt.TopKOption = 0,
    top_p: opt.TopPOption = 1.0,
    repetition_penalty: opt.PenaltyOption = 1.0,
    stop: opt.StopOption = None,
    seed: opt.SeedOption = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on after an end-of-sequence token.")] = False,
    speculate: opt.SpeculateOption = None,
    no_prefix_cache: opt.NoPrefixCacheOption = False,
    prefault: opt.PrefaultOption = False,
    verify_weights: opt.VerifyWeightsOption = False,
    threads: opt.ThreadsOption = None,
    cpu_list: opt.CpuListOption = None,
    json: opt.JsonOption = False,
) -> None:
    """Let an artifact continue a prompt, or run a graph on arrays, and say how fast it was."""
    opt.use_cpus(cpu_list)
    if prompt is None or inputs is not None or outputs is not None:
        from xamc.cli.commands.onnx_models import run_onnx_command

        run_onnx_command(
            artifact, prompt, inputs, outputs, target_name(target), seed, threads, verify_weights, as_json=json
        )
        return
    from xamc.cli.commands.generate import run_command

    options = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "repetition_penalty": repetition_penalty,
        "stop": tuple(stop or ()),
        "seed": seed,
        "ignore_eos": ignore_eos,
        "speculate": speculate,
        "prefix_cache": not no_prefix_cache,
    }
    loading = {"threads": threads, "prefault": prefault, "verify_weights": verify_weights}
    run_command(artifact, prompt, chat, max_new_tokens, options, loading, target_name(target), as_json=json)


@app.command("chat")
def _chat(
    artifact: opt.ArtifactArgument,
    system: Annotated[str | None, typer.Option("--system", help="A system message before the conversation.")] = None,
    chat_template: Annotated[
        Path | None, typer.Option("--chat-template", metavar="FILE", help="A Jinja template instead of the model's.")
    ] = None,
    max_new_tokens: opt.AnswerTokensOption = None,
    temperature: opt.TemperatureOption = 0.0,
    top_k: opt.TopKOption = 0,
    top_p: opt.TopPOption = 1.0,
    repetition_penalty: opt.PenaltyOption = 1.0,
    seed: opt.SeedOption = None,
    speculate: opt.SpeculateOption = None,
    no_prefix_cache: opt.NoPrefixCacheOption = False,
    prefault: opt.PrefaultOption = False,
    verify_weights: opt.VerifyWeightsOption = False,
    threads: opt.ThreadsOption = None,
    cpu_list: opt.CpuListOption = None,
) -> None:
    """Talk with an artifact; an empty line or end of file leaves, /help lists commands."""
    opt.use_cpus(cpu_list)
    from xamc.cli.commands.chat import chat_command

    options = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
        "speculate": speculate,
        "prefix_cache": not no_prefix_cache,
    }
    loading = {"threads": threads, "prefault": prefault, "verify_weights": verify_weights}
    chat_command(artifact, system, chat_template, max_new_tokens, options, loading)


@app.command("verify")
def _verify(
    artifact: opt.ArtifactArgument,
    threads: opt.ThreadsOption = None,
    cpu_list: opt.CpuListOption = None,
    json: opt.JsonOption = False,
) -> None:
    """Check an artifact's digests, then run it and compare its golden logits."""
    opt.use_cpus(cpu_list)
    from xamc.cli.commands.inspection import verify_command

    verify_command(artifact, threads, as_json=json)


@app.command("inspect")
def _inspect(artifact: opt.ArtifactArgument, json: opt.JsonOption = False) -> None:
    """Show what an artifact holds: model, sizes, passes, tolerances reached."""
    from xamc.cli.commands.inspection import inspect_command

    inspect_command(artifact, as_json=json)


@app.command("diff")
def _diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="An artifact's folder.", show_default=False)],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one's.", show_default=False)],
    json: opt.JsonOption = False,
) -> None:
    """Say which stage made two artifacts differ; exit code 0 for equal ones, 1 otherwise."""
    from xamc.cli.commands.differences import diff_command

    if not diff_command(first, second, as_json=json):
        raise typer.Exit(1)


@app.command("targets")
def _targets(json: opt.JsonOption = False) -> None:
    """List the targets and what they can do."""
    from xamc.cli.commands.inspection import targets_command

    targets_command(as_json=json)


@app.command("schema")
def _schema() -> None:
    """Print the JSON Schema of build files, for editors."""
    from xamc.cli.commands.output import print_json
    from xamc.compiler.spec import json_schema

    print_json(json_schema())


@app.command("explain")
def _explain(
    code: Annotated[str | None, typer.Argument(help="E1042 for example; none lists all.", show_default=False)] = None,
    json: opt.JsonOption = False,
) -> None:
    """Describe an error code."""
    from xamc.cli.commands.inspection import explain_command

    explain_command(code, as_json=json)


@app.command("doctor")
def _doctor(json: opt.JsonOption = False) -> None:
    """Check this machine: pins that are known to crash, compiler, CPU, memory, disk, cache."""
    from xamc.cli.commands.inspection import doctor_command

    doctor_command(as_json=json)


@cache_app.command("info")
def _cache_info(json: opt.JsonOption = False) -> None:
    """Show where the cache is and what it holds."""
    from xamc.cli.commands.inspection import cache_info_command

    cache_info_command(as_json=json)


@cache_app.command("prune")
def _cache_prune(
    max_size: Annotated[
        str, typer.Option("--max-size", metavar="SIZE", help="What may stay, e.g. 20GB; 0 empties the cache.")
    ],
    json: opt.JsonOption = False,
) -> None:
    """Remove the entries used longest ago until the cache is small enough."""
    from xamc.cli.commands.inspection import cache_prune_command

    cache_prune_command(max_size, as_json=json)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; whatever goes wrong is printed, nothing is raised."""
    as_json, debug = "--json" in arguments, "--debug" in arguments
    command: Any = typer.main.get_command(app)
    try:
        status = command.main(args=list(arguments), prog_name="xamc", standalone_mode=False)
        sys.stdout.flush()
        return int(status or 0)
    except typer.TyperException as error:
        shown: Any = error
        shown.show()
        return int(shown.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("\ninterrupted\n")
        return 130
    except Terminated as end:
        sys.stderr.write(f"\n{end}; nothing is left half-done\n")
        return end.exit_code
    except BrokenPipeError:
        _silence_stdout()
        return 141
    except Exception as error:  # the last stand: every other place lets errors pass
        from xamc.cli.commands.failure import report_failure

        return report_failure(error, arguments, as_json, debug)


def _silence_stdout() -> None:
    """The reader of our stdout is gone; let Python's flush at exit go nowhere."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))
