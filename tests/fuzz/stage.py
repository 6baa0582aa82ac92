"""A plane, peers that a fuzzer moves, and a judge who watches the seam between them.

Everything is in one thread. Peers come over a Unix socket: nothing is lost, nothing is late, and no port
is used up. `Stage.finish` ends every input: all peers leave, and then there must be no connection, no
transfer, no descriptor and (under the sanitizer) no memory that was not there before.

What the judge asks of the events, in any order of bytes and commands:

- HELLO only from a connection that is not admitted and whose last HELLO was answered;
- MESSAGE, STARTED, ENDED only from an admitted one that is not CLOSED, with the device that ADMIT named;
- CLOSED exactly once for each connection that was admitted, and for no other;
- each STREAM is STARTED at most once and ENDED at most once;
- what the plane sends is whole frames of its link, chunks carry the image's bytes and their digest.
"""

import atexit
import os
import socket
import ssl
import struct
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import xxhash

from otagate import plane
from otagate.cli import certs
from otagate.plane import Plane
from tests.plane.rig import BINARY, CLOSE, PING, PONG, TEXT, parse_frame
from tests.plane.tls import certificates, client_context

LINKS = ("websocket", "tcp")
IMAGE = bytes(range(256)) * 11 + b"the end"
PEERS_MAX = 6
FOREVER_MS = 10_000_000

_folder = tempfile.TemporaryDirectory()
atexit.register(_folder.cleanup)
IMAGE_PATH = os.path.join(_folder.name, "image").encode()
with open(IMAGE_PATH, "wb") as _file:
    _file.write(IMAGE)


def digest(data: bytes) -> int:
    return xxhash.xxh32_intdigest(data)


def digests(chunk_size: int) -> bytes:
    starts = range(0, len(IMAGE), chunk_size)
    return b"".join(struct.pack(">I", digest(IMAGE[at : at + chunk_size])) for at in starts)


def is_open(path: bytes) -> bool:
    """Has a descriptor of ours this file?"""
    with os.scandir(b"/proc/self/fd") as found:
        return any(os.path.realpath(entry.path) == path for entry in found)


TABLES = {256: digests(256), 1024: digests(1024)}


class Peer:
    """One end of a connection; `unsent` is what it will still say."""

    def __init__(self, link: str, connected: socket.socket) -> None:
        self.link = link
        self.socket = connected
        self.unsent = b""
        self.unread = b""
        self.frames: list[tuple[int, bytes]] = []
        self.head: bytes | None = b"" if link == "tcp" else None  # of the handshake's answer
        self.ended = False

    def say(self, data: bytes) -> None:
        """Bytes of its link, to be pushed."""
        self.unsent += data

    def opened(self, data: bytes) -> bytes:
        """Bytes of its link, of what was received."""
        return data

    @property
    def speaks(self) -> bool:
        """The handshake of its link was answered, and well: what is read now are frames."""
        return self.head is not None and (self.link == "tcp" or b" 101 " in self.head)

    def push(self, size: int) -> None:
        """Says so much of it, if the kernel takes it."""
        if self.ended or not self.unsent:
            return
        try:
            self.unsent = self.unsent[self.socket.send(self.unsent[:size]) :]
        except BlockingIOError:
            pass
        except OSError:
            self.unsent = b""

    def read(self, size: int = 1 << 16) -> bool:
        """Reads, and takes the frames apart; False: there was nothing."""
        if self.ended:
            return False
        try:
            data = self.socket.recv(size)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        self.ended = not data
        self.unread += self.opened(data)
        if self.head is None and b"\r\n\r\n" in self.unread:
            self.head, self.unread = self.unread.split(b"\r\n\r\n", 1)
        if self.speaks:
            while (found := parse_frame(self.link, self.unread)) is not None:
                self.frames.append(found[0])
                self.unread = self.unread[found[1] :]
                self.judge(*found[0])
        return bool(data)

    @staticmethod
    def judge(opcode: int, payload: bytes) -> None:
        assert opcode in (TEXT, BINARY, CLOSE, PING, PONG)
        assert opcode < CLOSE or len(payload) <= 125
        if opcode == BINARY:
            _, expected, offset = struct.unpack(">IIQ", payload[:16])
            data = payload[16:]
            assert data
            assert data == IMAGE[offset : offset + len(data)]
            assert digest(data) == expected


