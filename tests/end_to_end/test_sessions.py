"""Devices that come, go, come twice, fall silent or say two things at once; a gateway that goes and comes."""

from pathlib import Path

import pytest
import trio

from tests.end_to_end.device import Device
from tests.end_to_end.test_table import begin, causes
from tests.end_to_end.world import ENDED, HEARTBEAT_S, IMAGE, NEW, OLD, OPEN, RUNNING, World, open_world

STATES = (*OPEN[1:], *ENDED)


# -- returning -------------------------------------------------------------------------------------


async def return_(world: World, device: Device, link: str, how: str) -> Device:
    """The device is back: its connection was lost, a newer login superseded it, or the gateway was gone."""
    if how == "lost":
        await world.leave(device)
    elif how == "restart":
        await world.restart(down_s=12)
    back = await world.log_in("d1", link)
    if how == "superseded":
        assert await device.wait_closed() == 4002
    return back


@pytest.mark.parametrize("how", ["lost", "superseded", "restart"])
@pytest.mark.parametrize("state", STATES)
async def test_a_device_returns_in_every_state(world: World, link: str, state: str, how: str) -> None:
    parameters = {"timeout_minutes": 5, "retries": int(state == "to_be_retried")}
    batch, device = await begin(world, link, state, **parameters)
    before = await world.details(batch, "d1")
    await world.jump(8)
    device = await return_(world, device, link, how)
    if state in RUNNING:
        again = await device.receive("upgrade")
        assert (again["batch"], again["attempt"]) == (batch, 1)
    await device.quiet()
    after = await world.details(batch, "d1")
    if state == "succeeded":  # it reports the old version again: news, and nothing else
        assert (after.state, after.version) == (before.state, before.version)
    else:
        assert (after.state, after.attempt, after.timeline) == (before.state, before.attempt, before.timeline)
    if state == "pushed":
        # the ten seconds begin anew
        await world.jump(9)
        assert (await world.details(batch, "d1")).state == "pushed"
        assert (await device.ask("received", batch=batch, attempt=1))["type"] == "ack"
    elif state == "upgrading":
        # no clock restarts: five minutes after the first report it is over
        await world.jump(300 - 8 - 12 - 5)
        assert (await world.details(batch, "d1")).state == "upgrading"
        await world.jump(18)
        if how != "restart":
            assert (await device.receive("cancel"))["reason"] == "timed_out"
    elif state == "to_be_retried":
        await world.jump(61 - 8)
        assert (await device.receive("upgrade"))["attempt"] == 2


@pytest.mark.parametrize("how", ["lost", "superseded"])
async def test_three_deliveries_without_an_answer(world: World, link: str, how: str) -> None:
    batch, device = await begin(world, link, "pushed", retries=1)
    for _ in range(2):
        device = await return_(world, device, link, how)
        assert (await device.receive("upgrade"))["attempt"] == 1
    device = await return_(world, device, link, how)
    assert (await device.receive("cancel"))["reason"] == "not_acknowledged"
    details = await world.details(batch, "d1")
    assert (details.state, details.remark) == ("to_be_retried", "push_failed")
    assert causes(details)[-1][1] == "returned_unanswered"


async def test_the_ten_seconds_do_not_run_without_a_session(world: World, link: str) -> None:
    batch, device = await begin(world, link, "pushed")
    await world.jump(6)
    await world.leave(device)
    await world.jump(3600)
    assert (await world.details(batch, "d1")).state == "pushed"
    device = await world.log_in("d1", link)
    await device.receive("upgrade")
    await world.jump(9)
    assert (await world.details(batch, "d1")).state == "pushed"
    await world.jump(2)
    assert (await world.wait_state(batch, "d1", "failed")).remark == "push_failed"


