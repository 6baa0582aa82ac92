"""Abort and expiry: in every state, for devices that are here and that are not, and what stays afterwards."""

import pytest
import trio

from otagate.errors import Conflict, NotFound
from otagate.gateway.transfers import Download
from otagate.wire import messages
from tests.gateway.harness import (
    OPEN,
    RUNNING,
    Harness,
    SimulatedDevice,
    failure,
    gateway_harness,
    kinds,
    progress,
    reach,
)

DAY_S = 24 * 3600


async def end(harness: Harness, batch: str, how: str) -> None:
    """Abort the batch, or let its validity run out."""
    if how == "aborted":
        view = await harness.service.abort_batch(batch)
        assert (view.status, view.counts.failed) == ("aborted", 2)
    else:
        await harness.jump(DAY_S)
    await harness.rest()


@pytest.mark.parametrize("how", ["aborted", "expired"])
@pytest.mark.parametrize("state", OPEN)
async def test_end_of_a_batch(autojump_clock: object, state: str, how: str) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(
            harness, state, timeout_minutes=1440, retries=1, retry_interval_minutes=1439
        )
        if state == "pushed" and how == "expired":
            device.lose()  # or it would fail by its 10 s
            await harness.rest()
        before = await harness.service.get_batch(batch)
        await end(harness, batch, how)
        found = await device.receive_all()
        told = state in RUNNING and device.conn in harness.plane.devices
        assert kinds(found) == (["cancel"] if told else [])
        if told:
            assert found[0] == messages.Cancel(batch=batch, attempt=1, reason=how)
        details = await harness.details(batch, "d1")
        assert (details.state, details.remark) == ("failed", "task_aborted")
        assert (details.timeline[-1].cause, details.timeline[-1].state) == (how, "failed")
        assert details.waiting_for is None
        view = await harness.service.get_batch(batch)
        assert view.status == "aborted"
        assert view.ended_at == details.completed_at
        if how == "expired":
            assert view.ended_at == before.expires_at
        assert (view.counts.failed, view.counts.total) == (2, 2)
        # nothing of it leaves any more
        device.lose()
        device = await harness.log_in("d1")
        device.send(messages.Check(id="c"))
        assert await device.receive_all() == [messages.Ack(id="c")]
        await harness.jump(3 * DAY_S)
        await device.expect_silence()
        assert harness.gateway.upgrades.batches == {}
        assert harness.gateway.upgrades.rows == {}
        assert harness.gateway.upgrades.awaiting == set()
        with pytest.raises(Conflict):
            await harness.service.abort_batch(batch)


@pytest.mark.parametrize("how", ["aborted", "expired"])
@pytest.mark.parametrize("state", RUNNING)
async def test_who_was_away_is_told_when_it_next_speaks_of_the_attempt(
    autojump_clock: object, state: str, how: str
) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, state, timeout_minutes=1440)
        device.lose()
        await end(harness, batch, how)
        device = await harness.log_in("d1")
        await device.expect_silence()
        device.send(progress(batch, 90, id="p"), progress(batch, 0, stage="burning", id="b"))
        assert await device.receive_all() == [
            messages.Ack(id="p"),
            messages.Cancel(batch=batch, attempt=1, reason=how),
            messages.Cancel(batch=batch, attempt=1, reason=how, id="b"),
        ]
        device.send(messages.Fetch(transfer=3, firmware="f1", offset=0, id="f"))
        refusal = await device.receive(messages.Error)
        assert (refusal.code, refusal.transfer, refusal.id) == ("not_found", 3, "f")


async def test_a_device_whose_batch_ended_succeeds_for_itself_alone(autojump_clock: object) -> None:
    """While burning it ignores the cancel, finishes, and reports its version: for record and timeline."""
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "upgrading")
        await harness.service.abort_batch(batch)
        await device.receive(messages.Cancel)
        device.lose()
        await harness.log_in("d1", "2.0")
        details = await harness.details(batch, "d1")
        assert (details.state, details.remark) == ("failed", "task_aborted")
        assert [entry.cause for entry in details.timeline[-2:]] == ["aborted", "reported_version"]
        assert (await harness.service.get_device("lamp", "d1")).version == "2.0"
        assert (await harness.service.get_batch(batch)).counts.succeeded == 0


@pytest.mark.parametrize("state", RUNNING)
async def test_a_running_download_stops(autojump_clock: object, state: str) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, state)
        _download(harness, device)
        await harness.service.abort_batch(batch)
        assert device.conn not in harness.plane.running
        assert harness.gateway.transfers.downloads == {}


@pytest.mark.parametrize("message", [messages.Version(version="1.7"), failure("b1"), progress("b1", 12)])
async def test_a_report_amid_an_abort(autojump_clock: object, message: messages.DeviceMessage) -> None:
    """It comes after the abort was decided and before it is durable: the download stops all the same."""
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "upgrading")
        _download(harness, device)
        harness.store.hold()
        harness.gateway.nursery.start_soon(harness.service.abort_batch, batch)
        await harness.rest()
        device.send(message)
        await harness.rest()
        harness.store.release()
        await harness.rest()
        assert device.conn not in harness.plane.running
        assert harness.gateway.transfers.downloads == {}
        assert "cancel" in kinds(device.inbox)
        assert (await harness.details(batch, "d1")).remark == "task_aborted"
        assert harness.gateway.upgrades.rows == {}


def _download(harness: Harness, device: SimulatedDevice) -> None:
    download = Download(device.number, device.conn, 7, 1, 1)
    harness.gateway.transfers.downloads[device.number] = download
    harness.plane.running[device.conn] = 7


