"""Every row of the table in docs/upgrades.md, through the whole gateway, on virtual time."""

from typing import Any

import pytest

from otagate.wire import messages
from tests.gateway.harness import (
    ENDED,
    OPEN,
    RUNNING,
    SimulatedDevice,
    failure,
    gateway_harness,
    kinds,
    progress,
    reach,
    success,
)


def states_of(details: Any) -> list[str]:
    return [entry.state for entry in details.timeline]


async def test_the_whole_way_to_success(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1")
        device = await harness.log_in("d1")
        batch = await harness.create_batch()
        upgrade = await device.receive(messages.Upgrade)
        assert (upgrade.batch, upgrade.attempt, upgrade.policy, upgrade.timeout_s) == (
            batch,
            1,
            "standard",
            600,
        )
        assert (upgrade.firmware.id, upgrade.firmware.version, upgrade.firmware.size) == (
            "f1",
            "2.0",
            100_000,
        )
        assert upgrade.id is None
        assert await harness.state(batch, "d1") == "pushed"
        device.send(messages.Received(batch=batch, attempt=1, id="a"))
        assert await device.receive(messages.Ack) == messages.Ack(id="a")
        assert await harness.state(batch, "d1") == "to_be_upgraded"
        device.send(progress(batch, 10, id="p"))
        assert await device.receive(messages.Ack) == messages.Ack(id="p")
        details = await harness.details(batch, "d1")
        assert (details.state, details.stage, details.progress) == ("upgrading", "downloading", 10)
        device.send(progress(batch, 0, stage="burning", id="b"))
        assert await device.receive(messages.Ack) == messages.Ack(id="b")
        device.lose()
        await harness.log_in("d1", "2.0")
        details = await harness.details(batch, "d1")
        assert states_of(details) == ["pushed", "to_be_upgraded", "upgrading", "succeeded"]
        assert (details.version, details.remark, details.progress) == ("2.0", None, 100)
        assert details.retries.current == 0
        assert details.completed_at == details.timeline[-1].at
        view = await harness.service.get_batch(batch)
        assert (view.status, view.ended_at) == ("completed", details.completed_at)
        assert (view.counts.succeeded, view.counts.total) == (1, 1)


# Row by row: in which states, what the device says, the state after it, and what it is answered.
BATCH = "b1"
REPORTS: list[tuple[tuple[str, ...], str, messages.DeviceMessage, str, list[str]]] = [
    (("pushed",), "received", messages.Received(batch=BATCH, attempt=1, id="m"), "to_be_upgraded", ["ack"]),
    (
        ("to_be_upgraded", "upgrading"),
        "received again",
        messages.Received(batch=BATCH, attempt=1, id="m"),
        "same",
        ["ack"],
    ),
    (("pushed", "to_be_upgraded"), "first progress", progress(BATCH, 1, id="m"), "upgrading", ["ack"]),
    (("upgrading",), "further progress", progress(BATCH, 60, id="m"), "upgrading", ["ack"]),
    (OPEN[1:], "target version alone", messages.Version(version="2.0", id="m"), "succeeded", ["ack"]),
    (RUNNING, "target version with success", success(BATCH, version="2.0", id="m"), "succeeded", ["ack"]),
    (
        ("to_be_retried",),
        "target version with success",
        success(BATCH, version="2.0", id="m"),
        "succeeded",
        ["ack", "cancel"],
    ),
    (RUNNING, "target version beside failed", failure(BATCH, version="2.0", id="m"), "succeeded", ["ack"]),
    (RUNNING, "claims success with no version", success(BATCH, id="m"), "failed", ["ack"]),
    (RUNNING, "claims success with another", success(BATCH, version="1.5", id="m"), "failed", ["ack"]),
    (RUNNING, "failure", failure(BATCH, id="m"), "failed", ["ack"]),
    (RUNNING, "failure, another version", failure(BATCH, version="1.5", id="m"), "failed", ["ack"]),
    (OPEN[1:], "another version", messages.Version(version="1.5", id="m"), "same", ["ack"]),
    (OPEN[1:], "the known version", messages.Version(version="1.0", id="m"), "same", ["ack"]),
    (
        ("to_be_retried", *ENDED),
        "received, over",
        messages.Received(batch=BATCH, attempt=1, id="m"),
        "same",
        ["ack", "cancel"],
    ),
    (("to_be_retried", *ENDED), "progress, over", progress(BATCH, 5, id="m"), "same", ["ack", "cancel"]),
    (("to_be_retried", *ENDED), "failure, over", failure(BATCH, id="m"), "same", ["ack", "cancel"]),
    (("to_be_retried", *ENDED), "success, over", success(BATCH, id="m"), "same", ["ack", "cancel"]),
    (
        ("to_be_retried", *ENDED),
        "burning, over",
        progress(BATCH, 0, stage="burning", id="m"),
        "same",
        ["cancel"],
    ),
    (OPEN[1:] + ENDED, "attempt never given", progress(BATCH, 5, attempt=2, id="m"), "same", ["error"]),
    (OPEN[1:] + ENDED, "attempt 0", progress(BATCH, 5, attempt=0, id="m"), "same", ["error"]),
    (OPEN[1:] + ENDED, "batch never given", progress("b7", 5, id="m"), "same", ["error"]),
    (OPEN[1:] + ENDED, "no batch's id", progress("x", 5, id="m"), "same", ["error"]),
    (RUNNING, "check", messages.Check(id="m"), "same", ["upgrade"]),
    (("to_be_retried", *ENDED), "check", messages.Check(id="m"), "same", ["ack"]),
]
CASES = [
    pytest.param(state, message, after, answers, id=f"{state}-{name}")
    for states, name, message, after, answers in REPORTS
    for state in states
]


@pytest.mark.parametrize(("state", "message", "after", "answers"), CASES)
async def test_report(
    autojump_clock: object, state: str, message: messages.DeviceMessage, after: str, answers: list[str]
) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, state)
        before = await harness.details(batch, "d1")
        device.send(message)
        found = await device.receive_all()
        assert kinds(found) == answers
        assert found[0].id == "m", "the answer carries the id back"
        assert all(each.attempt == 1 for each in found if isinstance(each, messages.Cancel))
        if answers == ["error"]:
            assert found[0].code == "not_found"
        details = await harness.details(batch, "d1")
        assert details.state == (state if after == "same" else after)
        if after == "same":
            assert details.retries == before.retries


