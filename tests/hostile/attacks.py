"""What hostile peers do, each as a generator over one socket that never waits.

`yield` means: I have done what can be done now, come back later. So thousands of peers take turns in one
thread (`Crowd.step`), beside a gateway in the same process or in another one. A peer whose connection is over
is counted by how it ended, and comes again if its attack is a flood of connections.
"""

import errno
import json
import select
import socket
import struct
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from itertools import count, cycle

from tests.end_to_end.device import CLOSE, PING, SECRET, TEXT, encode, mac, tcp_frame, websocket_frame

CONTINUATION = 0
Steps = Generator[None, None, None]
HEAD = (
    b"GET /device HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
RESET_AT_CLOSE = struct.pack("ii", 1, 0)
FLOOD_BYTES = 8_192  # about, of a flood at one step


class Gone(Exception):  # noqa: N818 - what happened
    """The connection is over; the argument says how: a close code, "reset" or "ended"."""


class Wire:
    """A non-blocking socket of a hostile peer; on the raw link until `websocket` is set."""

    def __init__(self, address: tuple[str, int], source: str, identifier: str, rcvbuf: int) -> None:
        self.identifier = identifier
        self.websocket = False
        self._socket = socket.socket()
        if rcvbuf:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        if source:
            self._socket.bind((source, 0))
        self._socket.setblocking(False)
        with suppress(BlockingIOError):
            self._socket.connect(address)
        self._unsent = b""
        self._unread = bytearray()

    def send(self, data: bytes) -> bool:
        """Send what goes; the rest goes first the next time. Returns whether all went. Gone."""
        self._unsent += data
        try:
            while self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.ENOTCONN:
                return False
            raise Gone("reset") from error
        return True

    def encode(self, opcode: int, payload: bytes = b"", *, final: bool = True) -> bytes:
        """A frame as this link has it."""
        if self.websocket:
            return websocket_frame(opcode, payload, final=final)
        return tcp_frame(opcode, payload)

    def read(self) -> None:
        """Take what has come. Gone."""
        try:
            while data := self._socket.recv(65_536):
                self._unread += data
        except BlockingIOError:
            return
        except OSError as error:
            raise Gone("reset") from error
        for opcode, payload in iter(self.frame, None):
            if opcode == CLOSE:
                raise Gone(str(int.from_bytes(payload[:2], "big")))
        raise Gone("ended")

    def look(self) -> None:
        """Notice that the connection is over, without reading what has come. Gone."""
        poll = select.poll()
        poll.register(self._socket, select.POLLRDHUP)
        for _, events in poll.poll(0):
            raise Gone("reset" if events & select.POLLERR else "ended")

    def forget(self) -> None:
        """Drop what has been read."""
        self._unread.clear()

    def frame(self) -> tuple[int, bytes] | None:
        """The next frame that has come whole (of the raw link, or a short one of a WebSocket)."""
        data = self._unread
        if len(data) < 4:
            return None
        opcode = data[0] & 0x0F
        head, size = (2, data[1]) if self.websocket else (4, int.from_bytes(data[1:4], "big"))
        if self.websocket and size == 126:
            head, size = 4, int.from_bytes(data[2:4], "big")
        if len(data) < head + size:
            return None
        payload = bytes(data[head : head + size])
        del data[: head + size]
        return opcode, payload

    def message(self) -> dict[str, object] | None:
        """The next message, if it has come. Gone."""
        self.read()
        found = self.frame()
        if found is None:
            return None
        if found[0] == CLOSE:
            raise Gone(str(int.from_bytes(found[1][:2], "big")))
        message: dict[str, object] = json.loads(found[1])
        return message

    def close(self) -> None:
        """Reset, so that no port waits for anything."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
        self._socket.close()


# -- ways in ---------------------------------------------------------------------------------------


def wait_message(wire: Wire) -> Generator[None, None, dict[str, object]]:
    """Until the next message has come."""
    while (message := wire.message()) is None:
        yield
    return message


def open_link(wire: Wire) -> Generator[None, None, str]:
    """As far as the challenge; its nonce."""
    wire.send(b"OTG\x01")
    challenge = yield from wait_message(wire)
    return str(challenge["nonce"])


def open_websocket(wire: Wire) -> Generator[None, None, str]:
    """See `open_link`."""
    wire.send(HEAD)
    wire.websocket = True
    while True:
        wire.read()
        head, found, rest = bytes(wire._unread).partition(b"\r\n\r\n")
        if found:
            break
        yield
    assert head.startswith(b"HTTP/1.1 101 "), head
    wire._unread[:] = rest
    challenge = yield from wait_message(wire)
    return str(challenge["nonce"])


def hello(wire: Wire, nonce: str, secret: str = SECRET) -> bytes:
    """The hello of the device whose name the peer has."""
    proof = mac(secret, nonce, "lamp", wire.identifier)
    return encode("hello", product="lamp", device=wire.identifier, version="1.0", mac=proof)


def log_in(wire: Wire, opened: Callable[[Wire], Generator[None, None, str]] = open_link) -> Steps:
    """A session: these peers have a device's secret."""
    nonce = yield from opened(wire)
    wire.send(wire.encode(TEXT, hello(wire, nonce)))
    welcome = yield from wait_message(wire)
    assert welcome["type"] == "welcome", welcome


# -- slow ------------------------------------------------------------------------------------------


def slow_handshake(wire: Wire) -> Steps:
    """A head that never ends, a byte at a time."""
    for byte in b"GET /device HTTP/1.1\r\nX-Patience: ":
        wire.send(bytes([byte]))
        wire.read()
        yield
    while True:
        wire.send(b"x")
        wire.read()
        yield


def slow_hello(wire: Wire) -> Steps:
    """Pings, and a hello that never ends."""
    nonce = yield from open_link(wire)
    wire.send(wire.encode(PING))
    whole = wire.encode(TEXT, hello(wire, nonce))
    for byte in whole[:-1]:
        wire.send(bytes([byte]))
        wire.read()
        yield
    while True:
        wire.read()
        yield


def slow_message(wire: Wire) -> Steps:
    """A session whose message never ends."""
    yield from log_in(wire)
    whole = wire.encode(TEXT, b'{"type":"check","id":"' + b"x" * 2_000)
    for byte in cycle(whole[:-1]):
        wire.send(bytes([byte]))
        wire.read()
        yield


def half_open(wire: Wire) -> Steps:
    """A session whose device is gone, and nobody was told."""
    yield from log_in(wire)
    while True:
        wire.look()
        yield


def silent(wire: Wire) -> Steps:
    """A connection that says nothing."""
    while True:
        wire.read()
        yield


# -- readers that stop -----------------------------------------------------------------------------


def stuck_reader(wire: Wire) -> Steps:
    """Asks, and never reads an answer."""
    yield from log_in(wire)
    question = wire.encode(TEXT, encode("check", id="q" * 60)) * 50
    while True:
        wire.look()
        if wire.send(b""):
            wire.send(question)
        yield


def stuck_download(wire: Wire) -> Steps:
    """Fetches its firmware, and does not read it."""
    yield from log_in(wire)
    offer = yield from wait_message(wire)
    firmware = offer["firmware"]
    assert isinstance(firmware, dict), offer
    wire.send(wire.encode(TEXT, encode("fetch", transfer=1, firmware=firmware["id"], offset=0)))
    while True:
        wire.look()
        yield


# -- floods ----------------------------------------------------------------------------------------


def flood(wire: Wire, frames: Iterator[bytes]) -> Steps:
    """These frames for ever, reading what comes back."""
    size = len(next(frames))
    together = max(FLOOD_BYTES // size, 1)
    while True:
        if wire.send(b""):
            wire.send(b"".join(next(frames) for _ in range(together)))
        wire.read()
        wire.forget()
        yield


def flood_messages(wire: Wire) -> Steps:
    """The smallest good messages."""
    yield from log_in(wire)
    yield from flood(wire, cycle([wire.encode(TEXT, encode("check"))]))


def flood_bad_messages(wire: Wire) -> Steps:
    """Messages that are each answered with an error."""
    yield from log_in(wire, open_websocket)
    yield from flood(wire, cycle([wire.encode(TEXT, b'{"type":"?"}')]))


def flood_versions(wire: Wire) -> Steps:
    """Another version with each message: each is a write to the disk."""
    yield from log_in(wire)
    versions = (wire.encode(TEXT, encode("version", version=f"1.{number % 100:02}")) for number in count())
    yield from flood(wire, versions)


def flood_pings(wire: Wire) -> Steps:
    """Pings, each answered."""
    yield from log_in(wire, open_websocket)
    yield from flood(wire, cycle([wire.encode(PING, b"x" * 125), wire.encode(PING)]))


def flood_fetches(wire: Wire) -> Steps:
    """Fetches of its firmware that each need digests of their own, and replace the one before."""
    yield from log_in(wire)
    offer = yield from wait_message(wire)
    firmware = offer["firmware"]
    assert isinstance(firmware, dict), offer
    about = {"firmware": firmware["id"], "length": 3}
    fetches = (
        wire.encode(TEXT, encode("fetch", transfer=number % 1000, offset=1 + number % 99, **about))
        for number in count()
    )
    yield from flood(wire, fetches)


def flood_logins(wire: Wire) -> Steps:
    """A hello with a wrong mac, and again."""
    nonce = yield from open_link(wire)
    wire.send(wire.encode(TEXT, hello(wire, nonce, "a secret that is not the device's")))
    while True:
        wire.read()
        yield


def flood_hellos(wire: Wire) -> Steps:
    """Bad hellos, for as long as a login may take."""
    yield from open_link(wire)
    yield from flood(wire, cycle([wire.encode(TEXT, encode("hello", product="?"))]))


def flood_connections(wire: Wire) -> Steps:
    """Connections that end as soon as they are there."""
    wire.send(b"OTG\x01")
    yield
    raise Gone("by itself")


def endless_fragments(wire: Wire) -> Steps:
    """A message of empty fragments without end."""
    yield from log_in(wire, open_websocket)
    wire.send(wire.encode(TEXT, b"", final=False))
    yield from flood(wire, cycle([wire.encode(CONTINUATION, b"", final=False)]))


def oversize(wire: Wire) -> Steps:
    """A frame of 16 MiB, announced and begun."""
    yield from log_in(wire)
    wire.send(b"\x01\xff\xff\xff" + b"x" * 4_000)
    while True:
        wire.read()
        yield


class Crowd:
    """Many peers of one attack. `ended` counts how their connections ended.

    `again`: who is gone comes back. `rcvbuf`: bytes of each one's receive buffer; 0: the system's.
    """

    def __init__(
        self,
        address: tuple[str, int],
        attack: Callable[[Wire], Steps],
        peers: int,
        *,
        again: bool = False,
        source: str = "",
        rcvbuf: int = 0,
        names: str = "x{}",
    ) -> None:
        self.ended: Counter[str] = Counter()
        self._attack = attack
        self._again = again
        self._make = lambda number: Wire(address, source, names.format(number), rcvbuf)
        self._peers: dict[int, tuple[Wire, Steps]] = {}
        for number in range(peers):
            self._begin(number)

    def _begin(self, number: int) -> None:
        wire = self._make(number)
        self._peers[number] = wire, self._attack(wire)

    def __enter__(self) -> "Crowd":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._peers)

    def step(self) -> None:
        """Each peer does what it can do now."""
        for number, (wire, steps) in list(self._peers.items()):
            try:
                next(steps)
            except Gone as gone:
                self.ended[str(gone)] += 1
                wire.close()
                del self._peers[number]
                if self._again:
                    self._begin(number)

    def close(self) -> None:
        """All go."""
        for wire, steps in self._peers.values():
            steps.close()
            wire.close()
        self._peers.clear()
