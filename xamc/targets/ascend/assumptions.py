"""What the ATC route takes for granted about Huawei's toolchain, in one place; nothing of it has been run on an NPU.

CANN, in which ATC and GE are, is not on the package registry. Each option and each assumption says on what ground it
stands: `header` where a public header of CANN (they ship in the torch-npu wheel, `ge/ge_api_types.h` and
`acl/acl_mdl.h`) has the name, `documentation` where public documentation or public configuration files show it, and
`inferred` where it follows by analogy. docs/ascend.md lists all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from xamc.targets.assumption import Assumption

Ground = Literal["header", "documentation", "inferred"]

SOC_VERSIONS = (
    "Ascend910B1",
    "Ascend910B2",
    "Ascend910B2C",
    "Ascend910B3",
    "Ascend910B4",
    "Ascend910B4-1",
    "Ascend910_9362",
    "Ascend910_9372",
    "Ascend910_9381",
    "Ascend910_9382",
    "Ascend910_9391",
    "Ascend910_9392",
    "Ascend310P1",
    "Ascend310P3",
)
"""Values of ATC's --soc_version that this route writes; no other string reaches a script."""
DEFAULT_SOC_VERSION = "Ascend910B2"

# ATC's limits on --dynamic_dims
LEAST_GEARS, MOST_GEARS = 2, 100


@dataclass(frozen=True)
class Option:
    """One option of ATC's command line, or one key of a GE configuration file.

    Attributes:
        name: as it is written.
        value: what this route writes, in words where it depends on the model.
        meaning: what it does.
        why: why this value.
        ground: on what ground the name stands.
    """

    name: str
    value: str
    meaning: str
    why: str
    ground: Ground


ATC_OPTIONS: tuple[Option, ...] = (
    Option("--framework", "5", "the model's format", "5 is ONNX", "documentation"),
    Option("--model", "GRAPH.onnx", "the model", "one run of ATC per graph", "documentation"),
    Option(
        "--output", "om/GRAPH", "the offline model, to which ATC appends .om", "beside the scripts", "documentation"
    ),
    Option(
        "--soc_version",
        "backend.compile.soc_version",
        "the NPU to compile for",
        "an .om runs on that one only",
        "documentation",
    ),
    Option(
        "--input_format",
        "ND",
        "layout of the inputs",
        "--dynamic_dims wants it, and nothing is an image",
        "documentation",
    ),
    Option(
        "--input_shape",
        "NAME:DIMS;...",
        "shape of every input, -1 where gears decide",
        "in the order of the names, as GE sorts them",
        "documentation",
    ),
    Option(
        "--dynamic_dims",
        "DIMS;DIMS;...",
        "one value per -1 of --input_shape and gear; the gear is chosen at run time (aclmdlSetInputDynamicDims)",
        "left out of a static graph; GE wants 2 to 100 different gears",
        "documentation",
    ),
    Option(
        "--precision_mode_v2",
        "origin",
        "whether ATC may change types of operators",
        "keeps what the ONNX says: float16, and float32 in norms and softmax",
        "documentation",
    ),
    Option(
        "--external_weight",
        "1",
        "1 puts weights into files of their own beside the .om",
        "a model beyond 2 GB does not fit into one .om, and gears share one copy",
        "documentation",
    ),
)
"""What atc.sh passes to atc."""

