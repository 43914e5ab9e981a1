"""Layouts: tables that lead fused or renamed tensors to the names a family's checkpoints have.

A table maps a stored name to the names whose rows it holds, one after the other; ``{i}`` stands for the number of a
layer in both. ``fused`` and ``meta`` are built in, others are JSON files:

    {"blocks.{i}.attn.qkv.weight": ["model.layers.{i}.self_attn.q_proj.weight", "...k_proj.weight", "...v_proj.weight"],
     "blocks.{i}.norm1.weight": "model.layers.{i}.input_layernorm.weight",
     "blocks.{i}.rope.table": null}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xamc.compiler.frontends.json_file import read_json
from xamc.errors import InputError, MisuseError
from xamc.ir.weights.lazy import LazyTensor, RowRanges
from xamc.ir.weights.transforms import UninterleaveHeads
from xamc.model.config import ModelConfig
from xamc.model.families.llama import LLAMA
from xamc.model.layer import EMBEDDING, FINAL_NORM, HEAD, Role
from xamc.model.parameters import layer_name, layer_of, parameter_shapes

_LAYER = layer_name("{i}")
_ROTATED: tuple[Role, ...] = ("query", "key")


def _fused() -> dict[str, tuple[str, ...]]:
    """Phi's, vLLM's and Baichuan's names: q, k and v as one matrix, gate and up as one."""
    qkv, gate_up = _names("query", "key", "value"), _names("gate", "up")
    rules: dict[str, tuple[str, ...]] = {}
    for stored, parts in (("self_attn.qkv_proj", qkv), ("self_attn.W_pack", qkv), ("mlp.gate_up_proj", gate_up)):
        for kind in ("weight", "bias"):
            rules[f"{_LAYER}.{stored}.{kind}"] = tuple(f"{_LAYER}.{part}.{kind}" for part in parts)
    return rules


def _names(*roles: Role) -> tuple[str, ...]:
    return tuple(LLAMA.layer.linear(role).name for role in roles)


def _meta() -> dict[str, tuple[str, ...]]:
    """Meta's consolidated files."""
    rules: dict[str, tuple[str, ...]] = {
        f"{part.meta}.weight": (f"{part.name}.weight",) for part in (EMBEDDING, FINAL_NORM, HEAD)
    }
    rules["rope.freqs"] = ()
    return rules | {f"layers.{{i}}.{p.meta}.weight": (f"{_LAYER}.{p.name}.weight",) for p in LLAMA.layer.parts}


@dataclass(frozen=True)
class Layout:
    """A table of names.

    Attributes:
        name: as given on the command line.
        rules: stored name → the names whose rows it holds; none for a tensor that is left out.
        interleaved: whether q and k have neighbouring rows rotated together, as Meta's files.
    """

    name: str
    rules: Mapping[str, tuple[str, ...]]
    interleaved: bool = False

    def find(self, stored: str) -> tuple[str, ...]:
        """The names whose rows `stored` holds; itself where no rule is for it."""
        if (exact := self.rules.get(stored)) is not None:
            return exact
        # a layer's number is the only thing that varies, so each number of the name may be it
        for match in re.finditer(r"(?<![^.])\d{1,6}(?![^.])", stored):
            rule = self.rules.get(f"{stored[: match.start()]}{{i}}{stored[match.end() :]}")
            if rule is not None:
                return tuple(name.replace("{i}", match.group()) for name in rule)
        return (stored,)


BUILT_IN: Mapping[str, Layout] = {
    "fused": Layout("fused", _fused()),
    "meta": Layout("meta", _meta(), interleaved=True),
}


def read_layout(name: str) -> Layout:
    """A built-in layout by name, or the table in a .json file.

    Raises:
        MisuseError: E1168 neither.
        InputError: E1103 damaged JSON, E1167 a table that says something else.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    path = Path(name)
    if path.suffix != ".json":
        known = ", ".join(["family", *BUILT_IN])
        raise MisuseError("E1168", f"--layout {name!r} doesn't exist", f"use {known}, or a .json file of names")
    rules: dict[str, tuple[str, ...]] = {}
    for stored, found in read_json(path).items():
        names = [] if found is None else [found] if isinstance(found, str) else found
        if not isinstance(names, list) or not all(isinstance(item, str) and item for item in names):
            raise InputError(
                "E1167", f"{path}: {stored} leads to {found!r}", "give a name, a list of names, or null to leave it out"
            )
        layered = stored.count("{i}")
        if layered > 1 or any(item.count("{i}") != layered for item in names):
            raise InputError(
                "E1167", f"{path}: {stored} and {found} don't agree on {{i}}", "write it once in each name, or in none"
            )
        rules[stored] = tuple(names)
    return Layout(name, rules)


def apply_layout(layout: Layout, tensors: Mapping[str, LazyTensor], config: ModelConfig) -> dict[str, LazyTensor]:
    """`tensors` under the names of `layout`, fused ones cut by the sizes of `config`; nothing is read.

    Raises:
        InputError: E1167 a tensor whose rows don't fit its parts, or two that lead to one name.
    """
    shapes = parameter_shapes(config)
    rotated = tuple(f".{layer_of(config).linear(role).name}.weight" for role in _ROTATED)
    result: dict[str, LazyTensor] = {}
    origin: dict[str, str] = {}
    for stored, tensor in tensors.items():
        names = layout.find(stored)
        parts = [tensor] if len(names) == 1 else _cut(layout, stored, tensor, names, shapes)
        for name, part in zip(names, parts, strict=True):
            if name in result:
                raise InputError(
                    "E1167",
                    f"layout {layout.name}: {origin[name]} and {stored} both lead to {name}",
                    "is it the layout of this checkpoint? tensors that are of no use can lead to null",
                )
            if layout.interleaved and name.endswith(rotated):
                if part.shape != shapes.get(name):
                    wanted = list(shapes.get(name, ()))
                    raise InputError(
                        "E1167",
                        f"layout {layout.name}: {stored} is {list(part.shape)}, config.json asks for {wanted}",
                        "config.json and the weights must come from the same model",
                    )
                part = UninterleaveHeads(part, config.head_dim)
            result[name], origin[name] = part, stored
    return result


def _cut(
    layout: Layout, stored: str, tensor: LazyTensor, names: Sequence[str], shapes: Mapping[str, tuple[int, ...]]
) -> list[LazyTensor]:
    unknown = [name for name in names if name not in shapes]
    if unknown:
        raise InputError(
            "E1167",
            f"layout {layout.name}: {stored} holds {unknown[0]}, which the model of config.json has no place for",
            "config.json and the weights must come from the same model",
        )
    rows = [shapes[name][0] for name in names]
    if names and tensor.shape[:1] != (sum(rows),):
        raise InputError(
            "E1167",
            f"layout {layout.name}: {stored} is {list(tensor.shape)}, its parts have {' + '.join(map(str, rows))} rows",
            "config.json and the weights must come from the same model, and be in this layout",
        )
    ends = [sum(rows[: number + 1]) for number in range(len(rows))]
    return [RowRanges(tensor, ((end - count, end),)) for count, end in zip(rows, ends, strict=True)]
