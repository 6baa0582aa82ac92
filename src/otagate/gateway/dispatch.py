"""Who is pushed when. Level-triggered: the question is asked again and again, and no edge carries a push.

Pushable is who is *online and (to be pushed, or due again)*. The question is asked at each login, after
each commit that opens a batch, when a push slot gets free, and by a sweep every second; asking once too
often costs a scan, asking once too seldom costs at most a second.

A push slot is held from the decision to push until the device answers, fails or goes away; there are
`pushes_max` of them, so that a batch of a million devices does not send a million messages at once.
"""

from collections.abc import Sequence

import trio

from otagate.gateway.in_progress import BatchInProgress
from otagate.gateway.upgrades import Upgrades
from otagate.store.interface import Device, Upgrade
from otagate.upgrade.events import PushTurn, VersionReported
from otagate.upgrade.model import State

SLICE_DEVICES = 200  # about 5 ms of decisions: the loop serves others in between


class Dispatch:
    """Pushes pushable devices, in slices, in a task of its own."""

    def __init__(self, upgrades: Upgrades, pushes_max: int) -> None:
        self._upgrades = upgrades
        self._pushes_max = pushes_max
        self._wake = trio.Event()
        self._returned: list[tuple[int, int]] = []  # (device, batch) of logins
        upgrades.on_slot_free = self._slot_freed
        self._starved = False

    def request(self) -> None:
        """Ask the question soon."""
        self._wake.set()

    def consider(self, device: int, batch: int) -> None:
        """A device logged in whose upgrade may be pushable: asked soon, before the others."""
        self._returned.append((device, batch))
        self._wake.set()

    def _room(self) -> int:
        return self._pushes_max - len(self._upgrades.awaiting)

    def _slot_freed(self) -> None:
        if self._starved:
            self._wake.set()

    async def run(self) -> None:
        """Push for ever."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            await self._push_returned()
            for batch in list(self._upgrades.batches.values()):
                while await self._push_slice(batch):
                    await trio.lowlevel.checkpoint()

    async def _push_returned(self) -> None:
        returned, self._returned = self._returned, []
        now_ms = self._upgrades.clock.now_ms()
        by_batch: dict[int, list[int]] = {}
        room = self._room()
        for device, number in returned:
            batch = self._upgrades.batches.get(number)
            if room > 0 and batch is not None and not batch.ended and batch.roster.take(device, now_ms):
                by_batch.setdefault(number, []).append(device)
                room -= 1
        for number, devices in by_batch.items():
            for at in range(0, len(devices), SLICE_DEVICES):
                batch = self._upgrades.batches.get(number)
                if batch is not None:
                    await self._push(batch, devices[at : at + SLICE_DEVICES])
                await trio.lowlevel.checkpoint()

    async def _push_slice(self, batch: BatchInProgress) -> bool:
        """Push one slice of a batch; whether there may be more to push now."""
        if batch.ended:
            return False
        room = self._room()
        self._starved = room <= 0
        if room <= 0:
            return False
        most = min(room, SLICE_DEVICES)
        now_ms = self._upgrades.clock.now_ms()
        devices = batch.roster.take_pushable(self._upgrades.presence, now_ms, most)
        # when all were refused (the validity is over, its end not yet decided), asking again is of no use
        return bool(devices) and await self._push(batch, devices) > 0 and len(devices) == most

    async def _push(self, batch: BatchInProgress, devices: Sequence[int]) -> int:
        """Decide for devices that the roster gave out; what is not pushed after all goes back.

        Returns how many moved.
        """
        moved = 0
        upgrades = self._upgrades
        number = batch.record.number
        rows = await upgrades.store.upgrades([(device, number) for device in devices])
        records = await upgrades.store.devices_by_number(devices)
        for device, stored, record in zip(devices, rows, records, strict=True):
            newest = upgrades.rows.get(device) or stored
            if newest is None or newest.batch != number or device not in upgrades.presence:
                batch.roster.release(device)
                continue
            moved += self._push_one(batch, newest, record)
        return moved

    def _push_one(self, batch: BatchInProgress, newest: Upgrade, record: Device | None) -> bool:
        upgrades = self._upgrades
        device = newest.device
        if record is not None and record.version == batch.record.firmware_version:
            # it reported the target version while its row was being written
            upgrades.decide(newest, VersionReported(record.version, record.version))
            return True
        row = upgrades.decide(newest, PushTurn())
        if row.state != State.PUSHED:
            # refused: the roster was wrong about the row, or the validity is over
            batch.roster.update(device, row.state, row.attempt, row.due_ms)
            return False
        return True