@cache
def certificate_folder() -> Path:
    """Of `otagate certs dev`."""
    folder = Path(_folder.name) / "certs"
    list(certs.make(folder))
    return folder


@cache
def context_of(version: ssl.TLSVersion) -> ssl.SSLContext:
    """Of a client of this version."""
    context = client_context(certificate_folder())
    context.minimum_version = context.maximum_version = version
    return context


class SecuredPeer(Peer):
    """Speaks TLS below its link. Records are made as it says something, and pushed as any other bytes."""

    def __init__(self, link: str, connected: socket.socket, version: ssl.TLSVersion) -> None:
        super().__init__(link, connected)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = context_of(version).wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        self._waiting: list[bytes] | None = []  # what it will say; None: the handshake is over
        self.tainted = False  # it has said what is no TLS: so may be the answer
        self.opened(b"")

    @property
    def shaken(self) -> bool:
        return self._waiting is None

    def say(self, data: bytes) -> None:
        if self._waiting is not None:
            self._waiting.append(data)
        elif data:
            self.ssl.write(data)
            self.unsent += self._outgoing.read()

    def say_raw(self, data: bytes) -> None:
        """Not as records."""
        self.tainted = True
        self.unsent += data

    def opened(self, data: bytes) -> bytes:
        self._incoming.write(data)
        found = b""
        try:
            if self._waiting is not None:
                self.ssl.do_handshake()
                waiting, self._waiting = self._waiting, None
                for piece in waiting:
                    self.say(piece)
            while piece := self.ssl.read(1 << 16):
                found += piece
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            # The gateway's records are good ones, and it has nothing to complain of in ours.
            if not self.tainted:
                raise
        self.unsent += self._outgoing.read()
        return found


class Session:
    """What the judge knows of a connection."""

    def __init__(self) -> None:
        self.device: int | None = None
        self.held = True
        self.closed = False
        self.streams = Counter[int]()
        self.started = Counter[int]()
        self.ended = Counter[int]()


