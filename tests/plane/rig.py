"""A plane under test and peers that speak its links byte by byte, in one thread.

The codec here is a third one, written for the tests alone. Nothing sleeps: `Rig.wait` turns the plane until a
condition holds, and fails after a generous time in which it did not.
"""

import json
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from otagate import plane
from otagate.plane import Plane

LINKS = ("websocket", "tcp")
both_links = pytest.mark.parametrize("link", LINKS)

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

REQUEST = (
    b"GET /device HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: otagate.v1\r\n\r\n"
)
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # of RFC 6455 section 1.3
PREFACE = b"OTG\x01"
MASK = b"\x11\x22\x33\x44"
OPENINGS = {"websocket": REQUEST, "tcp": PREFACE}
PATIENCE_S = 20.0  # of real time, after which a test has failed

Frame = tuple[int, bytes]


def masked(payload: bytes) -> bytes:
    return bytes(byte ^ MASK[i & 3] for i, byte in enumerate(payload))


def frame(
    link: str, opcode: int, payload: bytes = b"", *, fin: bool = True, length: int | None = None
) -> bytes:
    """A frame as a device sends it; `length` may lie about the payload."""
    size = len(payload) if length is None else length
    if link == "tcp":
        return bytes([opcode]) + size.to_bytes(3, "big") + payload
    if size < 126:
        head = bytes([0x80 | size])
    elif size < 65536:
        head = bytes([0x80 | 126]) + struct.pack(">H", size)
    else:
        head = bytes([0x80 | 127]) + struct.pack(">Q", size)
    return bytes([opcode | (0x80 if fin else 0)]) + head + MASK + masked(payload)


def parse_frame(link: str, data: bytes) -> tuple[Frame, int] | None:
    """The first frame from the gateway, and its size; None: not whole yet."""
    if link == "tcp":
        if len(data) < 4:
            return None
        start, size, opcode = 4, int.from_bytes(data[1:4], "big"), data[0]
    else:
        if len(data) < 2:
            return None
        assert data[0] & 0xF0 == 0x80, "the gateway fragments nothing"
        assert not data[1] & 0x80, "the gateway masks nothing"
        opcode, size, start = data[0] & 0x0F, data[1], 2
        if size >= 126:
            start = 4 if size == 126 else 10
            if len(data) < start:
                return None
            size = int.from_bytes(data[2:start], "big")
    if len(data) < start + size:
        return None
    return (opcode, data[start : start + size]), start + size


