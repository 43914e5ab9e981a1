"""Feeds mutated inputs to everything of xamc that reads a user's files.

    python -m tools.reliability.fuzz --inputs 230000 --seed 1
    python -m tools.reliability.fuzz --format gguf --inputs 5000
    python -m tools.reliability.fuzz --format gguf --again 1:4711 > input.bin

An input fails when reading it ends in anything but a result or one of xamc's errors, when it takes more than
five seconds of CPU time, when it needs more than a gibibyte, when the process dies, or when it starts a process, opens
a socket, or writes, removes or runs a file (seen by an audit hook). Inputs follow from seed and number alone, so that
every failure can be made again; failing ones are also kept in the folder `--keep`.
"""

from __future__ import annotations

import argparse
import io
import mmap
import os
import random
import resource
import select
import signal
import struct
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from tools.reliability.formats import FORMATS, Format
from tools.reliability.mutate import mutated
from tools.reliability.results import Counter, Row, done_before, end_tidily, record, today

BATCH = 500
_MEMORY = Path("/dev/shm")  # where writing a file is cheap
SECONDS = 5.0  # of CPU time, so that a busy machine fails nothing
STUCK_SECONDS = 60  # so many looks, one a second, that saw it waiting; a stopped process (SIGSTOP) does not wait
EXTRA_MEMORY = 2**30
_NOTE = "mutated inputs, read without a crash, hang, a GiB, or an escape"
_FORBIDDEN = (
    "os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "socket.connect", "socket.bind",
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.symlink", "os.link", "os.chmod", "os.truncate",
    "ctypes.dlopen", "shutil.rmtree", "pty.spawn",
)  # fmt: skip


class Hang(BaseException):
    """Reading an input took too long."""


class Escaped(BaseException):
    """Reading an input did something that reading must not do."""


@dataclass
class Found:
    """Failures of one format: what happened → numbers of the inputs; and the valid examples it began with."""

    tried: int = 0
    seeds: Sequence[bytes] = ()
    failures: dict[str, list[int]] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        return sum(map(len, self.failures.values()))


def make_input(name: str, seeds: Sequence[bytes], seed: int, number: int) -> bytes:
    """The input `number` of a format; the first ones are the valid examples."""
    if number < len(seeds):
        return seeds[number]
    return mutated(seeds, random.Random(zlib.crc32(f"{name}/{seed}/{number}".encode())))


def seeds_of(name: str, folder: Path) -> list[bytes]:
    """Valid examples of a format, which must be read without an error."""
    return FORMATS[name].seeds(folder)


class _Watch:
    """The audit hook of a reading process: on while one input is read."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.on, self.seen = f"{folder}{os.sep}", False, ""

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in _FORBIDDEN or (event == "open" and self._writes(arguments)) or self._runs(event, arguments):
            self.seen = f"{event} {arguments!r}"[:300]
            raise Escaped(self.seen)

    def _writes(self, arguments: tuple[Any, ...]) -> bool:
        path, mode, flags = (*arguments, 0, 0)[:3]
        writing = (isinstance(mode, str) and set(mode) & set("wax+")) or (isinstance(flags, int) and flags & 3)
        return bool(writing) and not str(path).startswith(self._folder)

    def _runs(self, event: str, arguments: tuple[Any, ...]) -> bool:
        name = getattr(arguments[0], "co_filename", "") if event == "exec" else ""
        return isinstance(name, str) and name.startswith(self._folder)


def fuzz(
    name: str,
    inputs: int,
    seed: int,
    folder: Path,
    seconds: float = float("inf"),
    first: int = 0,
    each: Callable[[Found], None] = lambda found: None,
) -> Found:
    """Reads the inputs `first` to `inputs` of the format `name`, in forked processes of a few hundred each.

    Fewer after `seconds`; `each` is told of every batch.
    """
    form, found = FORMATS[name], Found(first)
    seeds = form.seeds(folder)
    found.seeds = seeds
    for content in seeds:  # imports what reading needs, once
        if name != "chat template":
            form.read(content, folder)
    place = mmap.mmap(-1, 8)
    number, began = first, time.monotonic()
    while number < inputs and time.monotonic() - began < seconds:
        end = min(number + BATCH, inputs)
        number = _batch(name, form, seed, range(number, end), folder, place, found)
        found.tried = number
        each(found)
    return found


class _Patience:
    """Notices a reading process that gets nowhere: it waits, or is in code that no signal handler interrupts.

    Wall time says nothing on a busy machine, or when somebody stops this tool for some minutes, so what counts is CPU
    time and how often the process was seen waiting.
    """

    def __init__(self, pid: int) -> None:
        self._stat, self._number, self._since, self._waits = Path(f"/proc/{pid}/stat"), -1, 0.0, 0

    def ends(self, number: int) -> bool:
        """One look, while the input `number` is read; True where it is enough."""
        state, *rest = self._stat.read_text().rpartition(")")[2].split()
        used = sum(map(int, rest[10:12])) / os.sysconf("SC_CLK_TCK")  # user and system
        if number != self._number:
            self._number, self._since, self._waits = number, used, 0
        self._waits += state in "SD"
        return self._waits > STUCK_SECONDS or used - self._since > 4 * SECONDS


def _batch(
    name: str, form: Format, seed: int, numbers: range, folder: Path, place: mmap.mmap, found: Found
) -> int:  # fmt: skip
    """Reads a batch in a child; returns the number to go on with, after an input that ended the child."""
    reading, writing = os.pipe()
    place[:] = struct.pack("<q", numbers.start)
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            _child(name, form, found.seeds, seed, numbers, folder, place, writing)
        finally:
            os._exit(1)  # never back into the parent's code
    os.close(writing)
    lines, patience, stuck = b"", _Patience(pid), False
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while True:
            ready, _, _ = select.select([pipe], [], [], 1.0)
            if ready:
                chunk = pipe.read(65536)
                if not chunk:
                    break
                lines += chunk
            elif patience.ends(struct.unpack("<q", place[:])[0]):
                os.kill(pid, signal.SIGKILL)
                stuck = True
                break
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    for line in lines.decode("utf-8", "replace").splitlines():
        number, _, what = line.partition(" ")
        found.failures.setdefault(what, []).append(int(number))
    if status == 0 and not stuck:
        return numbers.stop
    (ended,) = struct.unpack("<q", place[:])
    what = "stuck" if stuck else f"the process ended with {signal.Signals(-status).name if status < 0 else status}"
    found.failures.setdefault(what, []).append(ended)
    return int(ended) + 1


def _child(
    name: str, form: Format, seeds: Sequence[bytes], seed: int, numbers: range, folder: Path, place: mmap.mmap, out: int
) -> None:  # fmt: skip
    """Reads the inputs `numbers`; failures go to the pipe `out`, one line each."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + EXTRA_MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)  # libraries print what they think of an input
    watch = _Watch(folder)
    sys.addaudithook(watch)

    def late(number: int, frame: FrameType | None) -> None:
        raise Hang(f"longer than {SECONDS:.0f} s")

    signal.signal(signal.SIGPROF, late)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number in numbers:
        place[:] = struct.pack("<q", number)
        content = make_input(name, seeds, seed, number)
        what = _read_one(form, content, folder, watch)
        if what:
            os.write(out, f"{number} {what}\n".encode("utf-8", "replace"))
    os._exit(0)


