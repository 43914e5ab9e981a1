"""The keys that xamc adds to vamc's, for every target; all optional."""

from __future__ import annotations

from xamc.compiler.spec.keys import READ_BY_ALL
from xamc.targets.spec_keys import Key, Use
from xamc.targets.spec_kinds import Bool, Int, ListOf, MapOf, OneOf, Text

_USED: tuple[Use, str] = ("used", READ_BY_ALL)

KEYS: tuple[Key, ...] = (
    Key(
        "frontend.quantize.group_size",
        OneOf((32, 64, 128, -1)),
        "Input channels that share one scale; -1 is one scale per output channel, which 4-bit weights do not take.",
        _USED,
        "32 for 4-bit types, -1 for 8-bit types",
    ),
    Key(
        "passes.disable",
        ListOf(Text()),
        "Names of passes to leave out.",
        _USED,
        "[]",
    ),
    Key(
        "passes.expect",
        MapOf(Int(0)),
        "Pass → how often it has to match; any other count is an error.",
        _USED,
        "{}",
    ),
    Key(
        "verify.passes",
        OneOf(("each", "off")),
        "`each` runs a small twin of the model before and after every pass.",
        _USED,
        "each",
    ),
    Key(
        "verify.final",
        Bool(),
        "Also run the real weights, streamed layer by layer, on the prompts.",
        _USED,
        "false",
    ),
    Key(
        "verify.prompts",
        ListOf(Text()),
        "Prompts for `final` and for the artifact's golden logits; the first 32 tokens of each are run.",
        _USED,
        "one of xamc's own",
    ),
    Key(
        "runtime.max_batch",
        Int(1, 4096),
        "Sequences that are decoded together, at most; sizes the KV cache.",
        _USED,
        "8; for tvm_ascend the largest batch of backend.compile.gears, 1 without gears",
    ),
    Key(
        "runtime.kv_dtype",
        OneOf(("auto", "fp32", "fp16", "bf16", "int8")),
        "How keys and values are stored; auto leaves it to the target: on tvm_cpu the type of the weights, fp16 for "
        "int8 and int4. int8 has a scale per token and head, and needs no calibration (on VACC that is "
        "`frontend.quantize.type: w16kv8`); what it costs on the model's weights is measured, and a warning beyond "
        "0.005 nats.",
        _USED,
        "auto",
    ),
)
