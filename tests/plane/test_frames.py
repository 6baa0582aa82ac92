"""Frames to messages: reassembly, control frames, bounds and rules, on a session and in echo mode."""

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otagate import limits, plane

from .rig import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MASK,
    PING,
    PONG,
    TEXT,
    Frame,
    Rig,
    both_links,
    frame,
)


def code_of(close: Frame) -> int:
    assert close[0] == CLOSE
    return int(struct.unpack(">H", close[1][:2])[0])


@both_links
def test_a_message_byte_by_byte(rig: Rig, link: str) -> None:
    peer = rig.login(link)
    for payload in (b"", b"x", b"{}" * 60, b"y" * 126, b"z" * limits.message_bytes_max):
        for byte in frame(link, TEXT, payload):
            peer.send_raw(bytes([byte]))
            rig.turn()
        assert rig.wait_event(plane.MESSAGE) == (plane.MESSAGE, peer.conn, 7, payload)


@both_links
@pytest.mark.parametrize("cut", range(1, 12))
def test_frames_cut_anywhere(rig: Rig, link: str, cut: int) -> None:
    peer = rig.login(link)
    data = frame(link, TEXT, b"one") + frame(link, PING, b"two") + frame(link, TEXT, b"")
    for start in range(0, len(data), cut):
        peer.send_raw(data[start : start + cut])
        rig.settle()
    assert [event[3] for event in rig.events] == [b"one", b""]
    assert peer.next_frame() == (PONG, b"two")


def test_fragments_and_control_frames_between_them(rig: Rig) -> None:
    peer = rig.login("websocket")
    text = "zwölf Boxkämpfer"
    for i, byte in enumerate(text.encode()):  # characters are cut, too
        peer.send(TEXT if i == 0 else CONTINUATION, bytes([byte]), fin=False)
        peer.send(PING, b"%d" % i)
    peer.send(CONTINUATION, b"", fin=True)
    assert rig.wait_event(plane.MESSAGE)[3] == text.encode()
    assert peer.frames(len(text.encode())) == [(PONG, b"%d" % i) for i in range(len(text.encode()))]


@both_links
def test_pings_are_answered_each_in_order(rig: Rig, link: str) -> None:
    peer = rig.login(link)
    payloads = [b"", b"x" * 125, *(b"%d" % i for i in range(100))]
    peer.send_raw(b"".join(frame(link, PING, payload) for payload in payloads))
    assert peer.frames(len(payloads)) == [(PONG, payload) for payload in payloads]
    peer.send(PONG, b"unasked")
    peer.send(TEXT, b"after")
    assert rig.wait_event(plane.MESSAGE)[3] == b"after"
    assert rig.events == []


