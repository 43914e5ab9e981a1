"""How each graph pass is set up in its tests: parameters, the passes before it, and the twin its golden shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from tests import twins
from tests.golden_files import first_layer, rewrite_text
from tests.passes.graph.open_norms import OpenNorms
from tests.passes.graph.wide_masks import WideMasks
from xamc.ir.program import Program
from xamc.ir.text import program_text
from xamc.ir.weights.kv_scales import KvScales
from xamc.model.bucket import Bucket
from xamc.passes.graph.cache_rows import CacheRows
from xamc.passes.graph.causal_mask import CausalMask
from xamc.passes.graph.cleanup import Cleanup
from xamc.passes.graph.eager_attention import EagerAttention
from xamc.passes.graph.fp16_clamp import Fp16Clamp
from xamc.passes.graph.insert_slice import InsertSlice
from xamc.passes.graph.last_position import LastPosition
from xamc.passes.graph.phase import StaticPhase
from xamc.passes.graph.quantize_weights import QuantizeWeights
from xamc.passes.graph.rope_table import RopeTables
from xamc.passes.graph.swiglu import SwiGlu
from xamc.passes.graph.weight_storage import WeightStorage
from xamc.passes.protocol import GraphPass
from xamc.verify.kv_calibration import scales_of_cases
from xamc.verify.scenario import TWIN_DECODE_LENGTH, TWIN_PREFILL_LENGTH


@dataclass(frozen=True)
class PassCase:
    """`make` builds the pass from its module; `before` run first; `kind` is the twin of the golden.

    `also` is a second way to set it up, for passes of static graphs: the decode phase.
    """

    make: Callable[[Any], GraphPass]
    before: tuple[GraphPass, ...] = (Cleanup(),)
    kind: str = "tied"
    also: PassCase | None = None

    @property
    def setups(self) -> tuple[PassCase, ...]:
        """This one, and the other."""
        return (self,) if self.also is None else (self, self.also)


PREFILL = Bucket("prefill", TWIN_PREFILL_LENGTH)
DECODE = Bucket("decode", TWIN_DECODE_LENGTH)
#: slots and rows of the cache of graphs on cache rows
TWIN_CACHE = (TWIN_DECODE_LENGTH, 4)
_TO_HALF: tuple[GraphPass, ...] = (
    CausalMask(),
    RopeTables(TWIN_DECODE_LENGTH),
    EagerAttention(scale_query=True),
    Fp16Clamp(),
    WeightStorage("float16", vectors=True),
)
_STATIC: tuple[GraphPass, ...] = (CausalMask(), RopeTables(), EagerAttention(), InsertSlice())


def _static(make: Callable[[Any, Bucket], GraphPass], before: int, kind: str, *between: GraphPass) -> PassCase:
    """A pass of static graphs in both phases, behind `before` of the others, `StaticPhase` being the first."""

    def setup(bucket: Bucket, also: PassCase | None = None) -> PassCase:
        earlier = (Cleanup(), StaticPhase(bucket), *_STATIC)[: before + 1]
        return PassCase(lambda m: make(m, bucket), (*earlier, *between), kind, also)

    return setup(PREFILL, setup(DECODE))


def twin_kv_scales() -> KvScales:
    """Scales for the KV caches of both twins, which have one shape: the ranges of all their calls."""
    calls = [case for kind in twins.KINDS for case in twins.twin(kind)[1]]
    return scales_of_cases(twins.config("tied"), calls)


PASSES: dict[str, PassCase] = {
    "cleanup": PassCase(lambda m: m.Cleanup(), before=(), kind="windowed"),
    "norms": PassCase(lambda m: m.Norms(), before=(Cleanup(), OpenNorms())),
    "swiglu": PassCase(lambda m: m.SwiGlu()),
    "last_position": PassCase(lambda m: m.LastPosition()),
    "kv_cache": PassCase(lambda m: m.KvCache(), before=(Cleanup(), LastPosition()), kind="windowed"),
    "phase": _static(lambda m, bucket: m.StaticPhase(bucket), 0, "windowed"),
    "causal_mask": _static(lambda m, _: m.CausalMask(), 1, "windowed"),
    "rope_table": _static(lambda m, _: m.RopeTables(), 2, "tied"),
    "eager_attention": _static(lambda m, _: m.EagerAttention(), 3, "tied"),
    "insert_slice": _static(lambda m, _: m.InsertSlice(), 4, "tied"),
    "fp16_clamp": _static(lambda m, _: m.Fp16Clamp(), 5, "windowed", WideMasks()),
    "key_bias_apart": _static(lambda m, _: m.KeyBiasApart(), 4, "windowed"),
    "embedding_output": PassCase(
        lambda m: m.EmbeddingOutput(), (Cleanup(), StaticPhase(PREFILL), *_STATIC[:3]), "windowed"
    ),
    "standard_ops": _static(lambda m, _: m.StandardOps(), 5, "windowed", SwiGlu()),
    "vocab_padding": PassCase(lambda m: m.VocabPadding()),
    "weight_storage": PassCase(lambda m: m.WeightStorage("float16")),
    "quantize_weights": PassCase(lambda m: m.QuantizeWeights.to_bits(4, 32)),
    "quantize_per_channel": PassCase(lambda m: m.QuantizePerChannel(), kind="windowed"),
    "cache_rows": PassCase(
        lambda m: m.CacheRows("prefill", *TWIN_CACHE, 3),
        (Cleanup(), LastPosition()),
        "windowed",
        PassCase(lambda m: m.CacheRows("decode", *TWIN_CACHE), (Cleanup(),), "windowed"),
    ),
    "half_precision": PassCase(
        lambda m: m.HalfPrecision(),
        (Cleanup(), LastPosition(), CacheRows("prefill", *TWIN_CACHE), *_TO_HALF),
        "windowed",
        PassCase(lambda m: m.HalfPrecision(), (Cleanup(), CacheRows("decode", *TWIN_CACHE, 3, 12), *_TO_HALF)),
    ),
    "kv_int8": PassCase(lambda m: m.KvInt8(twin_kv_scales())),
    "byte_codes": PassCase(lambda m: m.ByteCodes(), before=(Cleanup(), QuantizeWeights.to_bits(4, 32))),
}


def golden_text(name: str, graph_pass: GraphPass, case: PassCase | None = None) -> str:
    """What the pass does to its twin: the changed lines, or the result for passes that change most of them."""
    case = case or PASSES[name]
    program: Program = twins.after(case.kind, *case.before)
    before = program_text(program)
    report = graph_pass.run(program)
    after = program_text(program)
    counts = "".join(f"# {rule}: {count}\n" for rule, count in report.matched.items())
    if name in ("phase", "cache_rows", "half_precision"):
        return counts + first_layer(after)
    return counts + (after if name == "cleanup" else rewrite_text(before, after))


def golden_of(name: str, module: ModuleType) -> str:
    """The golden of a pass in all its set-ups, made from `module` (the pass's own, or a mutation of it)."""
    texts = [golden_text(name, case.make(module), case) for case in PASSES[name].setups]
    return texts[0] if len(texts) == 1 else f"PREFILL\n{texts[0]}DECODE\n{texts[1]}"
