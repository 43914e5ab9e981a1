"""README.md of a hand-off, in one of two languages (`readme_en`, `readme_zh`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from xamc.compiler.handoff.facts import VENDOR_PINS, HandoffFacts, LlamaRoute, OnnxRoute, inputs_text


@dataclass(frozen=True)
class Wording:
    """A language's sentences, with fields as of `str.format`: `facts`, the `route`, and what is said of a field.

    Attributes:
        other: where the other language is.
        both: where both routes are there.
        holds: of the checkpoint; `lengths` is the field below, filled.
        asked: what the graphs do not have; `asked` is a list of those, joined by `comma`.
        hidden, calls: how the graphs are used, without and with a decode phase.
        notes: lines before the notes.
        hello, once: prompts of the examples.
    """

    title: str
    other: str
    written: str
    both: str
    llama: str
    lengths: str
    holds: str
    without_sdk: str
    hello: str
    notes: tuple[str, ...]
    onnx: str
    opset: str
    asked: str
    comma: str
    table: str
    hidden: str
    calls: str
    once: str
    assumptions: str
    assumption: str


def readme(facts: HandoffFacts, words: Wording) -> str:
    """The text."""
    return "\n".join(_lines(facts, words)) + "\n"


def _lines(facts: HandoffFacts, words: Wording) -> Iterator[str]:
    yield from (words.title.format(facts=facts), "", words.other, "", words.written.format(facts=facts))
    if facts.llama and facts.onnx:
        yield from ("", words.both)
    if facts.llama:
        yield from _llama(facts, facts.llama, words)
    if facts.onnx:
        yield from _onnx(facts, facts.onnx, words)
    yield from ("", words.assumptions, "")
    yield from (words.assumption.format(item=item) for item in facts.assumptions)


def _llama(facts: HandoffFacts, route: LlamaRoute, words: Wording) -> Iterator[str]:
    lengths = words.lengths.format(prefill=list(facts.prefill_lengths), total=list(facts.total_lengths))
    billions = f"{route.parameters / 1e9:.2f}"
    yield from ("", words.llama, "", words.holds.format(route=route, billions=billions, lengths=lengths), "")
    yield "```console"
    yield f'$ pip install "transformers>={route.transformers}"'
    yield "$ cd llama"
    yield f"$ vamc compile {route.build}"
    if not facts.is_embedding:
        yield (
            f"$ vastgenx serve --model {facts.workspace}/{facts.name} --host 0.0.0.0 --port 9000 "
            f'--llm_devices "{facts.devices}"'
        )
    yield from ("```", "", words.without_sdk, "", "```console")
    yield (
        "$ python -c \"from transformers import pipeline; print(pipeline('text-generation', 'checkpoint')"
        f"('{words.hello}', max_new_tokens=20))\""
    )
    yield "```"
    if route.notes:
        yield from ("", *words.notes, *(f"- {note}" for note in route.notes))


def _onnx(facts: HandoffFacts, route: OnnxRoute, words: Wording) -> Iterator[str]:
    yield from ("", words.onnx, "", words.opset.format(route=route))
    if facts.asked:
        yield from ("", words.asked.format(asked=words.comma.join(f"`{asked}`" for asked in facts.asked)))
    yield from ("", words.table, "|---|---|")
    for name, shapes in route.graphs.items():
        yield f"| `{name}.onnx` | {inputs_text(shapes)} |"
    yield from ("", words.hidden if facts.is_embedding else words.calls, "", "```console", "$ cd onnx")
    yield f"$ pip install {' '.join(VENDOR_PINS)} tokenizers"
    yield "$ python check_onnx.py"
    if route.has_loop:
        yield f'$ python run_onnx.py --prompt "{words.once}"'
    for name in route.graphs:
        yield f"$ vamc compile build_{name}.yaml"
    yield "```"
