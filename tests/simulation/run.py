"""One seed, run: Trio made deterministic, threads replaced by waiting, and the outcome."""

import logging
import random
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import trio
import trio._core._run as trio_run

from otagate.gateway import transfers
from tests.simulation.clock import VirtualClock
from tests.simulation.plan import draw
from tests.simulation.world import Violation, World


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a seed: the digest of its trace, and the first violation, if there was one."""

    seed: int
    digest: str
    violation: str | None
    invariant: str | None
    virtual_ms: int
    statistics: dict[str, int]


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Trio's scheduler draws from the seed; what would run in a thread waits for a drawn time instead."""
    chance = random.Random(f"threads {seed}")

    async def run_sync(call: Callable[..., Any], *arguments: Any, **_: Any) -> Any:
        await trio.sleep(chance.choice((0.0, 0.005, 0.2)))
        return call(*arguments)

    def digests(path: object, size: int, chunk_bytes: int) -> bytes:
        return bytes(-(-size // chunk_bytes) * 4)

    def digest_of_range(path: object, start: int, end: int) -> int:
        return 0

    replaced: list[tuple[Any, str, Any]] = [
        (trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True),
        (trio_run, "_r", random.Random(seed)),
        (trio.to_thread, "run_sync", run_sync),
        (secrets, "token_urlsafe", lambda size: f"{chance.getrandbits(8 * size):x}"),
        (transfers, "_digests_of", digests),
        (transfers, "_digest_of_range", digest_of_range),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in replaced]
    for module, name, value in replaced:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def run_seed(seed: int, *, large: bool = False, write: Callable[[str], object] | None = None) -> Outcome:
    """Run a seed to its end, or to its first violation."""
    clock = VirtualClock()
    world = World(draw(seed, large=large), clock, write)
    log = logging.getLogger("otagate")
    level = log.level
    log.setLevel(logging.CRITICAL)
    violation: str | None = None
    invariant: str | None = None
    try:
        with deterministic(seed):
            trio.run(world.run, clock=clock.mock)
    except* Exception as group:
        found = world.violation
        if found is None:
            first = _first(group)
            violation, invariant = f"{type(first).__name__}: {first}", "no crash"
            if write is not None:
                raise
        else:
            violation, invariant = str(found), found.invariant
    finally:
        log.setLevel(level)
    judge = world.judge
    statistics = {
        "devices": world.plan.devices,
        "batches": len(world.ledger.batches),
        "restarts": world.restarts,
        "sleeps": world.sleeps,
        "commits": world.ledger.commits,
        "acks": judge.acks,
        "upgrade messages": judge.upgrades,
        "cancels": judge.cancels,
        "leaves to burn asked": judge.burns,
        "looks": judge.looks,
        "rests": judge.rests,
    }
    return Outcome(seed, world.digest, violation, invariant, world.now_ms, statistics)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


__all__ = ["Outcome", "Violation", "deterministic", "run_seed"]
