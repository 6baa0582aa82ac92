"""Versions reported faster than the disk writes: one waits, one is under way, none overtakes a step."""

from typing import Any

import pytest

from otagate import limits
from otagate.store.interface import ReportVersion, Transition
from otagate.wire import messages
from tests.gateway.harness import (
    Harness,
    SimulatedDevice,
    failure,
    gateway_harness,
    kinds,
    reach,
)


def report(version: str) -> messages.Version:
    """A version whose answer carries it."""
    return messages.Version(version=version, id=version.replace(".", "_"))


def written(harness: Harness) -> list[str]:
    """What was committed since the commits were forgotten, in order: versions and states."""
    changes = [change for group in harness.store.groups for change in group]
    return [
        change.version if isinstance(change, ReportVersion) else change.row.state.label
        for change in changes
        if isinstance(change, ReportVersion | Transition)
    ]


async def version_of(harness: Harness) -> Any:
    return (await harness.service.get_device("lamp", "d1")).version


def answers(device: SimulatedDevice) -> list[str]:
    found = [message.id for message in device.inbox]
    assert kinds(device.inbox) == ["ack"] * len(found)
    device.inbox.clear()
    return found


async def test_a_newer_version_takes_the_place_of_one_that_waits(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1")
        device = await harness.log_in("d1")
        harness.store.groups.clear()
        harness.store.hold()
        device.send(report("1.1"), report("1.2"), report("1.3"))
        await device.expect_silence()
        harness.store.release()
        await harness.rest()
        assert answers(device) == ["1_1", "1_2", "1_3"]
        assert written(harness) == ["1.3"]
        assert await version_of(harness) == "1.3"
        assert not harness.gateway.sessions.reports._versions


async def test_a_version_whose_commit_is_under_way_is_not_touched(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1")
        device = await harness.log_in("d1")
        harness.store.groups.clear()
        harness.store.hold()
        device.send(report("1.1"))
        await harness.rest()
        device.send(report("1.2"), report("1.1"), report("1.3"))
        await harness.rest()
        assert harness.gateway.journal.queued == 1
        harness.store.release()
        await harness.rest()
        assert answers(device) == ["1_1", "1_2", "1_1", "1_3"]
        assert written(harness) == ["1.1", "1.3"]
        assert await version_of(harness) == "1.3"


async def test_one_that_comes_back_to_the_version_before_is_written_last(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1")
        device = await harness.log_in("d1")
        harness.store.hold()
        for version in ("1.1", "1.2", "1.1", "1.1"):
            device.send(report(version))
            await harness.rest()
        harness.store.release()
        await harness.rest()
        assert answers(device) == ["1_1", "1_2", "1_1", "1_1"]
        assert await version_of(harness) == "1.1"


async def test_no_version_overtakes_a_step_of_the_upgrade(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "upgrading", retries=1, retry_interval_minutes=5)
        harness.store.groups.clear()
        device.send(report("1.5"), report("1.6"), failure(batch, id="f"), report("1.7"), report("1.8"))
        await harness.rest()
        assert answers(device) == ["1_5", "1_6", "f", "1_7", "1_8"]
        assert written(harness) == ["1.6", "to_be_retried", "1.8"]


async def test_the_target_version_takes_its_way_whatever_was_reported_around_it(
    autojump_clock: object,
) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "upgrading")
        harness.store.groups.clear()
        device.send(report("1.5"), report("2.0"), report("1.6"))
        await harness.rest()
        assert answers(device) == ["1_5", "2_0", "1_6"]
        assert written(harness)[:3] == ["2.0", "succeeded", "1.6"]
        assert await harness.state(batch, "d1") == "succeeded"
        assert await version_of(harness) == "1.6"


async def test_a_login_reports_in_the_place_of_what_an_older_session_has(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1")
        old = await harness.log_in("d1")
        harness.store.groups.clear()
        old.send(report("1.1"))
        new = SimulatedDevice(harness.plane, "d1")
        new.send_hello("1.2")
        await harness.rest()
        assert kinds(new.inbox) == ["welcome"]
        assert written(harness) == ["1.2"]


async def test_who_reports_on_while_its_answers_wait_is_cut_off(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One entry waits, but each of its answers takes memory."""
    monkeypatch.setattr(limits, "answers_waiting_max", 10)
    async with gateway_harness() as harness:
        await harness.set_up("d1")
        device = await harness.log_in("d1")
        harness.store.hold()
        for number in range(10):
            device.send(report(f"1.{number + 1}"))
            await harness.rest()
        assert device.closed is None
        for number in range(2):
            device.send(report(f"3.{number}"))
            await harness.rest()
        assert device.closed == 4005
        harness.store.release()
        await harness.rest()


async def test_a_flood_of_versions_keeps_two_entries(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "answers_waiting_max", 10)
    async with gateway_harness() as harness:
        await harness.set_up("d1")
        device = await harness.log_in("d1")
        harness.store.groups.clear()
        harness.store.hold()
        for number in range(50):
            device.send(messages.Version(version=f"1.{number + 1}"))
            await harness.rest()
        assert harness.gateway.journal.queued == 1
        assert device.closed is None
        harness.store.release()
        await harness.rest()
        assert written(harness) == ["1.1", "1.50"]
