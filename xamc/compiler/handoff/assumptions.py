"""What a hand-off takes for granted of the vendor's toolchain, which has no public manual; in both languages of its README.

Each item is inferred from published build files and samples, and was not tried on the vendor's software.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Assumption:
    """One thing taken for granted: a short key, and a sentence in English and in Chinese."""

    key: str
    english: str
    chinese: str


LLAMA = (
    Assumption(
        "checkpoint-path",
        "vamc resolves `frontend.checkpoint` and `workspace.path` against the current folder; run it inside of the "
        "folder that holds the build file.",
        "vamc 以当前目录解析 `frontend.checkpoint` 和 `workspace.path`；请在构建文件所在目录中运行。",
    ),
    Assumption(
        "model-arch",
        "`model_arch: vacc` without a config_vacc.json means config.json and the stock Llama class, as in the vendor's "
        "own Llama build files.",
        "没有 config_vacc.json 时，`model_arch: vacc` 表示使用 config.json 和原版 Llama 类，与厂商自己的 Llama 构建文件一致。",
    ),
    Assumption(
        "lengths",
        "`input_ids: [[A], [B]]` means a prefill graph of A tokens and a decode graph of B slots, each a multiple of 16.",
        "`input_ids: [[A], [B]]` 表示 A 个 token 的 prefill 图和 B 个位置的 decode 图，长度均为 16 的倍数。",
    ),
    Assumption(
        "vendor-quantizes",
        "With `frontend.quantize` vamc calibrates and quantizes these 16-bit weights itself; nothing here is quantized.",
        "若设置了 `frontend.quantize`，由 vamc 自行校准并量化这些 16 位权重；本目录中的权重未量化。",
    ),
)

ONNX = (
    Assumption(
        "onnx-dtype",
        "`frontend.dtype: fp32` is right for an ONNX model whose token ids are int64, as in the vendor's CLIP text model.",
        "对于 token id 为 int64 的 ONNX 模型，`frontend.dtype: fp32` 是正确的，与厂商的 CLIP 文本模型一致。",
    ),
    Assumption(
        "external-data",
        "vamc loads an ONNX file together with its external weights (`weights.bin` beside it), as `onnx.load` does.",
        "vamc 会像 `onnx.load` 那样，把 ONNX 文件连同其外部权重（同目录下的 `weights.bin`）一起加载。",
    ),
    Assumption(
        "half-precision",
        "vamc converts the float32 graph to fp16; masks hold 0 or -65504 and no constant is beyond ±65504.",
        "vamc 会把 float32 图转换为 fp16；掩码取值为 0 或 -65504，所有常量都不超出 ±65504。",
    ),
    Assumption(
        "decode-slots",
        "A decode graph of S slots takes S - 1 past slots, puts the new token's keys and values into slot S - 1, and "
        "returns all S; the host copies the new ones to the slot of the token's position before the next step.",
        "S 个位置的 decode 图接收 S - 1 个历史位置，把新 token 的 K/V 放在位置 S - 1，并返回全部 S 个位置；"
        "下一步之前由主机把新的 K/V 复制到该 token 自身的位置。",
    ),
    Assumption(
        "short-prompts",
        "A prompt shorter than the prefill graph is padded on the right; the prefill's logits are then those of "
        "padding, so the prompt's last token is run again through the decode graph.",
        "短于 prefill 长度的提示在右侧补齐；此时 prefill 的 logits 属于补齐位置，因此提示的最后一个 token 会经 decode 图重新计算。",
    ),
    Assumption(
        "padded-vocabulary",
        "The vocabulary is padded to a multiple of 16; logits beyond the model's own vocabulary are 0 and are not tokens.",
        "词表补齐为 16 的倍数；超出模型词表的 logits 为 0，不对应任何 token。",
    ),
)
