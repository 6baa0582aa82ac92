"""Presence and Roster against models in plain Python."""

import tracemalloc

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from otagate.gateway.tables import Presence, Roster
from otagate.upgrade.model import State

numbers = st.one_of(st.integers(1, 200), st.integers(1, 2**63))
conns = st.integers(1, 2**52)


class PresenceMachine(RuleBasedStateMachine):
    """Few numbers, so that they meet; many at once, so that the table grows and shrinks."""

    def __init__(self) -> None:
        super().__init__()
        self.presence = Presence()
        self.model: dict[int, int] = {}

    @rule(device=numbers, conn=conns)
    def enter(self, device: int, conn: int) -> None:
        assert self.presence.enter(device, conn) == self.model.get(device, 0)
        self.model[device] = conn

    @rule(first=st.integers(1, 2**40), count=st.integers(1, 400), conn=conns)
    def enter_many(self, first: int, count: int, conn: int) -> None:
        for device in range(first, first + count):
            self.enter(device, conn)

    @rule(device=numbers, conn=conns)
    def leave_wrongly(self, device: int, conn: int) -> None:
        if self.model.get(device) != conn:
            assert not self.presence.leave(device, conn)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        device = data.draw(st.sampled_from(sorted(self.model)))
        assert self.presence.leave(device, self.model.pop(device))

    @precondition(lambda self: self.model)
    @rule(keep=st.integers(0, 5), data=st.randoms(use_true_random=False))
    def leave_many(self, keep: int, data) -> None:  # type: ignore[no-untyped-def]
        leaving = sorted(self.model)
        data.shuffle(leaving)
        for device in leaving[keep:]:
            assert self.presence.leave(device, self.model.pop(device))

    @invariant()
    def equals(self) -> None:
        assert len(self.presence) == len(self.model)
        assert dict(self.presence.items()) == self.model
        for device in [*range(1, 30), *self.model]:
            assert self.presence.get(device) == self.model.get(device, 0)
            assert (device in self.presence) == (device in self.model)


class Member:
    """What a roster keeps of one member."""

    def __init__(self, state: int, clock_ms: int, attempt: int) -> None:
        self.state = state
        self.clock_ms = clock_ms
        self.attempt = attempt
        self.deliveries = 0
        self.taken = False

    def is_pushable(self, now_ms: int) -> bool:
        if self.taken:
            return False
        due = self.state == State.TO_BE_RETRIED and self.clock_ms <= now_ms
        return self.state == State.TO_BE_PUSHED or due

    def runs(self) -> bool:
        """Whether its clock comes by itself (rows set none in to_be_pushed and to_be_upgraded)."""
        return self.clock_ms > 0 and self.state < State.TO_BE_RETRIED

    def is_overdue(self, now_ms: int) -> bool:
        return self.runs() and self.clock_ms <= now_ms


states = st.sampled_from([int(state) for state in State])
clocks = st.integers(0, 50)
members = st.integers(0, 12)


