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
from otagate.gateway.entries import Again, Answer, Decision, DeviceEntry, Ending
from otagate.gateway.in_progress import NO_RULES, BatchInProgress
from otagate.gateway.journal import Journal
from otagate.gateway.offers import upgrade_message
from otagate.gateway.outbox import Outbox
from otagate.gateway.progress import ProgressReports
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
from otagate.upgrade.events import Event, PushTurn
from otagate.upgrade.model import RUNNING_STATES, BatchStatus, Row, Rules, State
from otagate.wire import messages
from otagate.wire.constants import CancelReason, ErrorCode

log = logs.get("upgrades")

_BATCH_ID = re.compile(r"b[1-9][0-9]{0,14}", re.ASCII)

# The rules and the protocol name the same reasons apart from each other (rooms that do not know each other).
CANCEL_REASONS = {
    Reason.ABORTED: CancelReason.ABORTED,
    Reason.EXPIRED: CancelReason.EXPIRED,
    Reason.TIMED_OUT: CancelReason.TIMED_OUT,
    Reason.NOT_ACKNOWLEDGED: CancelReason.NOT_ACKNOWLEDGED,
    Reason.OVER: CancelReason.ENDED,
}


Wrap = Callable[[Change], Change]  # what an operator does is written with an entry of the audit log


