"""Deliveries, acknowledgements, retries and time-outs: what happens because time passes or a session ends."""

import pytest

from otagate import limits
from otagate.wire import messages
from tests.gateway.harness import (
    RUNNING,
    Harness,
    SimulatedDevice,
    failure,
    gateway_harness,
    kinds,
    progress,
    reach,
)

RETRY = {"retries": 1, "retry_interval_minutes": 5}


async def supersede(harness: Harness, device: SimulatedDevice) -> SimulatedDevice:
    """The device is back on a new connection while the old one still stands."""
    again = await harness.log_in(device.identifier)
    assert device.closed == 4002
    return again


async def reconnect(harness: Harness, device: SimulatedDevice) -> SimulatedDevice:
    """The device is back after its connection was lost."""
    device.lose()
    await harness.rest()
    return await harness.log_in(device.identifier)


# -- the 10 s ----------------------------------------------------------------------------------------


async def test_ten_seconds_without_acknowledgement(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "pushed", **RETRY)
        await harness.jump(9.8)
        assert not device.inbox
        await harness.jump(0.2)
        cancel = await device.receive(messages.Cancel, within_s=1)
        assert (cancel.batch, cancel.attempt, cancel.reason) == (batch, 1, "not_acknowledged")
        details = await harness.details(batch, "d1")
        assert (details.state, details.remark) == ("to_be_retried", "push_failed")
        assert details.waiting_for.startswith("retry due at 2027-")
        await harness.jump(298)
        assert await harness.state(batch, "d1") == "to_be_retried"
        await harness.jump(2)
        assert (await device.receive(messages.Upgrade)).attempt == 2
        assert (await harness.details(batch, "d1")).remark is None
        await harness.jump(10.2)
        details = await harness.details(batch, "d1")
        assert (details.state, details.remark) == ("failed", "push_failed")
        assert (details.retries.current, details.retries.maximum) == (1, 1)


async def test_an_acknowledgement_in_the_last_moment_counts(autojump_clock: object) -> None:
    """At one instant: device reports first, then time-outs."""
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "pushed")
        device.send(messages.Received(batch=batch, attempt=1, id="m"))
        await harness.jump(30)
        assert kinds(device.inbox) == ["ack"]
        assert await harness.state(batch, "d1") == "to_be_upgraded"


async def test_a_late_acknowledgement_is_over(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "pushed", **RETRY)
        await harness.jump(10.2)
        device.inbox.clear()
        device.send(messages.Received(batch=batch, attempt=1, id="m"))
        assert await device.receive_all() == [
            messages.Ack(id="m"),
            messages.Cancel(batch=batch, attempt=1, reason="not_acknowledged"),
        ]


@pytest.mark.parametrize("back", [reconnect, supersede])
async def test_the_clock_stops_with_the_session_and_begins_anew(autojump_clock: object, back) -> None:  # type: ignore[no-untyped-def]
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "pushed")
        for _ in range(2):
            await harness.jump(9)
            device = await back(harness, device)
            upgrade = await device.receive(messages.Upgrade)
            assert (upgrade.batch, upgrade.attempt) == (batch, 1)
            await device.expect_silence()
        await harness.jump(9)
        assert await harness.state(batch, "d1") == "pushed"
        await harness.jump(1.2)
        assert (await harness.details(batch, "d1")).remark == "push_failed"


async def test_nothing_fails_while_the_device_is_away(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "pushed")
        device.lose()
        await harness.jump(3600)
        details = await harness.details(batch, "d1")
        assert (details.state, details.waiting_for) == ("pushed", "offline")
        device = await harness.log_in("d1")
        await device.receive(messages.Upgrade)
        device.send(messages.Received(batch=batch, attempt=1, id="m"))
        await device.receive(messages.Ack)
        assert await harness.state(batch, "d1") == "to_be_upgraded"


