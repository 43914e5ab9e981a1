"""Which ONNX operators the generic route can lower, as names: known before anything heavy is imported.

TVM's importer looks at an operator's name and not at its domain, so the domain is judged here. A test keeps the list
inside of what the importer has.
"""

from __future__ import annotations

STANDARD_DOMAINS = ("", "ai.onnx")
RANGES = "xamc.extents"
"""Key of a model's metadata: JSON, symbol → its smallest and largest dimension."""

_NAMES = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BitCast BitShift BitwiseAnd
BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh
CumProd CumSum DepthToSpace DequantizeLinear Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike
Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater
GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish Hardmax Identity If InstanceNormalization IsInf
IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpPool MatMul MatMulInteger Max MaxPool
MaxRoiPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg Not OneHot Or PRelu Pad Pow QuantizeLinear
RMSNormalization Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize RoiAlign Round Scatter ScatterElements ScatterND Selu Shape
Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh
ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
"""

#: Operators of the standard domain that TVM's importer lowers to tensors of fixed shape.
SUPPORTED = frozenset(_NAMES.split())

_DATA_DEPENDENT = frozenset(("Compress", "NonMaxSuppression", "NonZero", "Unique", "Loop", "Scan"))
#: Operators whose results differ from run to run, so that nothing could be proven.
RANDOM = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
)
_NO_TENSOR = (
    "Sequence", "Optional", "ConcatFromSequence", "SplitToSequence", "String", "RegexFullMatch", "TfIdfVectorizer"
)  # fmt: skip


def obstacle(domain: str, name: str) -> str | None:
    """Why an operator has no place on the generic route; None when it has one.

    Args:
        domain: the operator's domain, model-local functions already inlined.
        name: its type.
    """
    if domain not in STANDARD_DOMAINS:
        return f"is of the domain {domain}; only ONNX's own operators are lowered"
    if name in SUPPORTED:
        return None
    if name in _DATA_DEPENDENT:
        return "gives a result whose shape depends on the data"
    if name in RANDOM:
        return "gives random numbers, which differ from run to run"
    if name.startswith(_NO_TENSOR):
        return "works on sequences, optionals or text, not on tensors"
    return "has no lowering to TVM"


def remedy(domain: str, name: str) -> str:
    """What to do about an operator that `obstacle` names."""
    if domain not in STANDARD_DOMAINS:
        return "export for ONNX's own operators, without the runtime's fusions"
    if name == "NonMaxSuppression":
        return "end the graph at the boxes and scores, and suppress in the application"
    if name in ("Loop", "Scan"):
        return "unroll it: export with a fixed number of steps"
    if name in _DATA_DEPENDENT or name.startswith(_NO_TENSOR):
        return "cut the graph before it"
    if name in ("LSTM", "GRU", "RNN"):
        return (
            "fix its steps in frontend.shape at 64 or fewer, without lengths per sequence, clipping, or activations"
            " other than the defaults; or use a model without it"
        )
    if name in RANDOM:
        return "make the random numbers an input"
    return "write it as other operators before the export"
