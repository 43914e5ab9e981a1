"""The artifact folder: its manifest, how it is written and published, and how it is read and checked.

The runtime reads artifacts through this package, so nothing here imports more than the standard library and
`xamc.model.config` and `xamc.errors`.
"""

from xamc.artifact.manifest import (
    ALIGNMENT,
    FORMAT_VERSION,
    MANIFEST,
    REPORT,
    Cpu,
    FileDigest,
    Generation,
    InputDigest,
    KvCache,
    Manifest,
    Phase,
    Quantization,
    TensorEntry,
    Weights,
    plan_layout,
    tensor_nbytes,
)
from xamc.artifact.read import (
    AnyArtifact,
    Artifact,
    Damage,
    OnnxArtifact,
    check_digests,
    read_any,
    read_artifact,
    read_onnx_artifact,
    verify_digests,
)

__all__ = [
    "ALIGNMENT",
    "FORMAT_VERSION",
    "MANIFEST",
    "REPORT",
    "AnyArtifact",
    "Artifact",
    "Cpu",
    "Damage",
    "FileDigest",
    "Generation",
    "InputDigest",
    "KvCache",
    "Manifest",
    "OnnxArtifact",
    "Phase",
    "Quantization",
    "TensorEntry",
    "Weights",
    "check_digests",
    "plan_layout",
    "read_any",
    "read_artifact",
    "read_onnx_artifact",
    "tensor_nbytes",
    "verify_digests",
]
