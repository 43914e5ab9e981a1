"""Kills compiles of a small model at random moments, and looks at what is left.

    python -m tools.reliability.kill --kills 300 --seed 1

Every trial starts from one of several states of the stage cache (empty, exported, without weights, complete), starts a
compile, sends SIGKILL, SIGTERM or SIGINT when it has computed for a random time, and checks that

- no process of the compile is alive any more,
- the artifact's folder is either as it was or the new artifact, whole, with every digest right.

After every third kill (`--chain`) the same compile runs again to its end; it must find the cache usable, publish the
artifact with the very digest of an undisturbed compile, and leave no file beside it: not beside the artifact, not in
the cache, not in TMPDIR. A compile that was ended by SIGTERM or SIGINT must have left nothing by itself.

So that a trial takes seconds, compiles are forked from a process that has imported xamc, and what the expensive stages
would make again in the second compile is taken from an undisturbed cache (`--whole N`: N trials do without).
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from tools.make_checkpoint import write_checkpoint
from tools.reliability.results import Counter, Row, done_before, end_tidily, record, today

CONFIG = {
    "model_type": "llama",
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 272,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
# which stages' results a trial starts without, and how often
STATES: Mapping[str, tuple[tuple[str, ...], int]] = {
    "empty cache": (("export", "codegen", "weights"), 2),
    "exported": (("codegen", "weights"), 2),
    "no weights": (("weights",), 4),
    "complete": ((), 4),
}
SIGNALS = (signal.SIGKILL,) * 8 + (signal.SIGTERM, signal.SIGINT)
MOST_SECONDS = (
    4.0  # of CPU time; most moments are drawn from these, of which every stage has some when it is the first to run
)
MARK = "XAMC_KILL_TRIAL"
_FOREIGN = {".ses"}  # ONNX Runtime's own, in TMPDIR


@dataclass(frozen=True)
class Place:
    """The folders of one trial."""

    root: Path

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def artifact(self) -> Path:
        return self.out / "tiny"

    @property
    def temporary(self) -> Path:
        return self.root / "tmp"


def prepare(root: Path) -> Path:
    """Writes the model and its spec; returns the spec."""
    write_checkpoint(root / "model", CONFIG, dtype="float32", seed=0, shard_bytes=10**12)
    document = {
        "name": "tiny",
        "frontend": {
            "checkpoint": str(root / "model"),
            "type": "huggingface",
            "shape": {"input_ids": [[16], [64]]},
        },
        "backend": {"type": "tvm_cpu", "dtype": "fp32"},
        "verify": {"passes": "off"},
    }
    (root / "build.yaml").write_text(yaml.safe_dump(document))
    return root / "build.yaml"


def start(spec: Path, place: Place, log: Path, no_cache: bool = False) -> int:
    """Forks a compile that works in `place`; returns its process id."""
    return start_command(["compile", str(spec), "-o", str(place.artifact), *(["--no-cache"] * no_cache)], place, log)


def start_command(arguments: Sequence[str], place: Place, log: Path) -> int:
    """Forks a command of xamc with the cache and the temporary folder of `place`; returns its process id."""
    place.temporary.mkdir(exist_ok=True)
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        os.setpgid(0, 0)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ |= {"XAMC_CACHE": str(place.cache), "TMPDIR": str(place.temporary), MARK: str(place.root)}
        tempfile.tempdir = str(place.temporary)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        from xamc.cli import main as cli

        status = cli.run(list(arguments))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def finish(pid: int) -> int:
    """Waits for a compile; its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def survivors(place: Place, looks: int = 200) -> list[int]:
    """Processes of a trial that are still alive after so many looks, 50 ms apart.

    Looks are counted, not seconds: whoever stops test and compile for some minutes (SIGSTOP) fails nothing.
    """
    for _ in range(looks):
        if not (alive := alive_with(f"{MARK}={place.root}")):
            break
        time.sleep(0.05)
    return alive


def alive_with(variable: str) -> list[int]:
    """Processes that were started with ``NAME=value`` in their environment."""
    alive = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if variable.encode() in (process / "environ").read_bytes().split(b"\0"):
                alive.append(int(process.name))
        except OSError:  # gone meanwhile, or another user's
            continue
    return alive


