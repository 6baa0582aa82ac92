"""Whatever happens, in whatever order: the invariants of states.py."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from otagate import limits
from otagate.upgrade.counts import Counts
from otagate.upgrade.effects import Ack, Cancel, RefuseUnknown, SendUpgrade
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
from otagate.upgrade.model import ENDED_STATES, OPEN_STATES, Outcome, Remark, Row, Rules, Stage, State
from otagate.upgrade.states import TABLE, Step, step

START = 1_700_000_000_000
VERSIONS = st.sampled_from(["1.0", "2.0", "3.0"])
STAGES = st.sampled_from([Stage.DOWNLOADING, Stage.VERIFYING, Stage.BURNING])
REASONS = st.sampled_from(
    [Remark.DOWNLOAD_FAILED, Remark.VERIFICATION_FAILED, Remark.BURN_FAILED, Remark.OTHER]
)
ATTEMPTS = st.integers(0, limits.retries_max + 2)

rules_of_a_batch = st.builds(
    Rules,
    target_version=st.just("2.0"),
    retries=st.integers(0, limits.retries_max),
    retry_interval_ms=st.integers(1, 4_320).map(lambda minutes: minutes * 60_000),
    timeout_ms=st.integers(1, 1_440).map(lambda minutes: minutes * 60_000),
    expires_at_ms=st.integers(1, 7).map(lambda days: START + days * limits.DAY_MS),
)
results = st.builds(
    Result,
    ATTEMPTS,
    st.sampled_from(Outcome),
    REASONS,
    st.text(max_size=20),
    st.sampled_from(["", "1.0", "2.0", "3.0"]),
    VERSIONS,
)
events: st.SearchStrategy[Event] = st.one_of(
    st.just(PushTurn()),
    st.builds(Acknowledged, ATTEMPTS),
    st.builds(Progress, ATTEMPTS, STAGES, st.integers(0, 100)),
    st.builds(ChunkWritten, ATTEMPTS),
    st.builds(VersionReported, VERSIONS, VERSIONS),
    results,
    st.builds(AckTimeout, ATTEMPTS),
    st.builds(UpgradeTimeout, ATTEMPTS),
    st.builds(Returned, st.integers(0, 5)),
    st.just(Aborted()),
    st.just(Expired()),
)
# Without the two that end everything at once: longer lives.
events_of_life = events.filter(lambda event: not isinstance(event, Aborted | Expired))


def check_row(row: Row, rules: Rules) -> None:
    assert row.attempt <= rules.retries + 1
    assert (row.due_ms > 0) == (row.state in (State.TO_BE_RETRIED, State.UPGRADING))
    assert (row.completed_at_ms > 0) == row.ended == (row.state in ENDED_STATES)
    assert (row.attempt == 0) >= (row.state == State.TO_BE_PUSHED)
    assert (row.remark != Remark.NONE) == (row.state in (State.TO_BE_RETRIED, State.FAILED))
    assert 0 <= row.progress <= 100
    assert len(row.timeline) <= limits.timeline_entries_max
    times = [entry.at_ms for entry in row.timeline]
    assert times == sorted(times)
    if row.timeline:
        last = row.timeline[-1]
        assert (last.state, last.remark, last.attempt) == (row.state, row.remark, row.attempt)


def check_step(before: Row, event: Event, made: Step, rules: Rules) -> None:
    row = made.row
    check_row(row, rules)
    transition = TABLE.get((before.state, type(event)))
    if made.refused:
        assert row is before
        assert not made.effects
    if transition is None:
        assert made.refused
        return
    assert row.state == before.state or row.state in transition.targets
    assert row.attempt in (before.attempt, before.attempt + 1)
    assert (row.attempt > before.attempt) == (isinstance(event, PushTurn) and not made.refused)
    if before.ended:
        assert row.state == before.state
        assert row.completed_at_ms == before.completed_at_ms
        assert (row.remark, row.detail, row.version) == (before.remark, before.detail, before.version)
    elif row.state != before.state:
        assert made.durable
        assert row.timeline[:-1] == before.timeline
    else:
        assert row.timeline == before.timeline
        assert row.due_ms == before.due_ms
        assert not made.durable
    # A device is told to begin only by a running row, and may burn only in a running attempt of its own.
    if SendUpgrade() in made.effects:
        assert row.state in (State.PUSHED, State.TO_BE_UPGRADED, State.UPGRADING)
    if isinstance(event, Progress) and event.stage == Stage.BURNING and Ack() in made.effects:
        assert row.state == State.UPGRADING
        assert row.attempt == event.attempt
    if isinstance(event, Acknowledged | Progress | Result):
        assert (
            sum(isinstance(effect, Ack | RefuseUnknown) for effect in made.effects)
            + any(isinstance(effect, Cancel) and effect.answers for effect in made.effects)
            == 1
        )


@dataclass
class Life:
    rules: Rules
    row: Row
    now_ms: int

    def live(self, event: Event, wait_ms: int = 0) -> Step:
        self.now_ms += wait_ms
        before = self.row
        made = step(before, event, self.now_ms, self.rules)
        check_step(before, event, made, self.rules)
        self.row = made.row
        return made


class Batch(RuleBasedStateMachine):
    """Three devices of one batch, its counts, and time that goes on."""

    @initialize(rules=rules_of_a_batch)
    def begin(self, rules: Rules) -> None:
        self.now_ms = START
        self.lives = [Life(rules, Row(), START) for _ in range(3)]
        self.counts = Counts()
        self.counts.add(State.TO_BE_PUSHED, 3)

    @rule(which=st.integers(0, 2), event=events_of_life, wait_ms=st.integers(0, 3_600_000))
    def anything(self, which: int, event: Event, wait_ms: int) -> None:
        self.happens(self.lives[which], event, wait_ms)

    @rule(which=st.integers(0, 2), data=st.data())
    def of_the_current_attempt(self, which: int, data: st.DataObject) -> None:
        life = self.lives[which]
        attempt = life.row.attempt
        event = data.draw(
            st.one_of(
                st.just(Acknowledged(attempt)),
                st.builds(Progress, st.just(attempt), STAGES, st.integers(0, 100)),
                st.just(ChunkWritten(attempt)),
                st.builds(Result, st.just(attempt), st.just(Outcome.FAILED), REASONS),
                st.just(AckTimeout(attempt)),
            )
        )
        self.happens(life, event, 1)

    @rule(which=st.integers(0, 2))
    def what_is_due(self, which: int) -> None:
        life = self.lives[which]
        wait_ms = max(0, life.row.due_ms - self.now_ms)
        event = UpgradeTimeout(life.row.attempt) if life.row.state == State.UPGRADING else PushTurn()
        self.happens(life, event, wait_ms)

    @rule(which=st.integers(0, 2), event=st.sampled_from([Aborted(), Expired()]))
    def end(self, which: int, event: Event) -> None:
        self.happens(self.lives[which], event, 0)

    def happens(self, life: Life, event: Event, wait_ms: int) -> None:
        self.now_ms += wait_ms
        life.now_ms = self.now_ms
        before = life.row.state
        life.live(event)
        self.counts.move(before, life.row.state)

    @invariant()
    def counts_are_those_of_the_rows(self) -> None:
        states = [life.row.state for life in getattr(self, "lives", [])]
        if states:
            assert self.counts.numbers == tuple(states.count(state) for state in State)
            assert self.counts.total == 3


Batch.TestCase.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
TestBatch = Batch.TestCase


@given(rules=rules_of_a_batch, story=st.lists(events_of_life, max_size=40), last=events)
def test_twice_is_once(rules: Rules, story: list[Event], last: Event) -> None:
    """A report that arrives twice moves the row once; at most its second answer is another.

    The exception is a version that is news: the caller says so in `known_version`, which the second no
    longer is.
    """
    life = Life(rules, Row(), START)
    for event in story:
        life.live(event, 60_000)
    once = life.live(last)
    if isinstance(last, VersionReported):
        last = VersionReported(last.version, last.version)
    if isinstance(last, Result):
        last = Result(last.attempt, last.outcome, last.reason, last.detail, last.version, last.version)
    assert step(once.row, last, life.now_ms, rules).row is once.row


@given(
    rules=rules_of_a_batch,
    story=st.lists(events_of_life, max_size=40),
    late=events_of_life,
    back=st.integers(1, 6),
)
def test_older_attempts_move_nothing(rules: Rules, story: list[Event], late: Event, back: int) -> None:
    life = Life(rules, Row(), START)
    for event in story:
        life.live(event, 60_000)
    row = life.row
    if not hasattr(late, "attempt") or (isinstance(late, Result) and late.version):
        return
    stale = type(late)(row.attempt - back, *[getattr(late, name) for name in late.__struct_fields__[1:]])
    assert step(row, stale, life.now_ms, rules).row is row


@given(rules=rules_of_a_batch)
def test_retries_are_all_used_and_no_more(rules: Rules) -> None:
    """A device that never answers: every attempt that falls within the validity, and then the end."""
    life = Life(rules, Row(), START)
    pushes = 0
    while not life.row.ended:
        if life.live(PushTurn(), max(0, life.row.due_ms - life.now_ms)).refused:
            pytest.fail("a retry was promised that cannot be")
        pushes += 1
        life.live(AckTimeout(pushes), limits.acknowledge_timeout_ms)
    assert life.row.remark == Remark.PUSH_FAILED
    period = limits.acknowledge_timeout_ms + rules.retry_interval_ms
    fitting = (rules.expires_at_ms - START - 1) // period + 1
    assert pushes == min(rules.retries + 1, fitting)


def test_every_state_is_reachable_and_none_is_a_trap() -> None:
    """From the table alone: all states from the first, an end from every open one, none from an end."""
    edges = {(state, target) for (state, _), transition in TABLE.items() for target in transition.targets}
    assert not {start for start, _ in edges} & ENDED_STATES

    def closure(start: State) -> set[State]:
        seen, todo = {start}, [start]
        while todo:
            at = todo.pop()
            fresh = {target for origin, target in edges if origin == at} - seen
            seen |= fresh
            todo += fresh
        return seen

    assert closure(State.TO_BE_PUSHED) == set(State)
    for state in OPEN_STATES:
        assert closure(state) >= ENDED_STATES


def test_every_edge_of_the_table_is_taken() -> None:
    """Each promised target is reached by some step: the table promises nothing that cannot be."""
    rules = [Rules("2.0", retries, 60_000, 60_000, START + limits.DAY_MS) for retries in (0, 1)]
    taken: set[tuple[State, type[Event], State]] = set()
    for each in rules:
        seen, todo = set(), [Row()]
        while todo:
            row = todo.pop()
            if (row.state, row.attempt) in seen:
                continue
            seen.add((row.state, row.attempt))
            attempt = row.attempt
            for event in (
                PushTurn(),
                Acknowledged(attempt),
                Progress(attempt, Stage.DOWNLOADING, 1),
                ChunkWritten(attempt),
                VersionReported("2.0", ""),
                Result(attempt, Outcome.FAILED),
                Result(attempt, Outcome.SUCCEEDED, version="2.0"),
                AckTimeout(attempt),
                UpgradeTimeout(attempt),
                Returned(limits.deliveries_max),
                Aborted(),
                Expired(),
            ):
                made = step(row, event, max(START, row.due_ms), each)
                if made.row.state != row.state:
                    taken.add((row.state, type(event), made.row.state))
                    todo.append(made.row)
    promised = {
        (state, event, target)
        for (state, event), transition in TABLE.items()
        for target in transition.targets
    }
    assert taken == promised


def test_step_takes_every_type_of_event() -> None:
    assert {type_ for _, type_ in TABLE} == set(EVENT_TYPES)


def test_seven_days_and_all_retries_fit_the_timeline() -> None:
    rules = Rules("2.0", limits.retries_max, 60_000, 60_000, START + limits.DAY_MS)
    life = Life(rules, Row(), START)
    for attempt in range(1, limits.retries_max + 2):
        life.live(PushTurn(), 60_000)
        life.live(Acknowledged(attempt), 1)
        life.live(ChunkWritten(attempt), 1)
        life.live(Result(attempt, Outcome.FAILED), 1)
    assert life.row.state == State.FAILED
    assert len(life.row.timeline) == 4 * (limits.retries_max + 1) <= limits.timeline_entries_max
