"""Whether a model's matrices can be quantized in groups, asked of the model itself before its twin is."""

from __future__ import annotations

from xamc.compiler.frontends import Checkpoint
from xamc.errors import UnsupportedError
from xamc.ir.weights.quantize import RoundToNearest

_SIZES = (128, 64, 32)
_SHOWN = 5


def require_group_size(checkpoint: Checkpoint, policy: RoundToNearest | None) -> None:
    """Refuses a group size that doesn't divide the columns of every matrix.

    Raises:
        UnsupportedError: E1150 naming the matrices, and the sizes that would divide all of them.
    """
    if policy is None or policy.group_size is None:
        return
    columns = {name: tensor.shape[1] for name, tensor in checkpoint.tensors.items() if len(tensor.shape) == 2}
    unfit = {name: count for name, count in columns.items() if count % policy.group_size}
    if not unfit:
        return
    name, count = next(iter(unfit.items()))
    others = f", nor those of {len(unfit) - 1} more matrices" if len(unfit) > 1 else ""
    fitting = [str(size) for size in _SIZES if not any(count % size for count in columns.values())]
    raise UnsupportedError(
        "E1150",
        f"group_size {policy.group_size} doesn't divide the {count} columns of {name}{others}",
        f"set group_size to {' or '.join(fitting)}"
        if fitting
        else "use w8a16_rtn with group_size: -1, one scale per output channel",
        details=tuple(f"{other}: {width} columns" for other, width in list(unfit.items())[1:_SHOWN]),
        keys=("frontend.quantize.group_size", "frontend.quantize.type"),
    )