def computed(pid: int) -> float:
    """Seconds of CPU time of a process, its descendants, and those that it has waited for."""
    parents: dict[int, tuple[int, int]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # gone meanwhile
            continue
        parents[int(process.name)] = (int(fields[1]), sum(map(int, fields[11:15])))
    ticks, family = 0, [pid]
    while family:
        one = family.pop()
        ticks += parents.get(one, (0, 0))[1]
        family += [child for child, (parent, _) in parents.items() if parent == one]
    return ticks / os.sysconf("SC_CLK_TCK")


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def leftovers(place: Place, output: Path | None = None) -> list[str]:
    """Files of a trial that neither its output (default: the artifact) nor a cache has."""
    found = [path for path in place.temporary.iterdir() if path.name not in _FOREIGN]
    found += [path for path in place.out.glob("*") if path != (output or place.artifact)] if place.out.is_dir() else []
    allowed = {"v1", "locks", "users", "digests.json"}
    if place.cache.is_dir():
        found += [path for path in place.cache.iterdir() if path.name not in allowed]
        found += [*place.cache.glob("v1/.*"), *place.cache.glob("locks/*")]
    return sorted(str(path.relative_to(place.root)) for path in found)


def artifact_state(artifact: Path) -> str:
    """``absent``, the digest of a whole artifact, or what is wrong with it."""
    from xamc.artifact import check_digests, read_any
    from xamc.artifact.manifest_file import digest
    from xamc.errors import XamcError

    if not artifact.exists():
        return "absent"
    try:
        found = read_any(artifact)
        check_digests(found)
    except XamcError as error:
        return f"damaged: {error}"
    return digest(found.manifest)


def clone(template: Place, place: Place, without: Sequence[str]) -> None:
    """A cache like the template's, by hard links, but for some stages."""
    shutil.copytree(template.cache, place.cache, copy_function=os.link)
    for name in ("digests.json", "users"):  # written in place, or locked
        (place.cache / name).unlink(missing_ok=True)
    for stage in without:
        for entry in place.cache.glob(f"v1/{stage}-*"):
            shutil.rmtree(entry)


def graft(template: Place, place: Place) -> None:
    """Adds the template's entries that the cache lacks, as if another compile had made them meanwhile."""
    for entry in template.cache.glob("v1/*"):
        if not (place.cache / "v1" / entry.name).exists():
            shutil.copytree(entry, place.cache / "v1" / entry.name, copy_function=os.link)


class KillTest:
    """The trials on one model."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.seed, self.random = root, seed, random.Random(seed)
        self.spec = prepare(root)
        self.template = Place(root / "template")
        self.template.root.mkdir()
        self.seconds: dict[str, float] = {}
        self.moments: dict[str, int] = {}

    def undisturbed(self) -> str:
        """Compiles once with an empty and once with a full cache, for digest and CPU times; a failure raises."""
        for state in ("empty cache", "complete"):
            before = _children_s()
            status = finish(start(self.spec, self.template, self.root / "log"))
            if status:
                raise SystemExit(f"the undisturbed compile failed:\n{(self.root / 'log').read_text()}")
            self.seconds[state] = _children_s() - before
        self.seconds["empty cache"] = max(self.seconds["empty cache"], MOST_SECONDS * 7)  # a warm one says too little
        self.seconds["exported"] = self.seconds["empty cache"] / 2
        self.seconds["no weights"] = self.seconds["complete"]
        problem = leftovers(self.template)
        if problem:
            raise SystemExit(f"the undisturbed compile left {problem}")
        return artifact_state(self.template.artifact)

    def trial(self, number: int, kills: int, expected: str, whole: bool) -> list[str]:
        """So many compiles that are killed, each going on from what the one before left, and one that is not.

        Returns:
            What went wrong.
        """
        self.random = random.Random(f"{self.seed}/{number}")
        state = self.random.choices(list(STATES), [weight for _, weight in STATES.values()])[0]
        place = Place(self.root / f"trial-{number}")
        place.root.mkdir()
        clone(self.template, place, STATES[state][0])
        before = "absent"
        if self.random.random() < 0.5:
            shutil.copytree(self.template.artifact, place.artifact, copy_function=os.link)
            before = expected
        problems: list[str] = []
        for _ in range(kills):
            problems += self._kill(place, state, before, expected, f"trial {number} ({state}")
        what = f"trial {number} ({state})"
        if not whole:
            graft(self.template, place)
        status = finish(start(self.spec, place, place.root / "resumed.log"))
        if status:
            problems.append(f"{what}: the next compile ended with {status}: {(place.root / 'resumed.log').read_text()}")
        elif (found := artifact_state(place.artifact)) != expected:
            problems.append(f"{what}: the next compile's artifact is {found}")
        if left := leftovers(place):
            problems.append(f"{what}: the next compile left {left}")
        shutil.rmtree(place.root)
        return problems

    def _kill(self, place: Place, state: str, before: str, expected: str, what: str) -> list[str]:
        """Starts a compile, ends it at a random moment, and looks at what is there."""
        draw, problems = self.random, list[str]()
        number_of_signal = draw.choice(SIGNALS)
        no_cache = state == "empty cache" and draw.random() < 0.5
        longest = 0.9 * self.seconds[state]
        moment = draw.random() * (longest if draw.random() < 0.05 else min(longest, MOST_SECONDS))
        what = f"{what}{', no cache' if no_cache else ''}, {number_of_signal.name} at {moment:.2f} s of CPU time)"
        held = set(leftovers(place)) if place.temporary.is_dir() else set()
        pid = start(self.spec, place, place.root / "killed.log", no_cache)
        self._wait(pid, moment)
        os.kill(pid, number_of_signal)
        status = finish(pid)
        self.moments[state] = self.moments.get(state, 0) + (status != 0)
        if alive := survivors(place):
            problems.append(f"{what}: processes {alive} outlived it")
        found = artifact_state(place.artifact)
        if found not in (before, expected):
            problems.append(f"{what}: the artifact is {found}")
        own = [path for path in leftovers(place) if path not in held]
        if number_of_signal != signal.SIGKILL and status != -number_of_signal and own:
            problems.append(f"{what}: it left {own}")
        return problems

    def _wait(self, pid: int, seconds: float) -> None:
        """Until the compile and its children have computed for so long, at most until it has ended.

        On a busy machine the time that goes by would end compiles in their first stages. One that waits computes
        nothing; after ten times as long its moment has come, too.
        """
        deadline = time.monotonic() + 10 * seconds + 1
        while computed(pid) < seconds and time.monotonic() < deadline:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return
            time.sleep(0.02)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the trials and records their number; exit code 1 when one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300, help="of compiles that had not ended before")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--whole", type=int, default=2, help="trials whose second compile computes everything itself")
    parser.add_argument("--chain", type=int, default=3, help="kills before a whole compile")
    parser.add_argument("--warm", type=Path, help="a stage cache for the undisturbed compile to begin with")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long, and record what ran")
    parser.add_argument("--go-on", action="store_true", help="from where the recorded kills of this seed ended")
    parser.add_argument("--no-record", action="store_true", help="leave docs/reliability.csv alone")
    options = parser.parse_args(arguments)
    end_tidily()

    import xamc.compiler.pipeline  # noqa: F401  # before the forks, once

    counter, failures, began = Counter("kill", options.kills), list[str](), time.monotonic()
    before = done_before("kill", options.seed) if options.go_on else 0
    if before >= options.kills:
        counter.say(f"{before} kills are recorded")
        return 0
    done, number = before, before
    note = (
        f"SIGKILL, SIGTERM or SIGINT at a random moment of a running compile; a whole one after every {options.chain}"
    )
    with tempfile.TemporaryDirectory(prefix="reliability-kill-") as name:
        test = KillTest(Path(name), options.seed)
        if options.warm:
            shutil.copytree(options.warm, test.template.cache)
        expected = test.undisturbed()
        while done < options.kills:
            if time.monotonic() - began > 60 * options.minutes:
                counter.say(f"stopped after {done} kills for lack of time")
                break
            whole = options.kills - done <= options.whole * options.chain
            problems = test.trial(number, options.chain, expected, whole)
            number += options.chain
            for problem in problems:
                counter.say(problem)
            failures += problems[:1]
            done = before + sum(test.moments.values())
            counter.step(done, len(failures))
            if not options.no_record:
                record([Row("kill", done, len(failures), options.seed, today(), note)])
    counter.say(f"{done} kills, {len(failures)} failed; this time {test.moments}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
