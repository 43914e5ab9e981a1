"""Every kernel family with AVX-512, VNNI and BF16, executed on an emulated machine, against the same references."""

from __future__ import annotations

import pytest

from tests.targets.kernels import emulated
from tests.targets.kernels.families import WIDE
from xamc.targets.kernels.isa import Isa

V4, VNNI, BF16 = emulated.WIDE_LEVELS


@emulated.needs_machine
@pytest.mark.parametrize("isa", [BF16, VNNI, V4], ids=lambda isa: isa.name)
@pytest.mark.parametrize("family", WIDE)
def test_wide_level(family: str, isa: Isa) -> None:
    WIDE[family](isa)