@pytest.mark.parametrize(("state", "message", "after", "answers"), CASES)
@pytest.mark.parametrize("same_drain", [True, False], ids=["same-drain", "other-drain"])
async def test_report_twice(
    autojump_clock: object,
    state: str,
    message: messages.DeviceMessage,
    after: str,
    answers: list[str],
    same_drain: bool,
) -> None:
    """Every event may arrive twice: the row moves once, and both are answered."""
    async with gateway_harness() as harness:
        device, batch = await reach(harness, state)
        if same_drain:
            device.send(message, message)
        else:
            device.send(message)
            await harness.rest()
            once = await harness.details(batch, "d1")
            device.send(message)
        found = await device.receive_all()
        assert [each for each in kinds(found) if each in ("ack", "error", "upgrade")].count(
            answers[0]
        ) == 2 or answers == ["cancel"]
        assert [each.id for each in found].count("m") == 2
        details = await harness.details(batch, "d1")
        assert details.state == (state if after == "same" else after)
        if not same_drain:
            assert details == once
        assert len(set(states_of(details))) == len(states_of(details)) or state in ENDED


@pytest.mark.parametrize("reason", ["download_failed", "verification_failed", "burn_failed", "other"])
async def test_reasons_of_failure(autojump_clock: object, reason: str) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "upgrading")
        device.send(failure(batch, reason, detail="flash worn out 电"))
        details = await harness.wait_state(batch, "d1", "failed")
        assert (details.remark, details.detail) == (reason, "flash worn out 电")
        assert (details.stage, details.progress) == ("downloading", 10)


async def test_a_failure_without_a_reason_is_other(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "upgrading")
        device.send(messages.Result(batch=batch, attempt=1, outcome="failed", id="m"))
        await device.receive(messages.Ack)
        assert (await harness.details(batch, "d1")).remark == "other"


@pytest.mark.parametrize(("version", "words"), [("1.5", "1.5"), (None, "no version")])
async def test_claims_of_success_are_judged_by_the_version(
    autojump_clock: object, version: str | None, words: str
) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "upgrading")
        device.send(success(batch, version=version, id="m"))
        await device.receive(messages.Ack)
        details = await harness.details(batch, "d1")
        assert (details.state, details.remark) == ("failed", "other")
        assert words in details.detail
        assert "2.0" in details.detail
        device_view = await harness.service.get_device("lamp", "d1")
        assert device_view.version == (version or "1.0")


