"""README.zh.md of a hand-off."""

from __future__ import annotations

from collections.abc import Iterator

from xamc.compiler.handoff.facts import VENDOR_PINS, HandoffFacts, LlamaRoute, OnnxRoute, inputs_text


def readme_zh(facts: HandoffFacts) -> str:
    """The text, in Chinese."""
    return "\n".join(_lines(facts)) + "\n"


def _lines(facts: HandoffFacts) -> Iterator[str]:
    yield f"# {facts.name}：面向瀚博 VACC 的交付目录"
    yield ""
    yield "English: [README.md](README.md)."
    yield ""
    yield (
        f"由 xamc {facts.version} 生成，供装有厂商 SDK 的机器使用。内容已在 CPU 上检查，"
        "但没有用 `vamc` 编译过，也没有在加速卡上运行过；所依赖的假设列在文末。所有文件的摘要见 `xamc-handoff.json`。"
    )
    if facts.llama and facts.onnx:
        yield ""
        yield "有两条互相独立的路径，请先试 `llama/`。"
    if facts.llama:
        yield from _llama(facts, facts.llama)
    if facts.onnx:
        yield from _onnx(facts, facts.onnx)
    yield ""
    yield "## 假设"
    yield ""
    for item in facts.assumptions:
        yield f"- **{item.id}**：{item.chinese}"


def _llama(facts: HandoffFacts, route: LlamaRoute) -> Iterator[str]:
    lengths = f"prefill {list(facts.prefill_lengths)}，总长度 {list(facts.total_lengths)}"
    yield ""
    yield "## llama/：普通 Llama 格式的权重"
    yield ""
    yield (
        f"`checkpoint/` 以 Llama 的命名保存 {route.family} 模型（{route.parameters / 1e9:.2f} B 参数，{route.dtype}）："
        "`model_type: llama`，q、k、v、gate、up 各自独立，没有 `auto_map`，也没有任何 Python 文件。"
        f"`{route.build}` 是普通的 vamc 构建文件，tp 为 {route.tp}，{lengths}。"
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
    yield "没有 SDK 时，只用 transformers 即可确认权重完整："
    yield ""
    yield "```console"
    yield (
        "$ python -c \"from transformers import pipeline; print(pipeline('text-generation', 'checkpoint')"
        "('你好', max_new_tokens=20))\""
    )
    yield "```"
    if route.notes:
        yield ""
        yield "说明（英文原文）："
        yield ""
        yield from (f"- {note}" for note in route.notes)


def _onnx(facts: HandoffFacts, route: OnnxRoute) -> Iterator[str]:
    yield ""
    yield "## onnx/：静态图，单 rank"
    yield ""
    yield f"opset 14，IR 版本 8，只用标准算子；所有图的权重（{route.dtype}）都在 `weights.bin` 中。计算为 float32。"
    if facts.asked:
        yield ""
        yield f"构建文件的以下要求不体现在这些图中：{'、'.join(f'`{a}`' for a in facts.asked)}。"
    yield ""
    yield "| 图 | 输入 |"
    yield "|---|---|"
    for name, shapes in route.graphs.items():
        yield f"| `{name}.onnx` | {inputs_text(shapes)} |"
    yield ""
    if facts.is_embedding:
        yield "输出 `logits` 是每个位置的隐藏状态，[1, S, hidden size]。"
    else:
        yield (
            "prefill：位置为 0 到 S - 1，没有掩码；输出为最后一个位置的 `logits`，"
            "以及 `present_key.i`、`present_value.i` [1, KV 头数, S, 头宽]。"
            "decode：`attention_mask` 标明 S 个位置中哪些有效（1），`position_ids` 是该 token 的位置；"
            "新的 K/V 位于 `present_*` 的最后一个位置。`run_onnx.py` 用六十余行给出完整循环。"
        )
    yield ""
    yield "```console"
    yield "$ cd onnx"
    yield f"$ pip install {' '.join(VENDOR_PINS)} tokenizers"
    yield "$ python check_onnx.py"
    if route.has_loop:
        yield '$ python run_onnx.py --prompt "从前"'
    for name in route.graphs:
        yield f"$ vamc compile build_{name}.yaml"
    yield "```"
