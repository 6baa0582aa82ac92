"""Logins under overload, and two boards with one identity."""

import pytest

from otagate import limits
from otagate.gateway.pacing import Rivals, retry_after_s
from otagate.wire import messages
from tests.gateway.harness import NONCE, SimulatedDevice, gateway_harness, kinds

MINUTE_MS = limits.takeover_forget_ms


def test_take_overs_are_forgotten_one_a_minute() -> None:
    rivals = Rivals()
    for _ in range(limits.takeovers_free - 1):
        rivals.note(7, 0)
    assert not rivals.too_many(7, 0)
    rivals.note(7, 0)
    assert rivals.too_many(7, MINUTE_MS - 1)
    assert not rivals.too_many(7, MINUTE_MS)
    rivals.note(7, MINUTE_MS)
    assert rivals.too_many(7, MINUTE_MS)
    assert not rivals.too_many(8, MINUTE_MS)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "takeover_devices_max", 10)
    rivals = Rivals()
    for device in range(100):
        rivals.note(device, 0)
    assert len(rivals) == 10


def test_waits_are_between_their_bounds() -> None:
    waits = {retry_after_s(30, 60, b"%08x" % number) for number in range(1_000)}
    assert waits == set(range(30, 61))


async def test_two_boards_with_one_identity_are_slowed(autojump_clock: object) -> None:
    """The first few take the session from each other; then whoever comes is sent away, who is there stays."""
    async with gateway_harness() as harness:
        await harness.set_up("d1", "d2")
        device = await harness.log_in("d1")
        for _ in range(limits.takeovers_free):
            before, device = device, await harness.log_in("d1")
            assert before.closed == 4002
        for _ in range(20):
            rival = SimulatedDevice(harness.plane, "d1")
            rival.send_hello(id="h")
            refusal = await rival.receive(messages.Error)
            assert (refusal.code, refusal.id, rival.closed) == ("overloaded", "h", 4005)
            assert refusal.retry_after_s in range(30, 61)
        assert device.closed is None
        assert harness.gateway.sessions.takeovers_refused == 20
        await harness.log_in("d2")
        device.send(messages.Check(id="c"))
        assert (await device.receive(messages.Ack)).id == "c"
        await harness.jump(60)
        await harness.log_in("d1")
        assert device.closed == 4002


async def test_a_device_that_ended_its_session_is_no_rival(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1")
        for _ in range(5 * limits.takeovers_free):
            (await harness.log_in("d1")).lose()
            await harness.rest()
        assert harness.gateway.sessions.takeovers_refused == 0


async def test_only_who_proves_to_be_the_device_counts(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1")
        device = await harness.log_in("d1")
        for _ in range(5 * limits.takeovers_free):
            SimulatedDevice(harness.plane, "d1").send_hello(mac="0" * 64)
        await harness.rest()
        assert device.closed is None
        await harness.log_in("d1")
        assert harness.gateway.sessions.takeovers_refused == 0


async def test_logins_above_the_bound_are_told_to_come_back(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store does not keep up: what is under way is finished, nothing is looked up for the rest."""
    monkeypatch.setattr(limits, "logins_under_way_max", 3)
    async with gateway_harness() as harness:
        await harness.set_up(*(f"d{i}" for i in range(6)))
        harness.store.hold()
        devices = [SimulatedDevice(harness.plane, f"d{i}") for i in range(6)]
        for device in devices:
            device.send_hello("1.1")
        await harness.rest()
        for device in devices[3:]:
            refusal = await device.receive(messages.Error)
            assert (refusal.code, device.closed) == ("overloaded", 4005)
            assert refusal.retry_after_s == retry_after_s(10, 30, NONCE.encode())
        assert harness.gateway.sessions.logins_overloaded == 3
        harness.store.release()
        await harness.rest()
        assert [kinds(device.inbox) for device in devices[:3]] == [["welcome"]] * 3
        await harness.log_in("d5", "1.1")


async def test_who_asks_on_while_its_answers_wait_is_cut_off(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is slow: a device may wait for so many answers, and others for theirs."""
    monkeypatch.setattr(limits, "answers_waiting_max", 10)
    async with gateway_harness() as harness:
        await harness.set_up("d1", "d2")
        greedy, honest = await harness.log_in("d1"), await harness.log_in("d2")
        harness.store.hold()
        for device in (greedy, honest):
            device.send(messages.Version(version="1.5", id="v"))
            await harness.rest()
            device.send(*(messages.Check(id=f"c{number}") for number in range(9)))
        await harness.rest()
        assert (greedy.closed, honest.closed) == (None, None)
        greedy.send(*(messages.Check() for _ in range(50)))
        await harness.rest()
        assert (greedy.closed, honest.closed) == (4005, None)
        assert harness.gateway.sessions.reports.cut_off == 1
        harness.store.release()
        await harness.rest()
        assert [message.id for message in honest.inbox] == ["v", *(f"c{number}" for number in range(9))]
        await harness.log_in("d1", "1.5")