async def test_an_offline_device_that_comes_back_with_the_target_version_succeeds_unpushed(
    autojump_clock: object,
) -> None:
    async with gateway_harness() as harness:
        _, batch = await reach(harness, "to_be_pushed")
        assert (await harness.details(batch, "d1")).waiting_for == "offline"
        device = await harness.log_in("d1", "2.0")
        await device.expect_silence()
        details = await harness.details(batch, "d1")
        assert (details.state, details.attempt) == ("succeeded", 0)
        assert states_of(details) == ["succeeded"]


@pytest.mark.parametrize("state", [*RUNNING, "to_be_retried"])
async def test_a_login_with_the_target_version_succeeds(autojump_clock: object, state: str) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, state)
        device.lose()
        device = await harness.log_in("d1", "2.0")
        await device.expect_silence()
        assert await harness.state(batch, "d1") == "succeeded"


async def test_a_result_with_the_target_version_counts_before_the_push(autojump_clock: object) -> None:
    """The device runs what it should: whatever batch it speaks of, it is not pushed."""
    async with gateway_harness(device={"pushes_max": 1}) as harness:
        await harness.set_up("d1", "d2")
        first = await harness.log_in("d1")
        second = await harness.log_in("d2")
        batch = await harness.create_batch()
        await first.receive(messages.Upgrade)
        assert (await harness.details(batch, "d2")).waiting_for == "a push slot"
        second.send(success(batch, version="2.0", id="m"))
        found = await second.receive_all()
        assert kinds(found) == ["error"], "this batch was not given to it yet"
        assert await harness.state(batch, "d2") == "succeeded"


async def test_reports_of_one_device_in_one_drain_are_taken_in_order(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "pushed")
        device.send(
            messages.Received(batch=batch, attempt=1, id="1"),
            progress(batch, 5, id="2"),
            progress(batch, 50, id="3"),
            progress(batch, 0, stage="burning", id="4"),
            success(batch, version="2.0", id="5"),
            messages.Check(id="6"),
        )
        found = await device.receive_all()
        assert [each.id for each in found] == ["1", "2", "3", "4", "5", "6"]
        assert kinds(found) == ["ack"] * 6
        details = await harness.details(batch, "d1")
        assert states_of(details) == ["pushed", "to_be_upgraded", "upgrading", "succeeded"]


async def test_reports_of_two_devices_in_one_drain(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1", "d2")
        devices = [await harness.log_in("d1"), await harness.log_in("d2")]
        batch = await harness.create_batch()
        for device in devices:
            await device.receive(messages.Upgrade)
        devices[0].send(failure(batch, id="1"))
        devices[1].send(messages.Received(batch=batch, attempt=1, id="2"), progress(batch, 9, id="3"))
        assert [each.id for each in await devices[0].receive_all()] == ["1"]
        assert [each.id for each in await devices[1].receive_all()] == ["2", "3"]
        assert await harness.state(batch, "d1") == "failed"
        assert await harness.state(batch, "d2") == "upgrading"


async def test_a_last_report_counts_even_if_the_connection_ends_with_it(autojump_clock: object) -> None:
    """A device that says its last word and reboots: message and end are read in the same drain."""
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "upgrading")
        device.send(failure(batch))
        device.lose()
        await harness.rest()
        details = await harness.details(batch, "d1")
        assert (details.state, details.remark) == ("failed", "burn_failed")
        assert details.connection == "offline"


async def test_a_last_report_counts_even_if_the_device_is_back_in_the_same_drain(
    autojump_clock: object,
) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "upgrading")
        device.send(failure(batch))
        again = SimulatedDevice(harness.plane, "d1")
        again.send_hello()
        await harness.rest()
        assert (await harness.details(batch, "d1")).remark == "burn_failed"
        assert kinds(again.inbox) == ["welcome"]


