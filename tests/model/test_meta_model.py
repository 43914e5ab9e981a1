"""What transformers refuses is an error of the checkpoint, not of ours."""

from __future__ import annotations

from typing import Any

import pytest

from tests import twins
from xamc.errors import InputError
from xamc.model.meta_model import meta_model


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hidden_size": 100}, r"hidden size \(100\) is not a multiple of the number of attention heads \(6\)"),
        ({"hidden_size": "wide"}, "'wide'"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(change: dict[str, Any], reason: str) -> None:
    config = twins.config("tied").changed(**change)
    with pytest.raises(InputError, match=f"E1104 transformers refuses config.json: .*{reason}"):
        meta_model(config, "eager")
