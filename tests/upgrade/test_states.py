"""The table of docs/upgrades.md, line by line, and each corner that it leaves to the rules of states.py."""

from typing import Any

import pytest
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
)
from otagate.upgrade.states import TABLE, Step, effective, step

NOW = 1_000_000
TIMEOUT = 600_000
INTERVAL = 60_000
RULES = Rules(
    "2.0", retries=1, retry_interval_ms=INTERVAL, timeout_ms=TIMEOUT, expires_at_ms=NOW + 86_400_000
)
DOWNLOADING, VERIFYING, BURNING = Stage.DOWNLOADING, Stage.VERIFYING, Stage.BURNING


def after(*events: Event, rules: Rules = RULES) -> Row:
    """A fresh row after these events, all at NOW (retries are due later: see `retried`)."""
    row = Row()
    for event in events:
        made = step(row, event, max(NOW, row.due_ms), rules)
        assert not made.refused, event
        row = made.row
    return row


FRESH = Row()
PUSHED = after(PushTurn())
TO_BE_UPGRADED = after(PushTurn(), Acknowledged(1))
UPGRADING = after(PushTurn(), Acknowledged(1), Progress(1, DOWNLOADING, 10))
TO_BE_RETRIED = after(PushTurn(), Acknowledged(1), Result(1, Outcome.FAILED, Remark.BURN_FAILED, "flash"))
PUSHED_AGAIN = after(PushTurn(), AckTimeout(1), PushTurn())
UPGRADING_AGAIN = after(PushTurn(), AckTimeout(1), PushTurn(), Progress(2, DOWNLOADING, 1))
SUCCEEDED = after(PushTurn(), VersionReported("2.0", "1.0"))
FAILED = after(PushTurn(), AckTimeout(1), PushTurn(), Result(2, Outcome.FAILED, Remark.DOWNLOAD_FAILED))
ROWS = {
    row.state: row for row in (FRESH, PUSHED, TO_BE_UPGRADED, UPGRADING, TO_BE_RETRIED, SUCCEEDED, FAILED)
}

EVENTS: dict[type[Event], Event] = {
    PushTurn: PushTurn(),
    Acknowledged: Acknowledged(1),
    Progress: Progress(1, VERIFYING, 50),
    ChunkWritten: ChunkWritten(1),
    VersionReported: VersionReported("2.0", "2.0"),
    Result: Result(1, Outcome.FAILED, Remark.OTHER, "no"),
    AckTimeout: AckTimeout(1),
    UpgradeTimeout: UpgradeTimeout(1),
    Returned: Returned(1),
    Aborted: Aborted(),
    Expired: Expired(),
}


def assert_unchanged(made: Step, row: Row, *effects: Effect) -> None:
    assert made.row is row
    assert made.effects == effects
    assert not made.durable


def over(attempt: int, reason: CancelReason) -> tuple[Effect, ...]:
    return Ack(), Cancel(attempt, reason), StopTransfer(attempt)


# -- the whole table -------------------------------------------------------------------------------


def test_there_is_a_row_of_each_state_and_an_event_of_each_type() -> None:
    assert ROWS.keys() == set(State)
    assert tuple(EVENTS) == EVENT_TYPES


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("kind", EVENT_TYPES)
def test_what_is_not_in_the_table_is_refused(state: State, kind: type[Event]) -> None:
    row = ROWS[state]
    made = step(row, EVENTS[kind], NOW + TIMEOUT, RULES)
    if (state, kind) not in TABLE:
        assert made == Step(row, (), durable=False, refused=True)
        assert made.row is row
    else:
        assert not made.refused


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("kind", [Acknowledged, Progress, VersionReported, Result])
def test_every_report_is_answered_in_every_state(state: State, kind: type[Event]) -> None:
    assert step(ROWS[state], EVENTS[kind], NOW, RULES).effects


# -- pushes ----------------------------------------------------------------------------------------


