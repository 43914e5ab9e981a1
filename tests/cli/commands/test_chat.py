"""`xamc chat` on a pseudo terminal, typed to as a person would, and through a pipe."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime import toy
from xamc.runtime import Model, load

SECONDS = 60.0  # for one expected text; a busy machine is slow
UP, LEFT, HOME = b"\x1b[A", b"\x1b[D", b"\x01"


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Toys by their context limit: in the large one an answer goes on for minutes."""
    folder = tmp_path_factory.mktemp("toy")
    tokenizer = toy.train_tokenizer()
    size = tokenizer.get_vocab_size()
    code = toy.write_onnx(folder / "model.onnx", size)
    return {
        limit: toy.write_artifact(
            folder / f"of{limit}", "reference", code, tokenizer, vocab_size=size, context_limit=limit
        )
        for limit in (120, 60_000)
    }


class Terminal:
    """A chat that runs on a terminal of its own."""

    def __init__(self, *arguments: object, locale: str = "C.UTF-8") -> None:
        self._here, there = pty.openpty()
        environment = {**os.environ, "LC_ALL": locale, "TERM": "xterm", "COLUMNS": "200", "NO_COLOR": "1"}
        command = [sys.executable, "-m", "xamc", "chat", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdin=there, stdout=there, stderr=there, env=environment, start_new_session=True,
            preexec_fn=_control_terminal,
        )  # fmt: skip
        os.close(there)
        self._unread = ""

    def type(self, keys: str | bytes) -> None:
        os.write(self._here, keys.encode() if isinstance(keys, str) else keys)

    def wait_for(self, pattern: str) -> str:
        """What appears up to the first match, escape sequences left out."""
        end = time.monotonic() + SECONDS
        while (found := re.search(pattern, self._unread)) is None:
            if not select.select([self._here], [], [], max(0.0, end - time.monotonic()))[0]:
                raise AssertionError(f"{pattern!r} didn't appear in {self._unread!r}")
            try:
                data = os.read(self._here, 65536)
            except OSError:  # the other side is closed
                raise AssertionError(f"the chat ended before {pattern!r}: {self._unread!r}") from None
            text = self._unread + data.decode(errors="replace")
            self._unread = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r", "")
        before, self._unread = self._unread[: found.end()], self._unread[found.end() :]
        return before

    def say(self, line: str) -> str:
        """Types a line at the prompt; what is shown up to the next prompt."""
        self.type(line + "\n")
        return self.wait_for(r"\n> ")

    def ends(self) -> int:
        end = time.monotonic() + SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < end, "the chat goes on"
            if select.select([self._here], [], [], 0.1)[0]:
                try:
                    self._unread += os.read(self._here, 65536).decode(errors="replace")
                except OSError:
                    time.sleep(0.05)
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._here)


def _control_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C is a signal
    _hear_interrupts()