GE_KEYS: tuple[Option, ...] = (
    Option(
        "provider",
        "ge",
        "in [ascend_context]: the session compiles online through GE",
        "as opposed to ACL",
        "documentation",
    ),
    Option(
        "ge.socVersion",
        "backend.compile.soc_version",
        "the NPU to compile for",
        "as --soc_version",
        "header",
    ),
    Option(
        "ge.externalWeight",
        "1",
        "constants of the graph go to files of their own",
        "as --external_weight; graphs and gears share one copy of the weights",
        "header",
    ),
    Option(
        "ge.exec.precision_mode_v2",
        "origin",
        "whether GE may change types of operators",
        "as --precision_mode_v2. Older releases know ge.exec.precision_mode=must_keep_origin_dtype instead; GE refuses "
        "both at once",
        "header",
    ),
    Option(
        "ge.exec.formatMode",
        "1",
        "1 keeps operators in the layout the graph has (ND) and inserts no conversions",
        "all tensors are ND; conversions at each step would cost time",
        "documentation",
    ),
    Option(
        "ge.exec.atomicCleanPolicy",
        "1",
        "1 clears the memory of atomic operators one by one instead of all at the beginning",
        "less memory",
        "header",
    ),
    Option(
        "ge.exec.staticMemoryPolicy",
        "2",
        "2 lets graphs share memory that grows as it is needed",
        "prefill and decode are in one process, and never run at the same time",
        "header",
    ),
    Option(
        "ge.inputShape",
        "NAME:DIMS;...",
        "in [ge_graph_options]: shape of every input, -1 where gears decide",
        "every input has to be there, in the order of the names, as GE counts and sorts them",
        "header",
    ),
    Option(
        "ge.dynamicDims",
        "DIMS;DIMS;...",
        "one value per -1 of ge.inputShape and gear",
        "left out of a static graph",
        "header",
    ),
    Option(
        "ge.dynamicNodeType",
        "1",
        "which inputs are meant: 0 a data set's, 1 those of the graph",
        "the inputs are the graph's own",
        "header",
    ),
)
"""What the .ini files hold, in their order."""


ASSUMPTIONS: tuple[Assumption, ...] = (
    Assumption(
        "standard-operators",
        "ATC's ONNX parser takes opset 14 with the operators used here, among them ScatterND, GatherND, Expand, and "
        "Shape and Slice on the sizes of inputs.",
        "documentation",
        ("xamc/passes/graph/cache_rows.py",),
        "The operator is replaced in the pass that makes it: ScatterND, for example, by Where over a mask of slots.",
    ),
    Assumption(
        "gears-fold-shapes",
        "GE makes one static graph per gear, in which Shape, and with it every size that depends on an input, becomes "
        "a constant. An input that only gives a size, zactivate_len, stays an input.",
        "documentation",
        ("xamc/passes/graph/cache_rows.py",),
        "The static form, one graph per length, does without symbolic sizes.",
    ),
    Assumption(
        "reshape-zero",
        "Reshape takes 0 as the operand's own size and -1 as what is left, as ONNX says.",
        "documentation",
        ("xamc/passes/graph/eager_attention.py",),
        "The sizes would be put together from Shape; static graphs name all of them.",
    ),
    Assumption(
        "all-inputs-listed",
        "An online session (ge.dynamicNodeType) wants every input in ge.inputShape, sorted by name; ATC takes the same "
        "list.",
        "documentation",
        ("xamc/targets/ascend/gears.py",),
        "The caches, whose shapes are fixed, are left out of the list.",
    ),
    Assumption(
        "int64-inputs",
        "Token ids, rows and lengths may be int64. Comparisons of int64 may run on the AI CPU.",
        "documentation",
        ("xamc/passes/graph/cache_rows.py",),
        "Casts to int32 behind the inputs.",
    ),
    Assumption(
        "caches-swap",
        "A graph's new caches are outputs of their own: the host keeps two sets of device buffers and swaps them after "
        "every call. Handing one buffer in as both is not assumed to be safe.",
        "inferred",
        ("xamc/runtime/executors/ascend.py",),
        "One set of buffers would do.",
    ),
    Assumption(
        "external-onnx-weights",
        "ATC reads ONNX files whose weights lie in a file beside them.",
        "documentation",
        ("xamc/ir/onnx_weights.py",),
        "Models below 2 GB could be written as one file.",
    ),
    Assumption(
        "float16-saturates-nowhere",
        "Nothing counts on how the NPU treats float16 overflow: constants and masks lie within ±65504, queries are "
        "scaled before they meet the keys, and masks are added in float32.",
        "inferred",
        ("xamc/passes/graph/half_precision.py", "xamc/passes/graph/eager_attention.py"),
        "Nothing; a model whose own activations leave float16 needs bfloat16, which this route does not have.",
    ),
)