def test_first_push() -> None:
    made = step(FRESH, PushTurn(), NOW, RULES)
    assert (made.row.state, made.row.attempt, made.row.due_ms) == (State.PUSHED, 1, 0)
    assert made.effects == (SendUpgrade(),)
    assert made.durable
    (entry,) = made.row.timeline
    assert (entry.at_ms, entry.state, entry.cause, entry.attempt) == (NOW, State.PUSHED, Cause.PUSHED, 1)


def test_retry_begins_anew() -> None:
    progressed = replace(TO_BE_RETRIED, stage=BURNING, progress=90)
    made = step(progressed, PushTurn(), progressed.due_ms, RULES)
    row = made.row
    assert (row.state, row.attempt, row.due_ms) == (State.PUSHED, 2, 0)
    assert (row.remark, row.detail, row.stage, row.progress) == (Remark.NONE, "", Stage.NONE, 0)
    assert row.timeline[-1].cause == Cause.RETRY
    assert row.timeline[:-1] == progressed.timeline


def test_a_retry_waits_until_it_is_due() -> None:
    made = step(TO_BE_RETRIED, PushTurn(), TO_BE_RETRIED.due_ms - 1, RULES)
    assert made.refused
    assert_unchanged(made, TO_BE_RETRIED)


@pytest.mark.parametrize("row", [FRESH, TO_BE_RETRIED])
def test_no_push_when_validity_is_over(row: Row) -> None:
    assert not step(row, PushTurn(), RULES.expires_at_ms - 1, RULES).refused
    assert step(row, PushTurn(), RULES.expires_at_ms, RULES).refused


# -- acknowledgement, progress, chunks -------------------------------------------------------------


def test_acknowledged() -> None:
    made = step(PUSHED, Acknowledged(1), NOW + 1, RULES)
    assert (made.row.state, made.row.attempt, made.row.due_ms) == (State.TO_BE_UPGRADED, 1, 0)
    assert made.effects == (Ack(),)
    assert made.durable


@pytest.mark.parametrize("row", [TO_BE_UPGRADED, UPGRADING])
def test_acknowledged_again(row: Row) -> None:
    assert_unchanged(step(row, Acknowledged(1), NOW, RULES), row, Ack())


@pytest.mark.parametrize("row", [PUSHED, TO_BE_UPGRADED])
@pytest.mark.parametrize(
    ("event", "cause", "stage", "percent", "effects"),
    [
        (Progress(1, DOWNLOADING, 3), Cause.PROGRESS, DOWNLOADING, 3, (Ack(),)),
        (Progress(1, BURNING, 0), Cause.PROGRESS, BURNING, 0, (Ack(),)),
        (ChunkWritten(1), Cause.CHUNK, DOWNLOADING, 0, ()),
    ],
)
def test_it_begins(
    row: Row, event: Event, cause: Cause, stage: Stage, percent: int, effects: tuple[Effect, ...]
) -> None:
    made = step(row, event, NOW + 5, RULES)
    assert (made.row.state, made.row.due_ms) == (State.UPGRADING, NOW + 5 + TIMEOUT)
    assert (made.row.stage, made.row.progress) == (stage, percent)
    assert made.row.timeline[-1].cause == cause
    assert made.effects == effects
    assert made.durable


@pytest.mark.parametrize(
    ("stage", "percent"), [(DOWNLOADING, 11), (DOWNLOADING, 9), (BURNING, 10), (VERIFYING, 0)]
)
def test_further_progress_is_recorded_and_need_not_be_durable(stage: Stage, percent: int) -> None:
    made = step(UPGRADING, Progress(1, stage, percent), NOW + 7, RULES)
    assert made.row == replace(UPGRADING, stage=stage, progress=percent)
    assert made.row is not UPGRADING
    assert made.effects == (Ack(),)
    assert not made.durable


def test_the_hot_path_forgets_no_field() -> None:
    full = Row(State.UPGRADING, 1, 2, Remark.OTHER, "d", DOWNLOADING, 3, "v", 4, UPGRADING.timeline)
    assert step(full, Progress(1, BURNING, 5), NOW, RULES).row == replace(full, stage=BURNING, progress=5)


