"""Speed: every engine in its own process, all measured in turn within a round, a bandwidth probe around each."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.bench.corpus import I64, prompt
from tools.bench.engines import EngineChoice, Worker, portable
from tools.bench.probe import BandwidthProbe
from tools.bench.samples import Sample, SampleFile, now

DECODE_PROMPT, NEW_TOKENS, PREFILLS = 64, 128, (512, 2048)
ANSWER_PROMPT, ANSWER_TOKENS = 64, 64
# An engine that has no kernels for this CPU (bf16 in torch without AVX-512) would take most of an hour. It decodes for
# so many seconds at most, and a prompt that would take over PREFILL_SECONDS, judged by a shorter one, is left out.
DECODE_SECONDS, PREFILL_SECONDS = 10.0, 60.0
# A cell is measured in every round until it has taken so long in all; so slow cells don't eat the time of the others.
CELL_SECONDS = 12.0
_RESERVE = 2 * 2**30  # bytes that stay free when all engines of a width are kept loaded


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        repeats: rounds per number of threads.
        threads: numbers of threads.
        prefills: lengths of prompts, ascending.
        new_tokens: greedy tokens of a decode.
        cell_seconds: see CELL_SECONDS.
    """

    repeats: int
    threads: Sequence[int]
    prefills: Sequence[int] = PREFILLS
    new_tokens: int = NEW_TOKENS
    cell_seconds: float = CELL_SECONDS


def measure_start(engine: EngineChoice, threads: int, repeat: int, plan: Plan, ids: I64, log: Path) -> list[Sample]:
    """Time to ready and to the first token of a process by itself, from its start; and its peak memory.

    Everything counts: the interpreter, imports, reading the weights. Files are in the page cache, as the measurement of
    the answer read them before. Memory is measured in the first repeat only, as it takes a long prompt.
    """
    with Worker(engine, threads, log) as worker:
        worker.ask(do="load")
        ready = worker.age
        first_ids = prompt(ids, DECODE_PROMPT, repeat)
        done = worker.ask(do="generate", ids=first_ids, new_tokens=2, seconds=DECODE_SECONDS)
        values = {"ready": ready, "cold_first": ready + done["first_seconds"]}
        if repeat:
            return [_sample(worker, "start", repeat, name, value) for name, value in values.items()]
        length = plan.prefills[-1]
        seconds = done["first_seconds"]
        if seconds * length / DECODE_PROMPT > PREFILL_SECONDS:  # it may have waited for the weights' pages
            seconds = worker.ask(do="prefill", ids=prompt(ids, DECODE_PROMPT, repeat + 1))["seconds"]
        skipped = seconds * length / DECODE_PROMPT > PREFILL_SECONDS
        if not skipped:
            worker.ask(do="prefill", ids=prompt(ids, length, repeat))
        values["peak_rss"] = math.nan if skipped else worker.ask(do="memory")["bytes"]
        return [_sample(worker, "start", repeat, name, value) for name, value in values.items()]


def measure_answers(
    reference: EngineChoice,
    engines: Sequence[EngineChoice],
    threads: int,
    ids: I64,
    file: SampleFile,
    log: Path,
    say: Callable[[str], None],
) -> None:
    """Greedy continuations of one prompt, all beside transformers in fp32: where each first differs."""
    missing = [e for e in engines if not file.has("answer", e.model, threads, 0, [e.name])]
    if not missing:
        return
    question = [int(token) for token in ids[:ANSWER_PROMPT]]
    asked = {"do": "generate", "ids": question, "new_tokens": ANSWER_TOKENS, "seconds": math.inf}
    say(f"{reference.model}: answer of {reference.name}")
    with Worker(reference, threads, log) as worker:
        worker.ask(do="load")
        expected = worker.ask(**asked)["token_ids"]
    for engine in missing:
        say(f"{engine.model}: answer of {engine.name}")
        with Worker(engine, threads, log) as worker:
            worker.ask(do="load")
            got = worker.ask(**asked)["token_ids"]
            file.add([_sample(worker, "answer", 0, "divergence", divergence(expected, got))])


def divergence(expected: Sequence[int], got: Sequence[int]) -> int:
    """Index of the first token that differs, -1 if none does; a shorter answer differs where it ends."""
    for index, token in enumerate(expected):
        if index >= len(got) or got[index] != token:
            return index
    return -1


def measure_speed(
    engines: Sequence[EngineChoice],
    threads: int,
    plan: Plan,
    ids: I64,
    probe: BandwidthProbe,
    file: SampleFile,
    log: Path,
    say: Callable[[str], None],
) -> None:
    """Rounds of all engines in turn (A B C, A B C, ...), each with decode and prefills; whole rounds are kept.

    The processes live through all rounds, idle while it is another's turn, if memory allows that; else each is started
    for its turn. A first, unrecorded run warms each up.
    """
    model, names = engines[0].model, [engine.name for engine in engines]
    missing = [r for r in range(plan.repeats) if not file.has("speed", model, threads, r, names)]
    if not missing:
        return
    together = fit_together(engines, available_bytes())
    with contextlib.ExitStack() as stack:
        workers = [_warm(stack, engine, threads, plan, ids, log, say) for engine in engines] if together else []
        for repeat in missing:
            samples: list[Sample] = []
            for index, engine in enumerate(engines):
                say(f"{model}, {threads} threads, round {repeat + 1} of {plan.repeats}: {engine.name}")
                with contextlib.ExitStack() as turn:
                    worker = workers[index] if together else _warm(turn, engine, threads, plan, ids, log, say)
                    samples += _turn(worker, repeat, plan, ids, probe, file.samples)
            file.add(samples)


