"""What is written: order, one send for each connection and apply, readers that are slow, stuck or gone."""

import socket
import struct
from collections.abc import Callable

import pytest

from otagate import limits, plane

from .rig import CLOSE, PING, PONG, TEXT, Peer, Rig, both_links, frame

SMALL_RCVBUF = 4096


def segments_in(peer: Peer) -> int:
    """TCP segments with data that the peer has got: tcpi_data_segs_in of struct tcp_info."""
    info = peer.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return int(struct.unpack_from("I", info, 152)[0])


@both_links
def test_all_messages_of_one_apply_leave_in_one_send(rig: Rig, link: str) -> None:
    peers = [rig.login(link) for _ in range(3)]
    rig.settle()
    before = [segments_in(peer) for peer in peers]
    payloads = [b"%d" % i * 50 for i in range(20)]
    rig.apply(*((plane.SEND, peer.conn, payload) for payload in payloads for peer in peers))
    for peer in peers:
        assert peer.frames(20) == [(TEXT, payload) for payload in payloads]
    assert [segments_in(peer) - count for peer, count in zip(peers, before, strict=True)] == [1, 1, 1]


@both_links
@pytest.mark.parametrize("size", [0, 1, 125, 126, 1000, 2010, 2011, 2024, 5000, 60_000])
def test_messages_of_any_size(rig: Rig, link: str, size: int) -> None:
    peer = rig.login(link)
    rig.apply(
        (plane.SEND, peer.conn, b"a"), (plane.SEND, peer.conn, b"x" * size), (plane.SEND, peer.conn, b"b")
    )
    assert peer.frames(3) == [(TEXT, b"a"), (TEXT, b"x" * size), (TEXT, b"b")]


@both_links
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1999])
def test_writes_may_stop_at_any_byte(rig: Rig, link: str, limit: int) -> None:
    peer = rig.login(link)
    rig.plane.limit_writes(limit)
    payloads = [bytes([65 + i % 26]) * (i * 37 % 700) for i in range(30)]
    rig.apply(*((plane.SEND, peer.conn, payload) for payload in payloads))
    peer.send(PING, b"behind them")
    assert peer.frames(31) == [*((TEXT, payload) for payload in payloads), (PONG, b"behind them")]


def clog(rig: Rig, peer: Peer) -> bytes:
    """Sends to a peer that does not read until the kernel takes no more; returns the payload of each."""
    payload = b"x" * 60_000
    sent = -1
    while sent != rig.plane.statistics()["bytes_out"]:
        sent = rig.plane.statistics()["bytes_out"]
        rig.apply((plane.SEND, peer.conn, payload))
        rig.settle()
        if rig.events:
            break
    return payload


@both_links
def test_nothing_is_read_from_who_does_not_read(make_rig: Callable[..., Rig], link: str) -> None:
    rig = make_rig(connection_output_bytes_max=1 << 20)
    peer = rig.login(link, rcvbuf=SMALL_RCVBUF)
    payload = clog(rig, peer)
    peer.send(TEXT, b"answer me")
    rig.settle()
    assert rig.events == []
    received = 0
    while not rig.events:  # it reads: so it is heard again
        assert peer.next_frame() == (TEXT, payload)
        received += 1
    assert received >= 1
    assert rig.wait_event(plane.MESSAGE)[3] == b"answer me"


@both_links
def test_an_overflowing_queue_ends_the_connection(rig: Rig, link: str) -> None:
    peer = rig.login(link, rcvbuf=SMALL_RCVBUF)
    clog(rig, peer)
    rig.apply((plane.SEND, peer.conn, b"x" * 60_000), (plane.SEND, peer.conn, b"x" * 60_000))
    assert rig.wait_event(plane.CLOSED) == (plane.CLOSED, peer.conn, 7, plane.OVERFLOWED)
    assert rig.plane.statistics()["ended_overflowed"] == 1
    assert rig.plane.statistics()["connections"] == 0


@both_links
def test_a_stuck_reader_is_ended_and_its_number_is_stale(make_rig: Callable[..., Rig], link: str) -> None:
    rig = make_rig(connection_output_bytes_max=1 << 20, connections_max=1)
    peer = rig.login(link, rcvbuf=SMALL_RCVBUF)
    clog(rig, peer)
    rig.plane.advance_clock(limits.write_stall_timeout_ms - 2000)
    rig.settle()
    assert rig.events == []
    rig.plane.advance_clock(3000)
    assert rig.wait_event(plane.CLOSED) == (plane.CLOSED, peer.conn, 7, plane.STALLED)
    stale = peer.conn
    peer.close()

    other = rig.login(link, device=8)  # the same slot
    assert other.conn != stale
    assert other.conn & 0xFFFFF == stale & 0xFFFFF
    rig.apply(
        (plane.SEND, stale, b"x"),
        (plane.RETRY_HELLO, stale),
        (plane.STREAM, stale, 1, 1, 0, 1, 256, 0, 0),
        (plane.STOP, stale, -1),
        (plane.CLOSE, stale, 1000, b""),
        (plane.SEND, other.conn, b"for the other"),
    )
    assert other.next_frame() == (TEXT, b"for the other")
    assert rig.plane.last_seen_ms(stale) == -1
    assert rig.plane.connection_info(stale) is None
    rig.settle()
    assert rig.events == []


