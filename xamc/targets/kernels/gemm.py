"""Y = X W^T for any number of rows."""

from __future__ import annotations

from xamc.targets.kernels import emit as E
from xamc.targets.kernels.packing import PANEL
from xamc.targets.kernels.weights import PackedWeight


def emit_gemm(weight: PackedWeight, x: E.Buffer, bias: E.Buffer | None, residual: E.Buffer | None, y: E.Buffer) -> None:
    m = x.shape[0]
    step, k, lanes = weight.format.k_step, weight.k, weight.isa.lanes
    steps = -(-k // step)
    with E.parallel(weight.layout.panels) as panel:
        values = E.scratch((steps * step, PANEL))
        with E.serial(steps) as s:
            for row in weight.panel_rows():
                word = E.let(weight.word(panel, s, row, lanes))
                for offset in range(step):
                    value = weight.value(word, offset, lanes)
                    if weight.format.quantized:
                        group = E.let((s * step + offset) // weight.group)
                        if weight.format.kind == "int8" and k % step:
                            group = E.i32(0)
                        value = (value - weight.zero(panel, group, row, lanes)) * weight.scale(panel, group, row, lanes)
                    E.store(values, [s * step + offset, row], value, lanes)
        with E.serial(m) as i:
            for row in weight.panel_rows():
                total = E.Register(lanes, initial=E.const(0, lanes))
                with E.serial(k) as c:
                    total.set(
                        E.fma(E.splat(E.load(x, [i, c]), lanes), E.load(values, [c, row], lanes), total.get(), lanes)
                    )
                with E.serial(E.maximum(E.minimum(weight.n - panel * PANEL - row, lanes), 0)) as lane:
                    first = panel * PANEL + row + lane
                    value = E.load(total.buffer, [lane])
                    if bias is not None:
                        value = value + E.load(bias, [first])
                    if residual is not None:
                        value = value + E.load(residual, [i, first])
                    E.store(y, [i, first], value)
