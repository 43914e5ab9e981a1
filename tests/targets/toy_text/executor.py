"""Runs artifacts of the text target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from google.protobuf import text_format

from xamc.runtime.executors.reference import ReferenceExecutor, open_session


class TextExecutor(ReferenceExecutor):
    """Reads the graph from its text; all else is the reference executor's."""

    def open_graph(self, path: Path) -> Any:
        model = text_format.Parse(path.read_text(), onnx.ModelProto())
        return open_session(model.SerializeToString(), self.threads)