def test_the_same_progress_again_changes_nothing() -> None:
    assert_unchanged(step(UPGRADING, Progress(1, DOWNLOADING, 10), NOW, RULES), UPGRADING, Ack())


def test_further_chunks_change_nothing() -> None:
    assert_unchanged(step(UPGRADING, ChunkWritten(1), NOW, RULES), UPGRADING)


# -- success ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", sorted(OPEN_STATES))
@pytest.mark.parametrize(
    "event",
    [
        VersionReported("2.0", "1.0"),
        Result(1, Outcome.SUCCEEDED, version="2.0"),
        Result(1, Outcome.FAILED, Remark.BURN_FAILED, "but", version="2.0"),
        Result(9, Outcome.SUCCEEDED, version="2.0"),
    ],
)
def test_the_target_version_succeeds(state: State, event: Event) -> None:
    row = ROWS[state]
    made = step(row, event, NOW + 9, RULES)
    assert (made.row.state, made.row.version, made.row.completed_at_ms) == (State.SUCCEEDED, "2.0", NOW + 9)
    assert (made.row.remark, made.row.detail, made.row.due_ms) == (Remark.NONE, "", 0)
    assert (made.row.stage, made.row.progress) == (Stage.NONE, 100)
    assert made.row.attempt == row.attempt
    assert made.row.timeline[-1].cause == Cause.REPORTED_VERSION
    assert made.effects[0] == Ack()
    assert (StopTransfer(row.attempt) in made.effects) == (state in RUNNING_STATES)
    assert made.durable


@pytest.mark.parametrize(
    ("row", "attempt", "effects"),
    [
        (UPGRADING, 1, (Ack(), StopTransfer(1))),
        (UPGRADING_AGAIN, 2, (Ack(), StopTransfer(2))),
        (UPGRADING_AGAIN, 1, (Ack(), Cancel(1, CancelReason.NOT_ACKNOWLEDGED), StopTransfer(2))),
        (UPGRADING_AGAIN, 3, (Ack(), StopTransfer(2))),
        (TO_BE_RETRIED, 1, (Ack(), Cancel(1, CancelReason.OVER))),
        (FRESH, 1, (Ack(),)),
    ],
)
def test_only_an_attempt_that_was_over_is_cancelled_by_success(
    row: Row, attempt: int, effects: tuple[Effect, ...]
) -> None:
    made = step(row, Result(attempt, Outcome.SUCCEEDED, version="2.0"), NOW, RULES)
    assert made.row.state == State.SUCCEEDED
    assert made.effects == effects


@pytest.mark.parametrize("state", sorted(OPEN_STATES))
@pytest.mark.parametrize("version", ["1.0", "2.0 ", "2.00", "2.0\n"])
def test_another_version_alone_moves_nothing(state: State, version: str) -> None:
    assert_unchanged(step(ROWS[state], VersionReported(version, "0.9"), NOW, RULES), ROWS[state], Ack())


@pytest.mark.parametrize("row", [PUSHED, TO_BE_UPGRADED, UPGRADING])
@pytest.mark.parametrize(
    ("version", "detail"),
    [
        ("1.9", "claimed success with version 1.9, the target is 2.0"),
        ("", "claimed success with no version, the target is 2.0"),
    ],
)
def test_a_claim_is_not_a_success(row: Row, version: str, detail: str) -> None:
    made = step(row, Result(1, Outcome.SUCCEEDED, version=version), NOW, RULES)
    assert (made.row.state, made.row.remark, made.row.detail) == (State.TO_BE_RETRIED, Remark.OTHER, detail)
    assert made.row.timeline[-1].cause == Cause.CLAIMED_SUCCESS
    assert made.effects == (Ack(), StopTransfer(1))


def test_both_versions_fit_the_detail() -> None:
    rules = replace(RULES, target_version="t" * limits.firmware_version_chars_max)
    claim = Result(1, Outcome.SUCCEEDED, version="v" * limits.reported_version_chars_max)
    assert len(step(PUSHED, claim, NOW, rules).row.detail) <= limits.detail_chars_max


# -- failure ---------------------------------------------------------------------------------------