async def test_a_time_out_that_fell_due_while_down_is_held_back(world: World, link: str) -> None:
    batch, device = await begin(world, link, "upgrading", timeout_minutes=1)
    await world.restart(down_s=600)
    grace_s = world.configuration.upgrade.restart_grace_s
    await world.jump(grace_s - 5)
    assert (await world.details(batch, "d1")).state == "upgrading"
    device = await world.log_in("d1", link, NEW)
    assert (await world.details(batch, "d1")).state == "succeeded"
    await device.quiet()


async def test_a_time_out_held_back_comes_after_the_grace(world: World) -> None:
    batch, _ = await begin(world, "tcp", "upgrading", timeout_minutes=1)
    await world.restart(down_s=600)
    await world.jump(world.configuration.upgrade.restart_grace_s + 1)
    assert (await world.wait_state(batch, "d1", "failed")).remark == "upgrade_timeout"


async def test_validity_that_ran_out_while_down_ended_then(world: World, link: str) -> None:
    batch, _ = await begin(world, link, "upgrading", timeout_minutes=1440)
    await world.restart(down_s=2 * 86_400)
    details = await world.wait_state(batch, "d1", "failed")
    view = await world.service.get_batch(batch)
    assert (view.status, view.ended_at) == ("aborted", view.expires_at)
    assert (details.remark, details.completed_at) == ("task_aborted", view.expires_at)
    device = await world.log_in("d1", link)
    await device.quiet()
    assert (await device.ask("progress", batch=batch, attempt=1, stage="downloading", percent=1))[
        "type"
    ] == "ack"
    assert (await device.receive("cancel"))["reason"] == "expired"


async def test_what_an_older_session_says_does_not_count(world: World, link: str) -> None:
    batch, device = await begin(world, link, "to_be_upgraded")
    newer = await world.log_in("d1", link)
    await newer.receive("upgrade")
    # whatever it had sent when it was superseded: it is not read, or it does not count
    await device.send("result", batch=batch, attempt=1, outcome="failed")
    assert await device.wait_closed() == 4002
    await newer.quiet()
    await world.idle()
    assert (await world.details(batch, "d1")).state == "to_be_upgraded"


# -- slots -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["version", "result", "aborted", "restart", "second_login"])
async def test_an_online_device_that_waits_for_a_push_slot(tmp_path: Path, link: str, how: str) -> None:
    async with open_world(tmp_path / "data", device={"pushes_max": 1}) as world:
        await world.set_up("d1", "d2")
        first = await world.log_in("d1", link)
        batch = await world.create_batch()
        await first.receive("upgrade")
        second = await world.log_in("d2", link)
        await second.quiet()
        details = await world.details(batch, "d2")
        assert (details.state, details.waiting_for) == ("to_be_pushed", "a push slot")
        if how == "version":
            assert (await second.ask("version", version=NEW))["type"] == "ack"
            assert (await world.details(batch, "d2")).state == "succeeded"
        elif how == "result":  # never given: refused, but the version counts
            answer = await second.ask("result", batch=batch, attempt=1, outcome="succeeded", version=NEW)
            assert (answer["type"], answer["code"]) == ("error", "not_found")
            assert (await world.wait_state(batch, "d2", "succeeded")).version == NEW
        elif how == "aborted":
            await world.service.abort_batch(batch)
            assert (await world.wait_state(batch, "d2", "failed")).remark == "task_aborted"
            await second.quiet()  # it was never told of the batch
        elif how == "second_login":
            newer = await world.log_in("d2", link)
            assert await second.wait_closed() == 4002
            await newer.quiet()
            await first.ask("received", batch=batch, attempt=1)
            assert (await newer.receive("upgrade"))["attempt"] == 1
        else:
            await world.restart()
            second = await world.log_in("d2", link)  # this time it is the first to come
            assert (await second.receive("upgrade"))["attempt"] == 1


async def test_a_free_push_slot_is_given_on(tmp_path: Path, link: str) -> None:
    async with open_world(tmp_path / "data", device={"pushes_max": 1}) as world:
        names = [f"d{number}" for number in range(5)]
        await world.set_up(*names)
        devices = [await world.log_in(name, link) for name in names]
        batch = await world.create_batch()
        for device in devices:
            upgrade = await device.receive("upgrade")
            await device.ask("received", batch=batch, attempt=upgrade["attempt"])


