"""Logging in, being superseded, being cut off, and what a session leaves behind."""

import msgspec
import pytest
import trio

from otagate import plane
from otagate.gateway.views import CreateProductRequest, RegisterDeviceRequest
from otagate.store.interface import ReportVersion, TouchDevices, Transition
from otagate.wire import messages
from tests.gateway.harness import (
    NONCE,
    SECRET,
    Harness,
    SimulatedDevice,
    gateway_harness,
    kinds,
    progress,
    reach,
)

# -- logging in ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"mac": "0" * 64},
        {"mac": None},
        {"device": "nobody"},
        {"product": "nothing"},
        {"mac": messages.login_mac(SECRET, "0" * 32, "lamp", "d1")},
        {"mac": messages.login_mac(SECRET, NONCE, "lamp", "d2")},
    ],
    ids=["wrong mac", "no mac", "unknown device", "unknown product", "another nonce", "another device"],
)
async def test_refused_logins_look_the_same(autojump_clock: object, fields: dict[str, str]) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1")
        device = SimulatedDevice(harness.plane, "d1")
        device.send_hello(**fields, id="h")
        refusal = await device.receive(messages.Error)
        assert (refusal.code, refusal.message, refusal.id) == (
            "unauthorized",
            "unknown device or wrong mac",
            "h",
        )
        assert device.closed == 4001
        assert len(harness.gateway.presence) == 0
        assert harness.gateway.sessions.logins_refused == 1


@pytest.mark.parametrize("auth", ["certificate", "both"])
async def test_a_product_that_asks_for_a_certificate_lets_nobody_in_without(
    autojump_clock: object, auth: str
) -> None:
    async with gateway_harness() as harness:
        await harness.service.create_product(CreateProductRequest("lock", "Lock", auth))
        await harness.service.register_device("lock", RegisterDeviceRequest("d1", secret=SECRET))
        device = SimulatedDevice(harness.plane, "d1")
        device.send_hello(product="lock")
        assert (await device.receive(messages.Error)).code == "unauthorized"
        assert device.closed == 4001
        # a product of the same key that is not that product
        await harness.service.delete_device("lock", "d1")
        await harness.service.delete_product("lock")
        await harness.service.create_product(CreateProductRequest("lock", "Lock"))
        await harness.service.register_device("lock", RegisterDeviceRequest("d1", secret=SECRET))
        device = SimulatedDevice(harness.plane, "d1")
        device.send_hello(product="lock")
        await device.receive(messages.Welcome)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"version": ""}, "version"),
        ({"version": "1.0\n"}, "version"),
        ({"device": "-x"}, "device"),
        ({"mac": "xyz"}, "mac"),
        ({"type": "hallo"}, "type"),
    ],
)
async def test_a_bad_hello_may_be_said_again(
    autojump_clock: object, change: dict[str, str], field: str
) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1")
        device = SimulatedDevice(harness.plane, "d1")
        hello = {"type": "hello", "product": "lamp", "device": "d1", "version": "1.0", "id": "h"}
        device.send_hello_raw(msgspec.json.encode(hello | change))
        refusal = await device.receive(messages.Error)
        assert (refusal.code, refusal.field, refusal.id) == ("bad_message", field, "h")
        assert device.may_retry
        assert device.closed is None
        device.send_hello(id="again")
        assert (await device.receive(messages.Welcome)).id == "again"


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"17", b'{"type": "hello",}'])
async def test_a_broken_hello_ends_the_connection(autojump_clock: object, payload: bytes) -> None:
    async with gateway_harness() as harness:
        device = SimulatedDevice(harness.plane, "d1")
        device.send_hello_raw(payload)
        assert (await device.receive(messages.Error)).code == "bad_message"
        assert device.closed == 1007
        assert not device.may_retry


