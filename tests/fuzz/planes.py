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
import ctypes
import gc
import os
import socket
import struct
import tempfile
from collections import Counter
from collections.abc import Callable
from typing import Any

import xxhash

from otagate import limits, plane
from otagate.plane import Plane
from otagate.wire import decoder, twin
from otagate.wire.decoder import Decoder, Link
from tests.fuzz.reader import Reader
from tests.plane.rig import BINARY, CLOSE, OPENINGS, PING, PONG, PREFACE, TEXT, frame, parse_frame

LINKS = ("websocket", "tcp")
IMAGE = bytes(range(256)) * 11 + b"the end"
PEERS_MAX = 6
OPERATIONS_MAX = 300
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
        self.unread += data
        if self.head is None and b"\r\n\r\n" in self.unread:
            self.head, self.unread = self.unread.split(b"\r\n\r\n", 1)
        if self.head is not None and (self.link == "tcp" or b" 101 " in self.head):
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

    def __init__(self, **bounds: int) -> None:
        defaults = {"connections_max": PEERS_MAX, "transfers_max": 2, "heartbeat_timeout_ms": 150_000}
        self.plane = Plane(**defaults | bounds)
        listener = socket.socket(socket.AF_UNIX)
        with listener:
            listener.bind(b"\0otagate-fuzz-%d" % os.getpid())
            listener.listen(64)
            self.address = listener.getsockname()
            self.plane.listen(listener.fileno())
        self.peers: list[Peer] = []
        self.sessions: dict[int, Session] = {}
        self.greeted: list[int] = []  # connections whose HELLO waits for an answer
        self.events: list[tuple[Any, ...]] = []
        self.plane.apply([(plane.IMAGE, 1, IMAGE_PATH, len(IMAGE))])
        self.plane.apply([(plane.DIGESTS, 1, size, table) for size, table in TABLES.items()])

    def connect(self, link: str) -> Peer:
        connecting = socket.socket(socket.AF_UNIX)
        connecting.connect(self.address)
        connecting.setblocking(False)
        self.peers.append(Peer(link, connecting))
        return self.peers[-1]

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
            peer.socket.close()
            peer.ended = True
        self.settle()
        self.plane.advance_clock(FOREVER_MS)
        self.settle()
        self.check_counts()
        counted = self.plane.statistics()
        for name in ("connections", "connections_websocket", "connections_tcp", "resting"):
            assert counted[name] == 0, name
        assert counted["transfers_running"] == counted["transfers_waiting"] == 0
        for session in self.sessions.values():
            assert session.closed == (session.device is not None)
        self.close()

    def close(self) -> None:
        for peer in self.peers:
            peer.socket.close()
        self.plane.close()


# -- memory and descriptors ------------------------------------------------------------------------


def _counter_of_memory() -> Callable[[], int] | None:
    try:
        found = ctypes.CDLL(None).__sanitizer_get_current_allocated_bytes
    except AttributeError:
        return None
    found.restype = ctypes.c_size_t
    return found  # type: ignore[no-any-return]


_allocated = _counter_of_memory()


