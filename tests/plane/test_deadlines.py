"""The clock and the wheel: silence, signs of life, deadlines near and beyond the wheel's span."""

import select
from collections.abc import Callable

import pytest

from otagate import limits, plane

from .rig import CLOSE, PING, PONG, TEXT, Rig, both_links, frame

SILENT_FRAME = (CLOSE, b"\x0f\xa3")  # 4003
TICK_MS = 256


@both_links
@pytest.mark.parametrize("timeout_ms", [1000, 25_000, 150_000, 262_144, 1_500_000])
def test_silence(make_rig: Callable[..., Rig], link: str, timeout_ms: int) -> None:
    rig = make_rig(heartbeat_timeout_ms=timeout_ms)
    peer = rig.login(link)
    rig.settle()
    for part in (timeout_ms // 2, timeout_ms // 2 - 500):
        rig.plane.advance_clock(part)
        rig.settle()
        assert rig.events == []
    rig.plane.advance_clock(500 + 2 * TICK_MS)
    assert rig.wait_event(plane.CLOSED) == (plane.CLOSED, peer.conn, 7, plane.SILENT)
    assert peer.wait_end() == [SILENT_FRAME]
    peer.close()
    rig.wait_count("ended_silent", 1)
    assert rig.plane.statistics()["connections"] == 0


@both_links
@pytest.mark.parametrize("sign", [(PING, b""), (PONG, b""), (TEXT, b"{}")])
def test_any_frame_is_a_sign_of_life(
    make_rig: Callable[..., Rig], link: str, sign: tuple[int, bytes]
) -> None:
    rig = make_rig(heartbeat_timeout_ms=10_000)
    peer = rig.login(link)
    for _ in range(10):
        rig.plane.advance_clock(9_000)
        peer.send(*sign)
        rig.settle()
        assert rig.plane.last_seen_ms(peer.conn) < 9_000
    assert all(event[0] == plane.MESSAGE for event in rig.events)
    rig.events.clear()
    rig.plane.advance_clock(11_000)
    assert rig.wait_event(plane.CLOSED)[3] == plane.SILENT


@both_links
def test_half_a_frame_is_none(make_rig: Callable[..., Rig], link: str) -> None:
    rig = make_rig(heartbeat_timeout_ms=10_000)
    peer = rig.login(link)
    for byte in frame(link, TEXT, b"never whole")[:5]:
        rig.plane.advance_clock(2_500)
        peer.send_raw(bytes([byte]))
        rig.settle()
    assert rig.wait_event(plane.CLOSED)[3] == plane.SILENT


@both_links
def test_what_we_send_is_no_sign_of_life(make_rig: Callable[..., Rig], link: str) -> None:
    rig = make_rig(heartbeat_timeout_ms=10_000)
    peer = rig.login(link)
    for _ in range(4):
        rig.plane.advance_clock(3_000)
        rig.apply((plane.SEND, peer.conn, b"anyone there?"))
        rig.settle()
    assert rig.wait_event(plane.CLOSED)[3] == plane.SILENT


@both_links
def test_without_a_heartbeat_nobody_is_silent(make_rig: Callable[..., Rig], link: str) -> None:
    rig = make_rig(heartbeat_timeout_ms=0)
    rig.login(link)
    rig.plane.advance_clock(30 * 24 * 3600 * 1000)
    rig.settle()
    assert rig.events == []
    assert rig.plane.statistics()["connections"] == 1


@both_links
def test_a_deadline_that_comes_nearer(rig: Rig, link: str) -> None:
    """A session's silence is far away; the wait for its FIN after CLOSE is near."""
    peer = rig.login(link)
    rig.plane.advance_clock(20_000)  # past what the wheel held from before the login
    peer.send(PING)
    rig.settle()
    rig.apply((plane.CLOSE, peer.conn, 1000, b""))
    rig.plane.advance_clock(limits.close_timeout_ms + 2 * TICK_MS)
    rig.settle()
    assert rig.events == [(plane.CLOSED, peer.conn, 7, 1000)]


def test_each_in_its_time(make_rig: Callable[..., Rig]) -> None:
    """Many deadlines, one leap of the clock at a time: nobody early, nobody later than two ticks."""
    rig = make_rig(heartbeat_timeout_ms=100_000, connections_max=200)
    conns = []
    for _ in range(60):
        conns.append(rig.login("tcp").conn)
        rig.settle()
        rig.plane.advance_clock(1_000)
    closed: dict[int, int] = {}
    elapsed = 60_000
    while len(closed) < 60:
        rig.plane.advance_clock(TICK_MS)
        elapsed += TICK_MS
        rig.settle()
        for event in rig.events:
            closed[event[1]] = elapsed
        rig.events.clear()
        assert elapsed < 200_000
    for i, conn in enumerate(conns):
        due = 100_000 + i * 1_000
        # Real time passes too, while the test runs: it makes deadlines come early by the test's clock.
        assert due - 10_000 <= closed[conn] <= due + 2 * TICK_MS


def test_last_seen_follows_the_clock(rig: Rig) -> None:
    peer = rig.login("tcp")
    rig.settle()
    rig.plane.advance_clock(5_000)
    assert 5_000 <= rig.plane.last_seen_ms(peer.conn) < 15_000
    peer.send(PING)
    rig.settle()
    assert rig.plane.last_seen_ms(peer.conn) < 5_000


@both_links
def test_silence_while_the_peer_takes_no_leave(make_rig: Callable[..., Rig], link: str) -> None:
    """Closed as silent, it never answers: the slot is free after the close timeout; Python knew at once."""
    rig = make_rig(heartbeat_timeout_ms=10_000)
    peer = rig.login(link)
    rig.settle()
    rig.plane.advance_clock(11_000)
    rig.wait_event(plane.CLOSED)
    assert rig.plane.statistics()["connections"] == 1
    rig.apply((plane.SEND, peer.conn, b"ignored"))
    rig.plane.advance_clock(6_000)
    rig.wait_count("connections", 0)
    assert peer.wait_end() == [SILENT_FRAME]
    assert rig.events == []


def test_the_alarm_wakes_python(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()  # nobody is there, so nothing else wakes it

    def woken(within_s: float) -> bool:
        return bool(select.select([rig.plane.fileno()], [], [], within_s)[0])

    for ms in (1, 0, 3):
        rig.plane.wake_after(ms)
        assert woken(20)
        assert rig.turn() == []
        assert not woken(0), "once"
    rig.plane.wake_after(1)
    rig.plane.wake_after(3_600_000)
    assert not woken(0.05), "only the latest counts"
    rig.plane.wake_after(60_001)
    assert not woken(0.05), "whole seconds count, too"
