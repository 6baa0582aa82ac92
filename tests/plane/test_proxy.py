"""PROXY headers (version 2): who may send them, which are refused, whose strangers are counted."""

import socket
import struct
from collections.abc import Callable

import pytest

from otagate import plane

from .rig import OPENINGS, TEXT, Peer, Rig, both_links, frame

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V4, V6, LOCAL, PROXY = 0x11, 0x21, 0x20, 0x21


def header(family: int, body: bytes, command: int = PROXY, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return SIGNATURE + bytes([command, family]) + struct.pack(">H", size) + body


def named(address: str, port: int = 4711, more: bytes = b"") -> bytes:
    """A header that speaks for `address`; `more`: TLVs."""
    kind, family = (socket.AF_INET6, V6) if ":" in address else (socket.AF_INET, V4)
    packed = socket.inet_pton(kind, address)
    return header(family, packed + bytes(len(packed)) + struct.pack(">HH", port, 7700) + more)


HEADER = named("192.0.2.7")


def hello(rig: Rig, start: bytes, link: str = "tcp") -> Peer:
    """A connection that says `start`, then logs in."""
    peer = rig.connect(link)
    peer.send_raw(start + OPENINGS[link])
    peer.send_raw(frame(link, TEXT, b"hello"))
    peer.conn = rig.wait_event(plane.HELLO)[1]
    return peer


def address_of(rig: Rig, peer: Peer) -> str:
    found = rig.plane.connection_info(peer.conn)
    assert found is not None
    return found[1]


@both_links
@pytest.mark.parametrize(
    ("start", "address"),
    [
        (HEADER, "192.0.2.7:4711"),
        (named("2001:db8::7", 65535), "[2001:db8::7]:65535"),
        (named("192.0.2.7", more=b"\x03\x00\x04\x00\x00\x00\x00"), "192.0.2.7:4711"),
        (named("192.0.2.7", more=bytes(2048 - 16 - 12)), "192.0.2.7:4711"),
    ],
    ids=["ipv4", "ipv6", "tlv", "longest"],
)
def test_an_address_is_told(rig: Rig, link: str, start: bytes, address: str) -> None:
    rig.plane.trust_proxies(["127.0.0.0/8"])
    assert address_of(rig, hello(rig, start, link)) == address


@pytest.mark.parametrize(
    "start", [b"", header(0, b"", LOCAL), header(0x31, bytes(216))], ids=["none", "local", "unix"]
)
def test_without_an_address_it_is_the_socket_s(rig: Rig, start: bytes) -> None:
    rig.plane.trust_proxies(["127.0.0.1"])
    peer = hello(rig, start)
    assert address_of(rig, peer) == "{}:{}".format(*peer.socket.getsockname())


@pytest.mark.parametrize(
    "start",
    [
        SIGNATURE[:11] + b"X",
        header(V4, bytes(12), command=0x11),
        header(V4, bytes(12), command=0x22),
        header(V4, bytes(11)),
        header(V6, bytes(35)),
        header(V4, b"", length=2049 - 16),
        HEADER + HEADER,
    ],
    ids=["signature", "version", "command", "short", "short6", "long", "twice"],
)
def test_what_is_refused(rig: Rig, start: bytes) -> None:
    rig.plane.trust_proxies(["127.0.0.0/8"])
    peer = rig.connect()
    peer.send_raw(start)
    peer.wait_end()
    assert rig.plane.statistics()["ended_refused_proxy"] == 1


def test_every_split_of_a_header(rig: Rig) -> None:
    rig.plane.trust_proxies(["127.0.0.0/8"])
    for at in range(1, len(HEADER)):
        peer = rig.connect()
        peer.send_raw(HEADER[:at])
        rig.settle()
        peer.send_raw(HEADER[at:] + OPENINGS["tcp"] + frame("tcp", TEXT, b"hello"))
        peer.conn = rig.wait_event(plane.HELLO)[1]
        assert address_of(rig, peer) == "192.0.2.7:4711"
        rig.apply((plane.CLOSE, peer.conn, 0, b""))


@pytest.mark.parametrize("networks", [[], ["127.0.0.2"], ["10.0.0.0/8", "::/0"], ["126.0.0.0/9"]])
def test_who_may_not(rig: Rig, networks: list[str]) -> None:
    rig.plane.trust_proxies(networks)
    peer = rig.connect()
    peer.send_raw(HEADER)
    peer.wait_end()
    assert rig.plane.statistics()["ended_refused_proxy"] == 1


@pytest.mark.parametrize("networks", [["0.0.0.0/0"], ["126.0.0.0/7"], ["::1", "127.0.0.1/32"]])
def test_who_may(rig: Rig, networks: list[str]) -> None:
    rig.plane.trust_proxies(networks)
    assert address_of(rig, hello(rig, HEADER)) == "192.0.2.7:4711"


def test_strangers_behind_a_proxy_are_counted_by_their_own_address(make_rig: Callable[..., Rig]) -> None:
    """The proxy's own count for nobody."""
    rig = make_rig(strangers_per_address_max=3)
    rig.plane.trust_proxies(["127.0.0.1"])
    for _ in range(10):
        rig.connect()
    for _ in range(3):
        rig.connect().send_raw(HEADER)
    rig.wait_count("connections", 13)
    rig.settle()
    refused = rig.connect()
    refused.send_raw(HEADER)
    refused.wait_end()
    rig.wait_count("refused_strangers", 1)
    assert rig.plane.statistics()["ended_refused_stranger"] == 1
    for number in range(5):  # those who log in make room
        peer = hello(rig, named("2001:db8::8"))
        rig.apply((plane.ADMIT, peer.conn, 1 + number))
    assert rig.plane.statistics()["refused_strangers"] == 1


def test_a_proxy_that_was_a_stranger_is_forgotten(make_rig: Callable[..., Rig]) -> None:
    """Trust can come while it is connected: each connection is counted once."""
    rig = make_rig(strangers_per_address_max=1)
    early = rig.connect()
    rig.wait_count("connections", 1)
    rig.plane.trust_proxies(["127.0.0.1"])
    early.send_raw(HEADER)
    rig.settle()
    rig.plane.trust_proxies([])
    rig.connect()
    rig.wait_count("connections", 2)
    assert rig.plane.statistics()["refused_strangers"] == 0
