"""Batches that do not move: in progress, no transition for a while, though devices of them are online.

Whether a batch moved is asked of the board, which notes every transition anyhow; so nothing stands in the way
of one. Who is online is counted in slices from the store, and only for a batch that is quiet. A stall is told
once; with the next transition the batch is watched anew. A restart begins to count from its start.
"""

from collections.abc import Callable

import trio
from msgspec import Struct

from otagate import limits, logs
from otagate.gateway.journal import Entry
from otagate.gateway.upgrades import Upgrades
from otagate.gateway.webhooks import Webhooks
from otagate.store.interface import Batch
from otagate.store.operators import TellStalled
from otagate.store.telling import BATCH_STALLED
from otagate.upgrade.model import State

log = logs.get("stalls")


class _Watch(Struct):
    """A batch since it last moved: the board's version then."""

    version: int
    since_ms: int
    told: bool = False


class Stalls:
    """`sweep` is called once a second and looks once a minute."""

    def __init__(
        self,
        upgrades: Upgrades,
        webhooks: Webhooks,
        stalled_ms: int,
        start_soon: Callable[..., object],
    ) -> None:
        self._upgrades = upgrades
        self._webhooks = webhooks
        self._stalled_ms = stalled_ms
        self._start_soon = start_soon
        self._watches: dict[int, _Watch] = {}
        self._next_look_ms = 0

    def sweep(self, now_ms: int) -> None:
        """Look at the batches in progress, if anybody wants to know."""
        if not self._webhooks or now_ms < self._next_look_ms:
            return
        self._next_look_ms = now_ms + min(limits.stall_look_ms, self._stalled_ms)
        if not self._webhooks.wants(BATCH_STALLED):
            self._watches.clear()
            return
        board = self._upgrades.board
        watches: dict[int, _Watch] = {}
        for number, batch in self._upgrades.batches.items():
            if batch.ended:
                continue
            watch = self._watches.get(number)
            if watch is None or board.batches.changed_since(number, watch.version):
                watch = _Watch(board.version, now_ms)
            elif not watch.told and now_ms - watch.since_ms >= self._stalled_ms:
                self._start_soon(self._judge, batch.record, watch)
            watches[number] = watch
        self._watches = watches

    async def _judge(self, batch: Batch, watch: _Watch) -> None:
        online = await self._count_online(batch.number)
        board = self._upgrades.board
        if watch.told or not online or board.batches.changed_since(batch.number, watch.version):
            return
        watch.told = True
        now_ms = self._upgrades.clock.now_ms()
        quiet_ms = now_ms - watch.since_ms
        log.warning("batch_stalled", batch=batch.id, quiet_s=quiet_ms // 1000, online=online)
        self._upgrades.journal.submit(Entry([TellStalled(batch.number, quiet_ms, online, now_ms)]))

    async def _count_online(self, batch: int) -> int:
        """How many devices that have not ended are online."""
        online = number = 0
        while (part := await self._upgrades.store.slice_states(batch, number)) is not None:
            number += 1
            for device, state in zip(part.devices, part.states, strict=True):
                online += state < State.SUCCEEDED and device in self._upgrades.presence
            await trio.lowlevel.checkpoint()
        return online
