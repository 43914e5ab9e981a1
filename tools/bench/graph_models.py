"""Models that the ONNX route is measured with: transformers' architectures of the usual sizes, with random weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IMAGE = (1, 3, 224, 224)
TOKENS = (1, 128)


@dataclass(frozen=True)
class GraphCase:
    """A model of the benchmark.

    Attributes:
        name: of its rows.
        shape: of its input.
        make: the PyTorch module, with random weights.
        vocabulary: ids are below it; None for a model of images.
    """

    name: str
    shape: tuple[int, ...]
    make: Callable[[], Any]
    vocabulary: int | None = None


def _resnet(**config: Any) -> Any:
    from transformers import ResNetConfig, ResNetForImageClassification

    return ResNetForImageClassification(ResNetConfig(num_labels=1000, **config))


def _resnet18() -> Any:
    return _resnet(layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], embedding_size=64)


def _mobilenet() -> Any:
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    return MobileNetV2ForImageClassification(MobileNetV2Config(num_labels=1000))


def _vit() -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(ViTConfig(num_labels=1000, attn_implementation="eager"))


def _bert() -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(attn_implementation="eager"))


CASES = (
    GraphCase("ResNet-18", IMAGE, _resnet18),
    GraphCase("ResNet-50", IMAGE, _resnet),
    GraphCase("MobileNetV2", IMAGE, _mobilenet),
    GraphCase("ViT-B/16", IMAGE, _vit),
    GraphCase("BERT base", TOKENS, _bert, vocabulary=30522),
)


def export(case: GraphCase, path: Path) -> None:
    """Writes the model to an ONNX file; the weights follow from the seed 0."""
    import torch

    torch.manual_seed(0)
    model = case.make().eval()
    if case.vocabulary is None:
        name, example = "pixel_values", torch.zeros(case.shape)
    else:
        name, example = "input_ids", torch.zeros(case.shape, dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _FirstOutput(model),
            (example,),
            str(path),
            input_names=[name],
            output_names=["output"],
            dynamo=True,
            external_data=False,
            opset_version=20,
            verbose=False,
        )


def _FirstOutput(model: Any) -> Any:
    import torch

    class FirstOutput(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Any) -> Any:
            return self.model(x, return_dict=False)[0]

    return FirstOutput()