async def test_downloads_wait_for_a_slot_in_order(tmp_path: Path, link: str) -> None:
    async with open_world(tmp_path / "data", device={"transfers_max": 1}) as world:
        await world.set_up("d1", "d2")
        large = await world.add_firmware("9.0", bytes(30_000_000))
        devices = [await world.log_in(name, link) for name in ("d1", "d2")]
        batch = await world.create_batch(large)
        for device in devices:
            await device.receive("upgrade")
            await device.ask("received", batch=batch, attempt=1)
        await devices[0].send("fetch", transfer=1, firmware=large, offset=0)
        await devices[0].chunk()
        assert (await devices[1].ask("fetch", transfer=1, firmware=large, offset=0))["type"] == "ack"
        details = await world.details(batch, "d2")
        assert (details.state, details.waiting_for) == ("to_be_upgraded", "a download slot")
        assert (await devices[0].ask("stop", transfer=1))["type"] == "ack"  # reads what still leaves
        await devices[1].chunk()
        await world.wait_state(batch, "d2", "upgrading")


# -- one drain -------------------------------------------------------------------------------------


async def test_a_whole_upgrade_in_one_segment(world: World, link: str) -> None:
    batch, device = await begin(world, link, "pushed")
    about = {"batch": batch, "attempt": 1}
    await device.send_together(
        {"type": "received", **about, "id": "a"},
        {"type": "fetch", "transfer": 1, "firmware": "f1", "offset": 0, "length": 10, "id": "b"},
        {"type": "progress", **about, "stage": "downloading", "percent": 30, "id": "c"},
        {"type": "progress", **about, "stage": "burning", "percent": 0, "id": "d"},
        {"type": "check", "id": "e"},
        {"type": "result", **about, "outcome": "succeeded", "version": NEW, "id": "f"},
        {"type": "progress", **about, "stage": "burning", "percent": 1, "id": "g"},
        {"type": "version", "version": OLD, "id": "h"},
    )
    await device.answer("h")
    answers = [message for message in device.inbox if "id" in message]
    assert [message["id"] for message in answers] == list("abcdefg")
    kinds = {message["id"]: message["type"] for message in answers}
    assert kinds.pop("e") in ("upgrade", "ack")
    assert kinds == {"a": "ack", "b": "ack", "c": "ack", "d": "ack", "f": "ack", "g": "cancel"}
    details = await world.details(batch, "d1")
    assert (details.state, details.version) == ("succeeded", NEW)
    assert (await world.service.get_device("lamp", "d1")).version == OLD


async def test_failure_then_anything_in_one_segment(world: World, link: str) -> None:
    batch, device = await begin(world, link, "upgrading", retries=1)
    about = {"batch": batch, "attempt": 1}
    await device.send_together(
        {"type": "result", **about, "outcome": "failed", "reason": "burn_failed", "id": "a"},
        {"type": "progress", **about, "stage": "burning", "percent": 0, "id": "b"},
        {"type": "result", **about, "outcome": "failed", "reason": "download_failed", "id": "c"},
        {"type": "fetch", "transfer": 1, "firmware": "f1", "offset": 0, "id": "d"},
    )
    answer = await device.answer("d")
    assert (answer["type"], answer["code"], answer["transfer"]) == ("error", "not_found", 1)
    assert [(message["type"], message.get("id")) for message in device.inbox] == [
        ("ack", "a"),
        ("cancel", "b"),
        ("ack", "c"),
        ("cancel", None),
    ]
    details = await world.details(batch, "d1")
    assert (details.state, details.remark) == ("to_be_retried", "burn_failed")


