"""README.zh.md of a hand-off, in Chinese."""

from __future__ import annotations

from xamc.compiler.handoff.readme import Wording

CHINESE = Wording(
    title="# {facts.name}：面向瀚博 VACC 的交付目录",
    other="English: [README.md](README.md).",
    written=(
        "由 xamc {facts.version} 生成，供装有厂商 SDK 的机器使用。内容已在 CPU 上检查，"
        "但没有用 `vamc` 编译过，也没有在加速卡上运行过；所依赖的假设列在文末。所有文件的摘要见 `xamc-handoff.json`。"
    ),
    both="有两条互相独立的路径，请先试 `llama/`。",
    llama="## llama/：普通 Llama 格式的权重",
    lengths="prefill {prefill}，总长度 {total}",
    holds=(
        "`checkpoint/` 以 Llama 的命名保存 {route.family} 模型（{billions} B 参数，{route.dtype}）："
        "`model_type: llama`，q、k、v、gate、up 各自独立，没有 `auto_map`，也没有任何 Python 文件。"
        "`{route.build}` 是普通的 vamc 构建文件，tp 为 {route.tp}，{lengths}。"
    ),
    without_sdk="没有 SDK 时，只用 transformers 即可确认权重完整：",
    hello="你好",
    notes=("说明（英文原文）：", ""),
    onnx="## onnx/：静态图，单 rank",
    opset="opset 14，IR 版本 8，只用标准算子；所有图的权重（{route.dtype}）都在 `weights.bin` 中。计算为 float32。",
    asked="构建文件的以下要求不体现在这些图中：{asked}。",
    comma="、",
    table="| 图 | 输入 |",
    hidden="输出 `logits` 是每个位置的隐藏状态，[1, S, hidden size]。",
    calls=(
        "prefill：位置为 0 到 S - 1，没有掩码；输出为最后一个位置的 `logits`，"
        "以及 `present_key.i`、`present_value.i` [1, KV 头数, S, 头宽]。"
        "decode：`attention_mask` 标明 S 个位置中哪些有效（1），`position_ids` 是该 token 的位置；"
        "新的 K/V 位于 `present_*` 的最后一个位置。`run_onnx.py` 用六十余行给出完整循环。"
    ),
    once="从前",
    assumptions="## 假设",
    assumption="- **{item.id}**：{item.chinese}",
)
