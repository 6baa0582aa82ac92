"""The memory store with a disk that takes its time, may be lost in mid-commit, and is shared with a rival.

A commit is on its way for a while before it is applied, and for a while after (applied, and not yet known to
be): readers may see it then, as in LMDB, and a kill leaves it there. A kill before leaves it to chance.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from otagate.errors import RequestError
from otagate.store import changes as rules
from otagate.store import records, tables
from otagate.store.interface import Change, Outcome, Transition, Upgrade
from otagate.store.memory import MemoryStore
from otagate.upgrade import states
from otagate.upgrade.events import Acknowledged, Progress, VersionReported
from otagate.upgrade.model import RUNNING_STATES, Stage, State

if TYPE_CHECKING:
    from tests.simulation.world import World


class Killed(RequestError):  # noqa: N818 - what happened, as in errors.py
    """The process is gone: nobody hears of the outcome."""


class SimulatedStore(MemoryStore):
    """See the module. One for all incarnations of the gateway."""

    def __init__(self, world: "World") -> None:
        super().__init__()
        self._world = world
        self._random = world.source("store")
        self.busy = False
        self.slow_until_ms = 0  # the last commit that took its time ended then

    async def commit(self, changes: Sequence[Change]) -> list[Outcome]:
        """See the class."""
        world, plan, chance = self._world, self._world.plan, self._random
        slow = plan.slow_commits and chance.random() < plan.slow_commits
        self.busy = True
        if slow:
            world.aim(2 * plan.commit_ms)
            try:
                await self._pause(chance.randint(1, plan.commit_ms))
            except Killed:
                if chance.random() < 0.5:
                    rules.apply(self._transaction, changes)
                    world.trace("applied unseen", len(changes))
                raise
        if plan.rivals and chance.random() < plan.rivals:
            self._rival(changes)
        outcomes = rules.apply(self._transaction, changes)
        if slow:
            await self._pause(chance.randint(0, plan.commit_ms))
            self.slow_until_ms = world.now_ms
        self.busy = False
        world.ledger.committed(changes, outcomes)
        return outcomes

    async def _pause(self, ms: int) -> None:
        killed = self._world.killed
        with trio.move_on_after(ms / 1000):
            await killed.wait()
        if killed.is_set():
            raise Killed("killed in mid-commit")

    def _rival(self, changes: Sequence[Change]) -> None:
        """Another gateway moves a row that this group is about to move: forward, as a device would."""
        world = self._world
        moves = [change for change in changes if type(change) is Transition and change.epoch]
        if not moves:
            return
        change = self._random.choice(moves)
        batch = world.ledger.batches.get(change.batch)
        upgrade = self.row(change.device, change.batch)
        if batch is None or upgrade is None or upgrade.row.state not in RUNNING_STATES:
            return
        row, attempt = upgrade.row, upgrade.row.attempt
        last = world.ledger.open_rows(change.batch) == 1
        events = [Acknowledged(attempt), Progress(attempt, Stage.DOWNLOADING, 1)]
        if not last:
            events.append(VersionReported(batch.firmware_version, ""))
        moved = states.step(row, self._random.choice(events), world.gateway_ms, world.ledger.rules(batch)).row
        if moved.state != row.state:
            rival = Transition(change.device, change.batch, row.state, row.attempt, moved)
            rules.apply(self._transaction, [rival])
            world.ledger.moved_by_rival(change.device, change.batch, moved)

    def row(self, device: int, batch: int) -> Upgrade | None:
        """A row as it stands in the store, not as it counts."""
        value = self._transaction.get(tables.UPGRADES, tables.pair_key.pack(device, batch))
        return None if value is None else Upgrade(device, batch, records.unpack_row(value))

    def head(self, device: int, batch: int) -> tuple[State, int, int]:
        """State, attempt and due time of a row as it stands in the store."""
        value = self._transaction.get(tables.UPGRADES, tables.pair_key.pack(device, batch))
        assert value is not None
        return records.state_of(value), records.attempt_of(value), records.due_of(value)