async def test_two_logins_in_one_moment(world: World, link: str) -> None:
    batch = await world.create_batch()
    pair = [await world.connect("d1", link) for _ in range(2)]
    for device in pair:
        await device.send(**device.hello(OLD))
    assert await pair[0].wait_closed() == 4002
    await pair[1].receive("welcome")
    assert (await pair[1].receive("upgrade"))["batch"] == batch
    assert [message["type"] for message in pair[0].inbox] in ([], ["welcome"], ["welcome", "upgrade"])


async def test_an_abort_among_the_reports_of_many(tmp_path: Path, link: str) -> None:
    async with open_world(tmp_path / "data") as world:
        names = [f"d{number}" for number in range(40)]
        await world.set_up(*names)
        devices = [await world.log_in(name, link) for name in names]
        batch = await world.create_batch()
        answers: list[str] = []

        async def report(device: Device) -> None:
            answer = await device.ask("received", batch=batch, attempt=1)
            answers.append(answer.get("code", answer["type"]))

        async with trio.open_nursery() as nursery:
            for device in devices:
                nursery.start_soon(report, device)
            nursery.start_soon(world.service.abort_batch, batch)
        view = await world.service.get_batch(batch)
        assert (view.status, view.counts.failed) == ("aborted", 40)
        # acknowledged, or not even given when the abort came
        assert set(answers) <= {"ack", "not_found"}
        for device in devices:
            await device.ping()
            seen = [message["type"] for message in device.inbox]
            assert "upgrade" not in seen[1:], "an upgrade message after the end of its batch"


