"""README.md of a hand-off."""

from __future__ import annotations

from collections.abc import Iterator

from xamc.compiler.handoff.facts import VENDOR_PINS, HandoffFacts, LlamaRoute, OnnxRoute, inputs_text


def readme(facts: HandoffFacts) -> str:
    """The text, in English."""
    return "\n".join(_lines(facts)) + "\n"


def _lines(facts: HandoffFacts) -> Iterator[str]:
    routes = [route for route, there in (("llama", facts.llama), ("onnx", facts.onnx)) if there]
    yield f"# {facts.name}: hand-off for Vastai VACC"
    yield ""
    yield "中文见 [README.zh.md](README.zh.md)."
    yield ""
    yield (
        f"Written by xamc {facts.version} for a machine with the vendor's SDK. It was checked on a CPU, and neither "
        "compiled with `vamc` nor run on a card; what it takes for granted is listed at the end. "
        "Digests of all files are in `xamc-handoff.json`."
    )
    if len(routes) > 1:
        yield ""
        yield "Two roads lead to a card; they don't need each other. Try `llama/` first."
    if facts.llama:
        yield from _llama(facts, facts.llama)
    if facts.onnx:
        yield from _onnx(facts, facts.onnx)
    yield ""
    yield "## Assumptions"
    yield ""
    for item in facts.assumptions:
        yield f"- **{item.id}**: {item.english}"


def _llama(facts: HandoffFacts, route: LlamaRoute) -> Iterator[str]:
    lengths = f"prefill {list(facts.prefill_lengths)}, total {list(facts.total_lengths)}"
    yield ""
    yield "## llama/: the checkpoint as plain Llama"
    yield ""
    yield (
        f"`checkpoint/` holds the {route.family} model ({route.parameters / 1e9:.2f} B parameters, {route.dtype}) "
        "under Llama's names: `model_type: llama`, separate q, k, v, gate and up matrices, no `auto_map` and no Python "
        "file. "
        f"`{route.build}` is a plain vamc build file for tp {route.tp}, {lengths}."
    )
    yield ""
    yield "```console"
    yield f'$ pip install "transformers>={route.transformers}"'
    yield "$ cd llama"
    yield f"$ vamc compile {route.build}"
    if not facts.is_embedding:
        yield (
            f"$ vastgenx serve --model {facts.workspace}/{facts.name} --host 0.0.0.0 --port 9000 "
            f'--llm_devices "{facts.devices}"'
        )
    yield "```"
    yield ""
    yield "Without the SDK, transformers alone shows that the checkpoint is whole:"
    yield ""
    yield "```console"
    yield (
        "$ python -c \"from transformers import pipeline; print(pipeline('text-generation', 'checkpoint')"
        "('Hello', max_new_tokens=20))\""
    )
    yield "```"
    if route.notes:
        yield ""
        yield from (f"- {note}" for note in route.notes)


def _onnx(facts: HandoffFacts, route: OnnxRoute) -> Iterator[str]:
    yield ""
    yield "## onnx/: static graphs, one rank"
    yield ""
    yield (
        f"Opset 14, IR version 8, standard operators only; the weights ({route.dtype}) of all graphs are in "
        "`weights.bin`. Arithmetic is float32."
    )
    if facts.asked:
        yield ""
        yield f"Not in these graphs, though the build file asks for it: {', '.join(f'`{a}`' for a in facts.asked)}."
    yield ""
    yield "| graph | inputs |"
    yield "|---|---|"
    for name, shapes in route.graphs.items():
        yield f"| `{name}.onnx` | {inputs_text(shapes)} |"
    yield ""
    if facts.is_embedding:
        yield "The output `logits` holds the hidden states of every position, [1, S, hidden size]."
    else:
        yield (
            "Prefill: positions are 0 to S - 1, there is no mask; outputs are `logits` of the last position and "
            "`present_key.i`, `present_value.i` [1, KV heads, S, head width]. Decode: `attention_mask` says which of "
            "the S slots are valid (1), `position_ids` where the token stands; the new keys and values are in the last "
            "slot of `present_*`. `run_onnx.py` is the whole loop, in some sixty lines."
        )
    yield ""
    yield "```console"
    yield "$ cd onnx"
    yield f"$ pip install {' '.join(VENDOR_PINS)} tokenizers"
    yield "$ python check_onnx.py"
    if route.has_loop:
        yield '$ python run_onnx.py --prompt "Once upon a time"'
    for name in route.graphs:
        yield f"$ vamc compile build_{name}.yaml"
    yield "```"