FAILURES = [
    *[
        (row, Result(1, Outcome.FAILED, remark, "words"), remark, "words", Cause.REPORTED_FAILURE)
        for row in (PUSHED, TO_BE_UPGRADED, UPGRADING)
        for remark in (Remark.DOWNLOAD_FAILED, Remark.VERIFICATION_FAILED, Remark.BURN_FAILED, Remark.OTHER)
    ],
    (PUSHED, Result(1, Outcome.FAILED), Remark.OTHER, "", Cause.REPORTED_FAILURE),
    (PUSHED, AckTimeout(1), Remark.PUSH_FAILED, "", Cause.ACK_TIMEOUT),
    (PUSHED, Returned(3), Remark.PUSH_FAILED, "", Cause.RETURNED_UNANSWERED),
    (UPGRADING, UpgradeTimeout(1), Remark.UPGRADE_TIMEOUT, "", Cause.UPGRADE_TIMEOUT),
]


@pytest.mark.parametrize(("row", "event", "remark", "detail", "cause"), FAILURES)
def test_failure_is_retried(row: Row, event: Event, remark: Remark, detail: str, cause: Cause) -> None:
    now_ms = NOW + TIMEOUT
    made = step(row, event, now_ms, RULES)
    assert (made.row.state, made.row.attempt, made.row.due_ms) == (State.TO_BE_RETRIED, 1, now_ms + INTERVAL)
    assert (made.row.remark, made.row.detail) == (remark, detail)
    assert (made.row.stage, made.row.progress) == (row.stage, row.progress)
    assert (made.row.completed_at_ms, made.row.version) == (0, "")
    assert made.row.timeline[-1].cause == cause
    assert made.durable


@pytest.mark.parametrize(("row", "event", "remark", "detail", "cause"), FAILURES)
@pytest.mark.parametrize(
    "rules",
    [
        replace(RULES, retries=0, retry_interval_ms=0),
        replace(RULES, expires_at_ms=NOW + TIMEOUT + INTERVAL),  # the next one would fall on its end
    ],
    ids=["no retry", "no time"],
)
def test_failure_for_good(
    row: Row, event: Event, remark: Remark, detail: str, cause: Cause, rules: Rules
) -> None:
    now_ms = NOW + TIMEOUT
    made = step(row, event, now_ms, rules)
    assert (made.row.state, made.row.due_ms, made.row.completed_at_ms) == (State.FAILED, 0, now_ms)
    assert (made.row.remark, made.row.detail) == (remark, detail)
    entry = made.row.timeline[-1]
    assert (entry.state, entry.remark, entry.cause, entry.attempt) == (State.FAILED, remark, cause, 1)


def test_the_version_told_with_a_last_failure_is_kept() -> None:
    made = step(PUSHED, Result(1, Outcome.FAILED, version="1.1"), NOW, replace(RULES, retries=0))
    assert made.row.version == "1.1"


def test_long_words_are_cut() -> None:
    made = step(PUSHED, Result(1, Outcome.FAILED, Remark.OTHER, "灯" * 300), NOW, RULES)
    assert made.row.detail == "灯" * 256


@pytest.mark.parametrize(
    ("row", "event", "reason"),
    [
        (PUSHED, AckTimeout(1), CancelReason.NOT_ACKNOWLEDGED),
        (PUSHED, Returned(3), CancelReason.NOT_ACKNOWLEDGED),
        (UPGRADING, UpgradeTimeout(1), CancelReason.TIMED_OUT),
    ],
)
def test_the_device_is_told_when_the_gateway_ends_its_attempt(
    row: Row, event: Event, reason: CancelReason
) -> None:
    assert step(row, event, NOW + TIMEOUT, RULES).effects == (Cancel(1, reason), StopTransfer(1))