# -- downloads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [256 << shift for shift in range(11)])
async def test_every_chunk_size(world: World, link: str, chunk_size: int) -> None:
    batch, device = await begin(world, link, "to_be_upgraded")
    size = min(len(IMAGE), 300 * chunk_size)
    assert await device.download(1, "f1", 0, size, chunk_size) == IMAGE[:size]
    # from anywhere to anywhere
    for offset, end in ((1, 2), (255, 257), (size // 2 + 1, size), (size - 1, size), (0, 1)):
        assert await device.download(end, "f1", offset, end, chunk_size) == IMAGE[offset:end]
    await world.wait_state(batch, "d1", "upgrading")


async def test_a_length_beyond_the_end_is_clipped(world: World, link: str) -> None:
    _, device = await begin(world, link, "to_be_upgraded")
    await device.send("fetch", transfer=4, firmware="f1", offset=len(IMAGE) - 10, length=2**53 - 1)
    chunk = await device.chunk()
    assert (chunk.offset, chunk.data) == (len(IMAGE) - 10, IMAGE[-10:])
    await device.quiet()


async def test_a_download_goes_on_after_a_restart(world: World, link: str) -> None:
    batch, device = await begin(world, link, "to_be_upgraded")
    half = await device.download(1, "f1", 0, 131_072, 4096)
    await world.restart(down_s=5)
    device = await world.log_in("d1", link)
    assert (await device.receive("upgrade"))["attempt"] == 1
    rest = await device.download(2, "f1", len(half), len(IMAGE), 4096)
    assert half + rest == IMAGE
    await world.wait_state(batch, "d1", "upgrading")


async def test_a_new_transfer_replaces_the_one_before(world: World, link: str) -> None:
    large = await world.add_firmware("9.0", os_bytes(20_000_000))
    device = await world.log_in("d1", link)
    batch = await world.create_batch(large)
    await world.bring_to("to_be_upgraded", batch, device)
    await device.send("fetch", transfer=1, firmware=large, offset=0)
    await device.chunk()
    assert await device.download(2, large, 70_000, 90_000, 4096) == os_bytes(20_000_000)[70_000:90_000]
    await device.ping()
    assert not device.chunks, "a chunk of a transfer that was replaced, after the new one had ended"


async def test_a_stopped_transfer_stops(world: World, link: str) -> None:
    large = await world.add_firmware("9.0", bytes(40_000_000))
    device = await world.log_in("d1", link)
    batch = await world.create_batch(large)
    await world.bring_to("to_be_upgraded", batch, device)
    await device.send("fetch", transfer=1, firmware=large, offset=0)
    await device.chunk()
    assert (await device.ask("stop", transfer=1))["type"] == "ack"
    await device.ping()
    device.chunks.clear()
    await device.quiet()
    assert world.gateway.plane.statistics()["transfers_running"] == 0
    assert (await device.ask("stop", transfer=1))["type"] == "ack"  # twice is no error


async def test_silent_policy_lets_the_device_choose(world: World, link: str) -> None:
    device = await world.log_in("d1", link)
    batch = await world.create_batch(policy="silent")
    assert (await device.receive("upgrade"))["policy"] == "silent"
    await device.ask("received", batch=batch, attempt=1)
    assert (await world.details(batch, "d1")).waiting_for == "the device to start"
    await world.jump(20 * 3600)
    await device.quiet()
    assert (await world.details(batch, "d1")).state == "to_be_upgraded"
    assert (await device.ask("check"))["type"] == "upgrade"
    await device.ask("progress", batch=batch, attempt=1, stage="downloading", percent=0)
    await world.jump(61)
    assert (await device.receive("cancel"))["reason"] == "timed_out"


def os_bytes(size: int) -> bytes:
    """The same bytes for the same size, no two chunks alike."""
    return b"".join(number.to_bytes(4, "big") for number in range(size // 4))


# -- silence ---------------------------------------------------------------------------------------


async def test_a_silent_device_is_offline_after_two_and_a_half_heartbeats(world: World, link: str) -> None:
    device = await world.log_in("d1", link)
    await world.jump(2.5 * HEARTBEAT_S - 10, alive=False)
    assert (await world.service.get_device("lamp", "d1")).connection == "online"
    await world.jump(15, alive=False)
    assert await device.wait_closed() == 4003
    await world.wait(lambda: not len(world.gateway.presence))
    assert (await world.service.get_device("lamp", "d1")).connection == "offline"


@pytest.mark.parametrize("what", ["ping", "pong", "message"])
async def test_any_frame_keeps_it_online(world: World, link: str, what: str) -> None:
    device = await world.log_in("d1", link)
    for _ in range(4):
        await world.jump(2 * HEARTBEAT_S, alive=False)
        if what == "pong":
            await device.send_frame(10, b"unasked")
        elif what == "message":
            await device.ask("check")
        await device.ping()
    assert (await world.service.get_device("lamp", "d1")).connection == "online"


@pytest.mark.parametrize("sent", ["nothing", "some", "no_hello"])
async def test_who_does_not_log_in_in_time_is_ended(world: World, link: str, sent: str) -> None:
    if sent == "no_hello":
        device = await world.connect("d1", link)
        await device.ping()
        await world.jump(9, alive=False)
        await device.ping()
        await world.jump(2, alive=False)
        assert await device.wait_closed() == 4001
        return
    device = Device(await trio.open_tcp_stream(*world.address), link, "lamp", "d1")
    world.devices.append(device)
    if sent == "some":
        await device.send_bytes(b"OT" if link == "tcp" else b"GET /device HTTP/1.1\r\nHost: a\r\n")
    await world.wait(lambda: world.gateway.plane.statistics()["connections"] == 1)
    await world.jump(9, alive=False)
    assert world.gateway.plane.statistics()["connections"] == 1
    await world.jump(2, alive=False)
    assert await device.wait_closed() == 1006


# -- going -----------------------------------------------------------------------------------------


async def test_goodbye_then_the_end_without_a_close_frame(world: World, link: str) -> None:
    device = await world.log_in("d1", link)
    batch = await world.create_batch()
    await world.bring_to("pushed", batch, device)
    await device.send("received", batch=batch, attempt=1, id="last")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.gateway.drain)
        goodbye = await device.receive()
        if goodbye.get("id") == "last":
            goodbye = await device.receive()
        assert goodbye["type"] == "goodbye"
        assert goodbye["retry_after_s"] == 5
        assert await device.wait_closed() == 1006
        assert not device.inbox
        await device.aclose()
