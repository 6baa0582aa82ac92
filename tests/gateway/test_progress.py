"""The short way of progress reports, held against the long one: the same rows, answers and changes."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from otagate import plane
from otagate.gateway.board import Board
from otagate.gateway.clock import Clock
from otagate.gateway.entries import DeviceEntry, Ending
from otagate.gateway.journal import Entry
from otagate.gateway.outbox import Outbox
from otagate.gateway.reports import Reports
from otagate.gateway.tables import Presence, Roster
from otagate.gateway.upgrades import Upgrades
from otagate.store.interface import Batch, Upgrade
from otagate.store.memory import MemoryStore
from otagate.upgrade.model import (
    BatchStatus,
    Cause,
    Policy,
    Remark,
    Row,
    Stage,
    State,
    TimelineEntry,
)
from otagate.wire import messages
from tests.gateway.harness import gateway_harness, kinds, progress, reach

NOW_MS = 1_800_000_000_000
DEVICES = (1, 2, 3)
BATCHES = (1, 2)


def record(number: int, status: BatchStatus) -> Batch:
    ended_at_ms, ended_by = (NOW_MS, "aborted") if status == BatchStatus.ABORTED else (None, None)
    return Batch(
        number=number,
        id=f"b{number}",
        firmware_id="f1",
        firmware_name="fw",
        firmware_version="2.0",
        firmware_md5="0" * 32,
        firmware_sha256="0" * 64,
        firmware_size=1,
        product="lamp",
        product_name="Lamp",
        selection="all",
        policy=Policy.STANDARD,
        validity_days=1,
        timeout_minutes=10,
        retries=2,
        retry_interval_minutes=1,
        created_at_ms=NOW_MS,
        expires_at_ms=NOW_MS + 86_400_000,
        status=status,
        ended_at_ms=ended_at_ms,
        ended_by=ended_by,
    )


class Recorder:
    """The journal and the plane: what is submitted, what is sent."""

    def __init__(self) -> None:
        self.changes: list[Any] = []
        self.commands: list[tuple[object, ...]] = []

    def submit(self, entry: Entry) -> None:
        self.changes += entry.changes

    def apply(self, commands: list[tuple[object, ...]]) -> None:
        self.commands += commands


class World:
    """Reports over upgrades in a state that the numbers of `seed` decide."""

    def __init__(self, seed: int) -> None:
        choose = random.Random(seed)
        self.recorder = Recorder()
        self.outbox = Outbox(self.recorder)
        self.presence = Presence()
        clock = Clock(NOW_MS, wall_ms=lambda: NOW_MS, elapsed_ms=lambda: 0)
        store = MemoryStore()
        self.board = Board()
        self.upgrades = Upgrades(
            store,
            self.recorder,  # type: ignore[arg-type]
            self.presence,
            self.outbox,
            clock,
            self.board,
        )
        self.reports = Reports(store, self.presence, self.outbox, self.upgrades, None)  # type: ignore[arg-type]
        for number in BATCHES:
            status = BatchStatus.ABORTED if choose.random() < 0.15 else BatchStatus.IN_PROGRESS
            if choose.random() < 0.9:
                self.upgrades.open_batch(record(number, status), Roster())
        for device in DEVICES:
            self._place(choose, device)
        self.began = dict(self.upgrades.rows)
        if choose.random() < 0.1:
            self.upgrades._endings[2] = Ending(
                self.upgrades,
                2,
                None,
                lambda outcome: None,
                (),
                self.upgrades._place + 1,  # type: ignore[arg-type]
            )
        if choose.random() < 0.5:
            self.board.subscribe(1).__enter__()

    def _place(self, choose: random.Random, device: int) -> None:
        if choose.random() < 0.9:
            self.presence.enter(device, 10 * device)
        if choose.random() < 0.1:
            return
        state = State.UPGRADING if choose.random() < 0.7 else choose.choice(list(State))
        attempt = choose.randint(1, 2)
        timeline = (TimelineEntry(NOW_MS - 9, State.PUSHED, Remark.NONE, Cause.PUSHED, attempt),)
        row = Row(state, attempt, NOW_MS + 60_000, stage=Stage.DOWNLOADING, progress=7, timeline=timeline)
        self.upgrades.rows[device] = Upgrade(device, choose.choice((1, 1, 2)), row)
        if choose.random() < 0.15:
            self.upgrades.submit(DeviceEntry(self.upgrades, device, ()))
        if choose.random() < 0.1:
            self.reports._later[device] = [(10 * device, messages.Check(id="later"))]

    def hear(self, events: list[tuple[Any, ...]], *, short: bool) -> None:
        """As Sessions.handle does; without the short way everything is `receive`d."""
        at = 0
        while True:
            if short:
                at = self.reports.take_progress(events, at)
            if at == len(events):
                break
            _, conn, device, payload = events[at]
            if self.presence.get(device) == conn:
                self.reports.receive(device, conn, payload)
            at += 1
        self.outbox.flush()

    def seen(self) -> dict[str, Any]:
        """All that may differ. Who looks as before need not be written, nor shown: a percentage that went
        away and came back within one run is not noticed by the short way."""
        upgrades = self.upgrades
        moved = {device for device, upgrade in upgrades.rows.items() if upgrade != self.began.get(device)}
        followers = {
            device: [(type(follow).__name__, getattr(follow, "event", None)) for follow in entry.followers]
            for device, entry in upgrades._pending.items()
        }
        watched = self.board._watched.get(1)
        return {
            "rows": upgrades.rows,
            "dirty": {device: batch for device, batch in upgrades._dirty.items() if device in moved},
            "followers": followers,
            "changes": self.recorder.changes,
            "commands": self.recorder.commands,
            "later": self.reports._later,
            "touched": watched and moved.intersection(watched.devices.since(0)),
        }


IDENTITIES = st.none() | st.sampled_from(["m", "n-1", "0" * 64])
PROGRESS = st.builds(
    messages.Progress,
    id=IDENTITIES,
    batch=st.sampled_from(["b1", "b1", "b1", "b1", "b2", "b9", "x"]),
    attempt=st.sampled_from([1, 1, 1, 1, 2, 0, 7]),
    stage=st.sampled_from(["downloading", "verifying", "burning"]),
    percent=st.sampled_from([0, 7, 8, 100]),
)
PAYLOADS = (
    PROGRESS.map(messages.encode)
    | PROGRESS.map(messages.encode)
    | PROGRESS.map(messages.encode)
    | st.builds(messages.Received, id=IDENTITIES, batch=st.just("b1"), attempt=st.just(1)).map(
        messages.encode
    )
    | st.sampled_from(
        [
            b'{"type":"progress","id":"m","batch":"b1","attempt":1,"stage":"burning","percent":101}',
            b'{"type":"progress","id":"m","batch":"b1","attempt":1,"stage":"burning","percent":9,"x":1}',
            b'{"type":"progress"',
        ]
    )
)
EVENTS = st.lists(
    st.tuples(st.sampled_from(DEVICES), st.sampled_from([0] * 9 + [1]), st.lists(PAYLOADS, max_size=4)),
    max_size=8,
).map(
    lambda turns: [
        (plane.MESSAGE, 10 * device + stale, device, payload)
        for device, stale, payloads in turns
        for payload in payloads
    ]
)


@settings(max_examples=600)
@given(st.integers(0, 2**32), EVENTS)
@example(16, [(plane.MESSAGE, 10, 1, messages.encode(progress("b1", percent))) for percent in (0, 7)])
def test_the_short_way_is_the_long_one(seed: int, events: list[tuple[Any, ...]]) -> None:
    short, long = World(seed), World(seed)
    short.hear(events, short=True)
    long.hear(events, short=False)
    assert short.seen() == long.seen()


def reports_of(device: int, *percents: int) -> list[tuple[Any, ...]]:
    return [
        (plane.MESSAGE, 10 * device, device, messages.encode(progress("b1", percent, id=f"m{percent}")))
        for percent in percents
    ]


def world_at_work() -> World:
    """Devices 1 and 2 upgrade in batch 1, which is in progress; nothing waits."""
    world = World(0)
    world.reports._later.clear()
    world.upgrades._pending.clear()
    world.upgrades._endings.clear()
    world.upgrades.batches.clear()
    world.upgrades.open_batch(record(1, BatchStatus.IN_PROGRESS), Roster())
    for device in (1, 2):
        world.presence.enter(device, 10 * device)
        world.upgrades.rows[device] = Upgrade(device, 1, Row(State.UPGRADING, 1, NOW_MS))
    return world


def test_runs_are_taken_whole() -> None:
    world = world_at_work()
    events = reports_of(1, 1, 2, 3) + reports_of(2, 4)
    assert world.reports.take_progress(events, 0) == 4
    assert [upgrade.row.progress for _, upgrade in sorted(world.upgrades.rows.items())][:2] == [3, 4]
    assert acknowledged(world) == [(10, "m1"), (10, "m2"), (10, "m3"), (20, "m4")]


def acknowledged(world: World) -> list[tuple[object, str]]:
    world.outbox.flush()
    found = []
    for _, conn, payload in world.recorder.commands:
        message = messages.decode_gateway_message(payload)  # type: ignore[arg-type]
        assert isinstance(message, messages.Ack)
        found.append((conn, str(message.id)))
    return found


def pending(world: World) -> None:
    world.upgrades.submit(DeviceEntry(world.upgrades, 1, ()))


def ending(world: World) -> None:
    world.upgrades._endings[1] = None  # type: ignore[assignment]


def aborted(world: World) -> None:
    world.upgrades.batches[1].record = record(1, BatchStatus.ABORTED)


def forgotten(world: World) -> None:
    del world.upgrades.batches[1]


def away(world: World) -> None:
    world.presence.leave(1, 10)


def superseded(world: World) -> None:
    world.presence.enter(1, 11)


def waiting(world: World) -> None:
    world.reports._later[1] = []


def no_row(world: World) -> None:
    del world.upgrades.rows[1]


def retried(world: World) -> None:
    world.upgrades.rows[1] = replace(world.upgrades.rows[1], row=Row(State.UPGRADING, 2, NOW_MS))


def not_begun(world: World) -> None:
    world.upgrades.rows[1] = replace(world.upgrades.rows[1], row=Row(State.TO_BE_UPGRADED, 1))


@pytest.mark.parametrize(
    "change",
    [pending, ending, aborted, forgotten, away, superseded, waiting, no_row, retried, not_begun],
    ids=lambda change: change.__name__,
)
def test_what_is_not_so_simple_goes_the_long_way(change: Any) -> None:
    world = world_at_work()
    change(world)
    before = dict(world.upgrades.rows)
    assert world.reports.take_progress(reports_of(1, 50), 0) == 0
    assert world.upgrades.rows == before
    assert world.outbox.commands == []


def test_an_event_that_is_no_message_ends_a_run() -> None:
    world = world_at_work()
    closed: Sequence[Any] = [(plane.CLOSED, 20, 2, plane.LOST)]
    events = [*reports_of(1, 5), *closed, *reports_of(1, 6)]
    assert world.reports.take_progress(events, 0) == 1
    assert world.upgrades.rows[1].row.progress == 5
    assert world.reports.take_progress(events, 2) == 3
    assert world.upgrades.rows[1].row.progress == 6


async def test_order_in_a_drain(autojump_clock: object) -> None:
    """What follows the end of an attempt is answered as a report of what is over, not before it."""
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "upgrading")
        device.send(
            progress(batch, 20, id="p"),
            messages.Result(batch=batch, attempt=1, outcome="failed", reason="burn_failed", id="r"),
            progress(batch, 30, id="q"),
        )
        found = await device.receive_all()
        assert kinds(found) == ["ack", "ack", "ack", "cancel"]
        assert [message.id for message in found[:3]] == ["p", "r", "q"]
        details = await harness.details(batch, "d1")
        assert (details.state, details.progress) == ("failed", 20)


async def test_percentages_reach_the_store(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "upgrading")
        device.send(*(progress(batch, percent, id=f"m{percent}") for percent in range(20, 50)))
        found = await device.receive_all()
        assert [message.id for message in found] == [f"m{percent}" for percent in range(20, 50)]
        await harness.jump(3)  # the coalesced flush
        number = int(batch[1:])
        stored = (await harness.store.upgrades([(device.number, number)]))[0]
        assert stored is not None
        assert stored.row.progress == 49