@pytest.mark.parametrize("state", ENDED)
async def test_what_ended_stays_and_later_versions_are_in_the_timeline(
    autojump_clock: object, state: str
) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, state)
        before = await harness.details(batch, "d1")
        device.send(messages.Version(version="3.0", id="1"), messages.Version(version="3.0", id="2"))
        assert kinds(await device.receive_all()) == ["ack", "ack"]
        device.lose()
        device = await harness.log_in("d1", "4.0")
        device.send(success(batch, version="2.0"))
        await harness.rest()
        details = await harness.details(batch, "d1")
        assert details.completed_at == before.completed_at
        assert details.version == before.version
        later = details.timeline[len(before.timeline) :]
        assert [(entry.state, entry.cause) for entry in later] == [(state, "reported_version")] * 3
        assert (await harness.service.get_device("lamp", "d1")).version == "2.0"


async def test_a_version_told_about_an_old_batch_is_in_the_newest_timeline(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, old = await reach(harness, "failed")
        await harness.service.abort_batch(old)
        await harness.add_firmware("3.0")
        batch = await harness.create_batch("f2", range="directed", devices=["d1"])
        await device.receive(messages.Upgrade)
        device.send(failure(batch), success(old, version="2.5", id="m"))
        await device.receive(messages.Ack)
        details = await harness.details(batch, "d1")
        assert [entry.cause for entry in details.timeline] == [
            "pushed",
            "reported_failure",
            "reported_version",
        ]


async def test_old_attempts_and_old_batches_are_answered_and_cancelled(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, old = await reach(harness, "to_be_retried")
        await harness.jump(300)
        assert (await device.receive(messages.Upgrade)).attempt == 2
        device.send(progress(old, 50, id="p"), progress(old, 0, stage="burning", id="b"))
        found = await device.receive_all()
        assert found == [
            messages.Ack(id="p"),
            messages.Cancel(batch=old, attempt=1, reason="ended"),
            messages.Cancel(batch=old, attempt=1, reason="ended", id="b"),
        ]
        assert await harness.state(old, "d1") == "pushed"
        await harness.service.abort_batch(old)
        await harness.add_firmware("3.0")
        batch = await harness.create_batch("f2", range="directed", devices=["d1"])
        assert kinds(await device.receive_all()) == ["cancel", "upgrade"]
        device.send(
            progress(old, 50, attempt=2, id="p"),
            progress(old, 0, attempt=2, stage="burning", id="b"),
            success(old, attempt=2, version="2.0", id="s"),
            progress(old, 50, attempt=3, id="u"),
        )
        assert kinds(await device.receive_all()) == ["ack", "cancel", "cancel", "ack", "cancel", "error"]
        assert await harness.state(batch, "d1") == "pushed"
        assert (await harness.service.get_device("lamp", "d1")).version == "2.0"


async def test_a_result_about_an_old_batch_may_end_the_newest(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, old = await reach(harness, "failed")
        await harness.service.abort_batch(old)
        await harness.add_firmware("3.0")
        batch = await harness.create_batch("f2", range="directed", devices=["d1"])
        await device.receive(messages.Upgrade)
        device.send(success(old, version="3.0", id="m"))
        assert kinds(await device.receive_all()) == ["ack", "cancel"]
        assert await harness.state(batch, "d1") == "succeeded"
        assert await harness.state(old, "d1") == "failed"


async def test_percentages_are_seen_at_once_and_written_coalesced(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "upgrading")
        await harness.jump(5)
        before = len(harness.store.groups)
        for percent in range(11, 61):
            device.send(progress(batch, percent, id=f"p{percent}"))
        assert len(await device.receive_all()) == 50
        assert (await harness.details(batch, "d1")).progress == 60
        await harness.jump(5)
        assert len(harness.store.groups) - before == 1
        stored = (await harness.store.upgrades([(1, 1)]))[0]
        assert stored is not None
        assert stored.row.progress == 60


async def test_a_percentage_survives_the_end_of_the_session(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "upgrading")
        device.send(progress(batch, 70), messages.Version(version="1.1"))
        await harness.rest()
        device.lose()
        await harness.jump(5)
        details = await harness.details(batch, "d1")
        assert (details.progress, details.connection) == (70, "offline")
        assert not harness.gateway.upgrades.rows, "nothing of it stays in memory"


async def test_a_percentage_that_could_not_be_written_is_written_next_time(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "upgrading")
        harness.store.hold()
        device.send(messages.Version(version="1.1"), progress(batch, 70))
        await harness.jump(3)  # the sweep finds the device's version on its way
        harness.store.release()
        await harness.rest()
        device.lose()
        await harness.jump(3)
        assert (await harness.details(batch, "d1")).progress == 70
        assert not harness.gateway.upgrades.rows
