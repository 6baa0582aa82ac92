"""Fixtures: the two links, a world, a gateway process."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.end_to_end.world import World, open_world


@pytest.fixture(params=["websocket", "tcp"])
def link(request: pytest.FixtureRequest) -> str:
    """Every test that names it runs once on each link."""
    name: str = request.param
    return name


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """An in-process gateway with one device `d1`, registered and offline, and a firmware."""
    async with open_world(tmp_path / "data") as opened:
        await opened.set_up("d1")
        yield opened
