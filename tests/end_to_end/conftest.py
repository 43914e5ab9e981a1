"""One workshop of compiled tiny models for the session, and one stage cache for all worker processes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.end_to_end.models import Workshop


@pytest.fixture(autouse=True, scope="module")
def _shared_stage_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Files that run in parallel workers use each other's exports, as compiles of one user do."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XAMC_CACHE", str(shared / "end_to_end_cache"))
        yield


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Makes each checkpoint and artifact once."""
    return Workshop(tmp_path_factory.mktemp("workshop"))
