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
    GraphArtifact,
    check_digests,
    read_any,
    read_artifact,
    read_graph,
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
    "GraphArtifact",
    "InputDigest",
    "KvCache",
    "Manifest",
    "Phase",
    "Quantization",
    "TensorEntry",
    "Weights",
    "check_digests",
    "plan_layout",
    "read_any",
    "read_artifact",
    "read_graph",
    "tensor_nbytes",
    "verify_digests",
]
