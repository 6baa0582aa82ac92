"""What hostile peers do, each as a generator over one socket that never waits.

`yield` means: I have done what can be done now, come back later. So thousands of peers take turns in one
thread (`Crowd.step`), beside a gateway in the same process or in another one. A peer whose connection is over
is counted by how it ended, and by how long after its last good act (`Wire.begin`); it may come again.
"""

import errno
import json
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import count, cycle

from otagate import limits
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
    """It is over; the argument says how: a close code, "reset", "ended", or what the peer wanted."""


class Wire:
    """A non-blocking socket of a hostile peer; on the raw link until `websocket` is set.

    `buffer`: bytes of its receive buffer; 0: the system's.
    """

    def __init__(self, address: tuple[str, int], source: str, identifier: str, buffer: int) -> None:
        self.identifier = identifier
        self.websocket = False
        self.begun_s: float | None = None
        self._socket = socket.socket()
        if buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        if source:
            self._socket.bind((source, 0))
        self._socket.setblocking(False)
        with suppress(BlockingIOError):
            self._socket.connect(address)
        self._unsent = b""
        self._unread = bytearray()

    def begin(self) -> None:
        """From now on it does what it should not: it is given so long, and no longer."""
        self.begun_s = time.monotonic()

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


def hello(wire: Wire, nonce: str, secret: str = SECRET, version: str = "1.0") -> bytes:
    """The hello of the device whose name the peer has."""
    proof = mac(secret, nonce, "lamp", wire.identifier)
    return encode("hello", product="lamp", device=wire.identifier, version=version, mac=proof)


def log_in(wire: Wire, opened: Callable[[Wire], Generator[None, None, str]] = open_link) -> Steps:
    """A session: these peers have a device's secret."""
    nonce = yield from opened(wire)
    wire.send(wire.encode(TEXT, hello(wire, nonce)))
    welcome = yield from wait_message(wire)
    assert welcome["type"] == "welcome", welcome


# -- slow ------------------------------------------------------------------------------------------


def trickle(wire: Wire, values: Iterable[int]) -> Steps:
    """A byte at a time."""
    for byte in values:
        wire.send(bytes([byte]))
        wire.read()
        yield


def listen(wire: Wire) -> Steps:
    """For ever."""
    while True:
        wire.read()
        yield


def slow_handshake(wire: Wire) -> Steps:
    """A head that never ends, a byte at a time."""
    wire.begin()
    yield from trickle(wire, b"GET /device HTTP/1.1\r\nX-Patience: ")
    yield from trickle(wire, cycle(b"x"))


def slow_preface(wire: Wire) -> Steps:
    """The raw link's first bytes, but for the last."""
    wire.begin()
    yield from trickle(wire, b"OTG")
    yield from listen(wire)


def slow_hello(wire: Wire) -> Steps:
    """Pings, and a hello that never ends."""
    nonce = yield from open_link(wire)
    wire.begin()
    wire.send(wire.encode(PING))
    whole = wire.encode(TEXT, hello(wire, nonce))
    yield from trickle(wire, whole[:-1])
    yield from listen(wire)


def slow_fragments(wire: Wire) -> Steps:
    """A hello in fragments of a byte, the last of which never comes."""
    nonce = yield from open_websocket(wire)
    wire.begin()
    opcode = TEXT
    for byte in hello(wire, nonce)[:-1]:
        wire.send(wire.encode(opcode, bytes([byte]), final=False))
        wire.read()
        opcode = CONTINUATION
        yield
    yield from listen(wire)


def slow_message(wire: Wire) -> Steps:
    """A session whose message never ends."""
    yield from log_in(wire)
    wire.begin()
    whole = wire.encode(TEXT, b'{"type":"check","id":"' + b"x" * 2_000)
    yield from trickle(wire, cycle(whole[:-1]))


def half_open(wire: Wire) -> Steps:
    """A session whose device is gone, and nobody was told."""
    yield from log_in(wire)
    wire.begin()
    while True:
        wire.look()
        yield


def silent(wire: Wire) -> Steps:
    """A connection that says nothing."""
    wire.begin()
    yield from listen(wire)


# -- readers that stop -----------------------------------------------------------------------------


def stuck_reader(wire: Wire) -> Steps:
    """Asks as long as anybody listens, and never reads an answer."""
    yield from log_in(wire)
    question = wire.encode(TEXT, encode("check", id="q" * 60)) * 50
    while True:
        wire.look()
        if wire.send(b""):
            wire.begin()
            wire.send(question)
        yield