async def test_a_percentage_written_amid_an_abort_leaves_nothing_behind(autojump_clock: object) -> None:
    """A row that stays in memory would keep the device out of every later batch."""
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "upgrading")
        device.send(progress(batch, 55, id="p"))
        await device.receive(messages.Ack)
        harness.store.hold()
        harness.gateway.nursery.start_soon(harness.service.abort_batch, batch)
        await harness.jump(3)  # the sweep would write the percentage
        harness.store.release()
        await harness.rest()
        await device.receive(messages.Cancel)
        assert harness.gateway.upgrades.rows == {}
        await harness.add_firmware("3.0")
        again = await harness.create_batch("f2", range="directed", devices=["d1"])
        assert (await device.receive(messages.Upgrade)).batch == again


async def test_the_end_of_the_validity_with_one_who_succeeded(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        _, batch = await reach(harness, "succeeded")
        await harness.jump(DAY_S)
        view = await harness.service.get_batch(batch)
        assert (view.status, view.counts.succeeded, view.counts.failed) == ("aborted", 1, 1)
        assert (await harness.details(batch, "d2")).remark == "task_aborted"


async def test_validity_of_several_days(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        _, batch = await reach(harness, "to_be_pushed", validity_days=7)
        await harness.jump(7 * DAY_S - 60)
        assert (await harness.service.get_batch(batch)).status == "in_progress"
        await harness.jump(60)
        assert (await harness.service.get_batch(batch)).status == "aborted"


async def test_aborting_twice_at_once(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        _, batch = await reach(harness, "upgrading")
        outcomes: list[str] = []

        async def abort() -> None:
            try:
                outcomes.append((await harness.service.abort_batch(batch)).status)
            except Conflict:
                outcomes.append("conflict")

        harness.gateway.nursery.start_soon(abort)
        harness.gateway.nursery.start_soon(abort)
        await harness.rest()
        assert sorted(outcomes) == ["aborted", "conflict"]
        with pytest.raises(NotFound):
            await harness.service.abort_batch("b99")


async def test_abort_overtaken_by_the_last_device(autojump_clock: object) -> None:
    """The last open row ends in the queue before the abort: the batch is completed, the abort is refused."""
    async with gateway_harness() as harness:
        await harness.set_up("d1")
        device = await harness.log_in("d1")
        batch = await harness.create_batch()
        await device.receive(messages.Upgrade)
        harness.store.hold()
        device.send(messages.Version(version="2.0", id="v"))
        await harness.rest()
        outcomes: list[object] = []

        async def abort() -> None:
            with pytest.raises(Conflict) as refusal:
                await harness.service.abort_batch(batch)
            outcomes.append(refusal.value)

        harness.gateway.nursery.start_soon(abort)
        await harness.rest()
        harness.store.release()
        assert kinds(await device.receive_all()) == ["ack"]
        assert len(outcomes) == 1
        view = await harness.service.get_batch(batch)
        assert (view.status, view.counts.succeeded) == ("completed", 1)
        assert harness.gateway.upgrades.batches == {}


async def test_firmware_and_devices_while_a_batch_uses_them_and_after(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "upgrading")
        with pytest.raises(Conflict, match=batch):
            await harness.service.delete_firmware("f1")
        with pytest.raises(Conflict):
            await harness.service.delete_device("lamp", "d1")
        await harness.service.abort_batch(batch)
        await harness.service.delete_firmware("f1")
        await device.receive(messages.Cancel)
        await harness.service.delete_device("lamp", "d1")
        assert device.closed == 4001
        view = await harness.service.get_batch(batch)
        assert (view.firmware.name, view.firmware.version, view.firmware.md5) == ("fw-2.0", "2.0", "0" * 32)
        page = await harness.service.list_upgrades(batch, state=None, q="", cursor=None, limit=10)
        assert [(item.identifier, item.remark) for item in page.items] == [
            ("d1", "task_aborted"),
            ("d2", "task_aborted"),
        ]
        await harness.add_firmware("2.0")
        assert (await harness.service.get_firmware("f2")).version == "2.0"


@pytest.mark.parametrize("state", ["failed", "succeeded"])
async def test_who_has_ended_in_a_batch_in_progress_is_free(autojump_clock: object, state: str) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, state)
        await harness.add_firmware("3.0")
        again = await harness.create_batch("f2", range="directed", devices=["d1"])
        assert (await device.receive(messages.Upgrade)).batch == again
        assert (await harness.service.get_batch(batch)).status == "in_progress"


async def test_a_batch_that_many_slices_are_rewritten_for(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up()
        names = [f"d{number}" for number in range(1, 1203)]
        for name in names:
            await harness.add_device(name)
        batch = await harness.create_batch()
        view = await harness.service.abort_batch(batch)
        assert (view.counts.failed, view.counts.total) == (1202, 1202)
        # read as they count from the answer on, before they are rewritten
        assert (await harness.details(batch, "d1200")).remark == "task_aborted"
        again = await harness.create_batch()
        assert (await harness.service.get_batch(again)).counts.total == 1202
        await harness.jump(5)
        assert list(harness.gateway.upgrades.batches) == [2]


async def test_a_percentage_not_yet_written_is_no_leave_to_burn(autojump_clock: object) -> None:
    """The device reports while the abort waits for its commit, and asks when the batch is forgotten."""
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "upgrading")
        device.send(progress(batch, 30))
        await harness.rest()
        harness.store.hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(harness.service.abort_batch, batch)
            await harness.rest()
            device.send(progress(batch, 0, stage="verifying"))
            await harness.rest()
            harness.store.release()
        await harness.rest()
        device.inbox.clear()
        device.send(progress(batch, 0, stage="burning", id="burn"))
        assert kinds(await device.receive_all()) == ["cancel"]
