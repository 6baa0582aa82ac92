"""What subscribers of the events are told: what changed, the newest state of it, at a pace, from where on."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from otagate import limits
from otagate.errors import Busy, NotFound
from otagate.gateway.access import Identity, Role
from otagate.gateway.acts import Act
from otagate.gateway.board import Board, Recent
from otagate.gateway.events import Notice, Subscription
from otagate.gateway.views import BatchView, ChangedUpgrades
from tests.gateway import harness as harnesses
from tests.gateway.harness import Harness, gateway_harness, messages, progress, reach, success

STATISTICS = {"bytes_streamed": 12, "transfers_running": 3}


@pytest.fixture(autouse=True)
def _statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harnesses.SimulatedPlane, "statistics", lambda self: STATISTICS, raising=False)


@pytest.fixture
async def harness(autojump_clock: MockClock) -> AsyncIterator[Harness]:
    async with gateway_harness() as harness:
        yield harness


@asynccontextmanager
async def listen(
    harness: Harness, batch: str | None = None, product: str | None = None, cursor: str | None = None
) -> AsyncIterator[Subscription]:
    async with await harness.service.subscribe(batch=batch, product=product, cursor=cursor) as subscription:
        yield subscription


async def told(events: Subscription, within_s: float = 0.9) -> list[Notice]:
    """All that is told in this much time."""
    found = []
    with trio.move_on_after(within_s):
        while (notice := await events.next()) is not None:
            found.append(notice)
    return found


def counts(notice: Notice) -> dict[str, int]:
    """The states of a batch event that anyone is in."""
    assert isinstance(notice.data, BatchView)
    return {
        name: getattr(notice.data.counts, name)
        for name in notice.data.counts.__struct_fields__
        if name != "total" and getattr(notice.data.counts, name)
    }


def names(found: list[Notice]) -> list[str]:
    return [notice.event for notice in found]


# -- the board ---------------------------------------------------------------------------------------


def test_recent_forgets_the_oldest() -> None:
    recent = Recent(2)
    recent.touch(1, 10)
    recent.touch(2, 11)
    recent.touch(1, 12)
    assert recent.since(10) == [2, 1]
    assert recent.since(11) == [1]
    assert recent.knows_since(0)
    recent.touch(3, 13)
    assert recent.since(0) == [1, 3]
    assert not recent.knows_since(10)
    assert recent.knows_since(11)
    assert [recent.changed_since(key, 11) for key in (1, 2, 3)] == [True, False, True]
    assert recent.changed_since(2, 10), "it may have"


def test_cursors_of_another_process_say_nothing() -> None:
    board = Board()
    board.mark_batch(1)
    board.publish()
    assert board.version_of(board.cursor(1)) == 1
    for cursor in ("", "1", f"{board.name}-", f"{board.name}-2", f"{board.name}-x", "other-1", "-1"):
        assert board.version_of(cursor) is None
    assert Board().version_of(board.cursor(0)) is None


def test_nobody_listens_nothing_is_kept_of_devices() -> None:
    board = Board()
    for device in range(1000):
        board.mark(1, device)
        board.mark_row(2, device)
        board.publish()
    assert board.batches.since(0) == [1]
    assert not board.watched()


# -- one batch ---------------------------------------------------------------------------------------


async def test_the_state_comes_first_then_what_changes(autojump_clock: MockClock, harness: Harness) -> None:
    device, batch = await reach(harness, "pushed")
    async with listen(harness, batch) as events:
        (first,) = await told(events)
        assert counts(first) == {"pushed": 1, "to_be_pushed": 1}
        device.send(messages.Received(batch=batch, attempt=1, id="a"))
        second, third = await told(events)
        assert counts(second) == {"to_be_upgraded": 1, "to_be_pushed": 1}
        assert third.data == ChangedUpgrades(["d1"], more=False)
        assert await told(events, 60) == [], "nothing changes, nothing is told"


async def test_a_percentage_is_news_of_the_row_only(autojump_clock: MockClock, harness: Harness) -> None:
    device, batch = await reach(harness, "upgrading")
    async with listen(harness, batch) as events:
        await told(events)
        device.send(progress(batch, 50))
        assert names(await told(events, 60)) == ["upgrades"]


async def test_coming_and_going_is_news_of_the_row(autojump_clock: MockClock, harness: Harness) -> None:
    device, batch = await reach(harness, "upgrading")
    async with listen(harness, batch) as events:
        await told(events)
        device.lose()
        assert [notice.data for notice in await told(events)] == [ChangedUpgrades(["d1"], more=False)]
        await harness.log_in("d1")
        assert ChangedUpgrades(["d1"], more=False) in [notice.data for notice in await told(events)]


async def test_an_end_concerns_all_rows(autojump_clock: MockClock, harness: Harness) -> None:
    _, batch = await reach(harness, "to_be_upgraded")
    async with listen(harness, batch) as events:
        await told(events)
        await harness.service.abort_batch(batch)
        found = await told(events)
        assert isinstance(found[0].data, BatchView)
        assert found[0].data.status == "aborted"
        assert isinstance(found[1].data, ChangedUpgrades)
        assert found[1].data.more


async def test_at_most_four_a_second_and_the_newest_wins(autojump_clock: MockClock, harness: Harness) -> None:
    device, batch = await reach(harness, "upgrading")
    async with listen(harness, batch) as events:
        await told(events)
        found: list[Notice] = []

        async def collect() -> None:
            found.extend(await told(events, 10))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect)
            for percent in range(11, 91):
                device.send(progress(batch, percent))
                await trio.sleep(0.1)
            device.send(success(batch))
        assert 25 <= names(found).count("upgrades") <= 41
        assert counts([notice for notice in found if notice.event == "batch"][-1]) != {}


async def test_too_many_devices_to_name(
    autojump_clock: MockClock, harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "events_devices_max", 2)
    await harness.set_up("d1", "d2", "d3")
    batch = await harness.create_batch()
    async with listen(harness, batch) as events:
        await told(events)
        for identifier in ("d1", "d2", "d3"):
            await harness.log_in(identifier)
        data = [notice.data for notice in await told(events) if notice.event == "upgrades"]
        assert ChangedUpgrades(["d2", "d3"], more=True) in data


# -- all batches -------------------------------------------------------------------------------------


async def test_all_batches_and_the_overview(autojump_clock: MockClock, harness: Harness) -> None:
    device, batch = await reach(harness, "pushed")
    async with listen(harness) as events:
        found = await told(events, 3.5)
        assert names(found) == ["overview", "batch", "overview", "overview", "overview"]
        assert found[0].data.devices_online == 1  # type: ignore[union-attr]
        assert found[0].data.bytes_streamed_total == 12  # type: ignore[union-attr]
        device.send(messages.Received(batch=batch, attempt=1, id="a"))
        changed = [notice for notice in await told(events, 3) if notice.event == "batch"]
        assert [counts(notice) for notice in changed] == [{"to_be_upgraded": 1, "to_be_pushed": 1}]
    async with listen(harness, product="lamp") as events:
        assert "batch" in names(await told(events))
    await harness.service.create_product(harnesses.CreateProductRequest("fan", "Fan"))
    async with listen(harness, product="fan") as events:
        assert set(names(await told(events))) == {"overview"}


async def test_a_batch_that_is_opened_is_told(autojump_clock: MockClock, harness: Harness) -> None:
    await harness.set_up("d1")
    async with listen(harness) as events:
        assert set(names(await told(events))) == {"overview"}
        batch = await harness.create_batch()
        opened = [notice.data for notice in await told(events) if notice.event == "batch"]
        assert [view.id for view in opened if isinstance(view, BatchView)] == [batch]


# -- resuming ----------------------------------------------------------------------------------------


async def test_resuming_tells_what_was_missed(autojump_clock: MockClock, harness: Harness) -> None:
    device, batch = await reach(harness, "pushed")
    async with listen(harness) as events:
        cursor = (await told(events))[-1].cursor
    async with listen(harness, cursor=cursor) as events:
        assert set(names(await told(events, 5))) == {"overview"}, "nothing was missed"
    device.send(messages.Received(batch=batch, attempt=1, id="a"))
    await device.receive(messages.Ack)
    async with listen(harness, cursor=cursor) as events:
        missed = [notice for notice in await told(events) if notice.event == "batch"]
        assert [counts(notice) for notice in missed] == [{"to_be_upgraded": 1, "to_be_pushed": 1}]


async def test_resuming_one_batch_that_nobody_watched_meanwhile(
    autojump_clock: MockClock, harness: Harness
) -> None:
    device, batch = await reach(harness, "pushed")
    async with listen(harness, batch) as events:
        cursor = (await told(events))[-1].cursor
    device.send(messages.Received(batch=batch, attempt=1, id="a"))
    await device.receive(messages.Ack)
    async with listen(harness, batch, cursor=cursor) as events:
        first, second = await told(events)
        assert counts(first) == {"to_be_upgraded": 1, "to_be_pushed": 1}
        assert second.data == ChangedUpgrades([], more=True), "which rows nobody knows"


@pytest.mark.parametrize("cursor", ["", "x", "00000000-5"])
async def test_an_unknown_cursor_tells_everything(
    autojump_clock: MockClock, harness: Harness, cursor: str
) -> None:
    _, batch = await reach(harness, "pushed")
    async with listen(harness, cursor=cursor) as events:
        assert "batch" in names(await told(events))
    async with listen(harness, batch, cursor=cursor) as events:
        assert names(await told(events)) == ["batch"]


async def test_a_round_that_broke_off_is_told_again(autojump_clock: MockClock, harness: Harness) -> None:
    await harness.set_up("d1", "d2")
    for identifier in ("d1", "d2"):
        await harness.create_batch(range="directed", devices=[identifier])
    async with listen(harness) as events:
        found = []
        while len(found) < 2:
            notice = await events.next()
            assert notice is not None
            found.append(notice)
    assert names(found) == ["overview", "batch"]
    async with listen(harness, cursor=found[-1].cursor) as events:
        again = [notice.data for notice in await told(events) if notice.event == "batch"]
        assert {view.id for view in again if isinstance(view, BatchView)} == {"b1", "b2"}


# -- bounds ------------------------------------------------------------------------------------------


async def test_a_slow_reader_costs_no_memory_and_sees_the_newest(
    autojump_clock: MockClock, harness: Harness
) -> None:
    device, batch = await reach(harness, "upgrading")
    async with listen(harness, batch) as slow:
        await told(slow)
        for percent in range(11, 91):
            device.send(progress(batch, percent))
            await harness.rest()
        device.send(messages.Version(version="2.0"))
        await trio.sleep(3600)
        found = await told(slow)
        assert names(found) == ["batch", "upgrades"], "an hour is one event of each kind"
        assert counts(found[0]) == {"succeeded": 1, "to_be_pushed": 1}


async def test_subscribers_are_bounded(
    autojump_clock: MockClock, harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "events_subscribers_max", 1)
    _, batch = await reach(harness, "pushed")
    async with listen(harness):
        with pytest.raises(Busy):
            async with listen(harness, batch):
                pass
    async with listen(harness, batch):
        assert harness.gateway.board.watched() == {1}
    assert not harness.gateway.board.watched()
    assert harness.gateway.board.subscribers == 0


async def test_no_token_takes_all_streams(autojump_clock: MockClock, harness: Harness) -> None:
    async def listen_by(token: int) -> None:
        by = Act(Identity(token, "", Role.VIEWER, b""), "")
        context = await harness.service.subscribe(batch=None, product=None, cursor=None, by=by)
        await streams.enter_async_context(context)

    async with AsyncExitStack() as streams:
        for _ in range(limits.events_subscribers_per_token_max):
            await listen_by(1)
        with pytest.raises(Busy, match="this token"):
            await listen_by(1)
        await listen_by(2)
    assert harness.gateway.board.subscribers == 0
    async with AsyncExitStack() as streams:
        await listen_by(1)


async def test_what_there_is_not(autojump_clock: MockClock, harness: Harness) -> None:
    for wanted in ({"batch": "b9"}, {"product": "fan"}):
        with pytest.raises(NotFound):
            async with listen(harness, **wanted):
                pass


async def test_stopping_ends_it(autojump_clock: MockClock, harness: Harness) -> None:
    _, batch = await reach(harness, "pushed")
    async with listen(harness, batch) as one, listen(harness) as other, trio.open_nursery() as nursery:
        ended: list[Any] = []

        async def read(events: Subscription) -> None:
            while await events.next() is not None:
                pass
            ended.append(events)

        nursery.start_soon(read, one)
        nursery.start_soon(read, other)
        await harness.rest()
        harness.gateway.board.close()
        await trio.sleep(1)
        assert len(ended) == 2


# -- the overview ------------------------------------------------------------------------------------


async def test_overview(autojump_clock: MockClock, harness: Harness) -> None:
    await reach(harness, "pushed")
    await trio.sleep(6)
    view = await harness.service.overview()
    assert (view.devices_online, view.devices_total, view.batches_in_progress) == (1, 2, 1)
    assert (view.logins_total, view.pushes_total, view.transitions_total) == (3, 1, 1)
    assert (view.bytes_streamed_total, view.transfers_running) == (12, 3)
    assert view.history.interval_s == 5
    assert sum(view.history.logins) == 3
    assert sum(view.history.pushes) == 1
    assert view.history.devices_online[-1] == 1


async def test_the_history_is_bounded(autojump_clock: MockClock, harness: Harness) -> None:
    await trio.sleep(3600)
    history = (await harness.service.overview()).history
    assert history.devices_online == history.logins == history.pushes == [0] * limits.overview_samples_max
