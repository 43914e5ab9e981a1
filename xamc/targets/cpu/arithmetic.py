"""What the linear layers of each CPU level are multiplied in, in words, and what that costs as it was measured.

The choice itself is the kernels' (`kernels.linear`, `kernels.integer_dot`); this says it before a kernel is made, for
`plan`, and beside the code in the manifest. It imports nothing heavy.
"""

from __future__ import annotations

from xamc.artifact.manifest import Arithmetic
from xamc.targets.cpu.request import CpuRequest
from xamc.targets.kernels.isa import Isa

_DIVERGENCE: dict[tuple[str, str], float] = {
    ("float16", "float32"): 3.7e-6,
    ("float16", "bfloat16"): 1.6e-4,
    ("bfloat16", "float32"): 9.4e-5,
    ("bfloat16", "bfloat16"): 1.9e-4,
    ("int8", "float32"): 4.7e-3,
    ("int8", "bfloat16"): 4.9e-3,
    ("int8", "int16"): 4.7e-3,
    ("int8", "int8"): 8.2e-3,
    ("int4", "float32"): 8.4e-6,
    ("int4", "bfloat16"): 1.6e-4,
    ("int4", "int8, head int16"): 2.3e-3,
    ("int4", "int8, head int8"): 3.3e-3,
}
"""(weights, what inputs are rounded to): mean KL of SmolLM2-135M to transformers in float32, nats.

`python -m tools.bench.arithmetic` measures them; docs/kernels.md has the positions and the levels.
"""


def level_arithmetic(isa: Isa, request: CpuRequest) -> Arithmetic:
    """The arithmetic of a level for what a spec asks.

    Args:
        isa: the level.
        request: weights and activations.
    """
    weights = request.weight_dtype if request.quantize is None else f"int{request.quantize.bits}"
    prompts, tokens, inputs = _words(isa, request)
    return Arithmetic(prompts, tokens, _DIVERGENCE.get((weights, inputs)))


def _words(isa: Isa, request: CpuRequest) -> tuple[str, str, str]:
    """In words for prompts and for single tokens, and what inputs of layers are rounded to."""
    asked, quantize = request.activations, request.quantize
    if asked == "bfloat16" and isa.has_bf16_dot:
        return "bfloat16 (vdpbf16ps)", "float32", "bfloat16"
    if quantize is None or asked not in ("int8", "int16"):
        return "float32", "float32", "float32"
    eight = _eight_bit_weights(isa, asked)
    if quantize.bits == 8:
        return eight, eight, eight.partition(" ")[0]
    four = f"int8 in groups of 32 ({_byte_product(isa)})"
    words = f"4-bit weights {four}, 8-bit ones {eight}"
    return words, words, f"int8, head {eight.partition(' ')[0]}"


def _eight_bit_weights(isa: Isa, asked: str) -> str:
    if asked == "int8" and isa.has_vnni:
        return f"int8 in groups of 32 ({_byte_product(isa)})"
    name = "plain" if isa.is_arm else "vpdpwssd" if isa.has_vnni else "pmaddwd"
    return f"int16 in groups of 64 ({name})"


def _byte_product(isa: Isa) -> str:
    """The instruction that multiplies 4-bit weights, and 8-bit ones where there is VNNI."""
    if isa.is_arm:
        return "usdot" if "i8mm" in isa.cpu_flags else "sdot" if isa.has_vnni else "plain"
    return "vpdpbusd" if isa.has_vnni else "pmaddubsw" if "ssse3" in isa.cpu_flags else "plain"
