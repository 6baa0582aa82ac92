"""Peers and Python, interleaved in any way: the input says who does what next."""

import socket
import ssl
from collections.abc import Callable

from otagate import plane
from tests.fuzz.reader import Reader
from tests.fuzz.stage import IMAGE, IMAGE_PATH, LINKS, PEERS_MAX, TABLES, Peer, SecuredPeer, Stage
from tests.fuzz.traces import without_a_trace
from tests.plane.rig import OPENINGS, TEXT, frame

OPERATIONS_MAX = 300


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
        if len(self.stage.peers) >= PEERS_MAX + 2:
            return
        choice = self.reader.byte()
        link = LINKS[choice & 1]
        if choice & 6 != 6:
            self.stage.connect(link)
            return
        # None resumes: CPython's ssl leaks each session that it is asked for. tests/plane has those.
        self.stage.connect_tls(link, ssl.TLSVersion.TLSv1_2 if choice & 16 else ssl.TLSVersion.TLSv1_3)

    def open(self) -> None:
        if peer := self.peer():
            peer.say(OPENINGS[peer.link])

    def login(self) -> None:
        """The short way to a session."""
        self.connect()
        if self.stage.peers:
            peer = self.stage.peers[-1]
            peer.say(OPENINGS[peer.link] + frame(peer.link, TEXT, b"hello"))
            for _ in range(4):
                peer.push(4096)
                self.stage.drain()
                if isinstance(peer, SecuredPeer):
                    peer.read()
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
        peer.say(frame(peer.link, first & 0x7F, payload, fin=first < 128, length=length))

    def say_raw(self) -> None:
        if peer := self.peer():
            data = self.reader.take(self.reader.byte())
            if isinstance(peer, SecuredPeer):
                peer.say_raw(data)
            else:
                peer.say(data)

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
