"""Speed: every engine in its own process, all measured in turn within a round, a bandwidth probe around each."""

from __future__ import annotations

import contextlib
import csv
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tools.bench.corpus import I64, prompt
from tools.bench.engines import ROOT, EngineChoice, Worker
from tools.bench.probe import BandwidthProbe
from xamc.compiler.memory import MemorySampler

DECODE_PROMPT, NEW_TOKENS, PREFILL_PROMPT = 64, 128, 512
_PSS_SECONDS = 0.05
# An engine that has no kernels for this CPU (bf16 in torch without AVX-512) would take most of an hour; it decodes for
# so many seconds at most, and one whose turn takes longer than SLOW_TURN is measured in the first rounds only.
DECODE_SECONDS, SLOW_TURN, SLOW_ROUNDS = 10.0, 20.0, 2


def portable(command: Sequence[str]) -> str:
    """A command line as anyone could type it from the repository: no path of this machine."""
    return " ".join(part.replace(f"{ROOT}/", "") for part in command)


@dataclass(frozen=True)
class Sample:
    """One measured value.

    Attributes:
        stage: ``start`` (a process by itself) or ``speed`` (a round).
        engine: as in tables.
        threads: of the engine.
        repeat: number of the round, from 0.
        quantity: decode, prefill (tokens/s), decoded (tokens), load, first_token, turn (s), peak_pss, weight_bytes
            (bytes).
        value: in the quantity's unit.
        read_before, read_after: GB/s that the same number of threads read just before and after; 0 if not probed.
        time: UTC.
        command: what ran.
    """

    stage: str
    engine: str
    threads: int
    repeat: int
    quantity: str
    value: float
    read_before: float
    read_after: float
    time: str
    command: str

    @property
    def bandwidth(self) -> float:
        """Mean of both probes in bytes/s."""
        return (self.read_before + self.read_after) / 2 * 1e9


class SampleFile:
    """Samples in a CSV file; a whole round is written at once, so that an interrupted one is measured again."""

    def __init__(self, path: Path) -> None:
        """Reads what is there."""
        self.path = path
        self.samples: list[Sample] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                self.samples = [_parse(row) for row in csv.DictReader(file)]

    def has(self, stage: str, threads: int, repeat: int, engines: Iterable[str]) -> bool:
        """Whether every engine has samples of that round."""
        present = {s.engine for s in self.samples if (s.stage, s.threads, s.repeat) == (stage, threads, repeat)}
        return set(engines) <= present

    def slow(self, threads: int) -> set[str]:
        """Engines whose turns took too long to be repeated in every round."""
        turns = [s for s in self.samples if s.quantity == "turn" and s.threads == threads and s.value > SLOW_TURN]
        return {s.engine for s in turns}

    def add(self, samples: Sequence[Sample]) -> None:
        """Appends a round's samples."""
        self.samples += samples
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Sample)], lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerows(asdict(sample) for sample in samples)


def _parse(row: Mapping[str, str]) -> Sample:
    kinds: dict[str, Callable[[str], int | float]] = {"int": int, "float": float}
    values: dict[str, Any] = {f.name: kinds.get(str(f.type), str)(row[f.name]) for f in fields(Sample)}
    return Sample(**values)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def measure_start(engine: EngineChoice, threads: int, repeat: int, ids: I64, log: Path) -> list[Sample]:
    """Load time, time to first token and peak PSS of a process that is alone, so that it shares no page.

    The time to first token is load time plus the prefill of a 64-token prompt. Files are in the page cache from the
    second repeat on, so the medians are of warm loads.
    """

    def sample(quantity: str, value: float) -> Sample:
        command = portable(worker.command)
        return Sample("start", engine.name, threads, repeat, quantity, value, 0.0, 0.0, _now(), command)

    with Worker(engine, threads, log) as worker:
        with MemorySampler(worker.pid, _PSS_SECONDS) as memory:
            loaded = worker.ask(do="load")
            done = worker.ask(
                do="generate", ids=prompt(ids, DECODE_PROMPT, repeat), new_tokens=16, seconds=DECODE_SECONDS
            )
            worker.ask(do="prefill", ids=prompt(ids, PREFILL_PROMPT, repeat))
        return [
            sample("load", loaded["seconds"]),
            sample("first_token", loaded["seconds"] + done["first_seconds"]),
            sample("peak_pss", memory.peak),
            sample("weight_bytes", loaded["weight_bytes"]),
        ]


def measure_speed(
    engines: Sequence[EngineChoice],
    threads: int,
    repeats: int,
    ids: I64,
    file: SampleFile,
    log: Path,
    say: Callable[[str], None],
) -> None:
    """Rounds of all engines in turn (A B C, A B C, ...), each with prefill and decode; whole rounds are kept.

    The processes live through all rounds, idle while it is another's turn. A first, unrecorded turn warms each up.
    """
    names = [engine.name for engine in engines]

    def due(repeat: int) -> list[str]:
        slow = file.slow(threads) if repeat >= SLOW_ROUNDS else set()
        return [name for name in names if name not in slow]

    missing = [repeat for repeat in range(repeats) if not file.has("speed", threads, repeat, due(repeat))]
    if not missing:
        return
    probe = BandwidthProbe()
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(Worker(engine, threads, log)) for engine in engines]
        for worker in workers:
            say(f"speed, {threads} threads: loading {worker.engine.name}")
            worker.ask(do="load")
            worker.ask(do="generate", ids=prompt(ids, DECODE_PROMPT, repeats), new_tokens=4, seconds=DECODE_SECONDS)
        for repeat in missing:
            samples: list[Sample] = []
            for worker in [worker for worker in workers if worker.engine.name in due(repeat)]:
                say(f"speed, {threads} threads, round {repeat + 1} of {repeats}: {worker.engine.name}")
                samples += _turn(worker, threads, repeat, ids, probe)
            file.add(samples)


def _turn(worker: Worker, threads: int, repeat: int, ids: I64, probe: BandwidthProbe) -> list[Sample]:
    """One engine's turn: probe, prefill, probe, decode, probe."""
    started = time.monotonic()
    before = probe.gigabytes_per_s(threads)
    prefill = worker.ask(do="prefill", ids=prompt(ids, PREFILL_PROMPT, repeat))["seconds"]
    between = probe.gigabytes_per_s(threads)
    ask = {"ids": prompt(ids, DECODE_PROMPT, repeat), "new_tokens": NEW_TOKENS, "seconds": DECODE_SECONDS}
    answer = worker.ask(do="generate", **ask)
    after = probe.gigabytes_per_s(threads)
    decoded = len(answer["token_ids"]) - 1

    def sample(quantity: str, value: float, first: float, last: float) -> Sample:
        command = portable(worker.command)
        return Sample("speed", worker.engine.name, threads, repeat, quantity, value, first, last, _now(), command)

    return [
        sample("prefill", PREFILL_PROMPT / prefill, before, between),
        sample("decode", decoded / answer["rest_seconds"], between, after),
        sample("decoded", decoded, 0.0, 0.0),
        sample("turn", time.monotonic() - started, 0.0, 0.0),
    ]