def as_it_is(change: Change) -> Change:
    """A change that nobody asked for."""
    return change


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
        self._pushing: set[int] = set()  # devices whose push no commit has seen: their message is on its way
        self._endings: dict[int, Ending] = {}  # batch → its end, which no commit has seen
        self._again: dict[int, Again] = {}  # devices with a decision of this group that is made again
        self._place = 0  # of the last entry
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

    def decide(self, upgrade: Upgrade, event: Event, *, conn: int = 0, answer: str | None = None) -> Row:
        """Make a step on the device's newest row and see to its effects; returns the row after it.

        `conn`: the session that caused it, 0 for clocks; `answer`: what an acknowledgement to it answers.
        """
        device, number = upgrade.device, upgrade.batch
        batch = self.batches.get(number)
        row = upgrade.row
        rules = NO_RULES
        if batch is not None:
            rules = self._rules_now(batch)
            if batch.ended:
                row = batch.view(row)
        step = states.step(row, event, self.clock.now_ms(), rules)
        if not step.durable:
            if step.row is not row:
                self.rows[device] = Upgrade(device, number, step.row)
                self._dirty[device] = number
                self.board.mark_row(number, device)
            if step.effects:
                self._in_order(device, number, step.effects, event, conn, answer)
            return step.row
        change = Transition(device, number, row.state, row.attempt, step.row, conn)
        self.rows[device] = Upgrade(device, number, step.row)
        self._dirty.pop(device, None)
        if batch is not None:
            self._note(batch, device, step.row)
        if type(event) is PushTurn:
            self._pushing.add(device)
        self.submit(Decision(self, change, event, step.effects, conn, answer))
        return step.row

    def progress_reports(self) -> ProgressReports:
        """The short way for reports that set no more than a percentage."""
        return ProgressReports(
            self.presence,
            self.outbox,
            self.decide,
            self.rows,
            self._pending,
            self._endings,
            self.batches,
        )

    def answer_over(self, upgrade: Upgrade, event: Event, *, conn: int, answer: str | None) -> None:
        """Answer a report about a batch that is not the device's newest: its row has ended and stays."""
        step = states.step(upgrade.row, event, self.clock.now_ms(), NO_RULES)
        self._in_order(upgrade.device, upgrade.batch, step.effects, event, conn, answer)

    def _rules_now(self, batch: BatchInProgress) -> Rules:
        """The rules in the gateway's time: a step of the wall clock moves the end of the validity."""
        step_ms = self.clock.step_ms
        if not step_ms:
            return batch.rules
        return replace(batch.rules, expires_at_ms=batch.rules.expires_at_ms - step_ms)

    def submit(self, entry: DeviceEntry) -> None:
        """Queue an entry about a device: answers to it wait behind the entry from now on."""
        self._place += 1
        entry.place = self._place
        self._pending[entry.device] = entry
        self.journal.submit(entry)

    def can_amend(self, entry: DeviceEntry) -> bool:
        """Whether other changes may stand in the entry's place: nothing of its device came behind it, and no
        commit has begun with it."""
        return not entry.taken and self._pending.get(entry.device) is entry

    def _note(self, batch: BatchInProgress, device: int, row: Row) -> None:
        """Keep the roster and the push slots in step with a row."""
        batch.roster.update(device, row.state, row.attempt, row.due_ms)
        if row.state == State.PUSHED:
            if device in self.presence:
                self.awaiting.add(device)
        else:
            self._free_slot(device)

    def _free_slot(self, device: int) -> None:
        if device in self.awaiting:
            self.awaiting.discard(device)
            self.on_slot_free()

    def _in_order(
        self,
        device: int,
        batch: int,
        effects: Sequence[Effect],
        event: Event,
        conn: int,
        answer: str | None,
    ) -> None:
        """Effects that need no commit of their own."""
        if device in self._pending or self._endings:

            def perform() -> None:
                self._perform(device, batch, effects, conn, answer)

            self.after_pending(device, Answer(perform, batch, event, conn, answer))
        else:
            self._perform(device, batch, effects, conn, answer)

    def after_pending(self, device: int, call: Callable[[], None]) -> None:
        """Call now, or behind whatever of this device waits for its commit (answers must not overtake)."""
        pending = self._pending.get(device)
        if self._endings:
            pending = self._behind_ending(device, pending)
        if pending is None:
            call()
        else:
            pending.followers.append(call)

    def answers_waiting(self, device: int) -> int:
        """Answers to the device that wait for its newest entry's commit."""
        pending = self._pending.get(device)
        return 0 if pending is None else len(pending.followers)

    def _behind_ending(self, device: int, pending: DeviceEntry | None) -> DeviceEntry | None:
        """The entry that answers to the device wait for.

        While the end of its batch waits for its commit, an answer that knows of it must not leave: it waits
        for an entry behind that end, an empty one if need be.
        """
        ending = self._ending_of(device)
        if ending is None or (pending is not None and pending.place > ending.place):
            return pending
        behind = DeviceEntry(self, device, ())
        self.submit(behind)
        return behind

    def _ending_of(self, device: int) -> Ending | None:
        """The end of a batch of this device that waits for its commit. One that came back meanwhile has no
        row in memory: its upgrade was read as over."""
        upgrade = self.rows.get(device)
        if upgrade is not None:
            return self._endings.get(upgrade.batch)
        for number, ending in self._endings.items():
            batch = self.batches.get(number)
            if batch is not None and device in batch.roster:
                return ending
        return None

    def is_being_pushed(self, device: int) -> bool:
        """Whether the upgrade message leaves with a commit to come, to whichever session there is then."""
        return device in self._pushing

    # -- settling --------------------------------------------------------------------------------

    def settle(self, entry: DeviceEntry) -> None:
        """An entry about a device is durable: let go what waited behind it."""
        again = self._again.get(entry.device)
        if again is not None:
            again.entries.append((entry, True))  # behind what is decided again
            return
        if self._pending.get(entry.device) is entry:
            del self._pending[entry.device]
        for follow in entry.followers:
            follow()
        self.release(entry.device)

    def settle_decision(self, decision: Decision, outcome: Outcome) -> None:
        """A decision's commit is done: perform its effects, or make it again on the fresh row."""
        device = decision.device
        if type(decision.event) is PushTurn:
            self._pushing.discard(device)
        again = self._again.get(device)
        if isinstance(outcome, Stale) and outcome.row is not None:
            log.info("decided_again", device=device, batch=decision.batch)
            if again is None:
                again = self._again[device] = Again(Upgrade(device, decision.batch, outcome.row))
            again.entries.append((decision, False))
            return
        if isinstance(outcome, Transitioned):
            if again is not None:
                # it was made on a row that never came to be, and yet fits the one that did
                again.fresh = Upgrade(device, decision.batch, decision.transition.row)
            else:
                self._perform(device, decision.batch, decision.effects, decision.conn, decision.answer)
            if outcome.completed is not None:
                self._forget_batch(outcome.completed)
        else:
            log.error("row_gone", device=device, batch=decision.batch)
            self.rows.pop(device, None)
        self.settle(decision)

    def group_settled(self) -> None:
        """Called once after each group."""
        again, self._again = self._again, {}
        for device, found in again.items():
            self._decide_again(device, found)

    def _decide_again(self, device: int, again: Again) -> None:
        """A compare-and-set failed: another gateway was faster. Decide anew on the row that is there now,
        also what stands in the queue: it was decided on a row that never came to be."""
        entries = again.entries
        for entry in self.journal.withdraw(
            lambda entry: isinstance(entry, Decision) and entry.device == device
        ):
            assert isinstance(entry, Decision)
            entries.append((entry, False))
        if any(entry is self._pending.get(device) for entry, _ in entries):
            del self._pending[device]
        self._pushing.discard(device)
        self._dirty.pop(device, None)
        self.rows[device] = again.fresh
        batch = self.batches.get(again.fresh.batch)
        if batch is not None:
            self._note(batch, device, again.fresh.row)
        for entry, is_durable in entries:
            if isinstance(entry, Decision):
                if is_durable:
                    self._in_order(device, entry.batch, entry.effects, entry.event, entry.conn, entry.answer)
                else:
                    self._decide_anew(device, entry)
            for follow in entry.followers:
                if isinstance(follow, Answer):
                    self._decide_anew(device, follow)
                else:
                    self.after_pending(device, follow)
        self.release(device)

    def _decide_anew(self, device: int, what: Decision | Answer) -> None:
        newest = self.rows.get(device)
        if newest is not None and newest.batch == what.batch:
            self.decide(newest, what.event, conn=what.conn, answer=what.answer)
        elif isinstance(what, Answer):
            self.after_pending(device, what)

    def release(self, device: int) -> None:
        """Drop the device's row from memory unless it is pending, or the device is online and at work."""
        upgrade = self.rows.get(device)
        if upgrade is None or device in self._pending or device in self._dirty:
            return
        over = upgrade.batch not in self._endings and not self._is_in_progress(upgrade.batch)
        if over or upgrade.row.state not in RUNNING_STATES or device not in self.presence:
            del self.rows[device]

    def is_at_work(self, upgrade: Upgrade) -> bool:
        """Whether the attempt is with the device, and its batch in progress."""
        return upgrade.row.state in RUNNING_STATES and self._is_in_progress(upgrade.batch)

    def _is_in_progress(self, number: int) -> bool:
        batch = self.batches.get(number)
        return batch is not None and not batch.ended

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
        if batch is None or batch.ended or device in self._pushing:
            return False
        if self.clock.validity_now_ms() >= batch.record.expires_at_ms:
            return False  # its end is a moment away
        row = upgrade.row
        if row.state == State.PUSHED and delivery:
            batch.roster.set_clock(device, self.clock.now_ms() + self.acknowledge_timeout_ms)
            batch.roster.count_delivery(device)
            self.awaiting.add(device)
        offer = batch.offers.get(row.attempt)
        if offer is None or answer is not None:
            offer = messages.encode(upgrade_message(batch.record, row.attempt, self.chunk_bytes, answer))
            if answer is None:
                batch.offers[row.attempt] = offer
        self.outbox.send_encoded(conn, offer)
        return True

    # -- sessions --------------------------------------------------------------------------------

    def session_ended(self, device: int) -> None:
        """The device's newest session is gone: no clock of an acknowledgement runs, its push slot is free."""
        upgrade = self.rows.get(device)
        if upgrade is not None and upgrade.row.state == State.PUSHED:
            batch = self.batches.get(upgrade.batch)
            if batch is not None:
                batch.roster.set_clock(device, 0)
        self._free_slot(device)
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
            if upgrade is None or upgrade.batch != number:
                continue
            if device in self._pending:
                self._dirty[device] = number  # next time
                continue
            row = upgrade.row
            if row.state == State.UPGRADING and self._is_in_progress(number):
                change = Transition(device, number, row.state, row.attempt, row)
                self.submit(DeviceEntry(self, device, (change,)))
            else:
                self.release(device)  # its batch has ended meanwhile

    # -- batches ---------------------------------------------------------------------------------

    def open_batch(self, record: Batch, roster: Roster) -> BatchInProgress:
        """A batch is in progress from now on."""
        batch = BatchInProgress(record, roster)
        self.batches[record.number] = batch
        return batch

    def end_batch(
        self, number: int, by: str, at_ms: int, done: Callable[[Outcome], None], wrap: Wrap = as_it_is
    ) -> None:
        """Abort or expire a batch: from this moment every decision sees it ended; the commit follows.

        `done` gets the outcome of EndBatch: a BatchView, or the RequestError that refuses it. `wrap` makes
        the change that is written of it.
        """
        batch = self.batches.get(number)
        if batch is not None and not batch.ended:
            batch.record = replace(batch.record, status=BatchStatus.ABORTED, ended_at_ms=at_ms, ended_by=by)
        running = [
            (upgrade.device, upgrade.row.attempt)
            for upgrade in self.rows.values()
            if upgrade.batch == number and upgrade.row.state in RUNNING_STATES
        ]
        self._place += 1
        ending = Ending(self, number, wrap(EndBatch(number, by, at_ms)), done, running, self._place)
        self._endings.setdefault(number, ending)
        self.journal.submit(ending)

    def settle_ending(self, ending: Ending, outcome: Outcome) -> None:
        """The end of a batch is durable: tell its devices, and let its rows be rewritten."""
        number = ending.batch
        if self._endings.get(number) is ending:
            del self._endings[number]
        batch = self.batches.get(number)
        if not isinstance(outcome, BatchView) or batch is None:
            return  # it had ended by itself just before
        batch.record = outcome.batch
        reason = Reason.EXPIRED if outcome.batch.ended_by == "expired" else Reason.ABORTED
        for device, attempt in ending.running:
            self._perform(device, number, (Cancel(attempt, reason), StopTransfer(attempt)), 0, None)
        for device in [device for device, upgrade in self.rows.items() if upgrade.batch == number]:
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
        self._dirty.pop(device, None)  # or its row would outlive what is pending, and the batch
        if device not in self._pending:
            self.rows.pop(device, None)
        self._free_slot(device)


def number_of(batch_id: str) -> int:
    """The number behind a batch's id ("b12" → 12); 0 if it cannot be one."""
    return int(batch_id[1:]) if _BATCH_ID.fullmatch(batch_id) else 0
