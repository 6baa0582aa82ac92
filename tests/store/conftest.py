"""Both engines, each as the fixture `store`; every test ends with the checker."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from otagate import limits
from otagate.store.check import check_invariants
from otagate.store.engine import Engine
from otagate.store.lmdb import open_store
from otagate.store.memory import MemoryStore


@pytest.fixture(params=["memory", "lmdb"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    """An empty store."""
    engine: Engine
    if request.param == "memory":
        engine = MemoryStore()
    else:
        engine = open_store(tmp_path / "data", map_bytes=64 * limits.MIB, reserve_bytes=4096)
    yield engine
    assert check_invariants(engine) == []
    await engine.close()
