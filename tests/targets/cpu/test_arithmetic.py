"""What plan and manifest say of a level's arithmetic is what its kernels do."""

import pytest

from xamc.artifact.packing import WeightFormat
from xamc.ir.weights.quantize import RoundToNearest
from xamc.targets.cpu.arithmetic import level_arithmetic
from xamc.targets.cpu.request import CpuRequest
from xamc.targets.kernels.integer_dot import IntegerDot
from xamc.targets.kernels.isa import LEVELS, Isa
from xamc.targets.kernels.linear import gemm_arithmetic


def request(activations: str, weight_dtype: str = "float16", bits: int = 0) -> CpuRequest:
    policy = RoundToNearest(bits, 32 if bits == 4 else None) if bits else None  # type: ignore[arg-type]
    return CpuRequest(weight_dtype, policy, "float16", activations=activations)


@pytest.mark.parametrize("isa", LEVELS.values(), ids=lambda isa: isa.name)
@pytest.mark.parametrize("activations", ["float32", "bfloat16", "int8", "int16"])
def test_the_words_are_what_the_kernels_are_generated_with(isa: Isa, activations: str) -> None:
    for bits, fmt in ((4, WeightFormat("uint4", 32)), (8, WeightFormat("int8"))):
        said = level_arithmetic(isa, request(activations, bits=bits))
        if activations in ("int8", "int16"):
            dot = IntegerDot.of(fmt, isa, activations)  # type: ignore[arg-type]
            assert f"{dot.activations} in groups of {dot.group}" in said.prompts and said.tokens == said.prompts
        else:
            assert said.prompts.startswith("bfloat16") == (gemm_arithmetic(isa, activations).name == "bf16")  # type: ignore[arg-type]
            assert said.tokens == "float32"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_no_level_rounds_what_the_spec_does_not_ask_to(dtype: str) -> None:
    for isa in LEVELS.values():
        said = level_arithmetic(isa, request("float32", dtype))
        assert (said.prompts, said.tokens) == ("float32", "float32")


@pytest.mark.parametrize("bits, activations", [(0, "float32"), (0, "bfloat16"), (4, "int16"), (8, "int16")])
def test_defaults_keep_their_bound_on_every_level(bits: int, activations: str) -> None:
    """5e-3 nats, the bound that docs/kernels.md states for a default."""
    for isa in LEVELS.values():
        said = level_arithmetic(isa, request(activations, "bfloat16" if activations == "bfloat16" else "float16", bits))
        assert said.divergence is not None and said.divergence <= 5e-3, isa.name
    assert "KL" in str(said)
