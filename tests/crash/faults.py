"""Planted faults of a gateway: each breaks one promise, and the crash loop must find it within CYCLES kills.

    python -m tests.crash.faults NAME serve …     the gateway of `tests.crash.gateway` with that fault

A fault is a patch of the running program, never a switch in it.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import outcome
from msgspec.structs import replace

from otagate.store import changes, lmdb, records, tables
from otagate.store.blobs import Blobs
from otagate.store.draft import Draft
from otagate.store.interface import EndBatch, OpenBatch, Transition
from otagate.store.operators import Audited
from otagate.upgrade.model import State
from tests.crash.gateway import main

CYCLES = 40
LATE_S = 0.1  # how long after its acknowledgement a commit comes: a kill must meet that


class Fault(NamedTuple):
    """`found`: how the crash loop tells of it."""

    plant: Callable[[], None]
    found: str


def acknowledge_early(*kinds: type[Any]) -> Callable[[], None]:
    """Who asked for such a change is answered, and then it is committed."""

    def early(change: Any) -> bool:
        return isinstance(change.change if isinstance(change, Audited) else change, kinds)

    def write_jobs(store: lmdb.LmdbStore) -> None:
        while (job := store._jobs.get()) is not None:
            if not any(map(early, job.changes)):
                job.finish(outcome.capture(store._write, job))
                continue
            with store._environment.begin(write=True) as txn:
                application = changes.Application(lmdb.LmdbTransaction(txn, store._tables), job.changes)
                store._stretches.apply(application, job.token)
                job.finish(outcome.Value(application.outcomes))
                time.sleep(LATE_S)

    def plant() -> None:
        lmdb.LmdbStore._write_jobs = write_jobs  # type: ignore[method-assign]

    return plant


def after_transition(spoil: Callable[[Draft, Transition], None]) -> Callable[[], None]:
    """Something more is written with each transition."""
    rightly = changes.APPLY[Transition]

    def apply(draft: Draft, change: Transition) -> Any:
        result = rightly(draft, change)
        spoil(draft, change)
        return result

    def plant() -> None:
        changes.APPLY[Transition] = apply

    return plant


def count_twice(draft: Draft, change: Transition) -> None:
    if change.row.state == State.UPGRADING != change.expected_state:
        draft.changing_counts(change.batch).add(State.UPGRADING, 1)


def go_back(draft: Draft, change: Transition) -> None:
    if change.row.attempt > 1:
        row = replace(change.row, attempt=change.row.attempt - 1)
        draft.transaction.put(
            tables.UPGRADES, tables.pair_key.pack(change.device, change.batch), records.pack_row(row)
        )


def truncate_images() -> None:
    """A byte less than was hashed gets the name."""
    rightly = Blobs._place

    def place(blobs: Blobs, incoming: Path, path: Path) -> None:
        os.truncate(incoming, incoming.stat().st_size - 1)
        rightly(blobs, incoming, path)

    Blobs._place = place  # type: ignore[method-assign]


FAULTS = {
    "reports are acknowledged early": Fault(acknowledge_early(Transition), "the store has "),
    "batches are acknowledged early": Fault(
        acknowledge_early(OpenBatch), r"there is no batch|/batches/\S+ has status 404"
    ),
    "aborts are acknowledged early": Fault(
        acknowledge_early(EndBatch), r"/batches/\S+/aborted has status 404"
    ),
    "a device is counted twice": Fault(after_transition(count_twice), "counts of b"),
    "an attempt goes back": Fault(
        after_transition(go_back), "the store has .* in attempt|went back|was never given to this device"
    ),
    "an image is truncated": Fault(truncate_images, "has other bytes"),
}


if __name__ == "__main__":
    FAULTS[sys.argv[1]].plant()
    sys.exit(main(sys.argv[2:]))
