"""Slow and greedy peers against the plane: each meets its bound, is counted, and others are served meanwhile.

The rows of docs/reliability.md, Slow and greedy peers. Nothing is measured in wall-clock time: what a
greedy peer can cost others is counted in turns (drains) and in messages.
"""

import socket
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from otagate import limits, plane

from .rig import (
    BINARY,
    CLOSE,
    CONTINUATION,
    LINKS,
    OPENINGS,
    PING,
    PONG,
    TEXT,
    Peer,
    Rig,
    both_links,
    frame,
)
from .test_transfers import CONTENT, load, stream

SIZE = len(CONTENT)


def serve_honest(rig: Rig, peer: Peer, turns_max: int) -> None:
    """An honest device's message is heard, and answered, within so many turns."""
    peer.send(TEXT, b"honest")
    for _ in range(turns_max):
        for event in rig.turn():
            if event[:2] == (plane.MESSAGE, peer.conn):
                rig.apply((plane.SEND, peer.conn, b"ack"))
                assert peer.next_frame() == (TEXT, b"ack")
                return
    raise AssertionError(f"not heard within {turns_max} turns")


# -- slow ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opening", [b"GET /device HTTP/1.1\r\nX: ", b"OT"])
def test_slow_at_the_handshake(make_rig: Callable[..., Rig], opening: bytes) -> None:
    """A byte now and then moves no deadline: it counts from the accept."""
    rig = make_rig(handshake_timeout_ms=10_000)
    honest = rig.login("tcp")
    slow = rig.connect()
    for at in range(len(opening)):
        slow.send_raw(opening[at : at + 1])
        rig.settle()
        rig.plane.advance_clock(9_500 // len(opening))
        rig.settle()
        assert rig.plane.statistics()["ended_handshake_timeout"] == 0
    slow.send_raw(b"x" if opening.startswith(b"G") else b"G")
    rig.settle()
    rig.plane.advance_clock(1_000)
    rig.wait_count("ended_handshake_timeout", 1)
    rig.wait_count("connections", 1)
    serve_honest(rig, honest, turns_max=4)


@both_links
def test_slow_at_the_hello(make_rig: Callable[..., Rig], link: str) -> None:
    """Neither half a hello nor pings nor refused hellos move the deadline of the login."""
    rig = make_rig(hello_timeout_ms=10_000)
    slow = rig.open(link)
    whole = frame(link, TEXT, b"x" * 500)
    for step in range(8):
        slow.send_raw(frame(link, PING) + frame(link, TEXT, b"bad"))
        rig.settle()
        conn = rig.wait_event(plane.HELLO)[1]
        rig.apply((plane.RETRY_HELLO, conn))
        rig.plane.advance_clock(1_100)
        assert rig.plane.statistics()["ended_hello_timeout"] == 0, step
    slow.send_raw(whole[:100])
    rig.settle()
    rig.plane.advance_clock(3_000)
    assert (CLOSE, struct.pack(">H", 4001)) in slow.wait_end()
    slow.close()
    rig.wait_count("ended_hello_timeout", 1)


@both_links
def test_slow_at_a_message(make_rig: Callable[..., Rig], link: str) -> None:
    """A frame that never ends is no sign of life: its sender is silent."""
    rig = make_rig(heartbeat_timeout_ms=30_000)
    slow = rig.login(link)
    slow.send_raw(frame(link, TEXT, b"x" * 4_000)[:-1_000])
    for _ in range(6):
        rig.settle()
        rig.plane.advance_clock(6_000)
        slow.send_raw(b"x")
    assert rig.wait_event(plane.CLOSED) == (plane.CLOSED, slow.conn, 7, plane.SILENT)
    assert rig.plane.statistics()["ended_silent"] in (0, 1)  # counted when the socket is gone
    slow.close()
    rig.wait_count("ended_silent", 1)


@both_links
def test_half_open_connections_are_given_up(make_rig: Callable[..., Rig], link: str) -> None:
    """They say nothing, and nothing that is sent to them comes back."""
    rig = make_rig(heartbeat_timeout_ms=30_000, close_timeout_ms=5_000)
    peers = [rig.login(link, device=i) for i in range(20)]
    rig.plane.advance_clock(31_000)
    rig.wait(lambda: sum(event[0] == plane.CLOSED for event in rig.events) == 20)
    rig.plane.advance_clock(6_000)
    rig.wait_count("connections", 0)
    assert rig.plane.statistics()["ended_silent"] == len(peers)


# -- greedy ----------------------------------------------------------------------------------------


@both_links
@pytest.mark.parametrize("flood", ["tiny messages", "pings", "empty"])
def test_floods_take_turns(rig: Rig, link: str, flood: str) -> None:
    """However many frames wait, an honest device is heard in the round in which it speaks."""
    one = {
        "tiny messages": frame(link, TEXT, b"x"),
        "pings": frame(link, PING, b"x"),
        "empty": frame(link, PONG),
    }
    honest = rig.login(link, device=1)
    greedy = [rig.login(link, device=2 + i) for i in range(5)]
    for peer in greedy:
        peer.socket.send(one[flood] * 20_000)
    before = len(rig.events)
    for _ in range(10):
        serve_honest(rig, honest, turns_max=4)
        for peer in greedy:
            peer.receive()
    heard = Counter(event[1] for event in rig.events[before:] if event[0] == plane.MESSAGE)
    assert max((heard[peer.conn] for peer in greedy), default=0) <= 40 * limits.turn_messages_max


@both_links
def test_who_floods_and_does_not_read_fills_its_own_socket(make_rig: Callable[..., Rig], link: str) -> None:
    rig = make_rig(write_stall_timeout_ms=30_000)
    honest = rig.login(link, device=1)
    greedy = rig.login(link, device=2, rcvbuf=4_096)
    pings = frame(link, PING, b"x" * 125) * 100
    refused = 0
    while refused < 50:
        try:
            greedy.socket.send(pings)
        except BlockingIOError:
            refused += 1
        rig.turn()
    taken = rig.plane.statistics()["pings"]
    serve_honest(rig, honest, turns_max=4)
    rig.settle()
    assert rig.plane.statistics()["pings"] == taken, "no more is read"
    for _ in range(4):
        rig.plane.advance_clock(10_100)
        honest.send(PING)
        rig.settle()
    assert rig.wait_event(plane.CLOSED)[1:] == (greedy.conn, 2, plane.STALLED)
    rig.wait_count("ended_stalled", 1)


@both_links
def test_a_flood_of_fetches_costs_one_transfer(rig: Rig, link: str, tmp_path: Path) -> None:
    """Each replaces the one before; no more than one is ever held."""
    load(rig, tmp_path)
    honest = rig.login(link, device=1)
    greedy = rig.login(link, device=2)
    for transfer in range(500):
        rig.apply(stream(greedy.conn, transfer, 0, SIZE, 4096))
        found = rig.plane.statistics()
        assert found["transfers_running"] + found["transfers_waiting"] == 1
        rig.turn()
        greedy.receive()
    serve_honest(rig, honest, turns_max=8)


@pytest.mark.parametrize("empty", [True, False])
def test_fragments_that_never_end(rig: Rig, empty: bool) -> None:
    """Empty ones cost turns and no memory; others reach the bound of a message."""
    honest = rig.login("websocket", device=1)
    greedy = rig.login("websocket", device=2)
    greedy.send(TEXT, b"", fin=False)
    if empty:
        for _ in range(5):
            greedy.send_raw(frame("websocket", CONTINUATION, b"", fin=False) * 1_000)
            serve_honest(rig, honest, turns_max=4)
        greedy.send(CONTINUATION, b"end")
        assert rig.wait_event(plane.MESSAGE, greedy.conn)[3] == b"end"
        return
    for _ in range(limits.message_bytes_max // 16):
        greedy.send(CONTINUATION, b"x" * 16, fin=False)
    rig.settle()
    assert rig.plane.statistics()["ended_broken"] == 0
    greedy.send(CONTINUATION, b"x", fin=False)
    assert greedy.wait_end()[-1][1][:2] == struct.pack(">H", 1009)
    greedy.close()
    rig.wait_count("ended_broken", 1)
    serve_honest(rig, honest, turns_max=4)


@both_links
@pytest.mark.parametrize("size", [limits.message_bytes_max + 1, 2**24 - 1])
def test_oversize_is_refused_at_its_header(rig: Rig, link: str, size: int) -> None:
    greedy = rig.login(link)
    start = frame(link, TEXT, b"x" * (limits.message_bytes_max + 1), length=size)[:20]
    greedy.send_raw(start)
    assert greedy.wait_end()[-1][1][:2] == struct.pack(">H", 1009)
    greedy.close()
    rig.wait_count("ended_broken", 1)


@both_links
def test_binary_is_refused_at_its_header(rig: Rig, link: str) -> None:
    greedy = rig.login(link)
    greedy.send_raw(frame(link, BINARY, b"x" * 100)[:14])
    assert greedy.wait_end()[-1][1][:2] == struct.pack(">H", 1003)


# -- many of one address ---------------------------------------------------------------------------


def test_strangers_of_one_address_are_bounded(make_rig: Callable[..., Rig]) -> None:
    """Sessions do not count; who logs in or leaves makes room."""
    rig = make_rig(strangers_per_address_max=5)
    devices = [rig.login(LINKS[i & 1], device=i) for i in range(20)]
    strangers = [rig.connect() for _ in range(5)]
    rig.wait_count("connections", 25)
    refused = rig.connect()
    rig.wait_count("refused_strangers", 1)
    assert refused.wait_end() == []
    for peer in devices[:3]:
        serve_honest(rig, peer, turns_max=4)
    strangers[0].close()
    rig.wait_count("connections", 24)
    late = rig.login("tcp", device=99)
    serve_honest(rig, late, turns_max=4)
    assert rig.plane.statistics()["refused_strangers"] == 1
    again = [rig.connect() for _ in range(2)]
    rig.wait_count("refused_strangers", 2)
    assert again[1].wait_end() == []


def test_strangers_that_time_out_make_room(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(strangers_per_address_max=3, handshake_timeout_ms=10_000)
    for round_ in range(4):
        for _ in range(3):
            rig.connect()
        rig.wait_count("connections", 3)
        rig.plane.advance_clock(10_500)
        rig.wait_count("connections", 0)
        assert rig.plane.statistics()["ended_handshake_timeout"] == 3 * (round_ + 1)
    assert rig.plane.statistics()["refused_strangers"] == 0


def test_another_address_is_served_meanwhile(make_rig: Callable[..., Rig]) -> None:
    """Thousands of silent connections from one address, and a device from another."""
    rig = make_rig(connections_max=600, strangers_per_address_max=400)
    rig.wait_count("connections", 0)
    for _ in range(450):
        rig.connect()
        rig.turn()
    rig.wait_count("refused_strangers", 50)
    other = socket.create_connection(rig.address, source_address=("127.0.0.2", 0))
    other.setblocking(False)
    device = Peer(rig, "tcp", other)
    rig.peers.append(device)
    device.send_raw(OPENINGS["tcp"] + frame("tcp", TEXT, b"hello"))
    device.conn = rig.wait_event(plane.HELLO)[1]
    rig.apply((plane.ADMIT, device.conn, 1))
    assert device.next_frame()[0] == TEXT
    serve_honest(rig, device, turns_max=4)


def test_ipv6_is_counted_by_network_and_mapped_ipv4_by_address(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(strangers_per_address_max=2)
    both = socket.socket(socket.AF_INET6)
    both.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    both.bind(("::", 0))
    both.listen(16)
    rig.plane.listen(both.fileno())
    port = both.getsockname()[1]
    peers = [socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.3", 0)) for _ in range(3)]
    rig.wait_count("refused_strangers", 1)
    peers += [socket.create_connection(("::1", port)) for _ in range(3)]
    rig.wait_count("refused_strangers", 2)
    rig.wait_count("connections", 4)
    for peer in (*peers, both):
        peer.close()


def test_echo_counts_no_strangers(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(strangers_per_address_max=1, echo=True)
    for number in range(3):
        peer = rig.open("tcp")
        peer.send(TEXT, b"x")
        assert rig.wait_event(plane.MESSAGE)[3] == b"x", number
    assert rig.plane.statistics()["refused_strangers"] == 0