class RosterMachine(RuleBasedStateMachine):
    """Members are asked for by their place; place 12 is often nobody's."""

    def __init__(self) -> None:
        super().__init__()
        self.roster = Roster()
        self.presence = Presence()
        self.model: dict[int, Member] = {}

    @initialize(first=st.lists(st.tuples(states, clocks, st.integers(0, 6)), max_size=12))
    def begin(self, first: list[tuple[int, int, int]]) -> None:
        self.extend(first, 1)

    @rule(more=st.lists(st.tuples(states, clocks, st.integers(0, 6)), max_size=90), gap=st.integers(1, 9))
    def extend(self, more: list[tuple[int, int, int]], gap: int) -> None:
        first = max(self.model, default=0) + gap
        devices = list(range(first, first + gap * len(more), gap))
        self.roster.extend(
            devices,
            bytes(state for state, _, _ in more),
            [clock for _, clock, _ in more],
            bytes(attempt for _, _, attempt in more),
        )
        for device, (state, clock, attempt) in zip(devices, more, strict=True):
            self.model[device] = Member(state, clock, attempt)

    def _device(self, place: int) -> int:
        devices = sorted(self.model)
        return devices[place] if place < len(devices) else max(devices, default=0) + 1

    @rule(place=members, online=st.booleans())
    def come_or_go(self, place: int, online: bool) -> None:
        device = self._device(place)
        if online:
            self.presence.enter(device, 7)
        else:
            self.presence.leave(device, 7)

    @rule()
    def all_come(self) -> None:
        for device in self.model:
            self.presence.enter(device, 7)

    @rule(place=members, state=states, attempt=st.integers(0, 6), clock_ms=clocks)
    def update(self, place: int, state: int, attempt: int, clock_ms: int) -> None:
        device = self._device(place)
        self.roster.update(device, state, attempt, clock_ms)
        member = self.model.get(device)
        if member is not None:
            if (member.state, member.attempt) != (state, attempt):
                member.deliveries = 0
            member.state, member.attempt, member.clock_ms, member.taken = state, attempt, clock_ms, False

    @rule(place=members, clock_ms=clocks)
    def set_clock(self, place: int, clock_ms: int) -> None:
        device = self._device(place)
        self.roster.set_clock(device, clock_ms)
        if device in self.model:
            self.model[device].clock_ms = clock_ms

    @rule(place=members, times=st.sampled_from([1, 1, 1, 300]))
    def count_delivery(self, place: int, times: int) -> None:
        device = self._device(place)
        member = self.model.get(device)
        for _ in range(times):
            if member is not None:
                member.deliveries = min(member.deliveries + 1, 255)
            assert self.roster.count_delivery(device) == (member.deliveries if member else 0)

    @rule(place=members)
    def release(self, place: int) -> None:
        device = self._device(place)
        self.roster.release(device)
        if device in self.model:
            self.model[device].taken = False

    @rule(place=members, now_ms=clocks)
    def take(self, place: int, now_ms: int) -> None:
        device = self._device(place)
        member = self.model.get(device)
        expected = member is not None and member.is_pushable(now_ms)
        assert self.roster.take(device, now_ms) == expected
        if member is not None and expected:
            member.taken = True

    @rule(now_ms=clocks, most=st.integers(0, 20))
    def take_pushable(self, now_ms: int, most: int) -> None:
        wanted = {
            device
            for device, member in self.model.items()
            if member.is_pushable(now_ms) and device in self.presence
        }
        found = self.roster.take_pushable(self.presence, now_ms, most)
        assert len(found) == len(set(found)) == min(most, len(wanted))
        assert set(found) <= wanted
        for device in found:
            self.model[device].taken = True

    @rule(now_ms=clocks, most=st.integers(1, 20))
    def take_overdue(self, now_ms: int, most: int) -> None:
        wanted = {device for device, member in self.model.items() if member.is_overdue(now_ms)}
        found = self.roster.take_overdue(now_ms, most)
        assert len(found) == min(most, len(wanted))
        assert set(found) <= wanted
        for device in found:
            self.model[device].clock_ms = 0

    @rule(now_ms=clocks, later_ms=st.integers(0, 20))
    def hold_back(self, now_ms: int, later_ms: int) -> None:
        overdue = [member for member in self.model.values() if member.is_overdue(now_ms)]
        assert self.roster.hold_back(now_ms, now_ms + later_ms) == len(overdue)
        for member in overdue:
            member.clock_ms = now_ms + later_ms

    @invariant()
    def equals(self) -> None:
        assert len(self.roster) == len(self.model)
        outsider = max(self.model, default=0) + 1
        assert outsider not in self.roster
        assert self.roster.get_state(outsider) == self.roster.get_clock(outsider) == 0
        for device, member in self.model.items():
            assert device in self.roster
            assert self.roster.get_state(device) == member.state
            assert self.roster.get_attempt(device) == member.attempt
            assert self.roster.get_clock(device) == member.clock_ms
            assert self.roster.get_deliveries(device) == member.deliveries

    @invariant()
    def wakes_in_time(self) -> None:
        """No running clock comes before next_due_ms, but for retries that are due: they wait for a device."""
        running = [member.clock_ms for member in self.model.values() if member.runs()]
        if running:
            assert self.roster.next_due_ms is not None
            assert self.roster.next_due_ms <= min(running)


quick = settings(max_examples=50, stateful_step_count=25, deadline=None)
TestPresence = PresenceMachine.TestCase
TestPresence.settings = quick
TestRoster = RosterMachine.TestCase
TestRoster.settings = quick


def roster_of(count: int) -> Roster:
    roster = Roster()
    roster.extend(range(1, count + 1), bytes([State.TO_BE_PUSHED]) * count, [0] * count, bytes(count))
    return roster


def presence_of(count: int) -> Presence:
    presence = Presence()
    for device in range(1, count + 1):
        presence.enter(device, device)
    return presence


def test_everybody_gets_a_turn() -> None:
    """Who was taken and given back is not first again."""
    roster, presence = roster_of(10), presence_of(10)
    seen: list[int] = []
    for _ in range(5):
        found = roster.take_pushable(presence, 0, 4)
        seen += found
        for device in found:
            roster.release(device)
    assert seen == [*range(1, 11), *range(1, 11)]


def test_a_retry_that_will_be_due_wakes() -> None:
    roster = roster_of(3)
    roster.update(2, State.TO_BE_RETRIED, 1, 500)
    assert roster.next_due_ms == 500
    assert roster.take_overdue(499, 9) == []
    assert roster.next_due_ms == 500
    assert roster.take_overdue(500, 9) == []
    assert roster.next_due_ms is None, "and then waits for its device, not for a moment"
    assert roster.take_pushable(presence_of(3), 500, 9) == [1, 2, 3]


def test_members_ascend() -> None:
    roster = roster_of(3)
    with pytest.raises(AssertionError):
        roster.extend([3], b"\1", [0], b"\0")
    with pytest.raises(AssertionError):
        roster.extend([4, 5], b"\1", [0, 0], b"\0\0")


def test_zero_is_nobody() -> None:
    presence = presence_of(2)
    with pytest.raises(AssertionError):
        presence.enter(0, 1)
    with pytest.raises(AssertionError):
        presence.enter(1, 0)
    assert presence.get(0) == 0
    assert 0 not in presence
    assert not presence.leave(0, 0)
    assert len(presence) == 2


@pytest.mark.parametrize(("make", "bytes_max"), [(presence_of, 49), (roster_of, 26)])
def test_bytes_of_an_entry(make, bytes_max: int) -> None:  # type: ignore[no-untyped-def]
    count = 100_000
    make(10)
    tracemalloc.start()
    try:
        kept = make(count)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(kept) == count
    assert 16 <= held / count <= bytes_max
