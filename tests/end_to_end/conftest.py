"""One workshop of compiled tiny models for the session."""

from __future__ import annotations

import pytest

from tests.end_to_end.models import Workshop


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Makes each checkpoint and artifact once."""
    return Workshop(tmp_path_factory.mktemp("workshop"))
