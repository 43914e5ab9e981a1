"""Fixtures and settings for every test: one thread per library, an own stage cache, no network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before NumPy, torch or ONNX Runtime start their pools: tests are small and run beside each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

settings.register_profile("xamc", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("xamc")

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True, scope="session")
def _own_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither read nor fill the user's stage cache; one cache serves the session, as it does a user.

    Exported twins are shared by all worker processes of the session.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XAMC_CACHE", str(tmp_path_factory.mktemp("stage_cache")))
        # the workers of one session have neighbouring folders
        session = tmp_path_factory.getbasetemp()
        patch.setenv(
            "XAMC_TEST_TWINS", str((session.parent if "PYTEST_XDIST_WORKER" in os.environ else session) / "twins")
        )
        yield


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root folder."""
    return REPOSITORY
