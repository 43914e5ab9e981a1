"""One workshop of compiled tiny models for the session, and one stage cache for all worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.models import Workshop
from tests.worker import Worker


@pytest.fixture(autouse=True, scope="module")
def _shared_stage_cache(session_folder: Path) -> Iterator[None]:
    """Files that run in parallel workers use each other's exports, as compiles of one user do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XAMC_CACHE", str(session_folder / "end_to_end_cache"))
        yield


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory, worker: Worker) -> Workshop:
    """Makes each checkpoint and artifact once."""
    return Workshop(tmp_path_factory.mktemp("workshop"), worker)
