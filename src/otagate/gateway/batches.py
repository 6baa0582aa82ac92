"""The long work on batches: creating one, rewriting the rows of an ended one, taking them up at a start.

Each is a row of slices: a slice is one entry of the journal among those of others, so a million rows delay
nobody's acknowledgement. Whatever a crash cuts in two is taken up at the next start: a batch that was not
finished is undone, an ended one is rewritten to its end.
"""

from collections import deque
from collections.abc import Callable, Sequence

import trio

from otagate import limits, logs
from otagate.errors import Conflict, Invalid, NotFound
from otagate.gateway.dispatch import Dispatch
from otagate.gateway.journal import Journal, Write
from otagate.gateway.tables import Roster
from otagate.gateway.upgrades import Upgrades, Wrap, as_it_is
from otagate.store.interface import (
    Batch,
    BatchView,
    BeginBatch,
    ClaimDevices,
    Firmware,
    OpenBatch,
    RewriteSlice,
    Store,
    UndoBatch,
)
from otagate.upgrade.model import BatchStatus, Range, State
from otagate.upgrade.validation import BatchParameters

log = logs.get("batches")


class _Claims:
    """The slices of a batch in creation: a few on their way at a time, so that they share commits."""

    def __init__(self, journal: Journal, batch: int, roster: Roster) -> None:
        self._journal = journal
        self._batch = batch
        self._roster = roster
        self._under_way: deque[Write] = deque()

    async def add(self, numbers: Sequence[int], now_ms: int) -> None:
        """Claim these devices, ascending and above all before."""
        for at in range(0, len(numbers), limits.slice_devices):
            part = numbers[at : at + limits.slice_devices]
            self._under_way.append(self._journal.begin(ClaimDevices(self._batch, part, now_ms)))
            if len(self._under_way) >= limits.slices_under_way_max:
                await self._take()

    async def _take(self) -> None:
        claimed: list[int] = await self._under_way.popleft().wait()
        count = len(claimed)
        self._roster.extend(claimed, bytes([State.TO_BE_PUSHED]) * count, [0] * count, bytes(count))

    async def finish(self) -> None:
        """Wait for the slices that are still on their way."""
        while self._under_way:
            await self._take()