@pytest.mark.parametrize(
    ("row", "event", "now_ms"),
    [
        (UPGRADING, UpgradeTimeout(1), UPGRADING.due_ms - 1),
        (UPGRADING_AGAIN, UpgradeTimeout(1), UPGRADING_AGAIN.due_ms),
        (PUSHED_AGAIN, AckTimeout(1), NOW + INTERVAL),
        (PUSHED, AckTimeout(2), NOW),
    ],
)
def test_a_time_out_of_another_attempt_or_too_early_is_refused(row: Row, event: Event, now_ms: int) -> None:
    made = step(row, event, now_ms, RULES)
    assert made.refused
    assert_unchanged(made, row)


# -- coming back -----------------------------------------------------------------------------------


@pytest.mark.parametrize("deliveries", [0, 1, 2])
@pytest.mark.parametrize("row", [PUSHED, TO_BE_UPGRADED, UPGRADING, UPGRADING_AGAIN])
def test_the_message_is_sent_again_and_no_clock_restarts(row: Row, deliveries: int) -> None:
    assert_unchanged(step(row, Returned(deliveries), NOW + 9, RULES), row, SendUpgrade())


@pytest.mark.parametrize("row", [TO_BE_UPGRADED, UPGRADING])
def test_deliveries_count_only_until_acknowledged(row: Row) -> None:
    assert_unchanged(step(row, Returned(99), NOW, RULES), row, SendUpgrade())


# -- the end of the batch --------------------------------------------------------------------------


@pytest.mark.parametrize("state", sorted(OPEN_STATES))
@pytest.mark.parametrize(
    ("event", "cause", "reason"),
    [
        (Aborted(), Cause.ABORTED, CancelReason.ABORTED),
        (Expired(), Cause.EXPIRED, CancelReason.EXPIRED),
    ],
)
def test_the_batch_ends(state: State, event: Event, cause: Cause, reason: CancelReason) -> None:
    row = ROWS[state]
    at_ms = NOW + 99
    made = step(row, event, at_ms, RULES)
    assert (made.row.state, made.row.remark) == (State.FAILED, Remark.TASK_ABORTED)
    assert (made.row.due_ms, made.row.completed_at_ms) == (0, at_ms)
    assert made.row.timeline[-1].cause == cause
    expected = (Cancel(1, reason), StopTransfer(1)) if state in RUNNING_STATES else ()
    assert made.effects == expected
    assert effective(row, BatchStatus.ABORTED, at_ms, cause) == made.row


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("status", [BatchStatus.IN_PROGRESS, BatchStatus.COMPLETED])
def test_rows_count_as_they_are_unless_aborted(state: State, status: BatchStatus) -> None:
    assert effective(ROWS[state], status, NOW) is ROWS[state]


@pytest.mark.parametrize("row", [SUCCEEDED, FAILED])
def test_ended_rows_stay_as_they_are_in_an_aborted_batch(row: Row) -> None:
    assert effective(row, BatchStatus.ABORTED, NOW) is row


def test_an_end_in_the_past_does_not_turn_the_timeline_back() -> None:
    row = effective(UPGRADING, BatchStatus.ABORTED, NOW - 500, Cause.EXPIRED)
    assert row.timeline[-1].at_ms == UPGRADING.timeline[-1].at_ms
    assert row.completed_at_ms == row.timeline[-1].at_ms


# -- reports about an attempt that is over ---------------------------------------------------------

TIMED_OUT = after(PushTurn(), ChunkWritten(1), UpgradeTimeout(1))
ABORTED = effective(UPGRADING, BatchStatus.ABORTED, NOW)
EXPIRED = effective(PUSHED, BatchStatus.ABORTED, NOW, Cause.EXPIRED)
OVER: list[tuple[Row, int, CancelReason]] = [
    (PUSHED_AGAIN, 1, CancelReason.NOT_ACKNOWLEDGED),
    (UPGRADING_AGAIN, 1, CancelReason.NOT_ACKNOWLEDGED),
    (after(PushTurn(), Returned(3)), 1, CancelReason.NOT_ACKNOWLEDGED),
    (TO_BE_RETRIED, 1, CancelReason.OVER),
    (TIMED_OUT, 1, CancelReason.TIMED_OUT),
    (ABORTED, 1, CancelReason.ABORTED),
    (EXPIRED, 1, CancelReason.EXPIRED),
    (SUCCEEDED, 1, CancelReason.OVER),
    (FAILED, 1, CancelReason.NOT_ACKNOWLEDGED),
    (FAILED, 2, CancelReason.OVER),
    (replace(SUCCEEDED, timeline=()), 1, CancelReason.OVER),
]