def fit_together(engines: Sequence[EngineChoice], free_bytes: int) -> bool:
    """Whether all engines can be loaded at a time; some keep a second, unpacked copy of their weights in float32."""
    needed = sum(max(2 * e.stored_bytes, 4 * e.weights_count if e.width == 16 else 0) + 2**28 for e in engines)
    return needed + _RESERVE <= free_bytes


def available_bytes() -> int:
    """Memory that new processes can have, by the kernel's estimate."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _warm(
    stack: contextlib.ExitStack,
    engine: EngineChoice,
    threads: int,
    plan: Plan,
    ids: I64,
    log: Path,
    say: Callable[[str], None],
) -> Worker:
    say(f"{engine.model}, {threads} threads: loading {engine.name}")
    worker = stack.enter_context(Worker(engine, threads, log))
    worker.ask(do="load")
    worker.ask(do="generate", ids=prompt(ids, DECODE_PROMPT, plan.repeats), new_tokens=4, seconds=DECODE_SECONDS)
    return worker


def _turn(
    worker: Worker, repeat: int, plan: Plan, ids: I64, probe: BandwidthProbe, before: Sequence[Sample]
) -> list[Sample]:
    """One engine's turn: a probe, then decode and prefills with a probe after each."""
    threads = worker.threads
    mine = [
        s
        for s in before
        if (s.stage, s.model, s.engine, s.threads) == ("speed", worker.engine.model, worker.engine.name, threads)
    ]
    samples: list[Sample] = []
    reading = probe.gigabytes_per_s(threads)
    shorter, seconds = DECODE_PROMPT, 0.0
    if spent(mine, "decode", plan.new_tokens) < plan.cell_seconds:
        question = prompt(ids, DECODE_PROMPT, repeat)
        answer = worker.ask(do="generate", ids=question, new_tokens=plan.new_tokens, seconds=DECODE_SECONDS)
        last, reading = reading, probe.gigabytes_per_s(threads)
        decoded, seconds = len(answer["token_ids"]) - 1, answer["first_seconds"]
        samples.append(_sample(worker, "speed", repeat, "decode", decoded / answer["rest_seconds"], last, reading))
        samples.append(_sample(worker, "speed", repeat, "first", seconds, last, reading))
        samples.append(_sample(worker, "speed", repeat, "decoded", decoded))
    for length in plan.prefills:
        quantity = f"prefill{length}"
        if spent(mine, quantity, length) >= plan.cell_seconds:
            continue
        if seconds * length / shorter > PREFILL_SECONDS:
            # recorded once, so that a table can tell it from what was not asked for
            samples.append(_sample(worker, "speed", repeat, quantity, math.nan))
            continue
        seconds = worker.ask(do="prefill", ids=prompt(ids, length, repeat))["seconds"]
        last, reading = reading, probe.gigabytes_per_s(threads)
        samples.append(_sample(worker, "speed", repeat, quantity, length / seconds, last, reading))
        shorter = length
    # a round in which nothing was due leaves a trace too, or it would never be complete
    return samples or [_sample(worker, "speed", repeat, "idle", 0.0)]


def spent(samples: Sequence[Sample], quantity: str, tokens: int) -> float:
    """Seconds that the measurements of a quantity in tokens/s have taken so far; infinite once it was left out."""
    values = [s.value for s in samples if s.quantity == quantity]
    if any(math.isnan(value) for value in values):
        return math.inf
    return sum(tokens / value for value in values)


def _sample(
    worker: Worker, stage: str, repeat: int, quantity: str, value: float, first: float = 0.0, last: float = 0.0
) -> Sample:
    engine, command = worker.engine, portable(worker.command)
    key = (stage, engine.model, engine.name, engine.width, worker.threads, repeat)
    return Sample(*key, quantity, value, first, last, now(), command)


def estimate_minutes(models: Sequence[tuple[int, int]], plan: Plan, operations: float, bandwidth: float) -> float:
    """A guess of how long the race takes, from the limits probed and engines that reach a good half of them.

    Args:
        models: weights and engines of every model.
        plan: what is measured.
        operations: fp32 operations/s of all CPUs.
        bandwidth: bytes/s of all CPUs.
    """
    most, total = max(plan.threads), 0.0
    for weights, engines in models:
        for threads in plan.threads:
            share = threads / most * 0.6
            times = [plan.new_tokens * weights * 1.2 / (bandwidth * share)]
            prompts = [length * 2 * weights / (operations * share) for length in plan.prefills]
            times += [seconds for seconds in prompts if seconds < PREFILL_SECONDS]
            # every cell at least once, and again until it has had its time
            total += engines * sum(min(plan.repeats * t, max(t, plan.cell_seconds + t / 2)) for t in times)
            total += engines * plan.repeats * 1.0  # probes
        answer = ANSWER_TOKENS * weights * 1.2 / (bandwidth / 2) + 2.0
        start = 4.0 + plan.prefills[-1] * 2 * weights / (operations * 0.6)
        total += engines * (answer + start)
    return total / 60
