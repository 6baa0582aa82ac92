"""Where the rules meet the state: the batches in progress, and the rows of devices at work.

Theory. A decision is `upgrade.states.step` on the newest row of a device. The newest row is, in this order:
the one that a pending decision has made (it waits for its commit), the one in memory (of a device that is
online with a running attempt), the one in the store. Every decision that must be durable becomes a journal
entry: a compare-and-set of that row, and the effects that are performed once it is on the disk. A decision
that met another row than it was made on (another gateway was faster) is made again, on the fresh one,
together with all that followed for that device, in order; it is never dropped.

Invariants:

1. An effect of a durable decision is performed after its commit, and after those decided before it.
2. An answer that needs no commit never overtakes one of the same device that does.
3. `rows` holds every row of a pending decision and every running row of an online device, and no other.
4. Losing a connection moves nothing: it stops the acknowledgement clock and frees the push slot.
"""

import re
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from otagate import limits, logs
from otagate.gateway.board import Board
from otagate.gateway.clock import Clock
from otagate.gateway.journal import Entry, Journal
from otagate.gateway.outbox import Outbox
from otagate.gateway.tables import Presence, Roster
from otagate.store.interface import (
    Batch,
    BatchView,
    Change,
    EndBatch,
    Outcome,
    Stale,
    Store,
    Transition,
    Transitioned,
    Upgrade,
)
from otagate.upgrade import states
from otagate.upgrade.effects import Ack, Cancel, Effect, RefuseUnknown, SendUpgrade, StopTransfer
from otagate.upgrade.effects import CancelReason as Reason
from otagate.upgrade.events import Aborted, Event, Expired
from otagate.upgrade.model import RUNNING_STATES, BatchStatus, Cause, Policy, Row, Rules, State
from otagate.wire import messages
from otagate.wire.constants import CancelReason, ErrorCode

log = logs.get("upgrades")

_BATCH_ID = re.compile(r"b[1-9][0-9]{0,14}", re.ASCII)

NO_RULES = Rules(target_version="", retries=0, retry_interval_ms=0, timeout_ms=0, expires_at_ms=0)

# The rules and the protocol name the same reasons apart from each other (rooms that do not know each other).
CANCEL_REASONS = {
    Reason.ABORTED: CancelReason.ABORTED,
    Reason.EXPIRED: CancelReason.EXPIRED,
    Reason.TIMED_OUT: CancelReason.TIMED_OUT,
    Reason.NOT_ACKNOWLEDGED: CancelReason.NOT_ACKNOWLEDGED,
    Reason.OVER: CancelReason.ENDED,
}


def rules_of(batch: Batch) -> Rules:
    """What a step needs to know of a batch."""
    return Rules(
        target_version=batch.firmware_version,
        retries=batch.retries,
        retry_interval_ms=(batch.retry_interval_minutes or 0) * 60_000,
        timeout_ms=batch.timeout_minutes * 60_000,
        expires_at_ms=batch.expires_at_ms,
    )


class BatchInProgress:
    """One batch in memory: its record, its rules, its members."""

    __slots__ = ("record", "roster", "rules")

    def __init__(self, record: Batch, roster: Roster) -> None:
        self.record = record
        self.rules = rules_of(record)
        self.roster = roster

    @property
    def ended(self) -> bool:
        """An abort or an expiry is committed, or on its way."""
        return self.record.status != BatchStatus.IN_PROGRESS

    def view(self, row: Row) -> Row:
        """The row as it counts."""
        if self.record.status == BatchStatus.IN_PROGRESS:
            return row
        cause = Cause.EXPIRED if self.record.ended_by == "expired" else Cause.ABORTED
        return states.effective(row, self.record.status, self.record.ended_at_ms or 0, cause)


class DeviceEntry(Entry):
    """Anything durable about one device. `followers` are answers that must not overtake it."""

    __slots__ = ("_upgrades", "device", "followers")

    def __init__(self, upgrades: "Upgrades", device: int, changes: Sequence[Change]) -> None:
        super().__init__(changes)
        self._upgrades = upgrades
        self.device = device
        self.followers: list[Callable[[], None]] = []

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """See Entry."""
        self._upgrades.settle(self)


