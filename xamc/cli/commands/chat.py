"""`xamc chat`: a conversation on the terminal."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import re
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from xamc.cli.commands.generate import room, speed, write_piece
from xamc.cli.commands.output import message_console
from xamc.cli.render import print_problems
from xamc.errors import InputError, XamcError
from xamc.runtime import Generation, Model, load_language_model
from xamc.runtime.executor import I64
from xamc.runtime.tokenizer import checked_text

HELP = """\
/system TEXT   tells the model how to answer, from the next message on; /system alone shows it, /system - removes it
/reset         forgets the conversation; the system message stays
/help          shows this
/exit          leaves, as an empty line and Ctrl-D do
Ctrl-C ends an answer. Arrow keys edit the line and bring earlier ones back. //text sends a line that begins with /."""
_COMMANDS = ("/system", "/reset", "/help", "/exit")
_COMMAND = re.compile(r"(/[a-zA-Z?]+)(?:\s+(.*))?", re.DOTALL)


def chat_command(
    artifact: Path,
    system: str | None,
    chat_template: Path | None,
    max_new_tokens: int | None,
    options: Mapping[str, Any],
    loading: Mapping[str, Any],
) -> None:
    """A conversation on the terminal: every answer sees all that was said before.

    Raises:
        InputError: E1702, the template can't be read. From a pipe also what is wrong with a message; on a terminal that
            is shown, and the next one is asked for.
    """
    template = None if chat_template is None else _read_template(chat_template)
    system = checked_text(system, "--system") if system else None
    model = load_language_model(artifact, **loading)
    chat = _Chat(model, template, max_new_tokens, options, system)
    chat.console.print(f"{model.manifest.name}: an empty line ends the conversation, /help lists commands", style="dim")
    while (line := _ask(chat.console)) not in ("", "/exit"):
        try:
            chat.take(line)
        except XamcError as error:
            if not sys.stdin.isatty():
                raise
            print_problems(error)


class _Chat:
    """What was said, and what the model is asked next."""

    def __init__(
        self,
        model: Model,
        template: str | None,
        max_new_tokens: int | None,
        options: Mapping[str, Any],
        system: str | None,
    ) -> None:
        self.console: Console = message_console()
        self._model, self._template = model, template
        self._max_new_tokens, self._options = max_new_tokens, options
        self._system = system
        self._turns: list[dict[str, str]] = []

    def take(self, line: str) -> None:
        """A command, or a message to the model."""
        command = _COMMAND.fullmatch(line)
        if command is None:
            self._say(line[1:] if line.startswith("//") else line)
        elif command[1] == "/system":
            self._set_system((command[2] or "").strip())
        elif command[1] == "/reset":
            self._turns.clear()
            self._note("the conversation is forgotten")
        elif command[1] in ("/help", "/?"):
            self._note(HELP)
        else:
            near = difflib.get_close_matches(command[1], _COMMANDS, 1)
            hint = f"did you mean {near[0]}?" if near else "/help lists the commands; //text sends a line as it is"
            self._note(f"there is no command {command[1]}: {hint}")

    def _set_system(self, text: str) -> None:
        if text:
            self._system = None if text == "-" else text
        if self._system is None:
            self._note("there is no system message")
        else:
            self._note(f"system message: {self._system}")

    def _say(self, text: str) -> None:
        """Asks the model; a message that gets no answer is taken back, as templates want turns to alternate."""
        system = [{"role": "system", "content": self._system}] if self._system else []
        turn = {"role": "user", "content": text}
        ids = self._model.chat_prompt([*system, *self._turns, turn], template=self._template)
        limit = self._model.manifest.context_limit
        if len(ids) >= limit:
            raise InputError(
                "E1603",
                f"the conversation has {len(ids)} tokens, and the context of {limit} is full",
                "/reset forgets it; a larger context is compiled with a larger second list in frontend.shape.input_ids",
            )
        text, answer = self._stream(ids)
        if text or answer is not None:
            self._turns += [turn, {"role": "assistant", "content": text}]
        if answer is None:
            kept = "what there is of it stays in the conversation" if text else "your message is taken back"
            self._note(f"the answer was interrupted; {kept}")
            return
        self.console.print(speed(answer, self._model), style="dim")
        tokens = len(answer.token_ids)
        if answer.finish_reason not in ("length", "context"):
            return
        if len(ids) + tokens >= limit:
            self._note(
                f"the answer was cut, as the context of {limit} tokens is full; /reset begins a new conversation"
            )
        else:
            self._note(f"the answer was cut after {tokens} tokens; --max-new-tokens allows more")

    def _stream(self, ids: I64) -> tuple[str, Generation | None]:
        """Shows the answer as it comes; its text, and None where Ctrl-C ended it."""
        pieces: list[str] = []
        with _CtrlC(sys.stdin.isatty()) as interrupt:
            try:
                # every turn begins with the turns before, which are in the KV cache already
                most = self._max_new_tokens or room(self._model, ids)
                stream = self._model.stream(ids, most, **self._options)
                for piece in stream:
                    write_piece(piece)
                    pieces.append(piece)
                    interrupt.has_begun = True
                    if interrupt.was_pressed:
                        break
                answer = None if interrupt.was_pressed else stream.generation
            except KeyboardInterrupt:
                if not interrupt.is_caught:
                    raise
                answer = None
        sys.stdout.write("\n")
        sys.stdout.flush()
        return ("".join(pieces) if answer is None else answer.text), answer

    def _note(self, text: str) -> None:
        self.console.print(text, style="dim", soft_wrap=True)


