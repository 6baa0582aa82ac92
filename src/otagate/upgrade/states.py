"""The one file that moves a device upgrade: a table of (state, event), and `step`.

The rules of this file:

1. Every change of a row goes through `step`; nobody else builds a row from a row.
2. What is not in the table changes nothing and is `refused`: the gateway's own event came too late
   (a time-out overtaken by a report, a second turn). Every report of a device is in the table in every
   state, because every report is answered.
3. Success is judged by the version that the device reports, never by its word: the target version ends an
   open upgrade as succeeded, in whichever report, of whichever attempt, even beside "failed".
4. A report counts for the current attempt only. An attempt from 1 to the row's that is over is answered
   by ack, then cancel; any other number was never given to this device and is refused as unknown.
5. Ack is leave to burn. So a report of stage burning about an attempt that is over is answered by cancel
   alone: safety wins over the rule of two answers.
6. An attempt's time-out begins once, with its first progress report or its first chunk. Percentages are
   recorded as the device tells them, also when they fall: it may have started again.
7. What ended never changes; a later version report adds a timeline entry when the version is news.

Invariants (tests/upgrade/test_states_properties.py): `attempt` never falls and never exceeds
1 + retries; `due_ms` is set exactly in to_be_retried and upgrading; timeline times never fall; an event
that arrives twice moves the row once. A row has at most 4 transitions an attempt, so the timeline holds
them all, and only later version reports are ever displaced.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from otagate import limits
from otagate.upgrade.effects import (
    Ack,
    Cancel,
    CancelReason,
    Effect,
    RefuseUnknown,
    SendUpgrade,
    StopTransfer,
)
from otagate.upgrade.events import (
    EVENT_TYPES,
    Aborted,
    Acknowledged,
    AckTimeout,
    AttemptReport,
    ChunkWritten,
    Event,
    Expired,
    Progress,
    PushTurn,
    Result,
    Returned,
    UpgradeTimeout,
    VersionReported,
)
from otagate.upgrade.model import (
    OPEN_STATES,
    RUNNING_STATES,
    BatchStatus,
    Cause,
    Outcome,
    Remark,
    Row,
    Rules,
    Stage,
    State,
    TimelineEntry,
)

TO_BE_PUSHED = State.TO_BE_PUSHED
PUSHED = State.PUSHED
TO_BE_UPGRADED = State.TO_BE_UPGRADED
UPGRADING = State.UPGRADING
TO_BE_RETRIED = State.TO_BE_RETRIED
SUCCEEDED = State.SUCCEEDED
FAILED = State.FAILED
_BURNING = Stage.BURNING


class Step(msgspec.Struct, frozen=True, gc=False):
    """What came of an event: the row (the very same object if it did not change) and the effects.

    durable   the row must be committed before the effects are performed; a changed row that is not
              durable carries only stage and progress, and may be written later, coalesced
    refused   the pair is not in the table, or its attempt or time is not now: nothing changed
    """

    row: Row
    effects: tuple[Effect, ...] = ()
    durable: bool = False
    refused: bool = False


Handler = Callable[[Row, Any, int, Rules], Step]

_ACK = Ack()
_ONLY_ACK: tuple[Effect, ...] = (_ACK,)
_SEND: tuple[Effect, ...] = (SendUpgrade(),)

_REASONS = {
    Cause.ABORTED: CancelReason.ABORTED,
    Cause.EXPIRED: CancelReason.EXPIRED,
    Cause.UPGRADE_TIMEOUT: CancelReason.TIMED_OUT,
    Cause.ACK_TIMEOUT: CancelReason.NOT_ACKNOWLEDGED,
    Cause.RETURNED_UNANSWERED: CancelReason.NOT_ACKNOWLEDGED,
}


# -- how a row changes -----------------------------------------------------------------------------


def _moved(
    row: Row,
    state: State,
    now_ms: int,
    cause: Cause,
    *,
    due_ms: int = 0,
    attempt: int | None = None,
    remark: Remark | None = None,
    detail: str | None = None,
    stage: Stage | None = None,
    progress: int | None = None,
    version: str | None = None,
) -> Row:
    """The row in its new state, with the transition in its timeline and no deadline unless given.

    What is None stays as it is. Built by position, which is faster than `replace`.
    """
    timeline = row.timeline
    at_ms = now_ms
    if timeline and timeline[-1].at_ms > now_ms:
        # An end in the past (validity that ran out while we were down) must not turn the timeline back.
        at_ms = timeline[-1].at_ms
    if attempt is None:
        attempt = row.attempt
    if remark is None:
        remark = row.remark
    return Row(
        state,
        attempt,
        due_ms,
        remark,
        row.detail if detail is None else detail,
        row.stage if stage is None else stage,
        row.progress if progress is None else progress,
        row.version if version is None else version,
        at_ms if state >= SUCCEEDED else row.completed_at_ms,
        (*timeline, TimelineEntry(at_ms, state, remark, cause, attempt)),
    )


def _failure(
    row: Row, now_ms: int, rules: Rules, cause: Cause, remark: Remark, *, detail: str = "", version: str = ""
) -> Row:
    """failure(R): to be retried if a retry is left and falls within the validity, else failed."""
    retry_at_ms = now_ms + rules.retry_interval_ms
    if row.attempt <= rules.retries and retry_at_ms < rules.expires_at_ms:
        return _moved(row, TO_BE_RETRIED, now_ms, cause, due_ms=retry_at_ms, remark=remark, detail=detail)
    return _moved(row, FAILED, now_ms, cause, remark=remark, detail=detail, version=version)


def _succeeded(row: Row, now_ms: int, version: str) -> Row:
    return _moved(
        row,
        SUCCEEDED,
        now_ms,
        Cause.REPORTED_VERSION,
        remark=Remark.NONE,
        detail="",
        stage=Stage.NONE,
        progress=100,
        version=version,
    )


def _task_aborted(row: Row, now_ms: int, cause: Cause) -> Row:
    return _moved(row, FAILED, now_ms, cause, remark=Remark.TASK_ABORTED, detail="")


def _reason_over(row: Row, attempt: int) -> CancelReason:
    """Why that attempt ended: the cause of the first entry that ended it."""
    for entry in row.timeline:
        if entry.attempt == attempt and entry.state >= TO_BE_RETRIED:
            return _REASONS.get(entry.cause, CancelReason.OVER)
    return CancelReason.OVER


# -- handlers: the gateway's own events ------------------------------------------------------------


def _refuse(row: Row, event: Event, now_ms: int, rules: Rules) -> Step:
    return Step(row, refused=True)


def _push(row: Row, event: PushTurn, now_ms: int, rules: Rules) -> Step:
    if now_ms < row.due_ms or now_ms >= rules.expires_at_ms:
        return Step(row, refused=True)
    pushed = _moved(
        row,
        PUSHED,
        now_ms,
        Cause.RETRY if row.attempt else Cause.PUSHED,
        attempt=row.attempt + 1,
        remark=Remark.NONE,
        detail="",
        stage=Stage.NONE,
        progress=0,
    )
    return Step(pushed, _SEND, True)


def _not_acknowledged(row: Row, now_ms: int, rules: Rules, cause: Cause) -> Step:
    failed = _failure(row, now_ms, rules, cause, Remark.PUSH_FAILED)
    return Step(failed, (Cancel(row.attempt, CancelReason.NOT_ACKNOWLEDGED), StopTransfer(row.attempt)), True)


def _ack_timeout(row: Row, event: AckTimeout, now_ms: int, rules: Rules) -> Step:
    if event.attempt != row.attempt:
        return Step(row, refused=True)
    return _not_acknowledged(row, now_ms, rules, Cause.ACK_TIMEOUT)


def _returned_unanswered(row: Row, event: Returned, now_ms: int, rules: Rules) -> Step:
    if event.deliveries < limits.deliveries_max:
        return Step(row, _SEND)
    return _not_acknowledged(row, now_ms, rules, Cause.RETURNED_UNANSWERED)


def _send_again(row: Row, event: Returned, now_ms: int, rules: Rules) -> Step:
    return Step(row, _SEND)


def _upgrade_timeout(row: Row, event: UpgradeTimeout, now_ms: int, rules: Rules) -> Step:
    if event.attempt != row.attempt or now_ms < row.due_ms:
        return Step(row, refused=True)
    failed = _failure(row, now_ms, rules, Cause.UPGRADE_TIMEOUT, Remark.UPGRADE_TIMEOUT)
    return Step(failed, (Cancel(row.attempt, CancelReason.TIMED_OUT), StopTransfer(row.attempt)), True)


def _abort(row: Row, event: Aborted | Expired, now_ms: int, rules: Rules) -> Step:
    cause = Cause.ABORTED if type(event) is Aborted else Cause.EXPIRED
    effects: tuple[Effect, ...] = ()
    if row.state in RUNNING_STATES:
        effects = (Cancel(row.attempt, _REASONS[cause]), StopTransfer(row.attempt))
    return Step(_task_aborted(row, now_ms, cause), effects, True)


def _first_chunk(row: Row, event: ChunkWritten, now_ms: int, rules: Rules) -> Step:
    if event.attempt != row.attempt:
        return _chunk_over(row, event, now_ms, rules)
    return Step(_begun(row, now_ms, rules, Cause.CHUNK, Stage.DOWNLOADING, 0), (), True)


def _further_chunk(row: Row, event: ChunkWritten, now_ms: int, rules: Rules) -> Step:
    if event.attempt != row.attempt:
        return _chunk_over(row, event, now_ms, rules)
    return Step(row)


def _chunk_over(row: Row, event: ChunkWritten, now_ms: int, rules: Rules) -> Step:
    return Step(row, (StopTransfer(event.attempt),))


# -- handlers: reports -----------------------------------------------------------------------------


def _over(row: Row, event: AttemptReport, now_ms: int, rules: Rules) -> Step:
    """A report that is not about a running attempt: ack, then cancel; or unknown (rules 4 and 5)."""
    attempt = event.attempt
    if not 1 <= attempt <= row.attempt:
        return Step(row, (RefuseUnknown(attempt),))
    reason = _reason_over(row, attempt)
    if type(event) is Progress and event.stage == _BURNING:
        return Step(row, (Cancel(attempt, reason, answers=True), StopTransfer(attempt)))
    return Step(row, (_ACK, Cancel(attempt, reason), StopTransfer(attempt)))


def _acknowledged(row: Row, event: Acknowledged, now_ms: int, rules: Rules) -> Step:
    if event.attempt != row.attempt:
        return _over(row, event, now_ms, rules)
    return Step(_moved(row, TO_BE_UPGRADED, now_ms, Cause.ACKNOWLEDGED), _ONLY_ACK, True)


def _acknowledged_again(row: Row, event: Acknowledged, now_ms: int, rules: Rules) -> Step:
    if event.attempt != row.attempt:
        return _over(row, event, now_ms, rules)
    return Step(row, _ONLY_ACK)


def _begun(row: Row, now_ms: int, rules: Rules, cause: Cause, stage: Stage, percent: int) -> Row:
    due_ms = now_ms + rules.timeout_ms
    return _moved(row, UPGRADING, now_ms, cause, due_ms=due_ms, stage=stage, progress=percent)


def _first_progress(row: Row, event: Progress, now_ms: int, rules: Rules) -> Step:
    if event.attempt != row.attempt:
        return _over(row, event, now_ms, rules)
    begun = _begun(row, now_ms, rules, Cause.PROGRESS, event.stage, event.percent)
    return Step(begun, _ONLY_ACK, True)


def _further_progress(row: Row, event: Progress, now_ms: int, rules: Rules) -> Step:
    """The hot path: 100,000 of these a second. Built by position, which is faster than `replace`."""
    attempt = row.attempt
    if event.attempt != attempt:
        return _over(row, event, now_ms, rules)
    stage = event.stage
    percent = event.percent
    if percent == row.progress and stage == row.stage:
        return Step(row, _ONLY_ACK)
    return Step(
        Row(
            UPGRADING,
            attempt,
            row.due_ms,
            row.remark,
            row.detail,
            stage,
            percent,
            row.version,
            row.completed_at_ms,
            row.timeline,
        ),
        _ONLY_ACK,
    )


def _version(row: Row, event: VersionReported, now_ms: int, rules: Rules) -> Step:
    if event.version != rules.target_version:
        return Step(row, _ONLY_ACK)
    effects = _ONLY_ACK
    if row.state in RUNNING_STATES:
        effects = (_ACK, StopTransfer(row.attempt))
    return Step(_succeeded(row, now_ms, event.version), effects, True)


def _result_of_target(row: Row, event: Result, now_ms: int) -> Step:
    """The device runs the target version. Its attempt is cancelled only if it was over before."""
    running = row.state in RUNNING_STATES
    effects = _ONLY_ACK
    if 1 <= event.attempt <= row.attempt and not (running and event.attempt == row.attempt):
        effects = (_ACK, Cancel(event.attempt, _reason_over(row, event.attempt)))
    if running:
        effects = (*effects, StopTransfer(row.attempt))
    return Step(_succeeded(row, now_ms, event.version), effects, True)


def _result(row: Row, event: Result, now_ms: int, rules: Rules) -> Step:
    if event.version == rules.target_version:
        return _result_of_target(row, event, now_ms)
    if event.attempt != row.attempt:
        return _over(row, event, now_ms, rules)
    if event.outcome == Outcome.SUCCEEDED:
        cause, remark = Cause.CLAIMED_SUCCESS, Remark.OTHER
        claimed = f"version {event.version}" if event.version else "no version"
        detail = f"claimed success with {claimed}, the target is {rules.target_version}"
    else:
        cause, remark = Cause.REPORTED_FAILURE, event.reason or Remark.OTHER
        detail = event.detail[: limits.detail_chars_max]
    failed = _failure(row, now_ms, rules, cause, remark, detail=detail, version=event.version)
    return Step(failed, (_ACK, StopTransfer(row.attempt)), True)


def _result_while_waiting(row: Row, event: Result, now_ms: int, rules: Rules) -> Step:
    if event.version == rules.target_version:
        return _result_of_target(row, event, now_ms)
    return _over(row, event, now_ms, rules)


def _with_later_version(row: Row, now_ms: int) -> Row:
    """One more entry. In a full timeline it takes the place of the last one, which then is such a report
    too: what led to the end is never displaced."""
    timeline = row.timeline[: limits.timeline_entries_max - 1]
    at_ms = max(now_ms, row.completed_at_ms, row.timeline[-1].at_ms)
    entry = TimelineEntry(at_ms, row.state, row.remark, Cause.REPORTED_VERSION, row.attempt)
    return replace(row, timeline=(*timeline, entry))


def _later_version(row: Row, event: VersionReported, now_ms: int, rules: Rules) -> Step:
    if event.version == event.known_version:
        return Step(row, _ONLY_ACK)
    return Step(_with_later_version(row, now_ms), _ONLY_ACK, True)


def _later_result(row: Row, event: Result, now_ms: int, rules: Rules) -> Step:
    answer = _over(row, event, now_ms, rules)
    if not event.version or event.version == event.known_version:
        return answer
    return Step(_with_later_version(row, now_ms), answer.effects, True)


# -- the table -------------------------------------------------------------------------------------


class Transition(NamedTuple):
    """One line of the table: in these states this event is handled so, and may lead to one of `targets`.

    `targets` gives each with why, in the operators' words (the diagram of docs/upgrades.md is drawn from
    them). Whatever is not a target leaves the state as it is.
    """

    states: tuple[State, ...]
    event: type[Event]
    handle: Handler
    targets: Mapping[State, str]


def _to_failure(why: str) -> dict[State, str]:
    return {TO_BE_RETRIED: why, FAILED: f"{why}, no retry left"}


_OPEN = (TO_BE_PUSHED, PUSHED, TO_BE_UPGRADED, UPGRADING, TO_BE_RETRIED)
_RUNNING = (PUSHED, TO_BE_UPGRADED, UPGRADING)
_ENDED = (SUCCEEDED, FAILED)
_NOT_RUNNING = (TO_BE_PUSHED, TO_BE_RETRIED, SUCCEEDED, FAILED)
_STAYS: Mapping[State, str] = {}
_TO_SUCCESS = {SUCCEEDED: "reports the target version"}
_TO_RESULT = _TO_SUCCESS | _to_failure("reports failure, or success with another version")

TRANSITIONS: tuple[Transition, ...] = (
    Transition((TO_BE_PUSHED,), PushTurn, _push, {PUSHED: "its turn comes while it is online"}),
    Transition((TO_BE_RETRIED,), PushTurn, _push, {PUSHED: "due, and its turn comes while it is online"}),
    Transition((PUSHED,), Acknowledged, _acknowledged, {TO_BE_UPGRADED: "acknowledged"}),
    Transition((TO_BE_UPGRADED, UPGRADING), Acknowledged, _acknowledged_again, _STAYS),
    Transition(_NOT_RUNNING, Acknowledged, _over, _STAYS),
    Transition((PUSHED, TO_BE_UPGRADED), Progress, _first_progress, {UPGRADING: "first progress report"}),
    Transition((UPGRADING,), Progress, _further_progress, _STAYS),
    Transition(_NOT_RUNNING, Progress, _over, _STAYS),
    Transition((PUSHED, TO_BE_UPGRADED), ChunkWritten, _first_chunk, {UPGRADING: "first chunk written"}),
    Transition((UPGRADING,), ChunkWritten, _further_chunk, _STAYS),
    Transition((TO_BE_RETRIED, *_ENDED), ChunkWritten, _chunk_over, _STAYS),
    Transition(_OPEN, VersionReported, _version, _TO_SUCCESS),
    Transition(_ENDED, VersionReported, _later_version, _STAYS),
    Transition(_RUNNING, Result, _result, _TO_RESULT),
    Transition((TO_BE_PUSHED, TO_BE_RETRIED), Result, _result_while_waiting, _TO_SUCCESS),
    Transition(_ENDED, Result, _later_result, _STAYS),
    Transition((PUSHED,), AckTimeout, _ack_timeout, _to_failure("10 s without acknowledgement")),
    Transition((UPGRADING,), UpgradeTimeout, _upgrade_timeout, _to_failure("time-out")),
    Transition((PUSHED,), Returned, _returned_unanswered, _to_failure("three deliveries unanswered")),
    Transition((TO_BE_UPGRADED, UPGRADING), Returned, _send_again, _STAYS),
    Transition(_OPEN, Aborted, _abort, {FAILED: "batch aborted"}),
    Transition(_OPEN, Expired, _abort, {FAILED: "validity over"}),
)

TABLE: dict[tuple[State, type[Event]], Transition] = {
    (state, transition.event): transition for transition in TRANSITIONS for state in transition.states
}
assert len(TABLE) == sum(len(transition.states) for transition in TRANSITIONS), "a pair stands twice"
assert frozenset(_OPEN) == OPEN_STATES
assert frozenset(_RUNNING) == RUNNING_STATES
# No row has more transitions than its timeline holds (pushed, acknowledged, begun, failed an attempt).
assert 4 * (limits.retries_max + 1) < limits.timeline_entries_max


def _handlers_of(event: type[Event]) -> tuple[Handler, ...]:
    """Indexed by the number of the state; 0 is no state."""
    handlers: list[Handler] = [_refuse]
    for state in State:
        transition = TABLE.get((state, event))
        handlers.append(transition.handle if transition else _refuse)
    return tuple(handlers)


_HANDLERS: dict[type[Event], tuple[Handler, ...]] = {event: _handlers_of(event) for event in EVENT_TYPES}


def step(row: Row, event: Event, now_ms: int, rules: Rules) -> Step:
    """What the event makes of the row at `now_ms`. Total: every state takes every event.

    The row must be the device's newest, pending changes included, and already `effective` for its batch.
    """
    return _HANDLERS[type(event)][row.state](row, event, now_ms, rules)


def effective(row: Row, status: BatchStatus, ended_at_ms: int, cause: Cause = Cause.ABORTED) -> Row:
    """The row as it counts: open rows of an aborted batch are failed(task_aborted) from `ended_at_ms` on.

    An abort commits the batch's status first and rewrites its rows later, in slices; until its slice comes,
    a row is read, and stepped, through this. `cause` is aborted or expired. Equal to what the event Aborted
    or Expired makes of the row.
    """
    if status != BatchStatus.ABORTED or row.state >= SUCCEEDED:
        return row
    return _task_aborted(row, ended_at_ms, cause)
