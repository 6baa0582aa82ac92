"""The crash loop finds what it is for."""

import sys
from pathlib import Path

import pytest

from tests.crash.faults import CYCLES, FAULTS
from tests.crash.loop import BrokenPromise, CrashLoop


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str, tmp_path: Path) -> None:
    loop = CrashLoop(tmp_path, 10, 1)
    loop.command = (sys.executable, "-P", "-m", "tests.crash.faults", name, "serve")
    with pytest.raises(BrokenPromise, match=FAULTS[name].found):
        loop.run(range(1, CYCLES + 1))