def stuck_download(wire: Wire) -> Steps:
    """Fetches its firmware, and does not read it."""
    yield from log_in(wire)
    offer = yield from wait_message(wire)
    firmware = offer["firmware"]
    assert isinstance(firmware, dict), offer
    wire.send(wire.encode(TEXT, encode("fetch", transfer=1, firmware=firmware["id"], offset=0)))
    wire.begin()
    while True:
        wire.look()
        yield


# -- floods ----------------------------------------------------------------------------------------


def flood(wire: Wire, frames: Iterator[bytes]) -> Steps:
    """These frames for ever, reading what comes back."""
    wire.begin()
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


def large_fragments(wire: Wire) -> Steps:
    """A message of fragments that are each of a good size, without end."""
    yield from log_in(wire, open_websocket)
    wire.send(wire.encode(TEXT, b"x", final=False))
    yield from flood(wire, cycle([wire.encode(CONTINUATION, b"x" * 120, final=False)]))


def oversize(wire: Wire) -> Steps:
    """A frame of 16 MiB, announced and begun."""
    yield from log_in(wire)
    wire.begin()
    wire.send(b"\x01\xff\xff\xff" + b"x" * 4_000)
    while True:
        wire.read()
        yield


# -- logins by those who may ------------------------------------------------------------------------


def visit(wire: Wire) -> Steps:
    """Logs in, and is gone."""
    yield from log_in(wire)
    raise Gone("welcome")


def answered(wire: Wire, least_s: int, most_s: int) -> Generator[None, None, str]:
    """ "welcome", or "overloaded" with a time within these bounds, after which to come back."""
    answer = yield from wait_message(wire)
    if answer["type"] != "welcome":
        assert answer["code"] == "overloaded", answer
        assert least_s <= int(str(answer["retry_after_s"])) <= most_s, answer
        return "overloaded"
    return "welcome"


def storm(wire: Wire) -> Steps:
    """Logs in with a version that is new each time (so each login is a write), is gone, and comes at once."""
    nonce = yield from open_link(wire)
    version = f"1.{time.monotonic_ns() // 1000 % 10**9}"
    wire.send(wire.encode(TEXT, hello(wire, nonce, version=version)))
    least_s = limits.login_retry_after_s
    raise Gone((yield from answered(wire, least_s, 3 * least_s)))


def rival(wire: Wire) -> Steps:
    """One of two boards with one identity: stays while it may, and comes back at once when it may not."""
    nonce = yield from open_link(wire)
    wire.send(wire.encode(TEXT, hello(wire, nonce)))
    least_s = limits.takeover_retry_after_s
    answer = yield from answered(wire, least_s, 2 * least_s)
    if answer != "welcome":
        raise Gone(answer)
    while True:
        wire.read()
        yield


class Crowd:
    """Many peers of one attack. `ended` counts how their connections ended.

    again: who is gone comes back. sources: the addresses from which they come, in turn; none: the system's.
    identities: of how many devices they are, from the first on; 0: each is one of its own.
    buffer: see `Wire`.
    """

    def __init__(
        self,
        address: tuple[str, int],
        attack: Callable[[Wire], Steps],
        peers: int,
        *,
        again: bool = False,
        sources: Sequence[str] = ("",),
        first: int = 0,
        identities: int = 0,
        buffer: int = 0,
        names: str = "x{}",
    ) -> None:
        self.ended: Counter[str] = Counter()
        self.reached = 0  # connections that came as far as the attack itself
        self._address = address
        self._attack = attack
        self._again = again
        self._sources = sources
        self._first = first
        self._identities = identities or peers
        self._buffer = buffer
        self._names = names
        self._longest_s = 0.0
        self._peers: dict[int, tuple[Wire, Steps]] = {}
        for number in range(peers):
            self._begin(number)

    def _begin(self, number: int) -> None:
        source = self._sources[number % len(self._sources)]
        name = self._names.format(self._first + number % self._identities)
        wire = Wire(self._address, source, name, self._buffer)
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
                if wire.begun_s is not None:
                    self.reached += 1
                    self._longest_s = max(self._longest_s, time.monotonic() - wire.begun_s)
                wire.close()
                del self._peers[number]
                if self._again:
                    self._begin(number)

    @property
    def attacking(self) -> int:
        """Peers that have come as far as the attack itself, ever."""
        return self.reached + sum(wire.begun_s is not None for wire, _ in self._peers.values())

    def longest_s(self) -> float:
        """For how long one of them, at most, has gone on since it began, also of those who still do."""
        now_s = time.monotonic()
        begun = (wire.begun_s for wire, _ in self._peers.values() if wire.begun_s is not None)
        return max(self._longest_s, now_s - min(begun, default=now_s))

    def close(self) -> None:
        """All go."""
        for wire, steps in self._peers.values():
            steps.close()
            wire.close()
        self._peers.clear()
