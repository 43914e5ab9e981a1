"""How each graph pass is set up in its tests: parameters, the passes before it, and the twin its golden shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests import twins
from tests.golden_files import rewrite_text
from tests.passes.graph.open_norms import OpenNorms
from xamc.compiler.program import Program
from xamc.passes.graph.cleanup import Cleanup
from xamc.passes.graph.last_position import LastPosition
from xamc.passes.graph.quantize_weights import QuantizeWeights
from xamc.passes.protocol import GraphPass
from xamc.passes.text import program_text


@dataclass(frozen=True)
class PassCase:
    """`make` builds the pass from its module; `before` run first; `kind` is the twin of the golden."""

    make: Callable[[Any], GraphPass]
    before: tuple[GraphPass, ...] = (Cleanup(),)
    kind: str = "tied"


PASSES: dict[str, PassCase] = {
    "cleanup": PassCase(lambda m: m.Cleanup(), before=(), kind="windowed"),
    "norms": PassCase(lambda m: m.Norms(), before=(Cleanup(), OpenNorms())),
    "swiglu": PassCase(lambda m: m.SwiGlu()),
    "last_position": PassCase(lambda m: m.LastPosition()),
    "kv_cache": PassCase(lambda m: m.KvCache(), before=(Cleanup(), LastPosition()), kind="windowed"),
    "vocab_padding": PassCase(lambda m: m.VocabPadding()),
    "weight_storage": PassCase(lambda m: m.WeightStorage("float16")),
    "quantize_weights": PassCase(lambda m: m.QuantizeWeights.to_bits(4, 32)),
    "quantize_per_channel": PassCase(lambda m: m.QuantizePerChannel(), kind="windowed"),
    "byte_codes": PassCase(lambda m: m.ByteCodes(), before=(Cleanup(), QuantizeWeights.to_bits(4, 32))),
}


def golden_text(name: str, graph_pass: GraphPass) -> str:
    """What the pass does to its twin: the changed lines, or all of the result for cleanup, which changes most."""
    case = PASSES[name]
    program: Program = twins.after(case.kind, *case.before)
    before = program_text(program)
    report = graph_pass.run(program)
    after = program_text(program)
    counts = "".join(f"# {rule}: {count}\n" for rule, count in report.matched.items())
    return counts + (after if name == "cleanup" else rewrite_text(before, after))
