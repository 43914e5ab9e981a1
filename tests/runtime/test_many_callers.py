"""One model, many callers: threads, streams in turns, event loops, forks, interrupted calls; never another text."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xamc.errors import MisuseError
from xamc.runtime import Model, load
from xamc.runtime.executor import Step

PROMPTS = [[5, 6], [7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19], [20], list(range(30, 54))]
TOKENS = 12
CPUS = len(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def model(toy_path: Path) -> Model:
    return load(toy_path, threads=2)


@pytest.fixture(scope="module")
def expected(toy: Any, vocab_size: int) -> list[list[int]]:
    """From the toy's definition."""
    return [toy.greedy(prompt, TOKENS, vocab_size) for prompt in PROMPTS]


def generated(model: Model, index: int, **options: Any) -> list[int]:
    return model.generate(PROMPTS[index], TOKENS, ignore_eos=True, **options).token_ids


def streamed(model: Model, index: int, **options: Any) -> list[int]:
    stream = model.stream(PROMPTS[index], TOKENS, ignore_eos=True, **options)
    for _ in stream:
        pass
    return stream.generation.token_ids


def with_pieces(model: Model, index: int, **options: Any) -> list[int]:
    return generated(model, index, on_text=lambda row, piece: None, **options)


def of_logits(model: Model, index: int, **options: Any) -> list[int]:
    return model.logits([PROMPTS[index]])[0].argmax(-1).tolist()


def test_threads_get_the_answers_they_would_get_alone(
    model: Model, expected: list[list[int]], toy: Any, vocab_size: int
) -> None:
    likeliest = [toy.logits(prompt, vocab_size).argmax(-1).tolist() for prompt in PROMPTS]
    wrong: list[Any] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(12):
            call = chance.choice([generated, streamed, with_pieces, of_logits])
            index, options = chance.randrange(len(PROMPTS)), {"prefix_cache": chance.random() < 0.7}
            try:
                got: Any = call(model, index, **options)
            except Exception as error:  # shown below
                got = error
            if got != (likeliest if call is of_logits else expected)[index]:
                wrong.append((call.__name__, index, options, got))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_streams_of_one_thread_take_turns(model: Model, expected: list[list[int]], prefix_cache: bool) -> None:
    order = [*range(len(PROMPTS)), 1]  # one of them twice
    options = {"ignore_eos": True, "prefix_cache": prefix_cache}
    streams = [model.stream(PROMPTS[index], TOKENS, **options) for index in order]
    running = [iter(stream) for stream in streams]
    while running:
        for pieces in list(running):
            if next(pieces, None) is None:
                running.remove(pieces)
    assert [stream.generation.token_ids for stream in streams] == [expected[index] for index in order]


def test_a_batch_goes_on_after_other_calls_of_its_reader(model: Model, expected: list[list[int]]) -> None:
    """`on_text` calls the same model: the batch's cache is another one's in between."""
    inner: list[list[int]] = []

    def read(row: int, piece: str) -> None:
        if len(inner) < 3:
            inner.append(generated(model, 3))
            model.logits([[1, 2]])

    answers = model.generate(PROMPTS[:3], TOKENS, ignore_eos=True, on_text=read)
    assert [answer.token_ids for answer in answers] == expected[:3]
    assert inner == [expected[3]] * 3


def test_a_stream_that_nobody_reads_to_its_end_leaves_no_trace(model: Model, expected: list[list[int]]) -> None:
    abandoned = [iter(model.stream(PROMPTS[index], TOKENS, ignore_eos=True)) for index in (1, 3)]
    for pieces in abandoned:
        next(pieces)
    del abandoned[0]
    assert [generated(model, index) for index in range(len(PROMPTS))] == expected