class Stage:
    """A plane, its peers and the judge."""

    def __init__(self, family: socket.AddressFamily = socket.AF_UNIX, **bounds: int) -> None:
        defaults = {"connections_max": PEERS_MAX, "transfers_max": 2, "heartbeat_timeout_ms": 150_000}
        self.plane = Plane(**defaults | bounds)
        self.has_tls = False
        with socket.socket(family) as listener:
            listener.bind(
                b"\0otagate-fuzz-%d" % os.getpid() if family == socket.AF_UNIX else ("127.0.0.1", 0)
            )
            listener.listen(64)
            self.address = listener.getsockname()
            self.plane.listen(listener.fileno(), plane.TLS_OPTIONAL)
        self.peers: list[Peer] = []
        self.sessions: dict[int, Session] = {}
        self.greeted: list[int] = []  # connections whose HELLO waits for an answer
        self.events: list[tuple[Any, ...]] = []
        self.plane.apply([(plane.IMAGE, 1, IMAGE_PATH, len(IMAGE))])
        self.plane.apply([(plane.DIGESTS, 1, size, table) for size, table in TABLES.items()])

    def connect(self, link: str) -> Peer:
        self.peers.append(Peer(link, self._connected()))
        return self.peers[-1]

    def connect_tls(self, link: str, version: ssl.TLSVersion) -> SecuredPeer:
        self.use_tls()
        peer = SecuredPeer(link, self._connected(), version)
        self.peers.append(peer)
        return peer

    def use_tls(self) -> None:
        """From now on the listener takes TLS."""
        if not self.has_tls:
            self.has_tls = True
            self.plane.tls(**certificates(certificate_folder()))

    def _connected(self) -> socket.socket:
        connecting = socket.socket(socket.AF_UNIX)
        connecting.connect(self.address)
        connecting.setblocking(False)
        return connecting

    def drain(self) -> list[tuple[Any, ...]]:
        """Judges what happened; a connection's number is the event's second item."""
        found = self.plane.drain()
        for event in found:
            session = self.sessions.setdefault(event[1], Session())
            self.judge(session, *event)
        self.events += found
        return found

    def judge(self, session: Session, kind: int, conn: int, *details: Any) -> None:
        if kind == plane.HELLO:
            assert session.device is None
            assert not session.closed
            assert conn not in self.greeted
            self.greeted.append(conn)
            return
        assert session.device is not None
        assert not session.closed
        assert details[0] == session.device
        if kind == plane.CLOSED:
            session.closed = True
        elif kind == plane.STARTED:
            session.started[details[1]] += 1
            assert session.started[details[1]] <= session.streams[details[1]]
        elif kind == plane.ENDED:
            session.ended[details[1]] += 1
            assert session.ended[details[1]] <= session.streams[details[1]]
        else:
            assert kind == plane.MESSAGE

    def admit(self, conn: int) -> None:
        self.greeted.remove(conn)
        self.sessions[conn].device = 1_000 + len(self.sessions)
        self.plane.apply([(plane.ADMIT, conn, self.sessions[conn].device)])

    def retry(self, conn: int) -> None:
        self.greeted.remove(conn)
        self.plane.apply([(plane.RETRY_HELLO, conn)])

    def stream(self, conn: int, transfer: int, job: tuple[int, int, int]) -> None:
        offset, end, chunk_size = job
        session = self.sessions.get(conn)
        if session is not None and session.device is not None:
            session.streams[transfer] += 1
        head_stop = min((offset // chunk_size + 1) * chunk_size, end)
        tail_start = max((end - 1) // chunk_size * chunk_size, offset)
        head, tail = digest(IMAGE[offset:head_stop]), digest(IMAGE[tail_start:end])
        self.plane.apply([(plane.STREAM, conn, transfer, 1, offset, end, chunk_size, head, tail)])

    def check_counts(self) -> None:
        counted = self.plane.statistics()
        ended = sum(count for name, count in counted.items() if name.startswith("ended_"))
        assert counted["connections"] == counted["accepted"] - ended
        assert counted["connections_websocket"] + counted["connections_tcp"] <= counted["connections"]
        assert counted["transfers_running"] + counted["transfers_waiting"] <= counted["connections"]
        assert counted["transfers_running"] <= 2

    def settle(self) -> None:
        """Until nobody has anything to do."""
        moving = True
        turns = 0
        while moving:
            turns += 1
            assert turns < 10_000, "the plane spins"
            found = self.drain()
            read = [peer.read() for peer in self.peers]
            moving = bool(found) or any(read) or self.plane.pending

    def finish(self) -> None:
        """All leave; nothing may be left."""
        self.plane.limit_writes(0)
        self.settle()
        for peer in self.peers:
            assert peer.ended or not peer.speaks or not peer.unread, "half a frame, and nothing behind it"
            peer.socket.close()
            peer.ended = True
        self.settle()
        self.plane.advance_clock(FOREVER_MS)
        self.settle()
        self.check_counts()
        counted = self.plane.statistics()
        for name in ("connections", "connections_websocket", "connections_tcp", "connections_tls", "resting"):
            assert counted[name] == 0, name
        assert counted["transfers_running"] == counted["transfers_waiting"] == 0
        for session in self.sessions.values():
            assert session.closed == (session.device is not None)
        self.plane.apply([(plane.DROP_IMAGE, 1)])
        assert not is_open(IMAGE_PATH), "an image that nobody streams is still open"
        self.close()

    def close(self) -> None:
        for peer in self.peers:
            peer.socket.close()
        self.plane.close()
