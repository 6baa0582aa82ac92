"""What a seed draws: how many there are of everything, how bad links and disks are, and what will happen."""

import random
from dataclasses import dataclass

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

DEVICES = (5, 24)
LARGE_DEVICES = (300, 1_500)


@dataclass(frozen=True, slots=True)
class Plan:
    """The circumstances of one seed; times in ms, probabilities from 0 to 1."""

    seed: int
    devices: int
    products: int
    pushes_max: int
    transfers_max: int
    latency_ms: int  # of a message, at most
    commit_ms: int  # of a commit in a slow spell, at most
    slow_commits: float  # how often a commit is in such a spell
    drops: float  # how often an active connection breaks before it has lived long
    mischief: float  # duplicates and stale reports per message
    restarts: int
    wall_steps: int
    sleeps: int  # of the machine
    unreadable: float  # how often an image is, when it is opened or as a chunk is read
    batches: int
    acts: int  # of operators, besides batches
    rivals: float  # another gateway was faster
    busy_ms: int  # most of what happens begins within this


def draw(seed: int, *, large: bool = False) -> Plan:
    """The plan of a seed."""
    source = random.Random(f"plan {seed}")
    devices = source.randint(*(LARGE_DEVICES if large else DEVICES))
    return Plan(
        seed=seed,
        devices=devices,
        products=source.choice((1, 1, 2)),
        pushes_max=source.choice((1, 2, 3, devices // 4 + 1, 10_000)),
        transfers_max=source.choice((1, 2, devices // 4 + 1, 1_000)),
        latency_ms=source.choice((0, 20, 300, 4_000)),
        commit_ms=source.choice((5, 50, 400, 3_000)),
        slow_commits=source.choice((0.0, 0.0, 0.05, 0.5)),
        drops=source.choice((0.0, 0.1, 0.3, 0.6)),
        mischief=source.choice((0.0, 0.02, 0.1, 0.3)),
        restarts=source.choice((0, 1, 1, 2, 3)),
        wall_steps=source.choice((0, 0, 1, 2)),
        sleeps=source.choice((0, 0, 1, 2)),
        unreadable=source.choice((0.0, 0.0, 0.005, 0.05)),
        batches=source.choice((1, 2, 3, 4)),
        acts=source.choice((0, 2, 5)),
        rivals=source.choice((0.0, 0.0, 0.02)),
        busy_ms=source.choice((20 * MINUTE_MS, 3 * HOUR_MS, DAY_MS)),
    )