def test_one_stream_read_by_two_threads(model: Model, expected: list[list[int]]) -> None:
    stream = model.stream(PROMPTS[1], TOKENS, ignore_eos=True)
    threads = [threading.Thread(target=list, args=(stream,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stream.generation.token_ids == expected[1]


def test_an_event_loop(model: Model, expected: list[list[int]]) -> None:
    """As servers do it: calls and the pieces of streams go to whatever thread of a pool is free."""

    async def stream(index: int) -> list[int]:
        loop, answer = asyncio.get_running_loop(), model.stream(PROMPTS[index], TOKENS, ignore_eos=True)
        pieces = iter(answer)
        while await loop.run_in_executor(None, next, pieces, None) is not None:
            pass
        return answer.generation.token_ids

    async def everything() -> list[list[int]]:
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(None, generated, model, index) for index in range(len(PROMPTS))]
        return await asyncio.gather(*calls, *map(stream, range(len(PROMPTS))))

    assert asyncio.run(everything()) == [*expected, *expected]


class Interrupted:
    """An executor in whose step something happens: after it wrote keys, before anybody took note of them."""

    def __init__(self, executor: Any, event: Callable[[], None]) -> None:
        self._executor, self._event = executor, event
        self.threads, self.pages = executor.threads, executor.pages
        self.steps_left = 10**9

    def clear(self, slot: int) -> None:
        self._executor.clear(slot)

    def forward(self, step: Step) -> np.ndarray:
        logits = self._executor.forward(step)
        self.steps_left -= 1
        if self.steps_left == 0:
            self._event()
        return logits


def test_a_call_that_was_interrupted_spoils_no_other(toy_path: Path, model: Model, expected: list[list[int]]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    executor = Interrupted(load(toy_path, threads=1).engine.executor, interrupt)
    fresh = Model(toy_path, model.manifest, executor)
    for steps in (1, 2, 4, 9):
        executor.steps_left = steps
        with pytest.raises(KeyboardInterrupt):
            generated(fresh, 1)
        assert [generated(fresh, index) for index in (1, 3, 1)] == [expected[index] for index in (1, 3, 1)]


def test_a_call_from_within_a_step_is_refused(toy_path: Path, model: Model, expected: list[list[int]]) -> None:
    """A signal handler may run anywhere."""
    refused: list[str] = []

    def call() -> None:
        with pytest.raises(MisuseError) as error:
            generated(fresh, 0)
        refused.append(error.value.code)

    executor = Interrupted(load(toy_path, threads=1).engine.executor, call)
    fresh = Model(toy_path, model.manifest, executor)
    executor.steps_left = 3
    assert generated(fresh, 1) == expected[1]
    assert refused == ["E1618"]


def test_threads_that_end_leave_no_pool_behind(make_artifact: Any) -> None:
    model = load(make_artifact(), threads=CPUS)
    counts = []
    for _ in range(6):
        thread = threading.Thread(target=generated, args=(model, 0))
        thread.start()
        thread.join()
        counts.append(len(os.listdir("/proc/self/task")))
    assert max(counts) - min(counts) <= 1  # a thread that was joined may still be listed


FORKED = """
import os, signal, sys
from xamc.errors import UnsupportedError
from xamc.runtime import load

path, threads = sys.argv[1], int(sys.argv[2])
model = load(path, threads=threads)
answer = model.generate([5, 6], 4, ignore_eos=True).token_ids
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
signal.alarm(60)  # kernels without their threads wait for ever
try:
    print(model.generate([5, 6], 4, ignore_eos=True).token_ids == answer, end=" ")
except UnsupportedError as error:
    print(error.code, end=" ")
print(load(path, threads=threads).generate([5, 6], 4, ignore_eos=True).token_ids == answer, flush=True)
os._exit(0)
"""


@pytest.mark.parametrize(("threads", "said"), [("1", "True True"), ("2", "E1652 True" if CPUS > 1 else "True True")])
def test_a_forked_child(toy_path: Path, threads: str, said: str) -> None:
    """Without threads nothing is missing in it; with them it is told, and its own load works."""
    command = [sys.executable, "-c", FORKED, str(toy_path), threads]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, signal.Signals(-done.returncode) if done.returncode < 0 else done.stderr
    assert done.stdout.split("\n")[0] == said
