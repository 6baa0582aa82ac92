"""A gateway that starts on a store that has been used before: what was cut in two is finished."""

import pytest
import trio
from trio.testing import MockClock

from otagate.store.interface import BeginBatch, ClaimDevices, EndBatch
from otagate.upgrade.model import Policy, State
from otagate.wire import messages
from tests.gateway.harness import (
    OPEN,
    RUNNING,
    SimulatedDevice,
    TestStore,
    failure,
    gateway_harness,
    kinds,
    progress,
    reach,
)

DAY_S = 24 * 3600
GRACE_S = 150


async def reached(store: TestStore, state: str, **parameters: object) -> str:
    """The batch of a gateway that stopped with d1 in this state (see `reach`)."""
    async with gateway_harness(store) as harness:
        _, batch = await reach(harness, state, **parameters)
    return batch


@pytest.mark.parametrize("state", OPEN)
async def test_what_was_open_goes_on(autojump_clock: object, state: str) -> None:
    store = TestStore()
    batch = await reached(store, state)
    async with gateway_harness(store) as harness:
        assert await harness.state(batch, "d1") == state
        assert (await harness.details(batch, "d1")).waiting_for == "offline"
        device = await harness.log_in("d1")
        found = await device.receive_all()
        if state in (*RUNNING, "to_be_pushed"):
            assert [(each.batch, each.attempt) for each in found] == [(batch, 1)]
        else:
            assert found == []
            await harness.jump(300)
            assert (await device.receive(messages.Upgrade)).attempt == 2
        attempt = 2 if state == "to_be_retried" else 1
        device.send(messages.Received(batch=batch, attempt=attempt, id="m"), progress(batch, 5, attempt))
        assert kinds(await device.receive_all()) == ["ack"]
        assert await harness.state(batch, "d1") == "upgrading"
        device.lose()
        await harness.log_in("d1", "2.0")
        assert await harness.state(batch, "d1") == "succeeded"


async def test_a_thousand_pushed_devices_come_back(autojump_clock: object) -> None:
    """No retries, away for 12 s: the 10 s run only while there is a session, so none fails."""
    store = TestStore()
    names = [f"d{number}" for number in range(1000)]
    async with gateway_harness(store) as harness:
        await harness.set_up(*names)
        devices = [await harness.log_in(name) for name in names]
        batch = await harness.create_batch()
        await harness.rest()
        assert (await harness.service.get_batch(batch)).counts.pushed == 1000
    async with gateway_harness(store) as harness:
        await harness.jump(12)
        devices = [await harness.log_in(name) for name in names]
        await harness.rest()
        for device in devices:
            device.send(messages.Received(batch=batch, attempt=1))
        await harness.rest()
        counts = (await harness.service.get_batch(batch)).counts
        assert (counts.failed, counts.to_be_upgraded) == (0, 1000)
        assert {kinds(device.inbox)[-1] for device in devices} == {"upgrade"}


@pytest.mark.parametrize("down_s", [1, 170, 1000])
async def test_a_time_out_is_held_back_only_if_it_fell_due_meanwhile(
    autojump_clock: object, down_s: int
) -> None:
    store = TestStore()
    async with gateway_harness(store) as harness:
        _, batch = await reach(harness, "upgrading", timeout_minutes=3)
        due_ms = harness.now_ms + 180_000
        jump = harness.jump
    await _down(down_s)
    async with gateway_harness(store) as harness:
        expected_ms = due_ms if due_ms > harness.now_ms else harness.now_ms + GRACE_S * 1000
        await jump((expected_ms - harness.now_ms) / 1000 - 1)
        assert await harness.state(batch, "d1") == "upgrading"
        await jump(1.2)
        assert (await harness.details(batch, "d1")).remark == "upgrade_timeout"


async def _down(seconds: float) -> None:
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, MockClock)
    clock.jump(seconds)


async def test_devices_report_first_after_a_time_out_while_down(autojump_clock: object) -> None:
    store = TestStore()
    batch = await reached(store, "upgrading", timeout_minutes=3)
    await _down(3600)
    async with gateway_harness(store) as harness:
        await harness.jump(GRACE_S - 10)
        await harness.log_in("d1", "2.0")
        await harness.jump(60)
        assert await harness.state(batch, "d1") == "succeeded"


async def test_a_retry_that_fell_due_while_down(autojump_clock: object) -> None:
    store = TestStore()
    batch = await reached(store, "to_be_retried")
    await _down(3600)
    async with gateway_harness(store) as harness:
        device = await harness.log_in("d1")
        assert (await device.receive(messages.Upgrade, within_s=1)).attempt == 2
        assert await harness.state(batch, "d1") == "pushed"


