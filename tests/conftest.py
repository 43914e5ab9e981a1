"""Fixtures and settings for every test: one thread per library, an own stage cache, no network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.cpu_level.emulated_level import FLAGS, begin
from xamc.errors import UnsupportedError

if TYPE_CHECKING:
    from tests.worker import Worker

pytest_plugins = ["tests.hangs", "tests.worker_death"]

# Before NumPy, torch or ONNX Runtime start their pools: tests are small and run beside each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

# Before anything asks which CPU this is; in a worker process of xdist its start has done so already.
if (level := os.environ.get("XAMC_TEST_LEVEL")) and FLAGS not in os.environ:
    try:
        begin(level)
    except (UnsupportedError, ValueError) as error:
        raise pytest.UsageError(f"XAMC_TEST_LEVEL: {error}") from None

settings.register_profile("xamc", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("xamc")

REPOSITORY = Path(__file__).parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that at the end no worker is busy with one while the others are idle."""
    items.sort(key=lambda item: "end_to_end" not in item.path.parts)


def pytest_sessionfinish() -> None:
    """Ends the process that has done the work of others."""
    from tests.worker import session_worker

    if session_worker.cache_info().currsize:
        session_worker().end()


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all worker processes of the session, whose own folders are neighbours in it."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(autouse=True, scope="session")
def _own_caches(tmp_path_factory: pytest.TempPathFactory, session_folder: Path) -> Iterator[None]:
    """Tests neither read nor fill the user's stage cache; one cache serves the session, as it does a user.

    Exported twins are shared by all worker processes of the session.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XAMC_CACHE", str(tmp_path_factory.mktemp("stage_cache")))
        patch.setenv("XAMC_TEST_TWINS", str(session_folder / "twins"))
        yield


@pytest.fixture(scope="session")
def worker() -> Worker:
    """One process for the work of the child processes of all compiles that are not about them."""
    from tests.worker import session_worker

    return session_worker()


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root folder."""
    return REPOSITORY
