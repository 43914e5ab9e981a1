"""The keys that xamc adds to vamc's; all optional."""

from __future__ import annotations

from xamc.compiler.spec.keys import READ_BY_ALL, Key, everywhere, on
from xamc.compiler.spec.kinds import Bool, Int, ListOf, MapOf, OneOf, Text
from xamc.targets.ascend.assumptions import DEFAULT_SOC_VERSION, SOC_VERSIONS

_USED = everywhere("used", READ_BY_ALL)
_ASCEND = on({"tvm_ascend": ("used", "read by Ascend's ATC route")}, ("no effect", "an option of the Ascend target"))

KEYS: tuple[Key, ...] = (
    Key(
        "frontend.quantize.group_size",
        OneOf((32, 64, 128, -1)),
        "Input channels that share one scale; -1 is one scale per output channel, which 4-bit weights do not take.",
        _USED,
        "32 for 4-bit types, -1 for 8-bit types",
    ),
    Key(
        "frontend.quantize.calib_args.kv_cache_scales",
        Text(),
        "A safetensors file with the scales and zero points of an int8 KV cache (docs/vacc.md), instead of a "
        "calibration. Relative paths are against the YAML file's folder.",
        on(
            {"tvm_vacc": ("used", "the scales of w16kv8")},
            ("no effect", "there is no int8 KV cache"),
        ),
        "calibrated on dataset.path, or on a short text of xamc's own",
    ),
    Key(
        "backend.compile.mcpu",
        Text(),
        "LLVM's name of the CPU to compile for: native, x86-64-v3, aarch64, ...",
        on(
            {"tvm_cpu": ("used", "chooses instructions; recorded in the artifact and checked when it is loaded")},
            ("no effect", "code is not generated for a CPU"),
        ),
        "native: the machine that compiles",
    ),
    Key(
        "backend.compile.cpu",
        ListOf(Text()),
        "CPU levels to compile for, in place of `mcpu`: one library each on the same weights; the runtime takes the "
        "best one that a machine can run. For example [x86-64-v3, x86-64-v4, aarch64].",
        on(
            {"tvm_cpu": ("used", "chooses instructions; recorded in the artifact and checked when it is loaded")},
            ("no effect", "code is not generated for a CPU"),
        ),
        "none: `mcpu` alone",
    ),
    Key(
        "backend.compile.activations",
        OneOf(("auto", "float32", "bfloat16", "int8", "int16")),
        "What linear layers multiply their inputs as. `float32` is exact on every CPU. `int16` and `int8` round the "
        "inputs of layers with integer weights: of 4-bit ones to 8 bits, of 8-bit ones to as many as they say. "
        "`bfloat16` rounds inputs and weights in prompts where the CPU has a dot product of them, and is `float32` "
        "elsewhere. Faster, for a loss that `plan` and docs/kernels.md give.",
        on(
            {"tvm_cpu": ("used", "chooses kernels; recorded in the artifact")},
            ("no effect", "activations are floating-point"),
        ),
        "auto: int16 for weights of 4 and 8 bits, bfloat16 for backend.dtype: bf16, else float32",
    ),
    Key(
        "backend.compile.tune",
        OneOf(("off", "on")),
        "`on` searches for the best tile and block sizes of every kernel on the machine that compiles, and keeps what "
        "it finds in the stage cache (docs/kernels.md). `mcpu` must be that machine's.",
        on(
            {"tvm_cpu": ("used", "chooses tiles; what was found is in report.json")},
            ("no effect", "code is not generated for a CPU"),
        ),
        "off: the defaults of each CPU level",
    ),
    Key(
        "backend.compile.route",
        OneOf(("atc", "kernels")),
        "How a model gets to an Ascend NPU: `atc` writes ONNX for Huawei's ATC; `kernels` (fused kernels) is not "
        "available yet.",
        _ASCEND,
        "atc",
    ),
    Key(
        "backend.compile.soc_version",
        OneOf(SOC_VERSIONS),
        "The NPU that ATC compiles for.",
        _ASCEND,
        DEFAULT_SOC_VERSION,
    ),
    Key(
        "backend.compile.gears",
        ListOf(ListOf(Int(1))),
        "Pairs [batch, active slots]: one decode graph with a gear for each, and one prefill graph with a gear for "
        "each prefill length. The largest number of slots is the total length.",
        _ASCEND,
        "none: one static graph per length",
    ),
    Key(
        "passes.disable",
        ListOf(Text()),
        "Names of passes to leave out.",
        _USED,
        "[]",
    ),
    Key(
        "passes.expect",
        MapOf(Int(0)),
        "Pass → how often it has to match; any other count is an error.",
        _USED,
        "{}",
    ),
    Key(
        "verify.passes",
        OneOf(("each", "off")),
        "`each` runs a small twin of the model before and after every pass.",
        _USED,
        "each",
    ),
    Key(
        "verify.final",
        Bool(),
        "Also run the real weights, streamed layer by layer, on the prompts.",
        _USED,
        "false",
    ),
    Key(
        "verify.prompts",
        ListOf(Text()),
        "Prompts for `final` and for the artifact's golden logits; the first 32 tokens of each are run.",
        _USED,
        "one of xamc's own",
    ),
    Key(
        "runtime.max_batch",
        Int(1, 4096),
        "Sequences that are decoded together, at most; sizes the KV cache.",
        _USED,
        "8; for tvm_ascend the largest batch of backend.compile.gears, 1 without gears",
    ),
    Key(
        "runtime.kv_dtype",
        OneOf(("auto", "fp32", "fp16", "bf16", "int8")),
        "How keys and values are stored; auto leaves it to the target: on tvm_cpu the type of the weights, fp16 for "
        "int8 and int4. int8 has a scale per token and head, and needs no calibration (on VACC that is "
        "`frontend.quantize.type: w16kv8`); what it costs on the model's weights is measured, and a warning beyond "
        "0.005 nats.",
        _USED,
        "auto",
    ),
)
