"""README.md of a hand-off, in English."""

from __future__ import annotations

from xamc.compiler.handoff.readme import Wording

ENGLISH = Wording(
    title="# {facts.name}: hand-off for Vastai VACC",
    other="中文见 [README.zh.md](README.zh.md).",
    written=(
        "Written by xamc {facts.version} for a machine with the vendor's SDK. It was checked on a CPU, and neither "
        "compiled with `vamc` nor run on a card; what it takes for granted is listed at the end. "
        "Digests of all files are in `xamc-handoff.json`."
    ),
    both="Two roads lead to a card; they don't need each other. Try `llama/` first.",
    llama="## llama/: the checkpoint as plain Llama",
    lengths="prefill {prefill}, total {total}",
    holds=(
        "`checkpoint/` holds the {route.family} model ({billions} B parameters, {route.dtype}) under Llama's names: "
        "`model_type: llama`, separate q, k, v, gate and up matrices, no `auto_map` and no Python file. "
        "`{route.build}` is a plain vamc build file for tp {route.tp}, {lengths}."
    ),
    without_sdk="Without the SDK, transformers alone shows that the checkpoint is whole:",
    hello="Hello",
    notes=(),
    onnx="## onnx/: static graphs, one rank",
    opset=(
        "Opset 14, IR version 8, standard operators only; the weights ({route.dtype}) of all graphs are in "
        "`weights.bin`. Arithmetic is float32."
    ),
    asked="Not in these graphs, though the build file asks for it: {asked}.",
    comma=", ",
    table="| graph | inputs |",
    hidden="The output `logits` holds the hidden states of every position, [1, S, hidden size].",
    calls=(
        "Prefill: positions are 0 to S - 1, there is no mask; outputs are `logits` of the last position and "
        "`present_key.i`, `present_value.i` [1, KV heads, S, head width]. Decode: `attention_mask` says which of "
        "the S slots are valid (1), `position_ids` where the token stands; the new keys and values are in the last "
        "slot of `present_*`. `run_onnx.py` is the whole loop, in some sixty lines."
    ),
    once="Once upon a time",
    assumptions="## Assumptions",
    assumption="- **{item.id}**: {item.english}",
)
