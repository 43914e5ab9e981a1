"""Which kind of model a build file is for, as far as the file says, and which kinds are compiled."""

from __future__ import annotations

from dataclasses import dataclass

from xamc.compiler.spec.model import Spec
from xamc.errors import UnsupportedError

_VISUAL_INPUTS = frozenset(("pixel_values", "image", "images"))
_TOWER_KEY = "frontend.model_kwargs.build_visual"

#: Frameworks whose graphs vamc reads: name, and what makes an ONNX file of one.
_FRAMEWORKS = {
    "pytorch": ("PyTorch", "torch.onnx.export(model, example, FILE.onnx, opset_version=17)"),
    "keras": ("Keras", "python -m tf2onnx.convert --keras FILE.h5 --output FILE.onnx --opset 17"),
    "tensorflow": ("TensorFlow", "python -m tf2onnx.convert --graphdef FILE.pb --output FILE.onnx --opset 17"),
    "darknet": ("Darknet", "the export script of the repository that the .cfg and .weights files come from"),
    "caffe": ("Caffe", "a converter such as caffe2onnx"),
}


@dataclass(frozen=True)
class ModelKind:
    """A kind of model.

    Attributes:
        name: in words.
        why: what it was recognized by.
        refusal: the error that says why no such model is compiled; None when it is.
    """

    name: str
    why: str
    refusal: UnsupportedError | None = None


def model_kind(spec: Spec) -> ModelKind:
    """The kind of model that a build file is for.

    Files of language models, of their vision towers and of embedding models differ in their shapes and a few keys only;
    a checkpoint may still turn out to be something else.
    """
    frontend = spec.frontend
    if frontend.type == "onnx":
        return ModelKind("ONNX graph", "frontend.type onnx")
    if frontend.type in _FRAMEWORKS:
        return _foreign_graph(frontend.type)
    visual = sorted(_VISUAL_INPUTS & set(frontend.shape))
    if frontend.model_kwargs.build_visual or (visual and "input_ids" not in frontend.shape):
        return _tower(spec.name, f"{_TOWER_KEY}: true" if frontend.model_kwargs.build_visual else f"input {visual[0]}")
    lists = frontend.shape.get("input_ids")
    if isinstance(lists, list) and len(lists) == 2 and lists[1] == []:
        return ModelKind("embedding model", "frontend.shape.input_ids has no total lengths")
    if spec.backend.remove_params is False and "attention_split_num" in spec.backend.compile:
        return ModelKind(
            "language model of a vision-language model",
            "remove_params: false and attention_split_num, which vamc's files have for these only",
        )
    return ModelKind("language model", f"frontend.type {frontend.type}")


def require_supported(spec: Spec) -> None:
    """Refuses a kind of model that is not compiled.

    Raises:
        UnsupportedError: E1100 the graph of a framework whose files are not read; E1411 a visual tower.
    """
    refusal = model_kind(spec).refusal
    if refusal is not None:
        raise refusal


def _foreign_graph(type: str) -> ModelKind:
    framework, command = _FRAMEWORKS[type]
    refusal = UnsupportedError(
        "E1100",
        f"frontend.type {type} is not supported: graphs are read as ONNX only, language models as huggingface and gguf",
        f"export it to ONNX where it was made ({command}), and set frontend.checkpoint to that file and "
        "frontend.type: onnx; vamc compiles it as it is",
        keys=("frontend.type", "frontend.checkpoint"),
    )
    return ModelKind(f"{framework} graph", f"frontend.type {type}", refusal)


def _tower(name: str, why: str) -> ModelKind:
    refusal = UnsupportedError(
        "E1411",
        f"{name} is a visual tower ({why}), not a language model; towers of Hugging Face checkpoints are not exported",
        fix="export the tower to ONNX with fixed shapes and compile that file with frontend.type: onnx; or remove "
        "build_visual and the pixel inputs to compile the checkpoint's language model",
        keys=(_TOWER_KEY, "frontend.shape"),
    )
    return ModelKind("visual tower", why, refusal)
