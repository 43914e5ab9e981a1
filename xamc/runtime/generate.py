"""Generation as a client of the engine: one call's answers from begin to end, whole or in pieces."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from xamc.runtime.answer import Generation
from xamc.runtime.engine import Engine
from xamc.runtime.executor import I64
from xamc.runtime.generation_words import Request

Event = tuple[int, str] | list[Generation]
"""(row, piece of text), or at last the finished answers."""


def generate(
    engine: Engine,
    prompts: Sequence[I64],
    request: Request,
    on_text: Callable[[int, str], None] | None = None,
    first_row: int = 0,
) -> list[Generation]:
    """Answers prompts that have room for one another.

    Args:
        engine: runs them.
        prompts: token ids, checked; lengths may differ.
        request: what is asked of all of them.
        on_text: called with (row, piece of text) as text becomes certain; other calls may run meanwhile.
        first_row: the number of the first prompt, where others of the same call ran before.

    Raises:
        XamcError: as `Engine.begin` and `Engine.step`.
    """
    if on_text is None:  # nobody else's code runs in between

        def to_the_end() -> list[Generation]:
            answers = engine.begin(prompts, request, False, first_row)
            while any(answer.finish_reason is None for answer in answers):
                engine.advance(answers)
            engine.release(answers)
            return [answer.generation for answer in answers]

        return engine.run(to_the_end)
    result: list[Generation] = []
    for event in Events(engine, prompts, request, first_row):
        if isinstance(event, list):
            result = event
        else:
            on_text(*event)
    return result


class Events:
    """What comes of a call, in order. Any thread may advance it: every step is a turn of the engine.

    Nobody knows when, or from which thread, a reader asks for the next one. Where others took the slots of these
    answers meanwhile, what they displaced is computed again.
    """

    def __init__(self, engine: Engine, prompts: Sequence[I64], request: Request, first_row: int = 0) -> None:
        """As `generate`."""
        self._engine = engine
        self._answers = engine.run(lambda: engine.begin(prompts, request, True, first_row))
        self._ready: deque[Event] = deque()
        self._has_ended = False

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        while True:
            event, is_over = self._engine.run(self._turn)
            if event is not None:
                return event
            if is_over:
                raise StopIteration

    def _turn(self) -> tuple[Event | None, bool]:
        """The next event, if there is one after at most one step, or whether none will come."""
        if not self._ready and not self._has_ended:
            if all(answer.finish_reason is not None for answer in self._answers):
                self._engine.release(self._answers)
                self._has_ended = True
                return [answer.generation for answer in self._answers], False
            # Read after the whole step, so that a slow reader delays every row alike and sees the rows in step.
            made = self._engine.advance(self._answers)
            self._ready += [(one.answer.row, one.text) for one in made if one.text]
        return (self._ready.popleft(), False) if self._ready else (None, self._has_ended)


class Stream:
    """The pieces of one answer as they are generated: iterate over it, then read `generation`."""

    def __init__(self, events: Iterator[Event]) -> None:
        self._events = events
        self._generation: Generation | None = None

    def __iter__(self) -> Iterator[str]:
        for event in self._events:
            if isinstance(event, list):
                (self._generation,) = event
            else:
                yield event[1]

    @property
    def generation(self) -> Generation:
        """The finished answer; reads the stream to its end first."""
        for _ in self:
            pass
        assert self._generation is not None
        return self._generation
