"""What the CPU target does with the keys of a spec, and those that it alone reads."""

from __future__ import annotations

from xamc.targets.spec_keys import Key, SpecKeys
from xamc.targets.spec_kinds import ListOf, OneOf, Text

KEYS = SpecKeys(
    uses={
        "frontend.model_kwargs.tp": ("no effect", "runs in one process: tp becomes 1"),
        **dict.fromkeys(
            ("backend.compile.mcpu", "backend.compile.cpu"),
            ("used", "chooses instructions; recorded in the artifact and checked when it is loaded"),
        ),
        "backend.compile.activations": ("used", "chooses kernels; recorded in the artifact"),
        "backend.compile.tune": ("used", "chooses tiles; what was found is in report.json"),
    },
    keys=(
        Key(
            "backend.compile.mcpu",
            Text(),
            "LLVM's name of the CPU to compile for: native, x86-64-v3, aarch64, ...",
            ("no effect", "code is not generated for a CPU"),
            "native: the machine that compiles",
        ),
        Key(
            "backend.compile.cpu",
            ListOf(Text()),
            "CPU levels to compile for, in place of `mcpu`: one library each on the same weights; the runtime takes "
            "the best one that a machine can run. For example [x86-64-v3, x86-64-v4, aarch64].",
            ("no effect", "code is not generated for a CPU"),
            "none: `mcpu` alone",
        ),
        Key(
            "backend.compile.activations",
            OneOf(("auto", "float32", "bfloat16", "int8", "int16")),
            "What linear layers multiply their inputs as. `float32` is exact on every CPU. `int16` and `int8` round "
            "the inputs of layers with integer weights: of 4-bit ones to 8 bits, of 8-bit ones to as many as they say. "
            "`bfloat16` rounds inputs and weights in prompts where the CPU has a dot product of them, and is `float32` "
            "elsewhere. Faster, for a loss that `plan` and docs/kernels.md give.",
            ("no effect", "activations are floating-point"),
            "auto: int16 for weights of 4 and 8 bits, bfloat16 for backend.dtype: bf16, else float32",
        ),
        Key(
            "backend.compile.tune",
            OneOf(("off", "on")),
            "`on` searches for the best tile and block sizes of every kernel on the machine that compiles, and keeps "
            "what it finds in the stage cache (docs/kernels.md). `mcpu` must be that machine's.",
            ("no effect", "code is not generated for a CPU"),
            "off: the defaults of each CPU level",
        ),
    ),
)