class Decision(DeviceEntry):
    """A step on its way to the disk, with what is needed to make it again.

    `conn` and `answer` (the message's id) say whom an acknowledgement is for; 0 and None for the
    gateway's own events.
    """

    __slots__ = ("answer", "batch", "conn", "effects", "event")

    def __init__(
        self,
        upgrades: "Upgrades",
        change: Transition,
        event: Event,
        effects: Sequence[Effect],
        conn: int,
        answer: str | None,
    ) -> None:
        super().__init__(upgrades, change.device, (change,))
        self.batch = change.batch
        self.event = event
        self.effects = effects
        self.conn = conn
        self.answer = answer

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """See Entry."""
        self._upgrades.settle_decision(self, outcomes[0])


class _Ending(Entry):
    """The end of a batch before its last device: by an operator, or its validity."""

    __slots__ = ("_upgrades", "batch", "done")

    def __init__(self, upgrades: "Upgrades", change: EndBatch, done: Callable[[Outcome], None]) -> None:
        super().__init__((change,))
        self._upgrades = upgrades
        self.batch = change.batch
        self.done = done

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """See Entry."""
        self._upgrades.settle_ending(self.batch, outcomes[0])
        self.done(outcomes[0])


class Upgrades:
    """Batches in progress and running rows, and the one way to change them: `decide`.

    The gateway's other rooms hook in: `on_slot_free` (dispatch), `on_stop_transfer(device, batch, attempt)`
    (transfers), `on_batch_ended` (its rows are to be rewritten) and `on_batch_completed`.
    """

    def __init__(
        self,
        store: Store,
        journal: Journal,
        presence: Presence,
        outbox: Outbox,
        clock: Clock,
        board: Board,
    ) -> None:
        self.store = store
        self.journal = journal
        self.presence = presence
        self.outbox = outbox
        self.clock = clock
        self.board = board
        self.batches: dict[int, BatchInProgress] = {}
        self.rows: dict[int, Upgrade] = {}
        self.awaiting: set[int] = set()  # pushed, their message sent or about to be: each holds a push slot
        self.logging_in: set[int] = set()  # connections whose welcome waits for a commit
        self._pending: dict[int, DeviceEntry] = {}  # the last entry of each device that no commit has seen
        self._dirty: dict[int, int] = {}  # device → batch: progress in memory that no commit has seen
        self._again: set[int] = set()  # devices whose decisions this group made again
        self.on_slot_free: Callable[[], None] = lambda: None
        self.on_stop_transfer: Callable[[int, int, int], None] = lambda device, batch, attempt: None
        self.on_batch_ended: Callable[[Batch], None] = lambda batch: None
        self.on_batch_completed: Callable[[Batch], None] = lambda batch: None
        self.acknowledge_timeout_ms = limits.acknowledge_timeout_ms
        self.chunk_bytes = limits.chunk_bytes_default

    # -- reading ---------------------------------------------------------------------------------

    async def newest(self, devices: Sequence[int]) -> list[Upgrade | None]:
        """The newest upgrade of each device, pending decisions included, read as it counts."""
        missing = [device for device in devices if device not in self.rows]
        found: dict[int, Upgrade | None] = {}
        if missing:
            found = dict(zip(missing, await self.store.newest_upgrades(missing), strict=True))
        # memory is asked after the store: what was decided meanwhile is there
        return [self._as_it_counts(self.rows.get(device) or found.get(device)) for device in devices]

    async def of_batch(self, device: int, batch: int) -> Upgrade | None:
        """A device's upgrade in one batch, pending decisions included, read as it counts."""
        found = self.rows.get(device)
        if found is None or found.batch != batch:
            found = (await self.store.upgrades([(device, batch)]))[0]
            newer = self.rows.get(device)
            if newer is not None and newer.batch == batch:
                found = newer
        return self._as_it_counts(found)

    def _as_it_counts(self, upgrade: Upgrade | None) -> Upgrade | None:
        if upgrade is None:
            return None
        batch = self.batches.get(upgrade.batch)
        if batch is None or not batch.ended:
            return upgrade
        return Upgrade(upgrade.device, upgrade.batch, batch.view(upgrade.row))

    def known(self, upgrade: Upgrade) -> bool:
        """Whether a step on it can be made: it has ended, or its batch is in memory (which is a moment
        behind the commit that opens it)."""
        return upgrade.row.ended or upgrade.batch in self.batches

    # -- deciding --------------------------------------------------------------------------------

    def decide(
        self, upgrade: Upgrade, event: Event, *, conn: int = 0, answer: str | None = None, epoch: int = 0
    ) -> Row:
        """Make a step on the device's newest row and see to its effects; returns the row after it.

        `conn`, `answer`: whom an acknowledgement is for. `epoch`: of the session that caused it.
        """
        device, number = upgrade.device, upgrade.batch
        batch = self.batches.get(number)
        row = upgrade.row
        rules = NO_RULES
        if batch is not None:
            rules = batch.rules
            if batch.ended:
                row = batch.view(row)
        step = states.step(row, event, self.clock.now_ms(), rules)
        if not step.durable:
            if step.row is not row:
                self.rows[device] = Upgrade(device, number, step.row)
                self._dirty[device] = number
                self.board.mark_row(number, device)
            if step.effects:
                self._in_order(device, number, step.effects, conn, answer)
            return step.row
        change = Transition(device, number, row.state, row.attempt, step.row, epoch)
        self.rows[device] = Upgrade(device, number, step.row)
        self._dirty.pop(device, None)
        if batch is not None:
            self._note(batch, device, step.row)
        self.submit(Decision(self, change, event, step.effects, conn, answer))
        return step.row

    def answer_over(self, upgrade: Upgrade, event: Event, *, conn: int, answer: str | None) -> None:
        """Answer a report about a batch that is not the device's newest: its row has ended and stays."""
        step = states.step(upgrade.row, event, self.clock.now_ms(), NO_RULES)
        self._in_order(upgrade.device, upgrade.batch, step.effects, conn, answer)

    def submit(self, entry: DeviceEntry) -> None:
        """Queue an entry about a device: answers to it wait behind the entry from now on."""
        self._pending[entry.device] = entry
        self.journal.submit(entry)

    def _note(self, batch: BatchInProgress, device: int, row: Row) -> None:
        """Keep the roster and the push slots in step with a row."""
        batch.roster.update(device, row.state, row.attempt, row.due_ms)
        if row.state == State.PUSHED:
            self.awaiting.add(device)
        elif device in self.awaiting:
            self.awaiting.discard(device)
            self.on_slot_free()

    def _in_order(
        self, device: int, batch: int, effects: Sequence[Effect], conn: int, answer: str | None
    ) -> None:
        """Effects that need no commit of their own."""
        self.after_pending(device, lambda: self._perform(device, batch, effects, conn, answer))

    def after_pending(self, device: int, call: Callable[[], None]) -> None:
        """Call now, or behind whatever of this device waits for its commit (answers must not overtake)."""
        pending = self._pending.get(device)
        if pending is None:
            call()
        else:
            pending.followers.append(call)

    # -- settling --------------------------------------------------------------------------------

    def settle(self, entry: DeviceEntry) -> None:
        """An entry about a device is durable: let go what waited behind it."""
        if self._pending.get(entry.device) is entry:
            del self._pending[entry.device]
        for follow in entry.followers:
            follow()
        self.release(entry.device)

    def settle_decision(self, decision: Decision, outcome: Outcome) -> None:
        """A decision's commit is done: perform its effects, or make it again on the fresh row."""
        if not isinstance(outcome, Transitioned):
            self._decide_again(decision, outcome)
            return
        self._perform(decision.device, decision.batch, decision.effects, decision.conn, decision.answer)
        if outcome.completed is not None:
            self._forget_batch(outcome.completed)
        self.settle(decision)

    def group_settled(self) -> None:
        """Called once after each group."""
        self._again.clear()

    def _decide_again(self, decision: Decision, outcome: Outcome) -> None:
        """The compare-and-set failed: another gateway was faster. Decide on the row that is there now."""
        device = decision.device
        fresh = outcome.row if isinstance(outcome, Stale) else None
        if self._pending.get(device) is decision:
            del self._pending[device]
        if fresh is None:
            log.error("row_gone", device=device, batch=decision.batch)
            self.rows.pop(device, None)
            return
        log.info("decided_again", device=device, batch=decision.batch)
        later: list[Entry] = []
        if device not in self._again:
            # what stands in the queue was decided on the row that never came to be
            later = self.journal.withdraw(
                lambda entry: isinstance(entry, Decision) and entry.device == device
            )
            if self._pending.get(device) in later:
                del self._pending[device]
            self._again.add(device)
            self.rows[device] = Upgrade(device, decision.batch, fresh)
            batch = self.batches.get(decision.batch)
            if batch is not None:
                self._note(batch, device, fresh)
        for entry in (decision, *later):
            assert isinstance(entry, Decision)
            newest = self.rows.get(device)
            if newest is None or newest.batch != entry.batch:
                continue
            epoch = entry.changes[0].epoch if isinstance(entry.changes[0], Transition) else 0
            self.decide(newest, entry.event, conn=entry.conn, answer=entry.answer, epoch=epoch)
            for follow in entry.followers:
                self.after_pending(device, follow)
        self.release(device)

    def release(self, device: int) -> None:
        """Drop the device's row from memory unless it is pending, or the device is online and at work."""
        upgrade = self.rows.get(device)
        if upgrade is None or device in self._pending or device in self._dirty:
            return
        if upgrade.row.state not in RUNNING_STATES or device not in self.presence:
            del self.rows[device]

    # -- performing ------------------------------------------------------------------------------

    def _perform(
        self, device: int, batch: int, effects: Sequence[Effect], conn: int, answer: str | None
    ) -> None:
        for effect in effects:
            kind = type(effect)
            if kind is Ack:
                if answer is not None and self.presence.get(device) == conn:
                    self.outbox.send(conn, messages.Ack(id=answer))
            elif isinstance(effect, SendUpgrade):
                self.send_upgrade(device)
            elif isinstance(effect, Cancel):
                self._cancel(device, batch, effect, conn, answer)
            elif isinstance(effect, StopTransfer):
                self.on_stop_transfer(device, batch, effect.attempt)
            elif isinstance(effect, RefuseUnknown) and self.presence.get(device) == conn:
                self.outbox.send(
                    conn,
                    messages.Error(
                        id=answer,
                        code=ErrorCode.NOT_FOUND,
                        message=f"attempt {effect.attempt} of this batch was never given to this device",
                        field="attempt",
                    ),
                )

    def _cancel(self, device: int, batch: int, effect: Cancel, conn: int, answer: str | None) -> None:
        current = self.presence.get(device)
        if not current or current in self.logging_in:
            return  # told when it next speaks of that attempt
        answers = effect.answers and current == conn
        self.outbox.send(
            current,
            messages.Cancel(
                batch=f"b{batch}",
                attempt=effect.attempt,
                reason=CANCEL_REASONS[effect.reason],
                id=answer if answers else None,
            ),
        )

    def send_upgrade(self, device: int, answer: str | None = None, *, delivery: bool = True) -> bool:
        """Write the upgrade message of the running attempt to the device's session, if it has both.

        In state pushed a delivery starts the 10 s; the answer to a `check` is none.
        """
        conn = self.presence.get(device)
        upgrade = self.rows.get(device)
        if not conn or conn in self.logging_in or upgrade is None or upgrade.row.state not in RUNNING_STATES:
            return False
        batch = self.batches.get(upgrade.batch)
        if batch is None or batch.ended:
            return False
        row = upgrade.row
        if row.state == State.PUSHED and delivery:
            batch.roster.set_clock(device, self.clock.now_ms() + self.acknowledge_timeout_ms)
            batch.roster.count_delivery(device)
            self.awaiting.add(device)
        self.outbox.send(conn, upgrade_message(batch.record, row.attempt, self.chunk_bytes, answer))
        return True

    # -- sessions --------------------------------------------------------------------------------

    def session_ended(self, device: int) -> None:
        """The device's newest session is gone: no clock of an acknowledgement runs, its push slot is free."""
        upgrade = self.rows.get(device)
        if upgrade is not None and upgrade.row.state == State.PUSHED:
            batch = self.batches.get(upgrade.batch)
            if batch is not None:
                batch.roster.set_clock(device, 0)
        if device in self.awaiting:
            self.awaiting.discard(device)
            self.on_slot_free()
        self.release(device)

    def connection_changed(self, device: int) -> None:
        """The device came or went: its row looks different to those who look at it."""
        for number in self.board.watched():
            batch = self.batches.get(number)
            if batch is not None and device in batch.roster:
                self.board.mark_row(number, device)

    def deliveries(self, upgrade: Upgrade) -> int:
        """How often the current attempt's message was sent and not answered."""
        batch = self.batches.get(upgrade.batch)
        return batch.roster.get_deliveries(upgrade.device) if batch is not None else 0

    def flush_progress(self) -> None:
        """Write the percentages that only memory has (coalesced; no state changes with them)."""
        dirty, self._dirty = self._dirty, {}
        for device, number in dirty.items():
            upgrade = self.rows.get(device)
            if upgrade is None or upgrade.batch != number or device in self._pending:
                continue
            row = upgrade.row
            if row.state == State.UPGRADING:
                change = Transition(device, number, row.state, row.attempt, row)
                self.submit(DeviceEntry(self, device, (change,)))

    # -- batches ---------------------------------------------------------------------------------

    def open_batch(self, record: Batch, roster: Roster) -> BatchInProgress:
        """A batch is in progress from now on."""
        batch = BatchInProgress(record, roster)
        self.batches[record.number] = batch
        return batch

    def end_batch(self, number: int, by: str, at_ms: int, done: Callable[[Outcome], None]) -> None:
        """Abort or expire a batch: from this moment every decision sees it ended; the commit follows.

        `done` gets the outcome of EndBatch: a BatchView, or the RequestError that refuses it.
        """
        batch = self.batches.get(number)
        if batch is not None and not batch.ended:
            batch.record = replace(batch.record, status=BatchStatus.ABORTED, ended_at_ms=at_ms, ended_by=by)
        self.journal.submit(_Ending(self, EndBatch(number, by, at_ms), done))

    def settle_ending(self, number: int, outcome: Outcome) -> None:
        """The end of a batch is durable: tell its devices, and let its rows be rewritten."""
        batch = self.batches.get(number)
        if not isinstance(outcome, BatchView) or batch is None:
            return  # it had ended by itself just before
        batch.record = outcome.batch
        expired = outcome.batch.ended_by == "expired"
        event = Expired() if expired else Aborted()
        for device in [device for device, upgrade in self.rows.items() if upgrade.batch == number]:
            row = self.rows[device].row
            if row.state in RUNNING_STATES:
                step = states.step(row, event, self.clock.now_ms(), batch.rules)
                self._perform(device, number, step.effects, 0, None)
            self._drop_row(device)
        self.on_batch_ended(outcome.batch)

    def rows_rewritten(self, number: int) -> None:
        """The rows of an ended batch read from the store as they count: memory may forget it."""
        self.batches.pop(number, None)

    def _forget_batch(self, record: Batch) -> None:
        batch = self.batches.pop(record.number, None)
        if batch is not None:
            log.info("batch_completed", batch=record.id)
            self.on_batch_completed(record)

    def _drop_row(self, device: int) -> None:
        if device not in self._pending:
            self.rows.pop(device, None)
            self._dirty.pop(device, None)
        if device in self.awaiting:
            self.awaiting.discard(device)
            self.on_slot_free()


def upgrade_message(batch: Batch, attempt: int, chunk_bytes: int, answer: str | None) -> messages.Upgrade:
    """The upgrade message of one attempt of a batch. Times in it are Unix seconds."""
    return messages.Upgrade(
        batch=batch.id,
        attempt=attempt,
        policy="silent" if batch.policy == Policy.SILENT else "standard",
        firmware=messages.FirmwareOffer(
            id=batch.firmware_id,
            version=batch.firmware_version,
            size=batch.firmware_size,
            md5=batch.firmware_md5,
            sha256=batch.firmware_sha256,
            chunk_size=chunk_bytes,
        ),
        timeout_s=batch.timeout_minutes * 60,
        expires_at=batch.expires_at_ms // 1000,
        id=answer,
    )


def number_of(batch_id: str) -> int:
    """The number behind a batch's id ("b12" → 12); 0 if it cannot be one."""
    digits = batch_id[1:]
    if (
        batch_id[:1] != "b"
        or not digits.isascii()
        or not digits.isdigit()
        or digits[0] == "0"
        or len(digits) > 15
    ):
        return 0
    return int(digits)
