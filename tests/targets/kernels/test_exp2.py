"""Powers of two with exponents that are not positive, against NumPy in float64."""

import numpy as np

from tests.targets.kernels.test_emit import elementwise, levels
from xamc.ir.tolerances import tolerance
from xamc.targets.kernels import emit as E
from xamc.targets.kernels.exp2 import exp2_of_negative
from xamc.targets.kernels.isa import Isa


@levels
def test_power_of_two(isa: Isa) -> None:
    def body(x: E.Buffer, y: E.Buffer, i: E.Expr) -> None:
        E.store(y, [i], exp2_of_negative(E.load(x, [i], isa.lanes), isa.lanes), isa.lanes)

    run = elementwise(isa, "float32", "float32", body)
    x = -np.abs(np.concatenate((np.linspace(0, 125, 2**17), np.arange(126.0)))).astype(np.float32)
    x = np.resize(x, -(-x.size // 64) * 64)
    exact = np.exp2(x.astype(np.float64))
    assert (np.abs(run(x) - exact) / exact).max() <= tolerance("kernel_exp")
    assert run(np.zeros(16, np.float32)).tolist() == [1.0] * 16
    assert run(np.array([-125.01, -1e30, -np.inf, -3e38] * 4, np.float32)).tolist() == [0.0] * 16
    assert np.isnan(run(np.full(16, np.nan, np.float32))).all()