@pytest.mark.parametrize("state", OPEN)
async def test_validity_that_ran_out_while_down(autojump_clock: object, state: str) -> None:
    store = TestStore()
    batch = await reached(store, state, timeout_minutes=1440)
    async with gateway_harness(store) as harness:
        expires_at = (await harness.service.get_batch(batch)).expires_at
    await _down(3 * DAY_S)
    async with gateway_harness(store) as harness:
        device = await harness.log_in("d1")
        assert kinds(await device.receive_all()) == (["cancel"] if state in RUNNING else [])
        view = await harness.service.get_batch(batch)
        assert (view.status, view.ended_at) == ("aborted", expires_at)
        details = await harness.details(batch, "d1")
        assert (details.state, details.remark, details.completed_at) == ("failed", "task_aborted", expires_at)
        assert details.timeline[-1].cause == "expired"


async def test_a_device_that_is_back_first_still_succeeds(autojump_clock: object) -> None:
    """At one instant: device reports first, then validity."""
    store = TestStore()
    batch = await reached(store, "upgrading", timeout_minutes=1440)
    await _down(2 * DAY_S)
    async with gateway_harness(store) as harness:
        device = SimulatedDevice(harness.plane, "d1")
        device.send_hello("2.0")  # read in the first drain
        await harness.rest()
        assert await harness.state(batch, "d1") == "succeeded"
        assert (await harness.service.get_batch(batch)).counts.succeeded == 1


async def test_deliveries_are_counted_anew(autojump_clock: object) -> None:
    store = TestStore()
    batch = await reached(store, "pushed")
    for _ in range(4):
        async with gateway_harness(store) as harness:
            device = await harness.log_in("d1")
            await device.receive(messages.Upgrade)
    async with gateway_harness(store) as harness:
        assert await harness.state(batch, "d1") == "pushed"


async def test_a_batch_in_creation_is_undone(autojump_clock: object) -> None:
    store = TestStore()
    async with gateway_harness(store) as harness:
        await harness.set_up(*(f"d{number}" for number in range(3)))
        await harness.gateway.journal.write(
            BeginBatch("f1", "all", Policy.STANDARD, 1, 10, 0, None, harness.now_ms)
        )
        for number in (1, 2, 3):
            await harness.gateway.journal.write(ClaimDevices(1, [number], harness.now_ms))
        with pytest.raises(Exception, match="b1"):
            await harness.service.delete_firmware("f1")
    async with gateway_harness(store) as harness:
        device = await harness.log_in("d1")
        await device.expect_silence(2)
        assert await store.unfinished_batches() == []
        batch = await harness.create_batch()
        assert batch == "b2", "numbers are never used again"
        assert (await harness.service.get_batch(batch)).counts.total == 3
        await harness.service.abort_batch(batch)
        await harness.service.delete_firmware("f1")


async def test_the_rows_of_an_ended_batch_are_rewritten(autojump_clock: object) -> None:
    store = TestStore()
    async with gateway_harness(store) as harness:
        device, batch = await reach(harness, "upgrading")
        await harness.gateway.journal.write(EndBatch(1, "aborted", harness.now_ms))
    assert len(await store.unfinished_batches()) == 1
    async with gateway_harness(store) as harness:
        device = await harness.log_in("d1")
        device.send(progress(batch, 60, id="m"), messages.Check(id="c"))
        assert await device.receive_all() == [
            messages.Ack(id="m"),
            messages.Cancel(batch=batch, attempt=1, reason="aborted"),
            messages.Ack(id="c"),
        ]
        assert await store.unfinished_batches() == []
        assert harness.gateway.upgrades.batches == {}
        row = (await store.upgrades([(device.number, 1)]))[0]
        assert row is not None
        assert row.row.state == State.FAILED


async def test_the_clock_never_starts_before_the_newest_time_in_the_store(autojump_clock: object) -> None:
    store = TestStore()
    async with gateway_harness(store) as harness:
        device, batch = await reach(harness, "upgrading")
        await harness.jump(500)
        device.send(failure(batch))
        await harness.rest()
        newest_ms = await store.newest_time_ms()
    async with gateway_harness(store, wall_ms=0) as harness:  # the clock's battery is dead
        assert harness.now_ms >= newest_ms
        batch = await harness.create_batch(range="directed", devices=["d1"])
        device = await harness.log_in("d1")
        await device.receive(messages.Upgrade)
        at = (await harness.details(batch, "d1")).timeline[0].at
        assert at >= "2027-01-15"
