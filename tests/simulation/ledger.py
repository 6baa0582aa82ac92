"""What is durable, followed commit by commit, and what was decided: the judge of decisions.

The ledger keeps its own copy of all rows, counts and batches. Each decision is judged when it is handed to
the journal (may it be, and is it time?), each commit when it returns (is it what was decided, do the counts
fit?). It does not ask the gateway's rules: what is allowed stands here again, in other words.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from otagate import limits
from otagate.errors import RequestError
from otagate.gateway.deadlines import TICK_MS_MIN
from otagate.gateway.journal import Entry
from otagate.store import records, tables
from otagate.store.interface import (
    Batch,
    BatchView,
    Change,
    DeleteDevice,
    EndBatch,
    OpenBatch,
    Outcome,
    RegisterDevices,
    ReportVersion,
    Transition,
    Transitioned,
)
from otagate.store.operators import Audited
from otagate.store.snapshot import Snapshot
from otagate.upgrade.model import RUNNING_STATES, BatchStatus, Cause, Remark, Row, Rules, State
from otagate.upgrade.states import effective

if TYPE_CHECKING:
    from tests.simulation.world import World

Key = tuple[int, int]

TO_BE_PUSHED, PUSHED, TO_BE_UPGRADED, UPGRADING, TO_BE_RETRIED, SUCCEEDED, FAILED = State

# From each state, where an upgrade may go next, and by which causes.
_FAILURE = {
    PUSHED: {Cause.ACK_TIMEOUT, Cause.RETURNED_UNANSWERED, Cause.REPORTED_FAILURE, Cause.CLAIMED_SUCCESS},
    TO_BE_UPGRADED: {Cause.REPORTED_FAILURE, Cause.CLAIMED_SUCCESS},
    UPGRADING: {Cause.REPORTED_FAILURE, Cause.CLAIMED_SUCCESS, Cause.UPGRADE_TIMEOUT},
}
_FORWARD = {
    (TO_BE_PUSHED, PUSHED): {Cause.PUSHED},
    (TO_BE_RETRIED, PUSHED): {Cause.RETRY},
    (PUSHED, TO_BE_UPGRADED): {Cause.ACKNOWLEDGED},
    (PUSHED, UPGRADING): {Cause.PROGRESS, Cause.CHUNK},
    (TO_BE_UPGRADED, UPGRADING): {Cause.PROGRESS, Cause.CHUNK},
}
_SUCCESS = {
    (state, SUCCEEDED): {Cause.REPORTED_VERSION}
    for state in (TO_BE_PUSHED, PUSHED, TO_BE_UPGRADED, UPGRADING, TO_BE_RETRIED)
}
ALLOWED: dict[tuple[State, State], set[Cause]] = (
    _FORWARD
    | _SUCCESS
    | {(state, target): causes for state, causes in _FAILURE.items() for target in (TO_BE_RETRIED, FAILED)}
)


class Ledger:
    """See the module. `batches`, `rows`: durable; `decided`: handed to the journal, by the newest."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.batches: dict[int, Batch] = {}
        self.members: dict[int, list[int]] = {}
        self.rows: dict[Key, Row] = {}
        self.open: dict[int, int] = {}  # device → batch of its upgrade that has not ended
        self.counts: dict[int, list[int]] = {}
        self.versions: defaultdict[int, set[str]] = defaultdict(set)  # device → all that it ever reported
        self.totals: dict[int, int] = {}
        self.commits = 0
        self.ended_in: dict[Key, int] = {}  # an attempt ended in this commit
        self.opened_ms: dict[int, int] = {}
        self.decided: dict[Key, Row] = {}
        self.last_push_ms = 0

    # -- reading ---------------------------------------------------------------------------------

    def open_rows(self, batch: int) -> int:
        """Rows of a batch that have not ended."""
        return sum(self.counts[batch][state] for state in State if state < SUCCEEDED)

    def rules(self, batch: Batch) -> Rules:
        """The rules of a batch."""
        return Rules(
            batch.firmware_version,
            batch.retries,
            (batch.retry_interval_minutes or 0) * 60_000,
            batch.timeout_minutes * 60_000,
            batch.expires_at_ms,
        )

    def running(self, device: int, batch: int, attempt: int) -> bool:
        """Whether this attempt is durably with the device."""
        row = self.rows.get((device, batch))
        return row is not None and row.attempt == attempt and row.state in RUNNING_STATES

    def over(self, device: int, batch: int, attempt: int) -> bool:
        """Whether this attempt was given to the device and is durably over."""
        row = self.rows.get((device, batch))
        return row is not None and 1 <= attempt <= row.attempt and not self.running(device, batch, attempt)

    def _newest(self, key: Key) -> Row | None:
        return self.decided.get(key) or self.rows.get(key)

    # -- decisions -------------------------------------------------------------------------------

    def watch(self, submit: Callable[[Entry], None]) -> Callable[[Entry], None]:
        """The journal's `submit`, with every decision judged on its way."""

        def watched(entry: Entry) -> None:
            for change in entry.changes:
                if isinstance(change, Audited):
                    change = change.change
                kind = type(change)
                if kind is Transition:
                    self._decision(change)
                elif kind is ReportVersion:
                    self._world.judge.spoken(change.epoch)
                elif kind is EndBatch:
                    self._ending(change)
            submit(entry)

        return watched

    def _decision(self, change: Transition) -> None:
        world = self._world
        key = change.device, change.batch
        row, state = change.row, change.expected_state
        world.judge.spoken(change.epoch)
        before = self._newest(key)
        batch = self.batches.get(change.batch)
        if before is None or batch is None or before.state != state:
            if before is not None and world.plan.rivals:
                self.decided[key] = row  # again, on what another gateway has made of the row
            return
        if row.state != state:
            self._judge_move(change, batch, before, row)
        elif state < SUCCEEDED and not any(
            (row.timeline, row.due_ms) == (former.timeline, former.due_ms)
            for former in (
                before,
                self.rows.get(key, before) if world.plan.rivals else before,
            )  # what a rival left
        ):
            world.violate("one move", f"{key} stays {state.label} and has another timeline or due time")
        self.decided[key] = row

    def _judge_move(self, change: Transition, batch: Batch, before: Row, row: Row) -> None:
        world = self._world
        key = change.device, change.batch
        cause = row.timeline[-1].cause
        now_ms = world.gateway_ms
        if before.state >= SUCCEEDED:
            world.violate("ended stays", f"{key} had ended {before.state.label}, is {row.state.label}")
        if cause not in ALLOWED.get((before.state, row.state), ()):
            text = f"{key} went from {before.state.label} to {row.state.label} by {cause.label}"
            world.violate("allowed moves", text)
        if row.attempt != before.attempt + (row.state == PUSHED):
            world.violate("attempts", f"{key} went from attempt {before.attempt} to {row.attempt}")
        if row.attempt > 1 + batch.retries:
            world.violate("retries", f"{key} is at attempt {row.attempt} of {1 + batch.retries}")
        if row.state == PUSHED:
            self._judge_push(key, batch, before, now_ms)
        elif row.state == UPGRADING:
            due_ms = now_ms + batch.timeout_minutes * 60_000
            if row.due_ms != due_ms:
                world.violate("time-out clock", f"{key} is due at {row.due_ms}, not {due_ms}")
        elif row.state in (TO_BE_RETRIED, FAILED):
            self._judge_failure(key, batch, before, row, cause, now_ms)
        elif row.state == SUCCEEDED:
            self._judge_success(key, batch, row)
        world.trace("decided", *key, row.state.label, row.attempt, cause.label)

    def _judge_push(self, key: Key, batch: Batch, before: Row, now_ms: int) -> None:
        world = self._world
        self.last_push_ms = world.now_ms
        if before.state == TO_BE_RETRIED and now_ms < before.due_ms:
            world.violate("retry clock", f"{key} is pushed {before.due_ms - now_ms} ms before it is due")
        if world.judge.slots_held() >= world.plan.pushes_max:
            world.violate("push slots", f"{key} is pushed with {world.plan.pushes_max} on their way")
        if world.wall_is_known and world.wall_ms >= batch.expires_at_ms + world.late_ms:
            world.violate("validity", f"{key} is pushed after its validity")
        if batch.status != BatchStatus.IN_PROGRESS:
            world.violate("ended batch", f"{key} is pushed and its batch has ended")

    def _judge_failure(
        self, key: Key, batch: Batch, before: Row, row: Row, cause: Cause, now_ms: int
    ) -> None:
        world = self._world
        if cause == Cause.ACK_TIMEOUT:
            world.judge.acknowledgement_overdue(key, before.attempt)
        elif cause == Cause.RETURNED_UNANSWERED:
            world.judge.deliveries_spent(key, before.attempt)
        elif cause == Cause.UPGRADE_TIMEOUT:
            due_ms = before.due_ms
            if due_ms <= world.started_ms:
                due_ms = world.started_ms + world.grace_ms
            if now_ms < due_ms:
                world.violate("time-out clock", f"{key} times out {due_ms - now_ms} ms early")
        retry_ms = now_ms + (batch.retry_interval_minutes or 0) * 60_000
        left = row.attempt <= batch.retries
        if row.state == TO_BE_RETRIED and row.due_ms != retry_ms:
            world.violate("retry clock", f"{key} is due again at {row.due_ms}, not {retry_ms}")
        if not world.wall_is_known:
            return
        within = world.wall_of(retry_ms) < batch.expires_at_ms
        margin_ms = abs(world.wall_of(retry_ms) - batch.expires_at_ms)
        if margin_ms > world.wall_slack_ms and (row.state == TO_BE_RETRIED) != (left and within):
            text = f"{key} is {row.state.label} with a retry {'left' if left else 'spent'}"
            world.violate("retries", f"{text}, its time {'within' if within else 'beyond'} the validity")

    def _judge_success(self, key: Key, batch: Batch, row: Row) -> None:
        """By the version that the device has told, never by its word."""
        target = batch.firmware_version
        with self._world.store.view() as view:
            device = Snapshot(view).device(key[0])
        told = self._world.judge.told[device.product, device.identifier] if device is not None else set()
        if row.version != target or target not in told:
            text = f"{key} has succeeded with {row.version!r}, the target is {target}, told were {told}"
            self._world.violate("success", text)

    def _ending(self, change: EndBatch) -> None:
        world = self._world
        batch = self.batches.get(change.batch)
        if batch is None or change.by != "expired" or not world.wall_is_known:
            return
        early_ms = batch.expires_at_ms - world.wall_ms
        if early_ms > world.wall_slack_ms:
            world.violate("validity", f"batch {change.batch} expires {early_ms} ms early")

    # -- commits ---------------------------------------------------------------------------------

    def committed(self, changes: Sequence[Change], outcomes: Sequence[Outcome]) -> None:
        """A commit has returned."""
        self.commits += 1
        self._world.active()
        touched: dict[int, None] = {}
        moved: dict[Key, None] = {}
        for change, outcome in zip(changes, outcomes, strict=True):
            if isinstance(change, Audited):
                change = change.change
            kind = type(change)
            if kind is Transition:
                if isinstance(outcome, Transitioned):
                    self._transitioned(change, outcome)
                    moved[change.device, change.batch] = None
                touched[change.batch] = None
            elif isinstance(outcome, RequestError):
                continue
            elif kind is ReportVersion:
                self.versions[change.device].add(change.version)
            elif kind is OpenBatch and isinstance(outcome, BatchView):
                self._opened(outcome)
                touched[change.batch] = None
            elif kind is EndBatch and isinstance(outcome, BatchView):
                self._ended(outcome.batch)
                touched[change.batch] = None
            elif kind is DeleteDevice and outcome.number in self.open:
                self._world.violate("deletion", f"device {outcome.number} was deleted in mid-upgrade")
            elif kind is RegisterDevices:
                self._world.trace("registered", len(outcome))
        for key in moved:
            row, head = self.rows[key], self._world.store.head(*key)
            batch = self.batches[key[1]]
            if head != (row.state, row.attempt, row.due_ms) and batch.status != BatchStatus.ABORTED:
                self._world.violate("commits", f"{key} is {head} after a commit of {row}")
        with self._world.store.view() as view:
            snapshot = Snapshot(view)
            for number in touched:
                self._check_counts(snapshot, number)

    def _transitioned(self, change: Transition, outcome: Transitioned) -> None:
        world = self._world
        key = change.device, change.batch
        before, row = self.rows.get(key), change.row
        if before is None:
            world.violate("compare and set", f"a transition of {key}, which there is not")
            return
        if (before.state, before.attempt) != (change.expected_state, change.expected_attempt):
            text = (
                f"{key} was {before.state.label} {before.attempt}, decided on {change.expected_state.label}"
            )
            world.violate("compare and set", f"{text} {change.expected_attempt}")
        self._put(key, row)
        if self.decided.get(key) is row:
            del self.decided[key]
        cause = row.timeline[-1].cause if row.timeline else None
        gateways_own = (Cause.ACK_TIMEOUT, Cause.UPGRADE_TIMEOUT, Cause.RETURNED_UNANSWERED)
        if row.state != before.state and cause in gateways_own:
            world.judge.must_cancel(change.device, change.batch, row.attempt)
        if (outcome.completed is not None) != (row.state != before.state and not self.open_rows(key[1])):
            world.violate("status", f"batch {key[1]} is completed with {self.open_rows(key[1])} open rows")
        if outcome.completed is not None:
            self._finish(outcome.completed)
        world.trace("committed", *key, row.state.label, row.attempt)

    def _put(self, key: Key, row: Row) -> None:
        before = self.rows[key]
        self.rows[key] = row
        if before.state == row.state:
            return
        device, batch = key
        counts = self.counts[batch]
        counts[before.state] -= 1
        counts[row.state] += 1
        if row.state not in RUNNING_STATES:
            self.ended_in[key] = self.commits
        if row.state >= SUCCEEDED and self.open.get(device) == batch:
            del self.open[device]

    def _finish(self, batch: Batch) -> None:
        known = self.batches[batch.number]
        if known.status != BatchStatus.IN_PROGRESS:
            self._world.violate("status", f"batch {batch.number} was {known.status.label}, ends again")
        self.batches[batch.number] = batch

    def _opened(self, view: BatchView) -> None:
        self.adopt(view.batch)
        for device in self.members[view.batch.number]:
            if device in self.open:
                self._world.violate("one open upgrade", f"device {device} has two")
            self.open[device] = view.batch.number
        self._world.trace("opened", view.batch.number, view.counts.total)

    def adopt(self, batch: Batch) -> None:
        """Take a batch and its rows over from the store."""
        number = batch.number
        with self._world.store.view() as view:
            snapshot = Snapshot(view)
            self.members[number] = list(snapshot.members_after(number, 0))
            counts = [0] * (len(State) + 1)
            for device in self.members[number]:
                upgrade = snapshot.upgrade(device, number)
                assert upgrade is not None
                self.rows[device, number] = upgrade.row
                counts[upgrade.row.state] += 1
        self.counts[number] = counts
        self.batches[number] = batch
        self.opened_ms[number] = self._world.now_ms
        self.totals.setdefault(number, sum(counts))
        if self.totals[number] != sum(counts):
            self._world.violate("total", f"batch {number} had {self.totals[number]} rows, has {sum(counts)}")

    def _ended(self, batch: Batch) -> None:
        self._finish(batch)
        cause = Cause.EXPIRED if batch.ended_by == "expired" else Cause.ABORTED
        for device in self.members[batch.number]:
            key = device, batch.number
            row = self.rows[key]
            if row.state < SUCCEEDED:
                if row.state in RUNNING_STATES:
                    self._world.judge.must_cancel(device, batch.number, row.attempt)
                self._put(key, effective(row, batch.status, batch.ended_at_ms or 0, cause))
                assert self.rows[key].remark == Remark.TASK_ABORTED
                self.decided.pop(key, None)
        self._world.trace("ended", batch.number, batch.ended_by)

    def moved_by_rival(self, device: int, batch: int, row: Row) -> None:
        """Another gateway has moved a row."""
        self._put((device, batch), row)
        self.decided[device, batch] = row
        self._world.trace("rival", device, batch, row.state.label)

    def _check_counts(self, snapshot: Snapshot, number: int) -> None:
        counts = self.counts.get(number)
        if counts is not None and list(snapshot.counts(number).numbers) != counts[1:]:
            text = f"batch {number} counts {snapshot.counts(number).numbers}, its rows are {counts[1:]}"
            self._world.violate("counts", text)

    # -- restarts --------------------------------------------------------------------------------

    def restarted(self) -> None:
        """Memory is gone: take over what the store has, which must not be behind what was known."""
        before = dict(self.rows)
        self.decided.clear()
        with self._world.store.view() as view:
            snapshot = Snapshot(view)
            batches = [snapshot.batch(number) for number in range(1, self._last_number() + 1)]
            for _, value in tables.scan(view, tables.DEVICES, b""):
                device = records.unpack_device(value)
                if device.version is not None:
                    self.versions[device.number].add(device.version)  # by a commit that nobody saw return
        for batch in batches:
            if batch is not None and batch.status != BatchStatus.CREATING:
                known = self.batches.get(batch.number)
                if known is not None and known.status not in (BatchStatus.IN_PROGRESS, batch.status):
                    self._world.violate("status", f"batch {batch.number} went back")
                self.adopt(batch)
        self.open = {device: number for (device, number), row in self.rows.items() if row.state < SUCCEEDED}
        for key, row in before.items():
            now = self.rows[key]
            if now.attempt < row.attempt or (row.state >= SUCCEEDED and now.state != row.state):
                self._world.violate("durability", f"{key} was {row}, is {now} after a restart")

    def _last_number(self) -> int:
        return max(self._world.numbers(), default=0)

    def next_due_ms(self) -> int:
        """When, by the gateway's clock, the next row or batch falls due; far away if none does.

        One that fell due just now counts too: the tick that sees to it may be as far away as ticks keep.
        """
        world = self._world
        dues = [2**53]
        for number, batch in self.batches.items():
            if batch.status == BatchStatus.IN_PROGRESS:
                dues.append(batch.expires_at_ms - world.wall_ms + world.gateway_ms)
                dues.extend(
                    self.due_of(row)
                    for device in self.members[number]
                    if (row := self.rows[device, number]).due_ms
                )
        return min(due for due in dues if due >= world.gateway_ms - TICK_MS_MIN)

    def due_of(self, row: Row) -> int:
        """When a row falls due, the grace after a start included."""
        if row.state == UPGRADING and row.due_ms <= self._world.started_ms:
            return self._world.started_ms + self._world.grace_ms
        return row.due_ms


assert limits.deliveries_max == 3
