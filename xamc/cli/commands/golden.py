"""`xamc golden record` and `xamc golden check`: a team's own prompts, recorded once and compared ever after."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import xamc
from xamc.artifact.staging import write_file
from xamc.cli.commands.output import message_console, print_json, result_console
from xamc.errors import InputError, MisuseError, UnsupportedError
from xamc.ir.tolerances import tolerance
from xamc.runtime import Model, load_language_model
from xamc.runtime.tokenizer import checked_text
from xamc.verify.junit import TestCase, write_junit
from xamc.verify.recorded import Difference, Recorded, compare, dumps, read, record_answer


@dataclass(frozen=True)
class Subject:
    """What answers: an artifact, or a spec with what a compile of it takes.

    Attributes:
        source: a build file, ``-`` for stdin, or an artifact's folder.
        overrides: ``key.path=value`` strings, as of ``--set`` and ``--target``.
        allow_rtn: as for a compile.
        allow_pickle: as for a compile.
        threads: that answer; None for all CPUs.
    """

    source: Path
    overrides: Sequence[str] = ()
    allow_rtn: bool = False
    allow_pickle: bool = False
    threads: int | None = None

    def open(self) -> Model:
        """The artifact, or that of the spec, compiled now.

        Raises:
            MisuseError: E1737, options of a compile for an artifact.
            UnsupportedError: E1738, an embedding model.
        """
        source = self.source
        if str(source) == "-" or (source.exists() and not source.is_dir()):
            from xamc.compiler.pipeline import compile_spec
            from xamc.compiler.stages.job import CompileOptions
            from xamc.jobs.progress import Progress

            options = CompileOptions(allow_rtn=self.allow_rtn, allow_pickle=self.allow_pickle)
            source = compile_spec(source, self.overrides, options, Progress(message_console())).path
        elif self.overrides or self.allow_rtn or self.allow_pickle:
            raise MisuseError(
                "E1737",
                "--set, --target, --allow-rtn and --allow-pickle are for a spec; this is an artifact",
                "leave them out, or give the build.yaml",
            )
        model = load_language_model(source, self.threads)
        if model.manifest.is_embedding:
            raise UnsupportedError(
                "E1738",
                f"{model.manifest.name} is an embedding model, which gives no answers",
                "give a model with logits",
            )
        return model


def record_command(
    subject: Subject, output: Path, prompts: Sequence[str], prompts_file: Path | None, tokens: int
) -> None:
    """Records what an artifact, or the one that a spec compiles to, answers to prompts.

    Raises:
        InputError: E1651, a prompt is not UTF-8; E1735, the file of prompts can't be read; E1506, E1507, `output` can't
            be written.
        MisuseError: E1737, no prompt.
    """
    texts = [*prompts, *(_lines(prompts_file) if prompts_file is not None else ())]
    if not texts:
        raise MisuseError("E1737", "there is no prompt to record", "give --prompt TEXT, or --prompts FILE")
    texts = [checked_text(text, "a prompt") for text in texts]
    model = subject.open()
    answers = []
    for text in texts:
        ids = model.tokenizer.encode(text).tolist()
        generated = model.generate(ids, tokens, ignore_eos=True, prefix_cache=False)
        answers.append(record_answer(text, ids, generated.token_ids, generated.text, model.logits))
    recorded = Recorded(model.manifest.name, xamc.__version__, tuple(answers))
    write_file(output, lambda path: path.write_text(dumps(recorded), encoding="utf-8"))
    message_console().print(f"{output}: {len(answers)} answers of {tokens} tokens at most", style="dim")


def check_command(subject: Subject, golden: Path, bound: float | None, junit: Path | None, as_json: bool) -> None:
    """Compares, prints a report, and fails when an answer differs.

    Raises:
        InputError: E1735, `golden` can't be read; E1736, answers differ.
    """
    recorded = read(golden)
    allowed = tolerance("recorded_answers") if bound is None else bound
    model = subject.open()
    differences, cases = [], []
    for number, answer in enumerate(recorded.answers, start=1):
        started = time.perf_counter()
        ids = model.tokenizer.encode(answer.prompt).tolist()
        found = compare(answer, ids, model.logits, _text_of(model), allowed)
        differences.append(found)
        name = f"{number}: {_short(answer.prompt)}"
        cases.append(TestCase(name, time.perf_counter() - started, "\n".join(found.lines)))
    if junit is not None:
        write_file(junit, lambda path: write_junit(path, f"xamc golden {recorded.name}", cases))
    wrong = [difference for difference in differences if difference.lines]
    if as_json:
        print_json({"allowed": allowed, "answers": [_as_dict(difference) for difference in differences]})
    else:
        _report(recorded, differences, allowed)
    if wrong:
        raise InputError(
            "E1736",
            f"{len(wrong)} of {len(differences)} answers differ from {golden}",
            fix="if the change is meant, record again with xamc golden record and commit the file",
            details=tuple(f"{_short(difference.prompt)}: {difference.lines[0]}" for difference in wrong[:5]),
        )


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("E1735", f"the prompts in {path} can't be read: {error}", fix="give a text file") from None


def _text_of(model: Model) -> Callable[[int], str]:
    return lambda token: model.tokenizer.decode([token])


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}..."


def _as_dict(difference: Difference) -> dict[str, object]:
    agree = not difference.lines
    error = difference.error if difference.error < float("inf") else None
    return {
        "prompt": difference.prompt,
        "agrees": agree,
        "nats": error,
        "first_token": difference.first,
        "report": list(difference.lines),
    }


def _report(recorded: Recorded, differences: Sequence[Difference], allowed: float) -> None:
    console = result_console()
    for number, difference in enumerate(differences, start=1):
        state = "differs" if difference.lines else "agrees"
        moved = "" if difference.lines else f"   moved by {difference.error:.2g} nats"
        console.print(f"{state:8} {number}: {_short(difference.prompt)}{moved}")
        for line in difference.lines:
            console.print(f"         {line}")
    agreeing = sum(not difference.lines for difference in differences)
    console.print(f"{agreeing} of {len(differences)} answers of {recorded.name} agree within {allowed:.3g} nats")