async def test_another_message_before_the_login(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1")
        device = SimulatedDevice(harness.plane, "d1")
        device.send_hello_raw(messages.encode(messages.Check(id="c")))
        refusal = await device.receive(messages.Error)
        assert (refusal.code, refusal.id) == ("conflict", "c")
        assert device.may_retry
        device.send_hello()
        await device.receive(messages.Welcome)
        device.send(messages.Hello(product="lamp", device="d1", version="1.0", id="h"))
        refusal = await device.receive(messages.Error)
        assert (refusal.code, refusal.id) == ("conflict", "h")


async def test_what_a_welcome_says(autojump_clock: object) -> None:
    async with gateway_harness(device={"heartbeat_s": 30}) as harness:
        await harness.set_up("d1")
        device = SimulatedDevice(harness.plane, "d1")
        device.send_hello(id="h", nonce="f" * 32)
        welcome = await device.receive(messages.Welcome)
        assert (welcome.id, welcome.heartbeat_s, welcome.server_time) == ("h", 30, harness.now_ms // 1000)
        assert welcome.mac == messages.gateway_mac(SECRET, "f" * 32, NONCE)
        device.send_hello()
        assert (await harness.log_in("d1")).inbox == device.inbox


async def test_many_logins_in_one_drain(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up(*(f"d{number}" for number in range(20)))
        devices = [SimulatedDevice(harness.plane, f"d{number}") for number in range(20)]
        bad = SimulatedDevice(harness.plane, "d3")
        bad.send_hello(mac="0" * 64)
        for device in devices:
            device.send_hello()
        await harness.rest()
        assert [kinds(device.inbox) for device in devices] == [["welcome"]] * 20
        assert kinds(bad.inbox) == ["error"]


# -- messages ------------------------------------------------------------------------------------------


async def test_bad_and_broken_messages_of_a_session(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1")
        device = await harness.log_in("d1")
        device.send_raw(b'{"type": "progress", "batch": "b1", "attempt": 1, "stage": "x", "percent": 1}')
        refusal = await device.receive(messages.Error)
        assert (refusal.code, refusal.field, refusal.id) == ("bad_message", "stage", None)
        device.send_raw(b'{"type": "sing", "id": "s"}')
        refusal = await device.receive(messages.Error)
        assert (refusal.code, refusal.field, refusal.id) == ("bad_message", "type", "s")
        device.send(messages.Check(id="c"))
        assert (await device.receive(messages.Ack)).id == "c"
        device.send_raw(b'{"type": "check"')
        assert (await device.receive(messages.Error)).code == "bad_message"
        assert device.closed == 1007
        await harness.rest()
        assert (await harness.service.get_device("lamp", "d1")).connection == "offline"


async def test_messages_without_an_id_are_not_acknowledged(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "pushed")
        device.send(
            messages.Received(batch=batch, attempt=1),
            progress(batch, 3),
            messages.Version(version="1.3"),
            messages.Stop(transfer=8),
        )
        await device.expect_silence()
        assert await harness.state(batch, "d1") == "upgrading"


# -- the newest login wins -----------------------------------------------------------------------------


async def test_what_a_superseded_connection_says_does_not_count(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        old, batch = await reach(harness, "pushed")
        number, conn = old.number, old.conn
        new = await harness.log_in("d1")
        await new.receive(messages.Upgrade)
        assert old.closed == 4002
        payload = messages.encode(messages.Received(batch=batch, attempt=1, id="m"))
        harness.plane.put(plane.MESSAGE, conn, number, payload)
        await harness.rest()
        assert await harness.state(batch, "d1") == "pushed"
        assert (await harness.service.get_device("lamp", "d1")).connection == "online"
        new.send(messages.Received(batch=batch, attempt=1, id="n"))
        assert (await new.receive(messages.Ack)).id == "n"


async def test_the_end_of_an_old_connection_changes_nothing(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        old, batch = await reach(harness, "pushed")
        harness.plane.devices.pop(old.conn)  # its end is heard of late
        new = await harness.log_in("d1")
        await new.receive(messages.Upgrade)
        harness.plane.put(plane.CLOSED, old.conn, old.number, plane.LOST)
        await harness.rest()
        assert (await harness.service.get_device("lamp", "d1")).connection == "online"
        assert harness.gateway.upgrades.awaiting == {old.number}
        await harness.jump(10.2)
        assert (await harness.details(batch, "d1")).remark == "push_failed", "its clock still runs"


async def test_two_logins_of_one_device_in_one_drain(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1")
        first, second = (SimulatedDevice(harness.plane, "d1") for _ in range(2))
        first.send_hello("1.1")
        second.send_hello("1.2")
        await harness.rest()
        assert (kinds(first.inbox), first.closed) == ([], 4002)
        assert kinds(second.inbox) == ["welcome"]
        assert (await harness.service.get_device("lamp", "d1")).version == "1.2"
        written = [change for group in harness.store.groups for change in group]
        versions = [change.version for change in written if isinstance(change, ReportVersion)]
        assert versions == ["1.0", "1.2"], "what the older one said does not count"


async def test_a_login_superseded_while_it_waits(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1")
        harness.store.hold()
        first = SimulatedDevice(harness.plane, "d1")
        first.send_hello("1.1")
        await harness.rest()
        second = SimulatedDevice(harness.plane, "d1")
        second.send_hello("1.2")
        await harness.rest()
        assert first.closed == 4002
        harness.store.release()
        await harness.rest()
        assert kinds(first.inbox) == []
        assert kinds(second.inbox) == ["welcome"]
        assert harness.gateway.upgrades.logging_in == set()


async def test_nothing_is_said_before_the_welcome(autojump_clock: object) -> None:
    """A time-out becomes durable while a login waits: its device is told when it next speaks of it."""
    async with gateway_harness() as harness:
        old, batch = await reach(harness, "upgrading", timeout_minutes=1)
        harness.store.hold()
        await harness.jump(61)
        device = SimulatedDevice(harness.plane, "d1")
        device.send_hello("1.1")
        await harness.rest()
        harness.store.release()
        await harness.rest()
        assert kinds(device.inbox) == ["welcome"]
        assert kinds(old.inbox) == []
        device.send(progress(batch, 5, id="m"))
        assert kinds(await device.receive_all()) == ["welcome", "ack", "cancel"]


async def test_a_connection_lost_while_its_login_waits(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1")
        harness.store.hold()
        device = SimulatedDevice(harness.plane, "d1")
        device.send_hello("1.1")
        await harness.rest()
        device.lose()
        harness.store.release()
        await harness.rest()
        assert len(harness.gateway.presence) == 0
        assert harness.gateway.upgrades.logging_in == set()


# -- the operator ends it ------------------------------------------------------------------------------


async def _rotate(harness: Harness) -> None:
    await harness.service.rotate_secret("lamp", "d1")


async def _delete(harness: Harness) -> None:
    await harness.service.delete_device("lamp", "d1")


@pytest.mark.parametrize("end", [_rotate, _delete])
async def test_a_session_that_an_operator_ends(autojump_clock: object, end) -> None:  # type: ignore[no-untyped-def]
    async with gateway_harness() as harness:
        await harness.set_up("d1", "d2")
        device = await harness.log_in("d1")
        other = await harness.log_in("d2")
        device.plane.devices.pop(device.conn)  # it does not answer the close for a while
        await end(harness)
        assert len(harness.gateway.presence) == 1, "offline at once"
        device.send(messages.Version(version="6.6"))
        await harness.rest()
        if end is _rotate:
            view = await harness.service.get_device("lamp", "d1")
            assert (view.version, view.connection) == ("1.0", "offline")
        again = SimulatedDevice(harness.plane, "d1")
        again.send_hello()
        assert (await again.receive(messages.Error)).code == "unauthorized"
        assert other.closed is None


async def test_rotating_a_secret_while_a_login_with_the_old_one_waits(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1")
        device = SimulatedDevice(harness.plane, "d1")
        harness.store.hold()
        device.send_hello("1.1")
        await harness.rest()
        harness.gateway.nursery.start_soon(_rotate, harness)
        await harness.rest()
        harness.store.release()
        await harness.rest()
        assert device.closed == 4001
        assert len(harness.gateway.presence) == 0
        assert harness.gateway.upgrades.logging_in == set()


async def test_a_new_secret_lets_in(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1")
        secret = (await harness.service.rotate_secret("lamp", "d1")).secret
        device = SimulatedDevice(harness.plane, "d1")
        device.send_hello(secret=secret)
        await device.receive(messages.Welcome)


# -- what is written -----------------------------------------------------------------------------------


async def test_a_returning_login_with_the_same_version_writes_nothing(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        _, batch = await reach(harness, "to_be_upgraded")
        groups = len(harness.store.groups)
        for _ in range(5):
            await harness.log_in("d1")
        assert len(harness.store.groups) == groups
        assert batch


async def test_last_seen_is_written_coalesced(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1", "d2", "d3")
        await harness.jump(61)
        groups = len(harness.store.groups)
        for _ in range(3):
            for name in ("d1", "d2"):
                (await harness.log_in(name)).lose()
                await harness.jump(1)
        seen_ms = harness.now_ms
        online = await harness.log_in("d3")
        assert (await harness.service.get_device("lamp", "d2")).last_seen is not None
        await harness.jump(61)
        written = [change for group in harness.store.groups[groups:] for change in group]
        assert [type(change) for change in written] == [TouchDevices]
        assert {number for number, _ in written[0].seen} == {1, 2}
        device = (await harness.store.lookup_devices([("lamp", "d2")]))[0]
        assert device is not None
        assert device.last_seen_ms is not None
        assert seen_ms - 2_000 < device.last_seen_ms <= seen_ms
        assert online.closed is None


async def test_a_first_login_makes_a_device_active(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up()
        await harness.service.register_device("lamp", RegisterDeviceRequest("d1", secret=SECRET))
        view = await harness.service.get_device("lamp", "d1")
        assert (view.active, view.version, view.connection, view.last_seen) == (False, None, "offline", None)
        groups = len(harness.store.groups)
        device = await harness.log_in("d1", "0.9")
        view = await harness.service.get_device("lamp", "d1")
        assert (view.active, view.version, view.connection) == (True, "0.9", "online")
        written = [change for group in harness.store.groups[groups:] for change in group]
        assert [type(change) for change in written] == [ReportVersion]
        assert [change.epoch for change in written] == [device.conn]
        assert not [change for change in written if isinstance(change, Transition)]


async def test_draining_says_goodbye_and_writes_what_is_in_memory(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "upgrading")
        device.send(progress(batch, 77))
        await harness.rest()
        await harness.gateway.drain()
        assert [message.retry_after_s for message in device.inbox] == [5]
        assert device.closed == 0
        assert not harness.plane.listening
        stored = (await harness.store.upgrades([(device.number, 1)]))[0]
        assert stored is not None
        assert stored.row.progress == 77
        record = (await harness.store.devices_by_number([device.number]))[0]
        assert record is not None
        assert record.last_seen_ms is not None
        assert harness.now_ms - 100 < record.last_seen_ms <= harness.now_ms
        assert harness.gateway.draining


async def test_a_device_that_does_not_go_keeps_nothing_from_being_written(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "upgrading")
        device.send(progress(batch, 77))
        await harness.rest()
        harness.plane.devices.pop(device.conn)  # it reads nothing: no end of its connection is seen
        with trio.fail_after(10):
            assert not await harness.gateway.drain(9)
        stored = (await harness.store.upgrades([(device.number, 1)]))[0]
        assert stored is not None
        assert stored.row.progress == 77


async def test_who_logs_in_while_the_gateway_drains_is_told_goodbye(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1")
        with trio.fail_after(1):
            await harness.gateway.drain()
        device = SimulatedDevice(harness.plane, "d1")
        device.send_hello("1.0")
        await device.receive(messages.Goodbye)
        assert device.closed == 0
        assert not len(harness.gateway.presence)