class _CtrlC:
    """Lets Ctrl-C end an answer and not the conversation.

    Between two pieces of an answer the first one only leaves a note, so that the KV cache keeps what was said; before
    the first piece, and the second time, it interrupts whatever runs.
    """

    def __init__(self, is_caught: bool) -> None:
        self.is_caught = is_caught and threading.current_thread() is threading.main_thread()
        self.has_begun = self.was_pressed = False
        self._before: Any = None

    def __enter__(self) -> _CtrlC:
        if self.is_caught:
            self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_caught:
            signal.signal(signal.SIGINT, self._before)

    def _press(self, number: int, frame: FrameType | None) -> None:
        if self.was_pressed or not self.has_begun:
            raise KeyboardInterrupt
        self.was_pressed = True


def _ask(console: Console) -> str:
    """The next line of the user, or an empty string at the end.

    Raises:
        InputError: E1651, a line from a pipe is not UTF-8.
        KeyboardInterrupt: Ctrl-C twice, or from a pipe.
    """
    if not sys.stdin.isatty():
        stream = getattr(sys.stdin, "buffer", sys.stdin)  # a test's stdin has text
        return checked_text(stream.readline(), "stdin").strip()
    interrupted = False
    while True:
        try:
            return checked_text(_typed_line()).strip()
        except EOFError:
            console.print()
            return ""
        except UnicodeDecodeError:
            console.print("that line is not UTF-8; look at the encoding of the terminal", style="dim")
        except InputError as error:
            print_problems(error)
        except KeyboardInterrupt:
            if interrupted:
                raise
            interrupted = True
            console.print("\nCtrl-C again, Ctrl-D or /exit leaves", style="dim")


def _typed_line() -> str:
    """A line from the terminal, with line editing and the history of this conversation where stdout is one too."""
    if sys.stdout.isatty():
        with contextlib.suppress(ImportError):  # an interpreter without it: the terminal's own editing remains
            importlib.import_module("readline")
        return input("> ")
    sys.stderr.write("> ")  # stdout is for answers alone
    sys.stderr.flush()
    return input()


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("E1702", f"the chat template {path} can't be read: {error}", fix="give a text file") from None