def _hear_interrupts() -> None:
    """A suite that a shell runs in the background ignores them, and so would what it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def terminal(artifacts: dict[int, Path]) -> Iterator[Terminal]:
    chat = Terminal(artifacts[120], "--max-new-tokens", 6, "--threads", 1)
    chat.wait_for("\n> ")
    yield chat
    chat.close()


def answer_to(model: Model, messages: list[tuple[str, str]], tokens: int = 6) -> str:
    return model.chat([{"role": role, "content": text} for role, text in messages], max_new_tokens=tokens).text


@pytest.fixture(scope="module")
def model(artifacts: dict[int, Path]) -> Model:
    return load(artifacts[120], threads=1)


def test_commands(terminal: Terminal, model: Model) -> None:
    first = answer_to(model, [("user", "fox")])
    assert first in terminal.say("fox")
    assert "/system" in (shown := terminal.say("/help")) and "/reset" in shown and "/exit" in shown
    assert "no system message" in terminal.say("/system")
    assert "system message: be brief" in terminal.say("/system be brief")
    messages = [("system", "be brief"), ("user", "fox"), ("assistant", first), ("user", "dog")]
    assert answer_to(model, messages) in terminal.say("dog")
    assert "forgotten" in terminal.say("/reset")
    assert answer_to(model, [("system", "be brief"), ("user", "dog")]) in terminal.say("dog")
    assert "no system message" in terminal.say("/system -")
    assert "did you mean /reset?" in terminal.say("/rest")
    terminal.say("/reset")
    for typed, said in (("//help", "/help"), ("/etc/passwd", "/etc/passwd")):
        assert answer_to(model, [("user", said)]) in terminal.say(typed)
        terminal.say("/reset")
    terminal.type("/exit\n")
    assert terminal.ends() == 0


@pytest.mark.parametrize("keys", ["\n", "\x04"], ids=["an empty line", "Ctrl-D"])
def test_leaving(terminal: Terminal, keys: str) -> None:
    terminal.type(keys)
    assert terminal.ends() == 0


def test_lines_are_edited_and_come_back(terminal: Terminal, model: Model) -> None:
    """Typed: "fx", one to the left, "o"; then from the history with another beginning."""
    terminal.type(b"fx" + LEFT + b"o\n")
    first = answer_to(model, [("user", "fox")])
    assert first in terminal.wait_for(r"\n> ")
    terminal.say("/reset")
    terminal.type(UP + UP + HOME + b"a ")
    terminal.type(b"\n")
    assert answer_to(model, [("user", "a fox")]) in terminal.wait_for(r"\n> ")


def test_wide_characters_are_erased_as_a_whole(terminal: Terminal, model: Model) -> None:
    """Three typed, one erased, and one put before the rest."""
    terminal.type("好世界".encode() + b"\x7f" + HOME + "你".encode() + b"\n")
    assert answer_to(model, [("user", "你好世")]) in terminal.wait_for(r"\n> ")


def test_a_cut_answer_is_said_to_be_cut(terminal: Terminal) -> None:
    assert "cut after 6 tokens" in terminal.say("the quick")


def test_a_full_context_is_said_to_be_full(artifacts: dict[int, Path]) -> None:
    chat = Terminal(artifacts[120], "--threads", 1)
    try:
        chat.wait_for("\n> ")
        assert "context of 120 tokens is full; /reset" in chat.say("the quick")
        assert "E1603" in (shown := chat.say("the quick")) and "/reset" in shown
        assert "forgotten" in chat.say("/reset")
        assert "is full" in chat.say("the quick")
        chat.type("\n")
        assert chat.ends() == 0
    finally:
        chat.close()


def interrupt(chat: Terminal) -> None:
    """Ctrl-C at the prompt; Python hears it once its line editor waits for keys, a moment after the prompt is there."""
    time.sleep(0.5)
    chat.type(b"\x03")


@pytest.mark.skipif(
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
    reason="the suite runs in the background, where Ctrl-C is ignored",
)
def test_ctrl_c_ends_the_answer_and_not_the_chat(artifacts: dict[int, Path]) -> None:
    chat = Terminal(artifacts[60_000], "--max-new-tokens", 50_000, "--threads", 1)
    try:
        chat.wait_for("\n> ")
        for _ in range(2):
            chat.type("the quick\n")
            chat.wait_for(r"the quick\n.{20}")
            chat.type(b"\x03")
            assert "interrupted; what there is of it stays" in chat.wait_for(r"\n> ")
        assert "forgotten" in chat.say("/reset")
        chat.type(b"half a line")
        chat.wait_for("half a line")
        interrupt(chat)
        chat.wait_for("Ctrl-C again")
        chat.wait_for("> ")
        assert "no system message" in chat.say("/system")
        interrupt(chat)
        chat.wait_for("Ctrl-C again.*\n> ")
        interrupt(chat)
        assert chat.ends() == 130
    finally:
        chat.close()


def test_bytes_that_are_no_text(terminal: Terminal, model: Model) -> None:
    terminal.type(b"a \xff b\n")
    assert "not UTF-8" in terminal.wait_for(r"> ")
    assert answer_to(model, [("user", "fox")]) in terminal.say("fox")


def piped(artifact: Path, data: bytes, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "xamc", "chat", str(artifact), "--max-new-tokens", "4", *map(str, arguments)]
    done = subprocess.run(command, input=data, capture_output=True, timeout=120)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


def test_a_pipe_has_commands_too_and_no_prompts(artifacts: dict[int, Path], model: Model) -> None:
    done = piped(artifacts[120], "/system kurz\nfox\n/reset\n你好\n".encode())
    texts = [answer_to(model, [("system", "kurz"), ("user", said)], 4) for said in ("fox", "你好")]
    assert done.returncode == 0 and done.stdout == "".join(text + "\n" for text in texts)
    assert "forgotten" in done.stderr


def test_a_pipe_that_is_not_utf_8(artifacts: dict[int, Path]) -> None:
    done = piped(artifacts[120], b"fox\nw5 \xff w6\n")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "E1651" in done.stderr and "0xff stands at position 3" in done.stderr


def test_a_pipe_that_is_interrupted_ends(artifacts: dict[int, Path]) -> None:
    command = [sys.executable, "-m", "xamc", "chat", str(artifacts[60_000]), "--max-new-tokens", "50000"]
    chat = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=_hear_interrupts
    )
    assert chat.stdin is not None and chat.stdout is not None
    chat.stdin.write(b"the quick\nfox\n")
    chat.stdin.flush()
    assert chat.stdout.read(5)
    chat.send_signal(signal.SIGINT)
    chat.communicate(timeout=SECONDS)
    assert chat.returncode == 130
