"""`xamc golden`: its commands and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xamc.cli import options as opt
from xamc.cli.commands.signals import unwinding

golden_app = typer.Typer(
    no_args_is_help=True,
    context_settings=opt.CONTEXT,
    help="Record answers to prompts of your own, and compare with them.",
)


@golden_app.command("record")
def _golden_record(
    source: opt.SourceArgument,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Where the answers go, as JSON.")],
    prompt: Annotated[list[str] | None, typer.Option("--prompt", "-p", help="A prompt; repeatable.")] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help="A text file with a prompt per line.")
    ] = None,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Tokens of an answer.")] = 16,
    set_: opt.SetOption = None,
    target: opt.TargetOption = None,
    allow_rtn: opt.AllowRtnOption = False,
    allow_pickle: opt.AllowPickleOption = False,
    threads: opt.ThreadsOption = None,
) -> None:
    """Record what a model answers; commit the file."""
    from xamc.cli.commands.golden import Subject, record_command

    subject = Subject(source, opt.overrides_of(set_, target), allow_rtn, allow_pickle, threads)
    with unwinding():
        record_command(subject, output, prompt or (), prompts, tokens)


@golden_app.command("check")
def _golden_check(
    source: opt.SourceArgument,
    golden: Annotated[Path, typer.Argument(metavar="FILE", help="What `xamc golden record` made.", show_default=False)],
    bound: Annotated[
        float | None, typer.Option("--tolerance", min=0.0, help="Nats that log-probabilities may move by.")
    ] = None,
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Also write the result as JUnit XML.")
    ] = None,
    set_: opt.SetOption = None,
    target: opt.TargetOption = None,
    allow_rtn: opt.AllowRtnOption = False,
    allow_pickle: opt.AllowPickleOption = False,
    threads: opt.ThreadsOption = None,
    json: opt.JsonOption = False,
) -> None:
    """Compare a model's answers with recorded ones; exit code 1 when one differs."""
    from xamc.cli.commands.golden import Subject, check_command

    subject = Subject(source, opt.overrides_of(set_, target), allow_rtn, allow_pickle, threads)
    with unwinding():
        check_command(subject, golden, bound, junit, as_json=json)