def _read_one(form: Format, content: bytes, folder: Path, watch: _Watch) -> str:
    """Empty, or what went wrong."""
    from xamc.cli.render import print_problems
    from xamc.errors import InternalError, XamcError

    watch.seen = ""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        watch.on = True
        form.read(content, folder)
    except InternalError as error:
        return f"InternalError: {error.code}"
    except XamcError as error:
        shown = io.StringIO()
        try:
            print_problems(error, file=shown)
            shown.getvalue().encode("utf-8")
        except Exception as problem:
            return f"showing {error.code} failed: {type(problem).__name__}"
    except BaseException as error:  # the tool's purpose
        watch.on = False
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "/xamc/" in f.filename]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
        text = " ".join(f"{type(error).__name__} at {where}: {error}".split())[:160]
        return "".join(character if character.isprintable() else "?" for character in text)
    finally:
        watch.on = False
        signal.setitimer(signal.ITIMER_PROF, 0)
    return f"Escaped (and hidden): {watch.seen}" if watch.seen else ""


def shares(inputs: int, names: Sequence[str]) -> dict[str, int]:
    """How many of all inputs each format gets, by its share."""
    total = sum(FORMATS[name].share for name in names)
    return {name: -(-inputs * FORMATS[name].share // total) for name in names}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the formats and records their numbers; exit code 1 when an input failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=230_000, help="of all formats together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--format", action="append", choices=FORMATS, help="repeatable; default: all")
    parser.add_argument("--again", metavar="SEED:NUMBER", help="write one input of --format to stdout")
    parser.add_argument("--keep", type=Path, help="folder for failing inputs")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long, and record what ran")
    parser.add_argument("--go-on", action="store_true", help="from where the recorded inputs of this seed ended")
    parser.add_argument("--no-record", action="store_true", help="leave docs/reliability.csv alone")
    options = parser.parse_args(arguments)
    end_tidily()
    names = options.format or list(FORMATS)
    with tempfile.TemporaryDirectory(
        prefix="reliability-fuzz-", dir=_MEMORY if _MEMORY.is_dir() else None
    ) as temporary:
        if options.again:
            seed, number = map(int, options.again.split(":"))
            sys.stdout.buffer.write(make_input(names[0], seeds_of(names[0], Path(temporary)), seed, number))
            return 0
        failed = 0
        given = sum(FORMATS[name].share for name in names)
        for name, inputs in shares(options.inputs, names).items():
            folder = Path(temporary) / name.replace(" ", "-")
            folder.mkdir()
            counter, began = Counter(name, inputs), time.monotonic()
            first = done_before(f"fuzz {name}", options.seed) if options.go_on else 0
            if first >= inputs:
                counter.say(f"{first:,} inputs are recorded")
                continue
            row = Row(f"fuzz {name}", 0, 0, options.seed, today(), _NOTE)

            def each(found: Found, row: Row = row, counter: Counter = counter) -> None:
                counter.step(found.tried, found.failed)
                if not options.no_record:
                    record([replace(row, tried=found.tried, failed=found.failed)])

            seconds = 60 * options.minutes * FORMATS[name].share / given
            found = fuzz(name, inputs, options.seed, folder, seconds, first, each)
            for what, numbers in sorted(found.failures.items()):
                counter.say(f"{len(numbers)}x {what} (--again {options.seed}:{numbers[0]})")
                if options.keep:
                    options.keep.mkdir(parents=True, exist_ok=True)
                    content = make_input(name, found.seeds, options.seed, numbers[0])
                    (options.keep / f"{folder.name}-{options.seed}-{numbers[0]}").write_bytes(content)
            seconds = time.monotonic() - began
            counter.say(f"{found.tried:,} inputs, {found.failed} failed; {found.tried - first:,} in {seconds:.0f} s")
            failed += found.failed
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
