"""Which of the target's assumptions each route of a hand-off rests on, and what they say in Chinese."""

from __future__ import annotations

from dataclasses import dataclass

from xamc.targets.vacc.assumptions import assumption

LLAMA = ("handoff-paths", "handoff-llama", "handoff-quantize", "length-multiple-16")
ONNX = (
    "handoff-onnx-dtype",
    "handoff-external-data",
    "handoff-half-precision",
    "additive-masks",
    "rope-tables",
    "iter0",
    "iter1-last-slot",
    "host-moves-new-slot",
    "short-prompts",
    "vocabulary-multiple-16",
)

_CHINESE = {
    "handoff-paths": "vamc 以当前目录解析 frontend.checkpoint 和 workspace.path。",
    "handoff-llama": (
        "没有 config_vacc.json 时，model_arch: vacc 表示使用 config.json 和原版 Llama 类，"
        "与厂商自己的 Llama 构建文件一致。"
    ),
    "handoff-quantize": "设置 frontend.quantize 时，由 vamc 自行校准并量化 16 位权重。",
    "length-multiple-16": "长度均为 16 的倍数。",
    "handoff-onnx-dtype": (
        "对于 token id 为 int64 的 ONNX 模型，frontend.dtype: fp32 是正确的，与厂商 CLIP 文本模型的构建文件一致。"
    ),
    "handoff-external-data": "vamc 会像 onnx.load 那样，把 ONNX 文件连同旁边文件中的权重一起加载。",
    "handoff-half-precision": "backend.dtype 为 fp16 时，vamc 会把 float32 的 ONNX 图转换为 fp16。",
    "additive-masks": (
        "掩码是取值为 0 或 -65504（float16 的最小值）的张量，由图自身根据掩码输入生成并加到注意力分数上；"
        "不会把两个掩码相加。"
    ),
    "rope-tables": (
        "RoPE 采用 llama 的前后半分形式，cos 和 sin 表为 [S, head_dim]（两半相同），按位置取行；缓存的 K 已经旋转。"
    ),
    "iter0": (
        "prefill 图只接收 input_ids [1, S]，位置为 0 到 S - 1，没有掩码和历史，返回最后一个位置的 logits 和全部 K/V。"
    ),
    "iter1-last-slot": (
        "decode 图接收一个 token、attention_mask [1, S]、position_ids [1, 1] 和 S - 1 个历史位置；"
        "新 token 的 K/V 位于所返回完整缓存的位置 S - 1。"
    ),
    "host-moves-new-slot": "两步之间由主机把新 token 的 K/V 放到历史中该 token 自身的位置；其后的位置被掩码屏蔽。",
    "short-prompts": "短于 prefill 长度的提示在右侧补齐；其 logits 被忽略，最后一个 token 再经 decode 图运行一次。",
    "vocabulary-multiple-16": "词表用零行补齐为 16 的倍数，主机舍弃多出的 logits。",
}


@dataclass(frozen=True)
class Stated:
    """An assumption as a README states it."""

    id: str
    english: str
    chinese: str


def stated(identifiers: tuple[str, ...]) -> tuple[Stated, ...]:
    """The assumptions with these ids, in both languages."""
    return tuple(Stated(id, assumption(id).statement, _CHINESE[id]) for id in identifiers)
