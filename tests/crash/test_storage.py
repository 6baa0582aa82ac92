"""The disk fails, briefly; tools/storage_faults lets it fail at every early position."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.storage import Position, StorageFaults
from tests.end_to_end.process import ROOT

STOPS = [
    Position("first", "fsync", 1, "error=ENOSPC"),
    Position("work", "fdatasync", 2, "error=EIO"),
    Position("work", "pwrite64", 2, "error=EIO"),
    Position("work", "writev", 2, "retval=0"),
]
COSTS_AN_UPLOAD = [
    Position("work", "write", 1, "error=ENOSPC"),
    Position("work", "rename", 1, "error=EIO"),
]
# first of all, and at a start: then there are downloads, of a batch that has just begun
COSTS_A_DOWNLOAD = [Position("start", "sendfile", 1, "error=EIO")]


def test_a_disk_that_fails(tmp_path: Path) -> None:
    faults = StorageFaults(tmp_path, devices=6, seed=1)
    faults.must_hit = True
    faults.stop_s_max = float("inf")  # how soon, the tool judges
    positions = [*COSTS_A_DOWNLOAD, *STOPS, *COSTS_AN_UPLOAD]
    faults.run_all(positions)
    assert all(faults.outcomes[position].hit for position in positions)
    assert all(faults.outcomes[position].stopped for position in STOPS)
    assert all(faults.outcomes[position].refused for position in COSTS_AN_UPLOAD)
    assert not any(faults.outcomes[position].stopped for position in COSTS_A_DOWNLOAD)
    assert faults.totals["promises"]


def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    own = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    done = subprocess.run(
        [*own, sys.executable, "-m", "tests.crash.small_disk", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        capture_output=True,
        text=True,
    )
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip("nothing can be mounted here")
    assert done.returncode == 0, done.stderr