# What a device may not do: bytes, and the code it is told.
BROKEN_ON_BOTH: list[tuple[Callable[[str], bytes], int]] = [
    (lambda link: frame(link, 3, b"x"), 1002),
    (lambda link: frame(link, 11), 1002),
    (lambda link: frame(link, PING, b"x" * 126), 1002),
    (lambda link: frame(link, CLOSE, b"x"), 1002),
    (lambda link: frame(link, CLOSE, struct.pack(">H", 1005)), 1002),
    (lambda link: frame(link, CLOSE, struct.pack(">H", 2999)), 1002),
    (lambda link: frame(link, CLOSE, struct.pack(">H", 1000) + b"\xff"), 1007),
    (lambda link: frame(link, TEXT, b"\xff"), 1007),
    (lambda link: frame(link, TEXT, "ü".encode()[:1]), 1007),
    (lambda link: frame(link, TEXT, b"\xed\xa0\x80"), 1007),
    (lambda link: frame(link, TEXT, b"ok \xc0\xaf", length=1000), 1007),  # before the rest is there
    (lambda link: frame(link, BINARY, b"x"), 1003),
    (lambda link: frame(link, TEXT, b"", length=limits.message_bytes_max + 1), 1009),
    (lambda link: frame(link, TEXT, b"", length=2**24 - 1), 1009),
]
BROKEN_WEBSOCKET = [
    (b"\xc1\x80" + MASK, 1002),  # RSV1
    (b"\x81\x00", 1002),  # no mask
    (b"\x09\x80" + MASK, 1002),  # a fragmented ping
    (b"\x81\xfe\x00\x7d" + MASK, 1002),  # not the shortest length
    (b"\x81\xff" + b"\x80" + b"\0" * 7 + MASK, 1002),  # a negative one
    (b"\x81\xff" + b"\x7f" + b"\xff" * 7 + MASK, 1009),
    (frame("websocket", CONTINUATION, b"x"), 1002),
    (frame("websocket", TEXT, b"x", fin=False) + frame("websocket", TEXT, b"x"), 1002),
    (frame("websocket", TEXT, b"x", fin=False) + frame("websocket", CONTINUATION, b"\xff", fin=False), 1007),
    (frame("websocket", TEXT, b"\xc3", fin=False) + frame("websocket", CONTINUATION), 1007),
    (
        frame("websocket", TEXT, b"x" * 4000, fin=False)
        + frame("websocket", CONTINUATION, b"", fin=False, length=97),
        1009,
    ),
]
BROKEN = (
    [(link, make(link), code) for link in ("websocket", "tcp") for make, code in BROKEN_ON_BOTH]
    + [("websocket", data, code) for data, code in BROKEN_WEBSOCKET]
    + [("tcp", b"\x00", 1002), ("tcp", b"\x81", 1002)]
)


@pytest.mark.parametrize(("link", "data", "code"), BROKEN)
def test_broken_rules_are_named_and_closed(rig: Rig, link: str, data: bytes, code: int) -> None:
    peer = rig.login(link)
    peer.send_raw(frame(link, TEXT, b"before") + data + frame(link, TEXT, b"never read") * 1000)
    error, close = peer.wait_end()
    assert peer.ended == "fin"  # no RST: both have arrived
    assert error[0] == TEXT
    assert b'"code":"bad_message"' in error[1]
    assert len(error[1]) <= limits.gateway_message_bytes_max
    assert code_of(close) == code
    assert rig.events == [(plane.MESSAGE, peer.conn, 7, b"before"), (plane.CLOSED, peer.conn, 7, code)]
    peer.close()
    rig.wait_count("connections", 0)
    assert rig.plane.statistics()["ended_broken"] == 1


@both_links
@pytest.mark.parametrize(
    ("payload", "answer", "code"),
    [
        (b"", b"", 1005),
        (struct.pack(">H", 1000), struct.pack(">H", 1000), 1000),
        (struct.pack(">H", 4999) + b"weg", struct.pack(">H", 4999), 4999),
    ],
)
def test_a_close_frame_is_answered(rig: Rig, link: str, payload: bytes, answer: bytes, code: int) -> None:
    peer = rig.login(link)
    peer.send(CLOSE, payload)
    assert peer.wait_end() == [(CLOSE, answer)]
    assert rig.wait_event(plane.CLOSED) == (plane.CLOSED, peer.conn, 7, code)
    assert rig.plane.statistics()["ended_peer"] == 1
    rig.settle()
    assert rig.events == []


@both_links
@pytest.mark.parametrize("goodbye", ["close", "reset"])
def test_a_lost_connection(rig: Rig, link: str, goodbye: str) -> None:
    peer = rig.login(link)
    peer.send(TEXT, b"last words")
    rig.settle()
    getattr(peer, goodbye)()
    assert rig.wait_event(plane.MESSAGE)[3] == b"last words"
    assert rig.wait_event(plane.CLOSED) == (plane.CLOSED, peer.conn, 7, plane.LOST)
    assert rig.plane.statistics()["connections"] == 0


@both_links
def test_words_and_fin_in_one_go_are_both_heard(rig: Rig, link: str) -> None:
    # One edge from epoll for both: a short read must not be taken for the end of what there is.
    peer = rig.login(link)
    rig.settle()
    peer.send(TEXT, b"last words")
    peer.close()
    assert rig.wait_event(plane.MESSAGE)[3] == b"last words"
    assert rig.wait_event(plane.CLOSED)[3] == plane.LOST