class Batches:
    """Creates batches and keeps their rows. `nursery`: of the gateway, for what outlives a request."""

    def __init__(
        self, store: Store, journal: Journal, upgrades: Upgrades, dispatch: Dispatch, nursery: trio.Nursery
    ) -> None:
        self._store = store
        self._journal = journal
        self._upgrades = upgrades
        self._dispatch = dispatch
        self._nursery = nursery
        upgrades.on_batch_ended = lambda batch: nursery.start_soon(self._rewrite, batch)
        self.on_image_unused: Callable[[str], None] = lambda sha256: None

    # -- creating --------------------------------------------------------------------------------

    async def create(
        self, firmware: Firmware, parameters: BatchParameters, wrap: Wrap = as_it_is
    ) -> BatchView:
        """Select the devices, write their rows, open the batch. Raises Invalid and changes nothing when
        nobody is eligible, or a named device is not (with the reason for each in `details`)."""
        chosen: Sequence[int] = ()
        if parameters.range is Range.DIRECTED:
            chosen = await self._chosen(firmware, parameters)
        begin = BeginBatch(
            firmware=firmware.id,
            selection=parameters.range.label,
            policy=parameters.policy,
            validity_days=parameters.validity_days,
            timeout_minutes=parameters.timeout_minutes,
            retries=parameters.retries,
            retry_interval_minutes=parameters.retry_interval_minutes or None,
            at_ms=self._upgrades.clock.now_ms(),
            allow_rollback=parameters.allow_rollback,
            wall_step_ms=self._upgrades.clock.step_ms,
        )
        # From here on the batch is in the store: it is opened or undone, whatever becomes of who asked.
        with trio.CancelScope(shield=True):
            batch: Batch = await self._journal.write(begin)
            roster = Roster()
            claims = _Claims(self._journal, batch.number, roster)
            if parameters.range is Range.DIRECTED:
                await claims.add(chosen, self._upgrades.clock.now_ms())
            else:
                await self._claim_all(firmware, claims, parameters.allow_rollback)
            await claims.finish()
            refused = await self._refusal(firmware, parameters, roster)
            if refused is not None:
                await self._undo(batch)
                raise refused
            clock = self._upgrades.clock
            view: BatchView = await self._journal.write(
                wrap(OpenBatch(batch.number, clock.now_ms(), clock.step_ms))
            )
        self._upgrades.open_batch(view.batch, roster)
        self._dispatch.request()
        log.info("batch_opened", batch=batch.id, firmware=firmware.id, total=view.counts.total)
        return view

    async def _claim_all(self, firmware: Firmware, claims: "_Claims", allow_rollback: bool) -> None:
        after: int | None = 0
        while after is not None:
            # a reader thread selects the next devices while the writer is at the slices before
            numbers, after = await self._store.eligible_numbers(
                firmware.id, after=after, allow_rollback=allow_rollback
            )
            await claims.add(numbers, self._upgrades.clock.now_ms())
            await trio.lowlevel.checkpoint()

    async def _refusal(
        self, firmware: Firmware, parameters: BatchParameters, roster: Roster
    ) -> Invalid | None:
        if parameters.range is Range.ALL:
            if len(roster):
                return None
            return Invalid("no device is eligible for this firmware", field="range")
        if len(roster) == len(parameters.devices):
            return None
        # a device that was eligible a moment ago is not any more: say which and why
        try:
            await self._chosen(firmware, parameters, besides=roster)
        except Invalid as refused:
            return refused
        return Invalid("a named device is not eligible any more; try again", field="devices")

    async def _undo(self, batch: Batch) -> None:
        while not await self._journal.write(UndoBatch(batch.number)):
            await trio.lowlevel.checkpoint()

    async def _chosen(
        self, firmware: Firmware, parameters: BatchParameters, besides: Roster | None = None
    ) -> list[int]:
        """The numbers of the named devices, ascending; Invalid if any of them is not eligible.

        `besides`: members that this very batch has claimed, which an open upgrade does not rule out.
        """
        identifiers = parameters.devices
        numbers: list[int] = []
        refused: list[dict[str, str]] = []
        count = 0
        for at in range(0, len(identifiers), limits.slice_devices):
            part = identifiers[at : at + limits.slice_devices]
            reasons = await self._store.ineligible_reasons(
                firmware.id, part, allow_rollback=parameters.allow_rollback
            )
            for name, (number, reason) in zip(part, reasons, strict=True):
                if besides is not None and number in besides:
                    continue
                if reason is None:
                    numbers.append(number)
                    continue
                count += 1
                if len(refused) < limits.ineligible_details_max:
                    refused.append({"identifier": name, "reason": reason.value, "message": reason.sentence})
            await trio.lowlevel.checkpoint()
        if count:
            raise Invalid(f"{count} of the named devices are not eligible", field="devices", details=refused)
        numbers.sort()
        return numbers

    # -- ending ----------------------------------------------------------------------------------

    async def abort(self, batch_id: str, number: int, wrap: Wrap = as_it_is) -> BatchView:
        """Abort a batch in progress. NotFound; Conflict when it has ended already."""
        view = await self._store.get_batch(batch_id)
        if view is None:
            raise NotFound(f"there is no batch {batch_id}")
        if view.batch.status != BatchStatus.IN_PROGRESS or number not in self._upgrades.batches:
            raise Conflict(f"batch {batch_id} has already ended")
        done = trio.Event()
        result: list[object] = []

        def settled(outcome: object) -> None:
            result.append(outcome)
            done.set()

        self._upgrades.end_batch(number, "aborted", self._upgrades.clock.now_ms(), settled, wrap)
        await done.wait()
        if isinstance(result[0], Exception):
            raise result[0]
        assert isinstance(result[0], BatchView)
        log.info("batch_aborted", batch=batch_id)
        return result[0]

    async def _rewrite(self, batch: Batch) -> None:
        """Write the rows of an ended batch as they count, slice by slice; then memory may forget it."""
        slice_number = 0
        while await self._journal.write(RewriteSlice(batch.number, slice_number)):
            slice_number += 1
        self._upgrades.rows_rewritten(batch.number)
        self.image_maybe_unused(batch.firmware_sha256)

    def image_maybe_unused(self, sha256: str) -> None:
        """Close the image in the plane unless a batch in progress uses it."""
        if all(batch.record.firmware_sha256 != sha256 for batch in self._upgrades.batches.values()):
            self.on_image_unused(sha256)

    # -- at a start ------------------------------------------------------------------------------

    async def take_up(self, started_at_ms: int, restart_grace_ms: int) -> None:
        """Rebuild memory from the store: rosters, clocks of batches in progress; finish what was cut in two.

        A time-out that fell due while the gateway was down is held back by `restart_grace_ms`, so that
        devices report first.
        """
        for view in await self._store.unfinished_batches():
            batch = view.batch
            if batch.status == BatchStatus.CREATING:
                log.info("batch_undone", batch=batch.id, reason="its creation was cut short")
                self._nursery.start_soon(self._undo, batch)
                continue
            if batch.status != BatchStatus.IN_PROGRESS:
                self._upgrades.open_batch(batch, Roster())
                self._nursery.start_soon(self._rewrite, batch)
                continue
            roster = await self._roster(batch, started_at_ms, restart_grace_ms)
            self._upgrades.open_batch(batch, roster)
            log.info("batch_resumed", batch=batch.id, total=view.counts.total, open=view.counts.open)

    async def _roster(self, batch: Batch, started_at_ms: int, restart_grace_ms: int) -> Roster:
        roster = Roster()
        number = 0
        while (part := await self._store.slice_states(batch.number, number)) is not None:
            held_ms = started_at_ms + restart_grace_ms
            clocks = [
                held_ms if state == State.UPGRADING and due_ms <= started_at_ms else due_ms
                for state, due_ms in zip(part.states, part.dues, strict=True)
            ]
            roster.extend(part.devices, part.states, clocks, part.attempts)
            number += 1
        return roster