@pytest.mark.parametrize(("row", "attempt", "reason"), OVER)
@pytest.mark.parametrize(
    "report",
    [
        lambda attempt: Acknowledged(attempt),
        lambda attempt: Progress(attempt, DOWNLOADING, 5),
        lambda attempt: Progress(attempt, VERIFYING, 5),
        lambda attempt: Result(attempt, Outcome.FAILED, Remark.BURN_FAILED, "late"),
        lambda attempt: Result(attempt, Outcome.SUCCEEDED),
        lambda attempt: Result(attempt, Outcome.SUCCEEDED, version="1.5", known_version="1.5"),
    ],
)
def test_acked_then_cancelled(row: Row, attempt: int, reason: CancelReason, report: Any) -> None:
    assert_unchanged(step(row, report(attempt), NOW, RULES), row, *over(attempt, reason))


@pytest.mark.parametrize(("row", "attempt", "reason"), OVER)
def test_no_leave_to_burn(row: Row, attempt: int, reason: CancelReason) -> None:
    made = step(row, Progress(attempt, BURNING, 0), NOW, RULES)
    assert_unchanged(made, row, Cancel(attempt, reason, answers=True), StopTransfer(attempt))
    assert Ack() not in made.effects


@pytest.mark.parametrize(("row", "attempt", "reason"), OVER)
def test_a_late_transfer_is_stopped(row: Row, attempt: int, reason: CancelReason) -> None:
    assert_unchanged(step(row, ChunkWritten(attempt), NOW, RULES), row, StopTransfer(attempt))


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.state.label)
@pytest.mark.parametrize("attempt", [-1, 0, 7])
@pytest.mark.parametrize(
    "report",
    [
        lambda attempt: Acknowledged(attempt),
        lambda attempt: Progress(attempt, DOWNLOADING, 5),
        lambda attempt: Progress(attempt, BURNING, 0),
        lambda attempt: Result(attempt, Outcome.FAILED),
        lambda attempt: Result(attempt, Outcome.SUCCEEDED, version="1.5", known_version="1.5"),
    ],
)
def test_an_attempt_never_given_is_unknown(row: Row, attempt: int, report: Any) -> None:
    assert_unchanged(step(row, report(attempt), NOW, RULES), row, RefuseUnknown(attempt))


# -- after the end ---------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [SUCCEEDED, FAILED])
def test_a_later_version_is_an_entry_when_it_is_news(row: Row) -> None:
    made = step(row, VersionReported("3.0", "2.0"), NOW + 5_000_000, RULES)
    assert replace(made.row, timeline=row.timeline) == row
    assert made.row.timeline[:-1] == row.timeline
    entry = made.row.timeline[-1]
    assert (entry.at_ms, entry.state, entry.cause) == (NOW + 5_000_000, row.state, Cause.REPORTED_VERSION)
    assert made.durable
    assert_unchanged(step(made.row, VersionReported("3.0", "3.0"), NOW, RULES), made.row, Ack())


def test_also_when_a_late_result_tells_it() -> None:
    made = step(FAILED, Result(2, Outcome.SUCCEEDED, version="2.0", known_version="1.0"), NOW, RULES)
    assert made.row.state == State.FAILED
    assert len(made.row.timeline) == len(FAILED.timeline) + 1
    assert made.effects == over(2, CancelReason.OVER)
    assert made.durable


def test_later_versions_never_displace_what_led_to_the_end() -> None:
    row = FAILED
    for number in range(100):
        row = step(row, VersionReported(f"{number}", "before"), NOW + 10**6 + number, RULES).row
        assert len(row.timeline) <= limits.timeline_entries_max
    assert row.timeline[: len(FAILED.timeline)] == FAILED.timeline
    assert row.timeline[-1].at_ms == NOW + 10**6 + 99
