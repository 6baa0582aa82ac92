"""Who is pushed when: slots, wake-ups that never come, devices that come and go."""

from collections.abc import Sequence
from typing import Any

import pytest
import trio

from otagate.store.interface import Upgrade
from otagate.wire import messages
from tests.gateway.harness import (
    Harness,
    SimulatedDevice,
    TestStore,
    failure,
    gateway_harness,
    kinds,
    progress,
)


async def fleet(harness: Harness, count: int, *, online: bool = True) -> list[SimulatedDevice]:
    """Devices d1 to dN, online or on connections that have not said hello."""
    names = [f"d{number}" for number in range(1, count + 1)]
    await harness.set_up(*names)
    if online:
        return [await harness.log_in(name) for name in names]
    return [SimulatedDevice(harness.plane, name) for name in names]


def pushed(devices: list[SimulatedDevice]) -> list[str]:
    """Who was sent an upgrade message."""
    return [device.identifier for device in devices if "upgrade" in kinds(device.inbox)]


async def waits(harness: Harness, batch: str, count: int) -> list[Any]:
    return [(await harness.details(batch, f"d{number}")).waiting_for for number in range(1, count + 1)]


async def test_no_more_than_pushes_max_are_out(autojump_clock: object) -> None:
    async with gateway_harness(device={"pushes_max": 2}) as harness:
        devices = await fleet(harness, 5)
        batch = await harness.create_batch(retries=1, retry_interval_minutes=60)
        await harness.rest()
        assert pushed(devices) == ["d1", "d2"]
        assert await waits(harness, batch, 5) == ["the device to start"] * 2 + ["a push slot"] * 3
        devices[0].send(messages.Received(batch=batch, attempt=1))
        await harness.rest()
        assert pushed(devices) == ["d1", "d2", "d3"]
        devices[1].send(failure(batch))
        await harness.rest()
        assert pushed(devices) == ["d1", "d2", "d3", "d4"]
        devices[2].lose()
        await harness.rest()
        assert pushed(devices) == ["d1", "d2", "d3", "d4", "d5"]
        devices[3].send(messages.Version(version="2.0"))
        devices[4].send(progress(batch, 1))
        await harness.rest()
        assert harness.gateway.upgrades.awaiting == set()


async def test_a_slot_is_freed_by_the_ten_seconds(autojump_clock: object) -> None:
    async with gateway_harness(device={"pushes_max": 1}) as harness:
        devices = await fleet(harness, 3)
        await harness.create_batch()
        for count in (1, 2, 3):
            await harness.rest()
            assert len(pushed(devices)) == count
            await harness.jump(10.1)
        await harness.rest()
        assert harness.gateway.upgrades.awaiting == set()


async def test_a_slot_is_freed_by_an_abort(autojump_clock: object) -> None:
    async with gateway_harness(device={"pushes_max": 1}) as harness:
        devices = await fleet(harness, 2)
        first = await harness.create_batch(range="directed", devices=["d1"])
        second = await harness.create_batch(range="directed", devices=["d2"])
        await harness.rest()
        assert pushed(devices) == ["d1"]
        assert (await harness.details(second, "d2")).waiting_for == "a push slot"
        await harness.service.abort_batch(first)
        await harness.rest()
        assert pushed(devices) == ["d1", "d2"]


async def test_logins_of_one_drain_share_the_slots(autojump_clock: object) -> None:
    async with gateway_harness(device={"pushes_max": 2}) as harness:
        devices = await fleet(harness, 6, online=False)
        batch = await harness.create_batch()
        assert await waits(harness, batch, 6) == ["offline"] * 6
        for device in devices:
            device.send_hello()
        await harness.jump(3)
        assert len(pushed(devices)) == 2
        assert len(harness.gateway.upgrades.awaiting) == 2


async def test_who_comes_back_pushed_holds_its_slot_again(autojump_clock: object) -> None:
    async with gateway_harness(device={"pushes_max": 1}) as harness:
        devices = await fleet(harness, 2)
        batch = await harness.create_batch()
        await harness.rest()
        devices[0].lose()
        await harness.rest()
        assert pushed(devices) == ["d1", "d2"]
        devices[0] = await harness.log_in("d1")
        await devices[0].receive(messages.Upgrade)
        assert len(harness.gateway.upgrades.awaiting) == 2
        devices[0].send(messages.Received(batch=batch, attempt=1))
        devices[1].send(messages.Received(batch=batch, attempt=1))
        await harness.rest()
        assert harness.gateway.upgrades.awaiting == set()


