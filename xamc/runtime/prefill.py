"""Prompts, one call of the model at a time: what a group begins with first, once, then a chunk of every prompt."""

from __future__ import annotations

import time
from collections import abc

import numpy as np

from xamc.runtime.executor import F32
from xamc.runtime.sequence import Group, Sequence
from xamc.runtime.slots import Slots

Fed = tuple[list[Sequence], list[int], F32]
"""Sequences, how many tokens of each were fed, and what `Slots.feed` returned."""


def feed_chunk(slots: Slots, sequences: abc.Sequence[Sequence], all_positions: bool = False) -> Fed:
    """One call of the model for prompts that are not cached as a whole.

    Args:
        slots: where the sequences sit.
        sequences: at least one; of each the prompt has a rest.
        all_positions: whether the logits of every token are wanted.

    Raises:
        InputError: E1603.
    """
    started = time.perf_counter()
    groups = list({id(sequence.group): sequence.group for sequence in sequences}.values())
    fed = next((found for group in groups if (found := _feed_beginning(slots, group, sequences))), None)
    if fed is None:
        going = [sequence for sequence in sequences if sequence.rest]  # some may share what others computed meanwhile
        width = slots.width(going)
        counts = [min(sequence.rest, width) for sequence in going]
        fed = going, counts, slots.feed(going, counts, all_positions)
    seconds = time.perf_counter() - started
    for sequence, count in zip(*fed[:2]):
        sequence.group.computed += count
    for group in groups:
        group.seconds += seconds
    return fed


def feed_prompts(slots: Slots, sequences: abc.Sequence[Sequence], all_positions: bool = False) -> F32:
    """Computes the prompts of B seated sequences to their ends.

    Returns:
        float32[B, T, V] with T the longest prompt (zeros after a row's end and where it was cached before), else
        float32[B, 1, V] for last tokens.

    Raises:
        InputError: E1603.
    """
    length = max(len(sequence.prompt) for sequence in sequences) if all_positions else 1
    row_of = {id(sequence): row for row, sequence in enumerate(sequences)}
    result: F32 | None = None
    while going := [sequence for sequence in sequences if sequence.rest]:
        fed, counts, logits = feed_chunk(slots, going, all_positions)
        if result is None:
            result = np.zeros((len(sequences), length, logits.shape[-1]), np.float32)
        for part, sequence, count in zip(logits, fed, counts):
            # where only last ones are wanted, those of a row's last chunk win
            places = slice(sequence.cached - count, sequence.cached) if all_positions else slice(1)
            result[row_of[id(sequence)], places] = part[:count]
    assert result is not None, "a prompt's last token always has to run"
    return result


def _feed_beginning(slots: Slots, group: Group, sequences: abc.Sequence[Sequence]) -> Fed | None:
    """Computes the whole blocks that a group's prompts begin with in one of them, and lets the others share them."""
    pages = slots.executor.pages
    if pages is None or group.has_shared:
        return None
    members = [sequence for sequence in sequences if sequence.group is group and sequence.keeps]
    for base in dict.fromkeys(member.prompt_base for member in members):  # keys of another base are other keys
        alike = [member for member in members if member.prompt_base == base]
        if len(alike) < 2:
            continue
        common = _common([member.prompt for member in alike])
        common -= common % pages.block
        first = max(alike, key=lambda member: member.cached)
        if first.cached < common:
            count = min(common - first.cached, slots.chunk)
            return [first], [count], slots.feed([first], [count])
        for member in alike:
            if member.cached < common:
                slots.begin_again(member)
    group.has_shared = True
    return None


def _common(prompts: list[np.ndarray[tuple[int], np.dtype[np.int64]]]) -> int:
    """How many tokens all of the prompts begin with, of all but their last ones."""
    shortest = min(map(len, prompts)) - 1
    differs = np.any([prompt[:shortest] != prompts[0][:shortest] for prompt in prompts], axis=0)
    return int(np.argmax(differs)) if differs.any() else shortest
