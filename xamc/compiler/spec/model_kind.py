"""Which kind of model a build file is for, as far as the file says, and which kinds are compiled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from xamc.compiler.errors import UnsupportedError
from xamc.compiler.spec.model import LoadedSpec, Spec

Name = Literal[
    "language model",
    "embedding model",
    "language part of a vision-language model",
    "vision tower",
    "ONNX graph",
    "PyTorch graph",
    "Keras graph",
    "TensorFlow graph",
    "Darknet graph",
]

_VISUAL_INPUTS = frozenset(("pixel_values", "image", "images"))
_GRAPHS: dict[str, tuple[Name, str]] = {
    "pytorch": ("PyTorch graph", "torch.onnx.export(model, example, FILE.onnx, opset_version=17)"),
    "keras": ("Keras graph", "python -m tf2onnx.convert --keras FILE.h5 --output FILE.onnx --opset 17"),
    "tensorflow": ("TensorFlow graph", "python -m tf2onnx.convert --graphdef FILE.pb --output FILE.onnx --opset 17"),
    "darknet": ("Darknet graph", "the export script of the repository that the .cfg and .weights files come from"),
}


@dataclass(frozen=True)
class ModelKind:
    """A kind of model.

    Attributes:
        name: in words.
        why: the keys it was recognized by.
        missing: what keeps it from being compiled; empty when it can be.
        remedy: what to do instead.
        key: the key to show in an error.
    """

    name: Name
    why: str
    missing: str = ""
    remedy: str = ""
    key: str = "frontend.type"

    @property
    def is_supported(self) -> bool:
        """Whether such models are compiled; a single one may still use what is not."""
        return not self.missing


def model_kind(spec: Spec) -> ModelKind:
    """The kind of model that a build file is for.

    Files of language models, their vision towers and embedding models differ in their shapes and a few keys only; a
    checkpoint may still turn out to be something else.
    """
    frontend = spec.frontend
    if frontend.type == "onnx":
        return ModelKind("ONNX graph", "frontend.type onnx")
    if frontend.type in _GRAPHS:
        name, command = _GRAPHS[frontend.type]
        return ModelKind(
            name,
            f"frontend.type {frontend.type}",
            "only ONNX files are read; other frameworks' files hold code, or need that framework",
            f"export it to ONNX where it was made ({command}), then set frontend.checkpoint to that file and "
            "frontend.type: onnx",
        )
    values, shape = frontend.model_kwargs.values, frontend.shape
    visual = sorted(_VISUAL_INPUTS & set(shape))
    if values.get("build_visual") or (visual and "input_ids" not in shape):
        tower_key = "frontend.model_kwargs.build_visual" if values.get("build_visual") else "frontend.shape"
        return ModelKind(
            "vision tower",
            "build_visual" if values.get("build_visual") else f"the input {visual[0]}",
            "vision towers of Hugging Face checkpoints are not exported",
            "export the tower to ONNX with fixed shapes, and compile that file with frontend.type: onnx",
            tower_key,
        )
    lists = shape.get("input_ids")
    if isinstance(lists, list) and len(lists) == 2 and lists[1] == []:
        return ModelKind("embedding model", "an empty list of total lengths in frontend.shape.input_ids")
    if spec.backend.remove_params is False and "attention_split_num" in spec.backend.compile:
        return ModelKind(
            "language part of a vision-language model",
            "backend.remove_params: false and attention_split_num, which vamc's files have for these only",
        )
    return ModelKind("language model", f"frontend.type {frontend.type}")


def require_supported(loaded: LoadedSpec) -> ModelKind:
    """The kind of a spec, unless no such model is compiled.

    Raises:
        UnsupportedError: E1159, with what is missing and the remedy.
    """
    kind = model_kind(loaded.spec)
    if not kind.is_supported:
        raise UnsupportedError(
            "E1159",
            f"{loaded.spec.name} is a {kind.name} ({kind.why}): {kind.missing}",
            fix=kind.remedy,
            locations=loaded.at(kind.key, f"a {kind.name}") or loaded.at("frontend.checkpoint", f"a {kind.name}"),
        )
    return kind
