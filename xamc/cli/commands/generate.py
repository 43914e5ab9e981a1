"""`xamc run` of a language model."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from xamc.artifact import read_artifact
from xamc.cli.commands.output import message_console, print_json
from xamc.cli.render import printable
from xamc.errors import MisuseError
from xamc.runtime import Generation, Model, load_language_model
from xamc.runtime.executor import I64
from xamc.runtime.startup import seconds_since_start
from xamc.runtime.tokenizer import checked_text

CHAT_TOKENS = 512


def run_command(
    artifact: Path,
    prompt: str,
    chat: bool,
    max_new_tokens: int | None,
    options: Mapping[str, Any],
    loading: Mapping[str, Any],
    target: str | None,
    as_json: bool,
) -> None:
    """Stream an answer to stdout, then its speed to stderr; with `as_json` one document instead.

    Args:
        artifact: the folder.
        prompt: text, or ``-`` for what stands on stdin.
        chat: whether the prompt is put into the chat template.
        max_new_tokens: most tokens of the answer.
        options: of `Model.generate`.
        loading: of `load_language_model`.
        target: refuse an artifact of another one.
        as_json: for scripts.

    Raises:
        MisuseError: E1705, the artifact is not for `target`.
        InputError: E1651, the prompt is not UTF-8.
    """
    # before the weights are loaded, which takes long
    if target is not None and (compiled := read_artifact(artifact).manifest.target) != target:
        raise MisuseError(
            "E1705",
            f"{artifact} is compiled for {compiled}, not for {target}",
            "leave --target out, or give the artifact of that target",
        )
    text = _read_stdin() if prompt == "-" else checked_text(prompt, "--prompt")
    model = load_language_model(artifact, **loading)
    ready = seconds_since_start()
    ids = model.chat_prompt([{"role": "user", "content": text}]) if chat else text
    if as_json:
        fields = asdict(model.generate(ids, max_new_tokens, **options))
        ran_on = {
            "executes_on": model.manifest.executes_on,
            "cpu_level": model.cpu_level,
            "threads": model.threads,
            "ready_s": ready,
        }
        print_json({**fields, **ran_on, "simulated": model.manifest.simulated})
        return
    answer = _show(model, ids, max_new_tokens, options)
    message_console().print(f"{speed(answer, model)}, ready after {ready:.2f} s", style="dim", soft_wrap=True)


def speed(answer: Generation, model: Model) -> str:
    """For example ``212 (192 reused) + 40 tokens, prefill 310 tokens/s, decode 52.1 tokens/s, 2 threads``.

    The speed of a check on the host says nothing about the hardware, and the line says so first.
    """
    caveat = f"{model.manifest.caveat}; " if model.manifest.caveat else ""
    reused = f" ({answer.reused_tokens} reused)" if answer.reused_tokens else ""
    drafts = f", {answer.accepted_tokens} of {answer.draft_tokens} drafted tokens right" if answer.draft_tokens else ""
    return (
        f"{caveat}{answer.prompt_tokens}{reused} + {len(answer.token_ids)} tokens, "
        f"prefill {answer.prefill_tokens_per_s:.0f} tokens/s, "
        f"decode {answer.decode_tokens_per_s:.1f} tokens/s{drafts}, {model.threads} threads"
        + (f", {model.cpu_level} code" if model.manifest.variants else "")
    )


def write_piece(piece: str) -> None:
    """A piece of an answer on stdout, at once."""
    # a model may write what a terminal acts on
    sys.stdout.write(printable(piece) if sys.stdout.isatty() else piece)
    sys.stdout.flush()


def _show(model: Model, prompt: Any, max_new_tokens: int | None, options: Mapping[str, Any]) -> Generation:
    stream = model.stream(prompt, max_new_tokens, **options)
    for piece in stream:
        write_piece(piece)
    sys.stdout.write("\n")
    sys.stdout.flush()
    return stream.generation


def room(model: Model, prompt: I64) -> int:
    """Most tokens of an answer where the user says nothing: a model that doesn't end must not talk forever."""
    return max(1, min(CHAT_TOKENS, model.manifest.context_limit - len(prompt)))


def _read_stdin() -> str:
    stream = getattr(sys.stdin, "buffer", sys.stdin)  # a test's stdin has text
    return checked_text(stream.read(), "stdin")
