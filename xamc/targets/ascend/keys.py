"""What the Ascend target does with the keys of a spec, those that it alone reads, and its rules."""

from __future__ import annotations

from collections.abc import Iterator

from xamc.errors import InputError
from xamc.targets.ascend.assumptions import DEFAULT_SOC_VERSION, LEAST_GEARS, MOST_GEARS, SOC_VERSIONS
from xamc.targets.spec_keys import Key, Rule, SpecKeys, SpecValues, Use
from xamc.targets.spec_kinds import Int, ListOf, OneOf

_GEARS = "backend.compile.gears"
_LENGTHS = "frontend.shape.input_ids"
_OTHERS: tuple[Use, str] = ("no effect", "an option of the Ascend target")


def _max_batch(values: SpecValues) -> int:
    """The largest batch of the gears, 1 without gears."""
    return max((gear[0] for gear in values.get(_GEARS) or ()), default=1)


def _gears(values: SpecValues) -> Iterator[InputError]:
    """Pairs of batch and slots that the KV cache has, and as many as GE takes."""
    gears = values.get(_GEARS)
    if gears is None:
        return
    if any(len(gear) != 2 for gear in gears) or not LEAST_GEARS <= len(gears) <= MOST_GEARS:
        yield InputError(
            "E1036",
            f"{_GEARS} is a list of {LEAST_GEARS} to {MOST_GEARS} pairs [batch, active slots]",
            "write for example [[1, 512], [4, 512], [4, 2048]]; leave gears out for static graphs",
            values.at(_GEARS),
        )
        return
    same = sorted({tuple(gear) for gear in gears if gears.count(gear) > 1})
    if same:
        yield InputError("E1036", f"{_GEARS} has {list(same[0])} twice", "remove one of them", values.at(_GEARS))
    lists = values.get(_LENGTHS) or []
    totals = lists[1] if len(lists) > 1 and isinstance(lists[1], list) else []
    slots, batch = max(gear[1] for gear in gears), max(gear[0] for gear in gears)
    if totals and slots != max(totals):
        yield InputError(
            "E1037",
            f"the gears look at up to {slots} slots, and the total length is {max(totals)}",
            f"add a gear of {max(totals)} slots"
            if slots < max(totals)
            else "raise the total length, or lower the gear",
            values.at(_GEARS, f"up to {slots} slots") + values.at(_LENGTHS, "the KV cache's slots"),
        )
    rows = values.get("runtime.max_batch") or _max_batch(values)
    if batch > rows:
        yield InputError(
            "E1037",
            f"a gear has a batch of {batch}, and runtime.max_batch is {rows}",
            f"set runtime.max_batch: {batch}, or remove it",
            values.at(_GEARS, f"a batch of {batch}") + values.at("runtime.max_batch", "the KV cache's rows"),
        )


KEYS = SpecKeys(
    uses={
        "frontend.shape.input_ids": ("used", "a prefill graph or gear per first length, a decode graph per second"),
        "frontend.model_kwargs.tp": ("used", "1; more is refused"),
        "workspace.workers": ("no effect", "one process writes the weights"),
        **dict.fromkeys(
            ("backend.compile.route", "backend.compile.soc_version", _GEARS), ("used", "read by Ascend's ATC route")
        ),
    },
    keys=(
        Key(
            "backend.compile.route",
            OneOf(("atc", "kernels")),
            "How a model gets to an Ascend NPU: `atc` writes ONNX for Huawei's ATC; `kernels` (fused kernels) is not "
            "available yet.",
            _OTHERS,
            "atc",
        ),
        Key(
            "backend.compile.soc_version",
            OneOf(SOC_VERSIONS),
            "The NPU that ATC compiles for.",
            _OTHERS,
            DEFAULT_SOC_VERSION,
        ),
        Key(
            _GEARS,
            ListOf(ListOf(Int(1))),
            "Pairs [batch, active slots]: one decode graph with a gear for each, and one prefill graph with a gear for "
            "each prefill length. The largest number of slots is the total length.",
            _OTHERS,
            "none: one static graph per length",
        ),
    ),
    rules=(Rule((_GEARS, _LENGTHS, "runtime.max_batch", "backend.type"), _gears),),
    max_batch=_max_batch,
)
