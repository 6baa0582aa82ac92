"""The simulation as a test: seeds without a violation, seeds that replay, faults that are found."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.faults import FAULTS, Fault
from tests.simulation.plan import Plan, draw
from tests.simulation.run import run_seed

ROOT = Path(__file__).parent.parent.parent
SEEDS = 200
PARTS = 10
FOUND_WITHIN_SEEDS = 200

PRINT_DIGEST = "from tests.simulation.run import run_seed; print(run_seed(7).digest)"


@pytest.mark.parametrize("part", range(PARTS))
def test_no_invariant_is_broken(part: int) -> None:
    size = SEEDS // PARTS
    broken = []
    for seed in range(part * size, part * size + size):
        outcome = run_seed(seed)
        if outcome.violation is not None:
            broken.append(outcome.violation)
    assert not broken, broken


def test_a_seed_replays_to_the_same_trace() -> None:
    first: list[str] = []
    again: list[str] = []
    digests = [run_seed(7, write=lines.append).digest for lines in (first, again)]
    assert len(first) > 100
    assert first == again
    assert digests[0] == digests[1]
    assert digests[0] != run_seed(8).digest


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_a_seed_replays_in_another_process(hash_seed: str) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    found = subprocess.run(
        [sys.executable, "-c", PRINT_DIGEST], cwd=ROOT, env=environment, capture_output=True, check=True
    )
    assert found.stdout.decode().strip() == run_seed(7).digest


def test_seeds_differ_in_their_circumstances() -> None:
    plans = [draw(seed) for seed in range(SEEDS)]
    for name in Plan.__slots__:
        assert len({getattr(plan, name) for plan in plans}) > 1, name


def test_there_are_twelve_faults_and_more() -> None:
    assert len(FAULTS) >= 12
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_found(fault: Fault) -> None:
    with fault.planted():
        for seed in range(FOUND_WITHIN_SEEDS):
            outcome = run_seed(seed)
            if outcome.violation is not None:
                assert outcome.invariant in fault.invariants, outcome.violation
                return
    pytest.fail(f"{fault.name}: not found within {FOUND_WITHIN_SEEDS} seeds")
