"""Names of files and functions of compiled graphs, for processes that do not import tvm."""

from __future__ import annotations

FUNCTION = "main"
# main's weights as they are stored → as it takes them
PREPARE = "main_transform_params"
LIBRARY = "model.so"
