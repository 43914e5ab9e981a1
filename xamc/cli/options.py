"""Arguments and options that several commands share, and what they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xamc.cli.commands.target_names import TARGET_NAMES, target_name

CONTEXT = {"help_option_names": ["-h", "--help"]}  # of every command

SpecArgument = Annotated[
    Path, typer.Argument(metavar="SPEC", help="The build.yaml; - reads it from stdin.", show_default=False)
]
ArtifactArgument = Annotated[
    Path, typer.Argument(metavar="ARTIFACT", help="The folder that `xamc compile` made.", show_default=False)
]
SourceArgument = Annotated[
    Path, typer.Argument(metavar="SPEC_OR_ARTIFACT", help="A build.yaml, or an artifact.", show_default=False)
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the spec, e.g. backend.dtype=fp16; repeatable."),
]
TargetOption = Annotated[
    str | None,
    typer.Option("--target", metavar="TARGET", help=f"{', '.join(TARGET_NAMES)}; overrides backend.type."),
]
AllowRtnOption = Annotated[
    bool, typer.Option("--allow-rtn", help="Round to nearest where the spec asks for a calibrated quantization.")
]
AllowPickleOption = Annotated[
    bool,
    typer.Option("--allow-pickle", help="Read weights that are pickles (pytorch_model.bin), in a restricted process."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads; default: all CPUs this process may use.")
]
CpuListOption = Annotated[
    str | None,
    typer.Option(
        "--cpu-list", metavar="LIST", help="CPUs to run on, e.g. 0-3,8; default: all that this process may use."
    ),
]
NewTokensOption = Annotated[int | None, typer.Option(min=1, help="Most tokens of an answer; default: as fits.")]
TemperatureOption = Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token.")]
TopKOption = Annotated[int, typer.Option(min=0, help="Sample among the K likeliest tokens; 0: all.")]
TopPOption = Annotated[float, typer.Option(min=0.0, max=1.0, help="Sample among the likeliest tokens of sum P.")]
PenaltyOption = Annotated[float, typer.Option(help="Above 1 makes tokens that occurred less likely.")]
PrefaultOption = Annotated[
    bool, typer.Option("--prefault", help="Read all weights from the disk before the first token.")
]
VerifyWeightsOption = Annotated[
    bool, typer.Option("--verify-weights", help="Compare weights of more than 64 MiB with their digest too.")
]
SpeculateOption = Annotated[
    str | None,
    typer.Option(
        "--speculate",
        metavar="ngram",
        help="Check several tokens a step: those that followed the last ones before. Answers stay the same.",
    ),
]
NoPrefixCacheOption = Annotated[
    bool, typer.Option("--no-prefix-cache", help="Compute every prompt from its first token on.")
]
SeedOption = Annotated[int | None, typer.Option(help="Makes sampling repeatable.")]
AnswerTokensOption = Annotated[
    int | None,
    typer.Option("--max-new-tokens", min=1, help="Most tokens of an answer; default: 512, as far as they fit."),
]
StopOption = Annotated[list[str] | None, typer.Option("--stop", help="Text that ends the answer; repeatable.")]


def use_cpus(cpu_list: str | None) -> None:
    """What --cpu-list says, for this process."""
    if cpu_list is not None:
        from xamc.runtime import threads

        threads.use_cpus(cpu_list)


def overrides_of(set_: list[str] | None, target: str | None) -> list[str]:
    """What --set and --target say, as overrides of the spec; the target wins."""
    overrides = list(set_ or ())
    if target is not None:
        overrides.append(f"backend.type={target_name(target)}")
    return overrides