def without_a_trace(act: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """Does it, and looks for what it left. Python keeps caches, so only growth that repeats is a leak.

    Descriptors are looked at first: who keeps one may keep an address with it, and could not do it again.
    """

    def watched(data: bytes) -> None:
        descriptors = len(os.listdir("/proc/self/fd"))
        for _ in range(6):
            before = _allocated() if _allocated else 0
            act(data)
            assert len(os.listdir("/proc/self/fd")) == descriptors, "a descriptor was left open"
            if _allocated and _allocated() > before:
                gc.collect()
            if not _allocated or _allocated() <= before:
                break
        else:
            raise AssertionError("memory grows with each run of this input")

    return watched


# -- one peer's bytes, cut in any way --------------------------------------------------------------


def play(link: str, data: bytes, cuts: list[int]) -> tuple[list[Any], list[Any], bytes]:
    """What Python hears, and what the peer reads, of these bytes in these pieces."""
    stage = Stage()
    peer = stage.connect(link)
    heard: list[Any] = []
    start = 0
    for stop in [*cuts, len(data)]:
        peer.unsent += data[start:stop]
        start = stop
        while True:
            before = len(peer.unsent)
            peer.push(4096)
            found = stage.drain()
            peer.read()
            for event in found:
                heard.append((event[0], event[2] if event[0] == plane.HELLO else event[3]))
                if event[0] == plane.HELLO and b"again" in event[2]:
                    stage.retry(event[1])
                elif event[0] == plane.HELLO:
                    stage.admit(event[1])
                    stage.plane.apply([(plane.SEND, event[1], b"welcome")])
            if not found and not stage.plane.pending and len(peer.unsent) == before:
                break
    if not peer.ended:
        peer.socket.shutdown(socket.SHUT_WR)
    before_end = len(stage.events)
    stage.settle()
    heard += [(event[0], event[3]) for event in stage.events[before_end:]]
    frames = [(opcode, b"?" if b'"nonce"' in payload else payload) for opcode, payload in peer.frames]
    head = peer.head or b""
    stage.finish()
    return heard, frames, head


def expected_words(link: str, data: bytes) -> tuple[list[bytes], int]:
    """The texts that the decoder over the twin finds in a session, and the code of its end."""
    oracle = Decoder(
        Link(link),
        from_client=True,
        message_bytes_max=limits.message_bytes_max,
        codec=twin,  # type: ignore[arg-type]
    )
    words: list[bytes] = []
    admitted = False
    for event in oracle.receive_data(data):
        if isinstance(event, decoder.Text):
            if not admitted and len(event.payload) > limits.hello_bytes_max:
                return words, 1009
            words.append(event.payload)
            admitted = admitted or b"again" not in event.payload
        elif isinstance(event, decoder.Binary):
            return words, 1003
        elif isinstance(event, decoder.Close | decoder.Broken):
            return words, event.code
    return words, plane.LOST


@without_a_trace
def fuzz_stream(data: bytes) -> None:
    """However a peer's bytes are cut, the same is heard and answered; and it is what the oracle reads."""
    reader = Reader(data)
    choice, step, at = reader.byte(), reader.byte(), reader.number(2)
    link = LINKS[choice & 1]
    opening = b"" if choice & 2 else OPENINGS[link]
    said = opening + reader.rest()
    whole = play(link, said, [])
    step = max(1, step, len(said) // 64)
    cuts = list(range(step, len(said), step)) if choice & 4 else [min(at, len(said))]
    assert play(link, said, cuts) == whole
    if opening:
        rest = said[len(opening) :]
        words, code = expected_words(link, PREFACE + rest if link == "tcp" else rest)
        heard = [payload for kind, payload in whole[0] if kind != plane.CLOSED]
        assert heard == words
        codes = [code for kind, code in whole[0] if kind == plane.CLOSED]
        # A binary message or one above a bound is refused at its header, whatever would follow.
        assert all(found in (code, 1003, 1009) for found in codes)


# -- peers and Python, interleaved in any way ------------------------------------------------------


class Play:
    """Reads operations from the input, and does them."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        first = reader.byte()
        self.stage = Stage(
            turn_messages_max=(1, 2, 32, 3)[first & 3],
            drain_events_max=(1, 4, 64, 512)[first >> 2 & 3],
            turn_sendfile_bytes_max=(300, 1_000, 5_000, 262_144)[first >> 4 & 3],
            connection_output_bytes_max=(4_200, 65_536)[first >> 6 & 1],
        )

    def run(self) -> None:
        for _ in range(OPERATIONS_MAX):
            if not self.reader.left:
                break
            OPERATIONS[self.reader.byte() % len(OPERATIONS)](self)
            self.stage.check_counts()

    def peer(self) -> Peer | None:
        peers = self.stage.peers
        return peers[self.reader.byte() % len(peers)] if peers else None

    def conn(self) -> int:
        """Of a connection that was heard of; now and then of none."""
        choice = self.reader.byte()
        known = list(self.stage.sessions)
        return known[choice % len(known)] if known and choice < 250 else choice << 20 | 1

    def connect(self) -> None:
        if len(self.stage.peers) < PEERS_MAX + 2:
            self.stage.connect(LINKS[self.reader.byte() & 1])

    def open(self) -> None:
        if peer := self.peer():
            peer.unsent += OPENINGS[peer.link]

    def login(self) -> None:
        """The short way to a session."""
        self.connect()
        if self.stage.peers:
            peer = self.stage.peers[-1]
            peer.unsent += OPENINGS[peer.link] + frame(peer.link, TEXT, b"hello")
            peer.push(4096)
            for _ in range(4):
                self.stage.drain()
            if self.stage.greeted:
                self.stage.admit(self.stage.greeted[-1])

    def say(self) -> None:
        """A frame of any opcode, flags and length, which may lie."""
        peer = self.peer()
        if peer is None:
            return
        first, size, lie = self.reader.byte(), self.reader.byte(), self.reader.byte()
        payload = self.reader.take(size & 31) + b"x" * ((size >> 5) ** 4)
        length = len(payload) + (lie - 250 if lie > 250 else 0)
        peer.unsent += frame(peer.link, first & 0x7F, payload, fin=first < 128, length=length)

    def say_raw(self) -> None:
        if peer := self.peer():
            peer.unsent += self.reader.take(self.reader.byte())

    def push(self) -> None:
        if peer := self.peer():
            peer.push(self.reader.byte())

    def push_all(self) -> None:
        for peer in self.stage.peers:
            peer.push(1 << 20)

    def drain(self) -> None:
        self.stage.drain()

    def settle(self) -> None:
        self.stage.settle()

    def read(self) -> None:
        if peer := self.peer():
            peer.read(self.reader.byte() ** 2 or 1)

    def admit(self) -> None:
        if self.stage.greeted:
            self.stage.admit(self.stage.greeted[self.reader.byte() % len(self.stage.greeted)])

    def retry(self) -> None:
        if self.stage.greeted:
            self.stage.retry(self.stage.greeted[self.reader.byte() % len(self.stage.greeted)])

    def send(self) -> None:
        conn, size, count = self.conn(), self.reader.byte() ** 2, self.reader.byte() & 7
        self.stage.plane.apply([(plane.SEND, conn, b"y" * size)] * (count + 1))

    def stream(self) -> None:
        conn, choice, offset, end = (
            self.conn(),
            self.reader.byte(),
            self.reader.number(2),
            self.reader.number(2),
        )
        offset, end = offset % (len(IMAGE) + 10), end % (len(IMAGE) + 10)
        self.stage.stream(conn, choice >> 4, (offset, end, (256, 1024, 4096, 256)[choice & 3]))

    def stop(self) -> None:
        conn, transfer = self.conn(), self.reader.byte()
        self.stage.plane.apply([(plane.STOP, conn, -1 if transfer > 127 else transfer & 15)])

    def close(self) -> None:
        conn, choice = self.conn(), self.reader.byte()
        if conn in self.stage.greeted:
            self.stage.greeted.remove(conn)
        session = self.stage.sessions.get(conn)
        code = (0, 1000, 4001, 4002)[choice & 3]
        self.stage.plane.apply([(plane.CLOSE, conn, code, b"z" * (choice >> 1))])
        if session is not None and session.device is None:
            assert conn not in self.stage.greeted

    def leave(self) -> None:
        peer = self.peer()
        if peer is None:
            return
        if self.reader.byte() & 1 and not peer.ended:
            peer.socket.shutdown(socket.SHUT_WR)
        else:
            peer.ended = True
            peer.socket.close()

    def wait(self) -> None:
        self.stage.plane.advance_clock(
            (300, 5_000, 10_000, 30_000, 60_000, 150_000, 400_000, 1)[self.reader.byte() & 7]
        )

    def limit(self) -> None:
        self.stage.plane.limit_writes(self.reader.byte() & 31)

    def images(self) -> None:
        choice = self.reader.byte()
        if choice & 1:
            self.stage.plane.apply([(plane.DROP_IMAGE, 1)])
        else:
            self.stage.plane.apply([(plane.DROP_IMAGE, 1), (plane.IMAGE, 1, IMAGE_PATH, len(IMAGE))])
            self.stage.plane.apply([(plane.DIGESTS, 1, size, table) for size, table in TABLES.items()])


OPERATIONS: tuple[Callable[[Play], None], ...] = (
    *(Play.connect, Play.open, Play.say, Play.say_raw, Play.push, Play.push_all, Play.drain, Play.read),
    *(Play.admit, Play.admit, Play.retry, Play.send, Play.stream, Play.stop, Play.close, Play.leave),
    *(Play.wait, Play.limit, Play.images, Play.settle, Play.login),
)


@without_a_trace
def fuzz_plane(data: bytes) -> None:
    """Any peers, any commands, in any order: the judge finds nothing, and nothing is left."""
    reader = Reader(data)
    abruptly = reader.byte() & 7 == 0
    act = Play(reader)
    act.run()
    if abruptly:
        act.stage.close()
    else:
        act.stage.finish()
