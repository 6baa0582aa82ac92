"""A gateway of its own for each test that needs one, and fleets in this process."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import gateway
from otagate.bench.fleet import Fleet

Condition = Callable[[dict[str, Any]], bool]


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[gateway.Gateway]:
    with gateway.start(tmp_path, core=None, settings={"upgrade.acknowledge_timeout_s": 1}) as started:
        started.api.add_product()
        yield started
        assert started.process is not None
        started.process.kill()  # devices that nobody drives any more would hold up an orderly end


def run_until(fleet: Fleet, condition: Condition, timeout_s: float = 30.0) -> dict[str, Any]:
    """Let the fleet live until its counters satisfy a condition; fails with them if they never do."""
    end = time.monotonic() + timeout_s
    while not condition(counters := fleet.counters()):
        assert time.monotonic() < end, counters
        fleet.run(0.01)
    return counters