@pytest.mark.parametrize("back", [reconnect, supersede])
async def test_three_unanswered_deliveries(autojump_clock: object, back) -> None:  # type: ignore[no-untyped-def]
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "pushed", **RETRY)
        for _ in range(2):
            device = await back(harness, device)
            await device.receive(messages.Upgrade)
            assert await harness.state(batch, "d1") == "pushed"
        device = await back(harness, device)
        cancel = await device.receive(messages.Cancel)
        assert cancel.reason == "not_acknowledged"
        details = await harness.details(batch, "d1")
        assert (details.state, details.remark) == ("to_be_retried", "push_failed")
        assert details.timeline[-1].cause == "returned_unanswered"
        # the next attempt has three deliveries of its own
        await harness.jump(300)
        assert (await device.receive(messages.Upgrade)).attempt == 2
        for _ in range(2):
            device = await back(harness, device)
            assert (await device.receive(messages.Upgrade)).attempt == 2
        device = await back(harness, device)
        await device.receive(messages.Cancel)
        assert await harness.state(batch, "d1") == "failed"


async def test_a_check_is_no_delivery_and_starts_no_clock(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "pushed")
        for _ in range(4):
            device.send(messages.Check(id="c"))
            assert (await device.receive(messages.Upgrade)).id == "c"
        await harness.jump(9)
        device.send(messages.Check(id="c"))
        await device.receive(messages.Upgrade)
        await harness.jump(1.2)
        assert (await harness.details(batch, "d1")).remark == "push_failed"


@pytest.mark.parametrize("back", [reconnect, supersede])
@pytest.mark.parametrize("state", ["to_be_upgraded", "upgrading"])
async def test_a_device_that_returns_is_sent_the_same_message(
    autojump_clock: object,
    state: str,
    back,  # type: ignore[no-untyped-def]
) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, state)
        for _ in range(limits.takeovers_free - 1):  # oftener in a minute, a take-over is refused
            device = await back(harness, device)
            assert (await device.receive(messages.Upgrade)).attempt == 1
            await device.expect_silence()
            device.send(messages.Received(batch=batch, attempt=1, id="m"))
            await device.receive(messages.Ack)
        assert await harness.state(batch, "d1") == state
        # no acknowledgement is waited for any more
        device = await back(harness, device)
        await device.receive(messages.Upgrade)
        await harness.jump(30)
        assert await harness.state(batch, "d1") == state


@pytest.mark.parametrize("back", [reconnect, supersede])
@pytest.mark.parametrize("state", ["to_be_retried", "failed", "succeeded"])
async def test_a_device_that_returns_when_nothing_runs(autojump_clock: object, state: str, back) -> None:  # type: ignore[no-untyped-def]
    async with gateway_harness() as harness:
        device, batch = await reach(harness, state)
        device = await back(harness, device) if state != "succeeded" else await harness.log_in("d1", "2.0")
        await device.expect_silence()
        assert await harness.state(batch, "d1") == state


# -- the time-out ------------------------------------------------------------------------------------


async def test_the_time_out_begins_once_with_the_first_report(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "to_be_upgraded", timeout_minutes=3)
        await harness.jump(600)
        assert await harness.state(batch, "d1") == "to_be_upgraded", "the device may take its time"
        device.send(progress(batch, 0))
        await harness.rest()
        for percent in (20, 40):
            await harness.jump(59)
            device.send(progress(batch, percent))
            await harness.rest()
        device = await reconnect(harness, device)
        await device.receive(messages.Upgrade)
        await harness.jump(60)
        assert await harness.state(batch, "d1") == "upgrading"
        await harness.jump(2)
        cancel = await device.receive(messages.Cancel)
        assert cancel.reason == "timed_out"
        details = await harness.details(batch, "d1")
        assert (details.state, details.remark) == ("failed", "upgrade_timeout")
        assert (details.stage, details.progress) == ("downloading", 40)


async def test_the_first_chunk_starts_the_time_out(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "to_be_upgraded", timeout_minutes=3)
        harness.have_image()
        device.send(messages.Fetch(transfer=7, firmware="f1", offset=0))
        await harness.rest()
        assert await harness.state(batch, "d1") == "to_be_upgraded"
        harness.plane.start(device)
        await harness.rest()
        details = await harness.details(batch, "d1")
        assert (details.state, details.stage, details.timeline[-1].cause) == (
            "upgrading",
            "downloading",
            "chunk",
        )
        await harness.jump(100)
        device.send(progress(batch, 50))
        await harness.jump(79)
        assert await harness.state(batch, "d1") == "upgrading"
        await harness.jump(2)
        assert kinds(device.inbox) == ["cancel"]
        assert (await harness.details(batch, "d1")).remark == "upgrade_timeout"
        assert device.conn not in harness.plane.running, "its download stopped"


