"""Every row of the table of docs/upgrades.md, on both links, through the real plane and the real store."""

import pytest

from otagate.gateway.views import UpgradeDetails
from tests.end_to_end.device import Device
from tests.end_to_end.world import ENDED, NEW, OLD, OPEN, RUNNING, World

REASONS = ("download_failed", "verification_failed", "burn_failed", "other")


async def begin(world: World, link: str, state: str, **parameters: object) -> tuple[str, Device]:
    """Device d1 online, in this state of a new batch."""
    if state == "to_be_retried":
        parameters = {"retries": 1} | parameters
    device = await world.log_in("d1", link)
    batch = await world.create_batch(**parameters)
    await world.bring_to(state, batch, device)
    return batch, device


def causes(details: UpgradeDetails) -> list[tuple[str, str]]:
    return [(entry.state, entry.cause) for entry in details.timeline]


# -- pushing ---------------------------------------------------------------------------------------


async def test_its_turn_comes_while_it_is_online(world: World, link: str) -> None:
    batch = await world.create_batch()
    details = await world.details(batch, "d1")
    assert (details.state, details.waiting_for, details.attempt) == ("to_be_pushed", "offline", 0)
    device = await world.log_in("d1", link)
    upgrade = await device.receive("upgrade")
    # durable first: the store has it when the message is here
    details = await world.details(batch, "d1")
    assert (details.state, details.attempt, details.retries.current) == ("pushed", 1, 0)
    firmware = await world.service.get_firmware("f1")
    assert upgrade == {
        "type": "upgrade",
        "batch": batch,
        "attempt": 1,
        "policy": "standard",
        "timeout_s": 60,
        "expires_at": upgrade["expires_at"],
        "firmware": {
            "id": "f1",
            "version": NEW,
            "size": firmware.size,
            "md5": firmware.md5,
            "sha256": firmware.sha256,
            "chunk_size": 65536,
        },
    }
    assert abs(upgrade["expires_at"] - (world.now_ms // 1000 + 86_400)) <= 5


async def test_due_again_after_the_retry_interval(world: World, link: str) -> None:
    batch, device = await begin(world, link, "to_be_retried", retries=2, retry_interval_minutes=3)
    details = await world.details(batch, "d1")
    assert details.waiting_for is not None
    assert details.waiting_for.startswith("retry due at ")
    await world.jump(170)
    await device.quiet()
    await world.jump(11)
    assert (await device.receive("upgrade"))["attempt"] == 2
    details = await world.details(batch, "d1")
    assert (details.state, details.attempt, details.retries.current) == ("pushed", 2, 1)
    assert (details.remark, details.detail, details.progress) == (None, None, 0)


# -- acknowledging ---------------------------------------------------------------------------------


async def test_acknowledged(world: World, link: str) -> None:
    batch, device = await begin(world, link, "pushed")
    assert await device.ask("received", batch=batch, attempt=1) == {"type": "ack", "id": "q1"}
    assert causes(await world.details(batch, "d1"))[-1] == ("to_be_upgraded", "acknowledged")


@pytest.mark.parametrize("state", ["to_be_upgraded", "upgrading"])
async def test_acknowledged_again(world: World, link: str, state: str) -> None:
    batch, device = await begin(world, link, state)
    before = await world.details(batch, "d1")
    assert (await device.ask("received", batch=batch, attempt=1))["type"] == "ack"
    assert await world.details(batch, "d1") == before
    await device.quiet()


@pytest.mark.parametrize("retries", [0, 1])
async def test_ten_seconds_without_acknowledgement(world: World, link: str, retries: int) -> None:
    batch, device = await begin(world, link, "pushed", retries=retries)
    await world.jump(9)
    assert (await world.details(batch, "d1")).state == "pushed"
    await world.jump(1.1)
    cancel = await device.receive("cancel")
    assert cancel == {"type": "cancel", "batch": batch, "attempt": 1, "reason": "not_acknowledged"}
    details = await world.wait_state(batch, "d1", "to_be_retried" if retries else "failed")
    assert details.remark == "push_failed"


# -- upgrading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["downloading", "verifying", "burning"])
@pytest.mark.parametrize("state", ["pushed", "to_be_upgraded"])
async def test_first_progress_report(world: World, link: str, state: str, stage: str) -> None:
    batch, device = await begin(world, link, state)
    answer = await device.ask("progress", batch=batch, attempt=1, stage=stage, percent=7)
    assert answer["type"] == "ack"
    details = await world.details(batch, "d1")
    assert (details.state, details.stage, details.progress) == ("upgrading", stage, 7)


@pytest.mark.parametrize("state", ["pushed", "to_be_upgraded"])
async def test_first_chunk(world: World, link: str, state: str) -> None:
    batch, device = await begin(world, link, state)
    await device.send("fetch", transfer=9, firmware="f1", offset=0, length=1000)
    assert len((await device.chunk()).data) == 1000
    details = await world.wait_state(batch, "d1", "upgrading")
    assert causes(details)[-2:] == [("to_be_upgraded", "acknowledged"), ("upgrading", "chunk")]


async def test_further_progress_is_recorded(world: World, link: str) -> None:
    batch, device = await begin(world, link, "upgrading")
    for stage, percent in (("downloading", 60), ("verifying", 0), ("burning", 3), ("downloading", 1)):
        answer = await device.ask("progress", batch=batch, attempt=1, stage=stage, percent=percent)
        assert answer["type"] == "ack"
        details = await world.details(batch, "d1")
        assert (details.state, details.stage, details.progress) == ("upgrading", stage, percent)
    # coalesced onto the disk: a restart finds what was said at least a few seconds before it
    await world.jump(5)
    await world.jump(5)
    await world.idle()
    await world.restart()
    details = await world.details(batch, "d1")
    assert (details.stage, details.progress) == ("downloading", 1)


@pytest.mark.parametrize("retries", [0, 1])
async def test_time_out_runs_once_from_the_first_report(world: World, link: str, retries: int) -> None:
    batch, device = await begin(world, link, "upgrading", retries=retries)
    await world.jump(40)
    await device.ask("progress", batch=batch, attempt=1, stage="verifying", percent=9)
    await device.send("fetch", transfer=1, firmware="f1", offset=0)
    await device.chunk()
    await world.jump(18)
    assert (await world.details(batch, "d1")).state == "upgrading"
    await world.jump(3)
    assert (await device.receive("cancel"))["reason"] == "timed_out"
    details = await world.wait_state(batch, "d1", "to_be_retried" if retries else "failed")
    assert details.remark == "upgrade_timeout"


# -- success ---------------------------------------------------------------------------------------


# An online device that is to be pushed is pushed at once: for one that waits, see test_sessions.
@pytest.mark.parametrize(
    ("state", "how"),
    [
        ("to_be_pushed", "login"),
        *((state, how) for state in OPEN[1:] for how in ("login", "version", "result", "result_failed")),
    ],
)
async def test_target_version_is_success(world: World, link: str, state: str, how: str) -> None:
    if state == "to_be_pushed":
        batch = await world.create_batch()
    else:
        batch, device = await begin(world, link, state)
    if how == "login":
        if state != "to_be_pushed":
            await world.leave(device)
        device = await world.log_in("d1", link, NEW)
    elif how == "version":
        assert (await device.ask("version", version=NEW))["type"] == "ack"
    else:
        outcome = "succeeded" if how == "result" else "failed"
        answer = await device.ask("result", batch=batch, attempt=1, outcome=outcome, version=NEW)
        assert answer["type"] == "ack"
    # acknowledged, or welcomed: then it is so
    details = await world.details(batch, "d1")
    assert (details.state, details.version, details.progress) == ("succeeded", NEW, 100)
    assert details.completed_at is not None
    assert causes(details)[-1] == ("succeeded", "reported_version")
    view = await world.service.get_batch(batch)
    assert (view.status, view.counts.succeeded, view.ended_at) == ("completed", 1, details.completed_at)
    assert (await world.service.get_device("lamp", "d1")).version == NEW


# -- failure ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("state", RUNNING)
async def test_reported_failure(world: World, link: str, state: str, reason: str) -> None:
    batch, device = await begin(world, link, state, retries=1)
    words = "größer als 测试"
    for attempt, after in ((1, "to_be_retried"), (2, "failed")):
        answer = await device.ask(
            "result", batch=batch, attempt=attempt, outcome="failed", reason=reason, detail=words, version=OLD
        )
        assert answer["type"] == "ack"
        details = await world.details(batch, "d1")
        assert (details.state, details.remark, details.detail) == (after, reason, words)
        if attempt == 1:
            await world.jump(61)
            await world.bring_to(state, batch, device, attempt=2)
    assert (details.retries.current, details.retries.maximum) == (1, 1)
    assert (await world.service.get_batch(batch)).status == "completed"


@pytest.mark.parametrize("version", [None, OLD, "3.0"])
@pytest.mark.parametrize("state", RUNNING)
async def test_success_claimed_with_another_version(
    world: World, link: str, state: str, version: str | None
) -> None:
    batch, device = await begin(world, link, state)
    fields = {} if version is None else {"version": version}
    answer = await device.ask("result", batch=batch, attempt=1, outcome="succeeded", **fields)
    assert answer["type"] == "ack"
    details = await world.details(batch, "d1")
    assert (details.state, details.remark) == ("failed", "other")
    assert details.detail is not None
    assert NEW in details.detail
    assert version is None or version in details.detail


async def test_no_retry_that_falls_behind_the_validity(world: World, link: str) -> None:
    batch, device = await begin(world, link, "pushed", retries=3, retry_interval_minutes=1440)
    await device.ask("result", batch=batch, attempt=1, outcome="failed")
    details = await world.details(batch, "d1")
    assert (details.state, details.remark) == ("failed", "other")


# -- the end of the batch --------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["aborted", "expired"])
@pytest.mark.parametrize(
    ("state", "online"),
    [("to_be_pushed", False), *((state, online) for state in OPEN[1:] for online in (True, False))],
)
async def test_the_end_of_the_batch(world: World, link: str, state: str, online: bool, how: str) -> None:
    # a time-out and an interval beyond the validity: nothing else happens meanwhile
    parameters = {"timeout_minutes": 1440, "retries": 1, "retry_interval_minutes": 1439}
    if state == "to_be_pushed":
        batch = await world.create_batch(**parameters)
        device = None
    else:
        batch, device = await begin(world, link, state, **parameters)
        if not online or (state == "pushed" and how == "expired"):
            await world.leave(device)
            device = None
    if how == "aborted":
        view = await world.service.abort_batch(batch)
    else:
        await world.jump(86_400 - 120)
        assert (await world.details(batch, "d1")).state == state
        await world.jump(121)
        await world.wait_state(batch, "d1", "failed")
        view = await world.service.get_batch(batch)
        assert view.ended_at == view.expires_at
    assert (view.status, view.counts.failed, view.counts.total) == ("aborted", 1, 1)
    details = await world.details(batch, "d1")
    assert (details.state, details.remark) == ("failed", "task_aborted")
    assert causes(details)[-1] == ("failed", how)
    told = {"type": "cancel", "batch": batch, "attempt": 1, "reason": how}
    if device is not None:
        if state in RUNNING:
            assert await device.receive() == told
        await device.quiet()
    elif state != "to_be_pushed":
        # it did not hear of it, and is told when it next speaks of that attempt
        device = await world.log_in("d1", link)
        await device.quiet()
        await device.ask("received", batch=batch, attempt=1)
        # once its retry waited, the attempt had ended before the batch did
        assert await device.receive() == told | ({"reason": "ended"} if state == "to_be_retried" else {})


async def test_a_running_download_stops_with_its_batch(world: World, link: str) -> None:
    large = await world.add_firmware("9.0", bytes(40_000_000))
    device = await world.log_in("d1", link)
    batch = await world.create_batch(large, timeout_minutes=60)
    await world.bring_to("to_be_upgraded", batch, device)
    await device.send("fetch", transfer=1, firmware=large, offset=0)
    await device.chunk()
    await world.service.abort_batch(batch)
    assert (await device.receive("cancel"))["reason"] == "aborted"
    received = 0
    await device.ping()
    for chunk in device.chunks:
        received += len(chunk.data)
    assert received < 39_000_000
    await world.wait(lambda: world.gateway.plane.statistics()["transfers_running"] == 0)


# -- reports that change nothing -------------------------------------------------------------------


@pytest.mark.parametrize("state", ["to_be_retried", *ENDED])
async def test_a_report_of_what_is_over_is_acked_then_cancelled(world: World, link: str, state: str) -> None:
    batch, device = await begin(world, link, state)
    before = await world.details(batch, "d1")
    about = {"batch": batch, "attempt": 1}
    for fields in (
        {"type": "received"},
        {"type": "progress", "stage": "downloading", "percent": 50},
        {"type": "result", "outcome": "failed", "reason": "burn_failed"},
    ):
        assert (await device.ask(**fields, **about))["type"] == "ack"
        cancel = await device.receive("cancel")
        assert (cancel["batch"], cancel["attempt"]) == (batch, 1)
    # burning asks for leave: cancel alone is the answer
    answer = await device.ask("progress", **about, stage="burning", percent=0)
    assert answer["type"] == "cancel"
    await device.quiet()
    assert await world.details(batch, "d1") == before


@pytest.mark.parametrize("state", RUNNING)
async def test_a_report_of_an_older_attempt(world: World, link: str, state: str) -> None:
    batch, device = await begin(world, link, "to_be_retried")
    await world.jump(61)
    await world.bring_to(state, batch, device, attempt=2)
    before = await world.details(batch, "d1")
    for fields in (
        {"type": "received"},
        {"type": "progress", "stage": "verifying", "percent": 50},
        {"type": "result", "outcome": "failed", "reason": "burn_failed"},
    ):
        assert (await device.ask(**fields, batch=batch, attempt=1))["type"] == "ack"
        assert (await device.receive("cancel"))["attempt"] == 1
    assert await world.details(batch, "d1") == before


async def test_a_batch_never_given_is_not_found(world: World, link: str) -> None:
    batch = await world.create_batch()
    view = await world.service.abort_batch(batch)  # d1 was never pushed
    assert view.counts.failed == 1
    device = await world.log_in("d1", link)
    for name in (batch, "b77", "nonsense", "b0", "b01"):
        for fields in (
            {"type": "received"},
            {"type": "progress", "stage": "downloading", "percent": 50},
            {"type": "result", "outcome": "failed"},
        ):
            answer = await device.ask(**fields, batch=name, attempt=1)
            assert (answer["type"], answer["code"]) == ("error", "not_found")
    await device.quiet()


@pytest.mark.parametrize("attempt", [0, 2, 2**53 - 1])
async def test_an_attempt_never_given_is_not_found(world: World, link: str, attempt: int) -> None:
    batch, device = await begin(world, link, "to_be_upgraded")
    answer = await device.ask("received", batch=batch, attempt=attempt)
    assert (answer["type"], answer["code"], answer["field"]) == ("error", "not_found", "attempt")


async def test_a_later_version_is_recorded_where_it_belongs(world: World, link: str) -> None:
    batch, device = await begin(world, link, "succeeded")
    await device.ask("version", version="2.1")
    await device.ask("version", version="2.1")
    details = await world.details(batch, "d1")
    assert (details.state, details.version) == ("succeeded", NEW)
    assert causes(details)[-2:] == [("succeeded", "reported_version")] * 2
    assert (await world.service.get_device("lamp", "d1")).version == "2.1"