@pytest.mark.parametrize("state", ["to_be_pushed", "to_be_retried"])
async def test_no_edge_is_the_only_carrier_of_a_push(autojump_clock: object, state: str) -> None:
    """All wake-ups are lost but the sweep's: a push comes within a second all the same."""
    async with gateway_harness(device={"pushes_max": 1}) as harness:
        devices = await fleet(harness, 2)
        dispatch = harness.gateway.dispatch

        class Deaf:
            def request(self) -> None:
                pass

        harness.gateway.batches._dispatch = Deaf()  # type: ignore[assignment]
        dispatch.consider = lambda device, batch: None  # type: ignore[method-assign]
        harness.gateway.upgrades.on_slot_free = lambda: None
        batch = await harness.create_batch(retries=1, retry_interval_minutes=1)
        await harness.jump(1)
        assert pushed(devices) == ["d1"]
        if state == "to_be_retried":
            devices[0].inbox.clear()
            devices[0].send(failure(batch))
            await harness.rest()
            devices[1].lose()
            await harness.jump(61)
            assert pushed(devices) == ["d1"]
            return
        devices[0].send(messages.Received(batch=batch, attempt=1))
        await harness.jump(1)
        assert pushed(devices) == ["d1", "d2"]
        devices[1].lose()


async def test_a_login_is_pushed_at_once(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        devices = await fleet(harness, 1, online=False)
        await harness.create_batch()
        await harness.jump(0.5)
        devices[0].send_hello()
        await harness.rest()
        assert pushed(devices) == ["d1"]


async def test_slices_reach_everybody(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        devices = await fleet(harness, 450)
        await harness.create_batch()
        await harness.rest()
        assert len(pushed(devices)) == 450
        assert (await harness.service.get_batch("b1")).counts.pushed == 450


async def test_several_batches_at_once(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        devices = await fleet(harness, 4)
        await harness.add_firmware("3.0")
        await harness.create_batch(range="directed", devices=["d1", "d3"])
        await harness.create_batch("f2", range="directed", devices=["d2", "d4"])
        await harness.rest()
        assert [device.inbox[0].firmware.version for device in devices] == ["2.0", "3.0", "2.0", "3.0"]


async def test_a_device_that_reports_the_target_version_while_its_row_is_written(
    autojump_clock: object,
) -> None:
    async with gateway_harness() as harness:
        devices = await fleet(harness, 2)
        harness.store.hold()
        harness.gateway.nursery.start_soon(harness.create_batch)
        await harness.rest()
        harness.store.release()
        harness.store.hold()  # the batch has begun; its devices are claimed next
        await harness.rest()
        devices[0].send(messages.Version(version="2.0", id="v"))
        await harness.rest()
        harness.store.release()
        await harness.rest()
        assert pushed(devices) == ["d2"]
        details = await harness.details("b1", "d1")
        assert (details.state, details.attempt) == ("succeeded", 0)


async def test_a_device_that_leaves_while_its_push_is_written(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        devices = await fleet(harness, 1, online=False)
        batch = await harness.create_batch()
        devices[0].send_hello()
        await devices[0].receive(messages.Welcome)
        harness.store.hold()
        await harness.jump(1)
        devices[0].lose()
        await harness.rest()
        harness.store.release()
        await harness.rest()
        details = await harness.details(batch, "d1")
        assert details.state in ("to_be_pushed", "pushed")
        assert harness.gateway.upgrades.awaiting == set()
        device = await harness.log_in("d1")
        assert (await device.receive(messages.Upgrade)).attempt == 1
        assert await harness.state(batch, "d1") == "pushed"


async def test_nobody_is_pushed_by_a_batch_in_creation(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        devices = await fleet(harness, 2)
        harness.store.hold()
        harness.gateway.nursery.start_soon(harness.create_batch)
        for _ in range(2):  # begin, claim
            await harness.rest()
            harness.store.release()
            harness.store.hold()
        await harness.jump(5)
        assert pushed(devices) == []
        assert (
            await harness.service.list_batches(firmware=None, product=None, status=None, cursor=None, limit=9)
        ).items == []
        harness.store.release()
        await harness.rest()
        assert pushed(devices) == ["d1", "d2"]


class SlowStore(TestStore):
    """Reads of rows wait while `reading` stands, as those of a store elsewhere do."""

    reading: trio.Event | None = None

    async def upgrades(self, pairs: Sequence[tuple[int, int]]) -> list[Upgrade | None]:
        if self.reading is not None:
            await self.reading.wait()
        return await super().upgrades(pairs)


async def test_a_device_that_leaves_while_its_row_is_read(autojump_clock: object) -> None:
    store = SlowStore()
    async with gateway_harness(store) as harness:
        devices = await fleet(harness, 2)
        store.reading = trio.Event()
        batch = await harness.create_batch()
        await harness.rest()
        devices[0].lose()
        await harness.rest()
        store.reading.set()
        await harness.rest()
        assert pushed(devices) == ["d2"]
        assert await harness.state(batch, "d1") == "to_be_pushed"
        device = await harness.log_in("d1")
        assert (await device.receive(messages.Upgrade, within_s=2)).attempt == 1