async def test_the_time_out_comes_while_the_device_is_away(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "upgrading", timeout_minutes=3)
        device.lose()
        await harness.jump(181)
        assert (await harness.details(batch, "d1")).remark == "upgrade_timeout"
        device = await harness.log_in("d1")
        await device.expect_silence()
        device.send(progress(batch, 80, id="m"))
        assert await device.receive_all() == [
            messages.Ack(id="m"),
            messages.Cancel(batch=batch, attempt=1, reason="timed_out"),
        ]


# -- retries -----------------------------------------------------------------------------------------


async def test_an_attempt_after_a_failure_begins_anew(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "upgrading", retries=2, retry_interval_minutes=1)
        device.send(failure(batch, "download_failed", detail="no space"))
        await harness.rest()
        details = await harness.details(batch, "d1")
        assert (details.state, details.remark, details.detail) == (
            "to_be_retried",
            "download_failed",
            "no space",
        )
        assert (details.attempt, details.retries.current) == (1, 0)
        await harness.jump(61)
        details = await harness.details(batch, "d1")
        assert (details.state, details.remark, details.detail) == ("pushed", None, None)
        assert (details.attempt, details.retries.current, details.progress) == (2, 1, 0)
        assert (await device.receive(messages.Upgrade)).attempt == 2
        device.send(progress(batch, 30, attempt=2, id="m"))
        await device.receive(messages.Ack)
        assert await harness.state(batch, "d1") == "upgrading"


async def test_retries_never_exceed_their_maximum(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "pushed", retries=5, retry_interval_minutes=1)
        for attempt in range(1, 7):
            device.send(failure(batch, attempt=attempt))
            await harness.jump(61)
            if attempt < 6:
                assert (await device.receive(messages.Upgrade)).attempt == attempt + 1
        details = await harness.details(batch, "d1")
        assert (details.state, details.retries.current, details.attempt) == ("failed", 5, 6)
        assert len(details.timeline) == 12
        await harness.jump(600)
        await device.expect_silence()


async def test_a_due_retry_waits_for_its_device(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "to_be_retried")
        device.lose()
        await harness.jump(600)
        assert (await harness.details(batch, "d1")).waiting_for == "offline"
        device = await harness.log_in("d1")
        assert (await device.receive(messages.Upgrade, within_s=1)).attempt == 2


async def test_a_retry_that_is_not_due_waits_for_its_time(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "to_be_retried")
        device = await reconnect(harness, device)
        await harness.jump(290)
        assert not device.inbox
        await harness.jump(10.1)
        assert (await device.receive(messages.Upgrade)).attempt == 2
        assert await harness.state(batch, "d1") == "pushed"


async def test_no_retry_falls_outside_of_the_validity(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "pushed", retries=5, retry_interval_minutes=60)
        device.send(messages.Received(batch=batch, attempt=1))
        await harness.jump(23 * 3600 + 10)
        device.send(failure(batch))
        details = await harness.wait_state(batch, "d1", "failed")
        assert (details.remark, details.retries.current, details.attempt) == ("burn_failed", 0, 1)


async def test_the_last_retry_within_the_validity(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "pushed", retries=5, retry_interval_minutes=60)
        device.send(messages.Received(batch=batch, attempt=1))
        await harness.jump(23 * 3600 - 10)
        device.send(failure(batch))
        await harness.wait_state(batch, "d1", "to_be_retried")
        await harness.jump(3600)
        assert (await device.receive(messages.Upgrade)).attempt == 2


@pytest.mark.parametrize("state", RUNNING)
async def test_silent_policy_is_told(autojump_clock: object, state: str) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, state, policy="silent")
        device.send(messages.Check(id="c"))
        assert (await device.receive(messages.Upgrade)).policy == "silent"
        waits = {"pushed": "the device to start", "to_be_upgraded": "the device to start", "upgrading": None}
        assert (await harness.details(batch, "d1")).waiting_for == waits[state]