class Peer:
    """The other end of a connection. Everything it does is non-blocking; waiting is the rig's."""

    def __init__(self, rig: "Rig", link: str, connected: socket.socket) -> None:
        self.rig = rig
        self.link = link
        self.socket = connected
        self.unread = b""
        self.ended: str | None = None  # "fin" or "reset"
        self.conn = 0
        self.nonce = b""
        self.certificate = b""

    def send_raw(self, data: bytes) -> None:
        """Sends all of it, turning the plane while the kernel takes no more."""
        while data:
            try:
                data = data[self.socket.send(data) :]
            except BlockingIOError:
                self.rig.turn()

    def send(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> None:
        self.send_raw(frame(self.link, opcode, payload, fin=fin))

    def receive(self, size: int = 1 << 20) -> None:
        """Takes what has arrived."""
        if self.ended:
            return
        try:
            data = self.socket.recv(size)
        except BlockingIOError:
            return
        except ConnectionError:
            self.ended = "reset"
            return
        self.unread += data
        if not data:
            self.ended = "fin"

    def take_frame(self) -> Frame | None:
        """The next frame, if it is here."""
        parsed = parse_frame(self.link, self.unread)
        if parsed is None:
            return None
        found, size = parsed
        self.unread = self.unread[size:]
        return found

    def next_frame(self) -> Frame:
        """Waits for the next frame."""
        while True:
            found = self.take_frame()
            if found is not None:
                return found
            self.wait_bytes()

    def frames(self, count: int) -> list[Frame]:
        return [self.next_frame() for _ in range(count)]

    def wait_bytes(self) -> None:
        before = len(self.unread)

        def more() -> bool:
            self.receive()
            return len(self.unread) > before or self.ended is not None

        self.rig.wait(more)
        assert len(self.unread) > before, f"the connection ended ({self.ended}) with {self.unread!r} unread"

    def wait_end(self) -> list[Frame]:
        """Reads to the end of the connection; returns the frames before it."""

        def over() -> bool:
            self.receive()
            return self.ended is not None

        self.rig.wait(over)
        found = []
        while (one := self.take_frame()) is not None:
            found.append(one)
        assert self.unread == b"", "half a frame at the end"
        return found

    def close(self) -> None:
        self.socket.close()
        self.rig.peers.remove(self)

    def reset(self) -> None:
        """Goes away with RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


class Rig:
    """A plane with one listener."""

    def __init__(self, **bounds: Any) -> None:
        defaults = {
            "connections_max": 100,
            "transfers_max": 10,
            "heartbeat_timeout_ms": 150_000,
            "connection_sndbuf_bytes": 8192,  # so that a peer's reading is what moves a download
        }
        self.plane = Plane(**defaults | bounds)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listen()
        self.address = self.listener.getsockname()
        self.events: list[tuple[Any, ...]] = []
        self.peers: list[Peer] = []

    def _listen(self) -> None:
        self.plane.listen(self.listener.fileno())

    def close(self) -> None:
        for peer in self.peers:
            peer.socket.close()
        self.listener.close()
        self.plane.close()

    def turn(self) -> list[tuple[Any, ...]]:
        """One drain; its events are kept in `events`, too."""
        found = self.plane.drain()
        self.events += found
        return found

    def wait(self, condition: Callable[[], bool]) -> None:
        """Turns the plane until it holds."""
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            if not self.plane.pending:
                waiting = select.poll()
                waiting.register(self.plane, select.POLLIN)
                for peer in self.peers:
                    if not peer.ended:
                        waiting.register(peer.socket, select.POLLIN)
                waiting.poll(10)
            self.turn()

    def wait_event(self, kind: int, conn: int | None = None) -> tuple[Any, ...]:
        """The next event of a kind (and connection), which it takes out of `events`."""

        def find() -> tuple[Any, ...] | None:
            wanted = (e for e in self.events if e[0] == kind and conn in (None, e[1]))
            return next(wanted, None)

        self.wait(lambda: find() is not None)
        event = find()
        assert event is not None
        self.events.remove(event)
        return event

    def wait_count(self, name: str, count: int) -> None:
        """Until a statistic has this value."""
        self.wait(lambda: self.plane.statistics()[name] == count)

    def settle(self) -> None:
        """Turns the plane until it has nothing more to do (for what should not happen)."""
        while self.readable() or self.plane.pending:
            self.turn()

    def readable(self) -> bool:
        """Does the plane's descriptor say that there is something to drain?"""
        waiting = select.poll()
        waiting.register(self.plane, select.POLLIN)
        return bool(waiting.poll(0))

    def apply(self, *commands: tuple[Any, ...]) -> None:
        self.plane.apply(list(commands))

    def connect(self, link: str = "tcp", **options: int) -> Peer:
        """A connected socket that has said nothing. options: rcvbuf, a size to set before connecting."""
        connecting = socket.socket()
        if "rcvbuf" in options:
            connecting.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options["rcvbuf"])
        connecting.connect(self.address)
        connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connecting.setblocking(False)
        peer = Peer(self, link, connecting)
        self.peers.append(peer)
        return peer

    def open(self, link: str, **options: int) -> Peer:
        """Through the handshake, to the challenge (none in echo mode)."""
        peer = self.connect(link, **options)
        peer.send_raw(OPENINGS[link])
        if link == "websocket":
            while b"\r\n\r\n" not in peer.unread:
                peer.wait_bytes()
            head, peer.unread = peer.unread.split(b"\r\n\r\n", 1)
            assert head.startswith(b"HTTP/1.1 101 ")
            assert ACCEPT in head
        return peer

    def greet(self, link: str, **options: int) -> Peer:
        """To the HELLO event; `peer.conn` is its number."""
        peer = self.open(link, **options)
        opcode, payload = peer.next_frame()
        assert opcode == TEXT
        challenge = json.loads(payload)
        assert challenge == {"type": "challenge", "nonce": challenge["nonce"], "protocol": [1]}
        peer.nonce = challenge["nonce"].encode()
        assert len(bytes.fromhex(challenge["nonce"])) == 16
        peer.send(TEXT, b"hello")
        _, peer.conn, payload, nonce, peer.certificate = self.wait_event(plane.HELLO)
        assert (payload, nonce) == (b"hello", peer.nonce)
        return peer

    def login(self, link: str, device: int = 7, **options: int) -> Peer:
        """Admitted as `device`."""
        peer = self.greet(link, **options)
        self.apply((plane.ADMIT, peer.conn, device))
        return peer


@pytest.fixture
def make_rig() -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make(**bounds: Any) -> Rig:
        rigs.append(Rig(**bounds))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    return make_rig()
