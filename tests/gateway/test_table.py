"""Every row of the table in docs/upgrades.md, through the whole gateway, on virtual time."""

from tests.gateway.harness import Harness, SimulatedDevice, gateway_harness

from otagate import plane
from otagate.wire import messages


async def pushed(harness: Harness, device: SimulatedDevice) -> messages.Upgrade:
    message: messages.Upgrade = await device.receive(messages.Upgrade)
    return message


async def test_pushed_acknowledged_upgrading_succeeded(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1")
        device = await harness.log_in("d1")
        batch = await harness.create_batch()
        upgrade = await pushed(harness, device)
        assert (upgrade.batch, upgrade.attempt, upgrade.firmware.version) == (batch, 1, "2.0")
        await harness.wait_state(batch, "d1", "pushed")
        device.send(messages.Received(batch=batch, attempt=1, id="a"))
        assert (await device.receive(messages.Ack)).id == "a"
        assert await harness.state(batch, "d1") == "to_be_upgraded"
        device.send(messages.Fetch(transfer=7, firmware="f1", offset=0, id="f"))
        assert (await device.receive(messages.Ack)).id == "f"
        device.send(messages.Progress(batch=batch, attempt=1, stage="downloading", percent=10, id="p"))
        assert (await device.receive(messages.Ack)).id == "p"
        assert await harness.state(batch, "d1") == "upgrading"
        device.lose()
        device = await harness.log_in("d1", "2.0")
        details = await harness.wait_state(batch, "d1", "succeeded")
        assert [entry.state for entry in details.timeline] == [
            "pushed",
            "to_be_upgraded",
            "upgrading",
            "succeeded",
        ]
        view = await harness.service.get_batch(batch)
        assert view.status == "completed"
        assert view.counts.succeeded == view.counts.total == 1


async def test_ten_seconds_without_acknowledgement_then_retry_then_failed(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1")
        device = await harness.log_in("d1")
        batch = await harness.create_batch(retries=1, retry_interval_minutes=5)
        await pushed(harness, device)
        cancel = await device.receive(messages.Cancel)
        assert cancel.reason == "not_acknowledged"
        details = await harness.wait_state(batch, "d1", "to_be_retried", within_s=1)
        assert details.remark == "push_failed"
        assert details.waiting_for.startswith("retry due at ")
        again = await device.receive(messages.Upgrade)
        assert again.attempt == 2
        details = await harness.wait_state(batch, "d1", "failed", within_s=15)
        assert details.remark == "push_failed"
        assert details.retries.current == details.retries.maximum == 1


async def test_first_chunk_starts_the_time_out(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1")
        device = await harness.log_in("d1")
        batch = await harness.create_batch(timeout_minutes=3)
        await pushed(harness, device)
        harness.gateway.transfers.downloads[device.number] = _download(device, 1)
        harness.plane.put(plane.STARTED, device.conn, device.number, 7)
        await harness.wait_state(batch, "d1", "upgrading", within_s=2)
        begun_ms = harness.now_ms
        cancel = await device.receive(messages.Cancel)
        assert cancel.reason == "timed_out"
        assert abs(harness.now_ms - begun_ms - 180_000) < 1_500
        details = await harness.wait_state(batch, "d1", "failed", within_s=2)
        assert details.remark == "upgrade_timeout"


def _download(device: SimulatedDevice, batch: int) -> object:
    from otagate.gateway.transfers import Download

    return Download(device.number, device.conn, 7, batch, 1)