@both_links
def test_a_slow_reader_is_not_stuck(make_rig: Callable[..., Rig], link: str) -> None:
    sndbuf = limits.connection_sndbuf_bytes
    rig = make_rig(
        connection_output_bytes_max=1 << 22, heartbeat_timeout_ms=40_000, connection_sndbuf_bytes=sndbuf
    )
    peer = rig.login(link, rcvbuf=SMALL_RCVBUF)
    clog(rig, peer)
    written = rig.plane.statistics()["bytes_out"]
    for _ in range(5):  # far longer than both deadlines; too little to make the kernel ask for more
        peer.receive(SMALL_RCVBUF)
        rig.plane.advance_clock(limits.write_stall_timeout_ms - 2000)
        rig.settle()
    assert rig.plane.statistics()["bytes_out"] == written
    assert rig.events == []
    assert rig.plane.last_seen_ms(peer.conn) < 2 * limits.write_stall_timeout_ms
    while rig.plane.statistics()["bytes_out"] == written:  # now it reads on, and has time to speak again
        peer.receive()
        rig.turn()
    rig.plane.advance_clock(30_000)
    rig.settle()
    assert rig.events == []


@both_links
def test_a_reader_that_stops_is_gone_soon_after(make_rig: Callable[..., Rig], link: str) -> None:
    """… its last byte, also if that fell right behind a look at it."""
    rig = make_rig(connection_output_bytes_max=1 << 20)
    peer = rig.login(link, rcvbuf=SMALL_RCVBUF)
    clog(rig, peer)
    peer.receive(SMALL_RCVBUF)
    waited_ms = 0
    while not rig.events:
        rig.plane.advance_clock(500)
        waited_ms += 500
        rig.settle()
    assert rig.events == [(plane.CLOSED, peer.conn, 7, plane.STALLED)]
    assert limits.write_stall_timeout_ms <= waited_ms <= limits.write_stall_timeout_ms + 2500
    assert waited_ms < 30_000


@both_links
@pytest.mark.parametrize("code", [1000, 4002, 4005])
def test_close_comes_after_what_is_queued(rig: Rig, link: str, code: int) -> None:
    peer = rig.login(link)
    rig.apply(
        (plane.SEND, peer.conn, b"last"),
        (plane.CLOSE, peer.conn, code, b"reason"),
        (plane.SEND, peer.conn, b"too late"),
        (plane.CLOSE, peer.conn, 1001, b"too late"),
    )
    assert peer.wait_end() == [(TEXT, b"last"), (CLOSE, code.to_bytes(2, "big") + b"reason")]
    peer.send(TEXT, b"not heard")
    peer.send(CLOSE, code.to_bytes(2, "big"))
    rig.settle()
    assert rig.events == []  # the socket is there until the peer's FIN
    peer.close()
    assert rig.wait_event(plane.CLOSED) == (plane.CLOSED, peer.conn, 7, code)


@both_links
def test_close_with_code_0_delivers_the_tail_and_no_close_frame(rig: Rig, link: str) -> None:
    peer = rig.login(link)
    peer.send_raw(frame(link, TEXT, b"unread by then") * 40)
    goodbyes = [b"x" * 900] * 60
    rig.apply(*((plane.SEND, peer.conn, text) for text in goodbyes), (plane.CLOSE, peer.conn, 0, b""))
    assert peer.wait_end() == [(TEXT, text) for text in goodbyes]
    assert peer.ended == "fin"
    peer.close()
    assert rig.wait_event(plane.CLOSED) == (plane.CLOSED, peer.conn, 7, 1005)


@both_links
@pytest.mark.parametrize("code", [0, 1000])
def test_a_peer_that_does_not_close_is_not_waited_for_long(rig: Rig, link: str, code: int) -> None:
    peer = rig.login(link)
    rig.apply((plane.CLOSE, peer.conn, code, b""))
    peer.wait_end()
    rig.settle()
    assert rig.plane.statistics()["connections"] == 1
    rig.plane.advance_clock(limits.close_timeout_ms + 1000)
    assert rig.wait_event(plane.CLOSED)[3] == (code or 1005)
    assert rig.plane.statistics()["connections"] == 0
    assert rig.plane.statistics()["ended_commanded"] == 1


@both_links
def test_superseded(rig: Rig, link: str) -> None:
    """The newest login of a device wins, and nothing read from the older one counts."""
    old = rig.login(link, device=3)
    old.send(TEXT, b"in flight")
    new = rig.greet(link)
    rig.apply((plane.CLOSE, old.conn, 4002, b""), (plane.ADMIT, new.conn, 3))
    rig.events.clear()
    new.send(TEXT, b"here")
    assert rig.wait_event(plane.MESSAGE) == (plane.MESSAGE, new.conn, 3, b"here")
    assert old.wait_end() == [(CLOSE, b"\x0f\xa2")]
    old.close()
    assert rig.wait_event(plane.CLOSED) == (plane.CLOSED, old.conn, 3, 4002)
    assert rig.events == []


@both_links
def test_close_to_a_stuck_reader(make_rig: Callable[..., Rig], link: str) -> None:
    rig = make_rig(connection_output_bytes_max=1 << 20)
    peer = rig.login(link, rcvbuf=SMALL_RCVBUF)
    clog(rig, peer)
    rig.apply((plane.CLOSE, peer.conn, 1000, b""))
    rig.settle()
    rig.plane.advance_clock(limits.close_timeout_ms + 1000)
    rig.settle()
    assert rig.events == []  # its time begins when the close frame has left
    rig.plane.advance_clock(limits.write_stall_timeout_ms)
    assert rig.wait_event(plane.CLOSED) == (plane.CLOSED, peer.conn, 7, 1000)


@both_links
def test_work_ordered_outside_of_a_turn_makes_the_descriptor_readable(rig: Rig, link: str) -> None:
    peer = rig.greet(link)
    peer.send(TEXT, b"waits")
    rig.settle()
    rig.apply((plane.ADMIT, peer.conn, 1))
    assert rig.plane.pending
    assert rig.readable()
    assert rig.plane.drain() == [(plane.MESSAGE, peer.conn, 1, b"waits")]