@both_links
def test_a_flood_takes_turns(rig: Rig, link: str) -> None:
    flood = rig.login(link, device=1)
    modest = rig.login(link, device=2)
    rig.settle()
    flood.send_raw(frame(link, TEXT, b"!") * 2000)
    modest.send(TEXT, b"?")
    drains: list[list[tuple[Any, ...]]] = []
    while sum(len(events) for events in drains) < 2001:
        events = rig.turn()
        if events:
            drains.append(events)
    devices = [[event[2] for event in events] for events in drains]
    assert 2 in devices[0], "the modest one is heard in the first turn"
    assert max(drain.count(1) for drain in devices) == limits.turn_messages_max
    assert max(len(drain) for drain in devices) <= limits.drain_events_max


def test_a_drain_is_bounded_and_loses_nothing(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(drain_events_max=40)
    peers = [rig.login("tcp", device=i) for i in range(5)]
    rig.settle()
    for peer in peers:
        peer.send_raw(b"".join(frame("tcp", TEXT, b"%d" % i) for i in range(100)))
    heard: dict[int, list[bytes]] = {i: [] for i in range(5)}
    while sum(map(len, heard.values())) < 500:
        events = rig.turn()
        assert len(events) <= 40
        for _, _, device, payload in events:
            heard[device].append(payload)
    assert all(payloads == [b"%d" % i for i in range(100)] for payloads in heard.values())


# -- echo mode -------------------------------------------------------------------------------------


@both_links
def test_echo_admits_at_once_and_takes_binary(make_rig: Callable[..., Rig], link: str) -> None:
    rig = make_rig(echo=True, heartbeat_timeout_ms=0)
    peer = rig.open(link)
    big = bytes(range(256)) * 4096
    peer.send_raw(frame(link, BINARY, big) + frame(link, TEXT, b"text"))
    kind, conn, device, payload = rig.wait_event(plane.BINARY)
    assert (kind, device, payload == big) == (plane.BINARY, 0, True)
    assert rig.wait_event(plane.MESSAGE)[3] == b"text"
    rig.apply((plane.SEND_BINARY, conn, big), (plane.SEND, conn, b"text"))
    assert peer.next_frame() == (BINARY, big)
    assert peer.next_frame() == (TEXT, b"text")
    peer.send(TEXT, b"\xff")
    assert code_of(peer.wait_end()[0]) == 1007  # and no error message before it
    assert rig.wait_event(plane.CLOSED) == (plane.CLOSED, conn, 0, 1007)


MESSAGES = st.lists(
    st.tuples(
        st.lists(st.text(max_size=40), min_size=1, max_size=4),  # fragments
        st.lists(st.binary(max_size=20), max_size=2),  # pings after the first of them
    ),
    max_size=12,
)


@given(messages=MESSAGES, cuts=st.lists(st.integers(1, 40), min_size=1, max_size=20))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@both_links
def test_any_messages_cut_in_any_way(
    rig: Rig, link: str, messages: list[tuple[list[str], list[bytes]]], cuts: list[int]
) -> None:
    rig.events.clear()
    peer = rig.login(link)
    data = b""
    for fragments, pings in messages:
        if link == "tcp":
            fragments = ["".join(fragments)]
        for i, fragment in enumerate(fragments):
            last = i == len(fragments) - 1
            data += frame(link, CONTINUATION if i else TEXT, fragment.encode(), fin=last)
            if i == 0:
                data += b"".join(frame(link, PING, payload) for payload in pings)
    at = 0
    for cut in cuts * (len(data) // len(cuts) + 1):
        peer.send_raw(data[at : at + cut])
        rig.turn()
        at += cut
    pings = [payload for _, group in messages for payload in group]
    assert peer.frames(len(pings)) == [(PONG, payload) for payload in pings]
    rig.wait(lambda: len(rig.events) == len(messages))
    assert [event[3].decode() for event in rig.events] == ["".join(group) for group, _ in messages]
    peer.send(CLOSE)
    peer.wait_end()
    peer.close()
