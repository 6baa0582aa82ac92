"""The cases of the Autobahn test suite, as far as its public list says what they are, by another client.

The numbers are Autobahn's. Bytes go out as given (headers by `websockets`' frame codec, broken ones by hand);
what comes back is read by `websockets`' sans-IO protocol, which knows nothing of ours. The server is the echo
of the real plane, as a process. tools/autobahn runs the suite itself.

Where a case sends a good message and a broken frame at once, RFC 6455 leaves open whether the good one is
still echoed: both are right (Autobahn: OK and NON-STRICT).
"""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

TEXT, BINARY, CONT = Opcode.TEXT, Opcode.BINARY, Opcode.CONT
CLOSE, PING, PONG = Opcode.CLOSE, Opcode.PING, Opcode.PONG
TIMEOUT_S = 20
KIB = 1024
Heard = list[tuple[Opcode, bytes]]

SIZES = (0, 125, 126, 127, 128, 65_535, 65_536)
VALID_CODES = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)
INVALID_CODES = (0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65_535)
GREEK = "κόσμε"
TEXTS = (
    *("", "Hello-µ@ßöäüàá-UTF-8!!", GREEK, "a\u00e5b", "\x00", "\u0080", "\u0800", "\U00010000", "\x7f"),
    *("\u07ff", "\uffff", "\U0010ffff", "\ud7ff", "\ue000", "\ufffd", "\ufdd0", "\ufffe", "\U0001fffe"),
)
# 6.6 to 6.21: incomplete, lonely continuations, overlong, impossible bytes, surrogates, above the last.
BROKEN_TEXTS = tuple(
    bytes.fromhex(text)
    for text in (
        *("ce", "cebae1", "cebae1bd", "cebae1bdb9cf83cebcceb5eda080656469746564", "80", "bf", "808182"),
        *("c0", "c1bf", "c0af", "e080af", "f08080af", "f8808080af", "fc80808080af", "e09fbf", "f08fbfbf"),
        *("fe", "ff", "feff", "f8888080", "fc8480808080", "eda080", "edadbf", "edae80", "edafbf", "edb080"),
        *(
            "edbe80",
            "edbfbf",
            "eda080edb080",
            "edafbfedbfbf",
            "f4908080",
            "f5808080",
            "f7bfbfbf",
            "c2",
            "dfff",
        ),
    )
)


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    with subprocess.Popen(
        [sys.executable, "-m", "otagate.plane.echo", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        host, port = server.stdout.readline().strip().split(":")
        yield host, int(port)
        server.send_signal(signal.SIGTERM)
        assert server.wait(TIMEOUT_S) == 0


class Client:
    """Bytes out, frames in. It answers nothing by itself."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host, port = address
        self.protocol = ClientProtocol(parse_uri(f"ws://{host}:{port}/"), max_size=None)
        self.protocol.send_request(self.protocol.connect())
        self.send(b"".join(self.protocol.data_to_send()))
        self.frames: Heard = []
        self.ended = False
        while self.protocol.handshake_exc is None and not self.protocol.events:
            self.receive()
        self.protocol.events_received()

    def send(self, data: bytes, chop: int = 0) -> None:
        """Whole, or in writes of so many bytes."""
        step = chop or len(data) or 1
        for at in range(0, len(data), step):
            self.socket.sendall(data[at : at + step])

    def receive(self) -> None:
        try:
            data = self.socket.recv(1 << 20)
        except ConnectionError:
            data = b""
        if data:
            self.protocol.receive_data(data)
        else:
            self.ended = True

    def read(self, count: int) -> Heard:
        """So many frames."""
        while len(self.frames) < count and not self.ended:
            self.receive()
            self.take_events()
        found, self.frames = self.frames[:count], self.frames[count:]
        return found

    def take_events(self) -> None:
        for event in self.protocol.events_received():
            assert isinstance(event, Frame)
            assert not any((event.rsv1, event.rsv2, event.rsv3))
            assert event.fin
            self.frames.append((event.opcode, bytes(event.data)))

    def read_all(self) -> Heard:
        """To the end of the connection, which the server makes."""
        while not self.ended:
            self.receive()
        self.take_events()
        assert self.protocol.parser_exc is None
        return self.frames

    def close_well(self) -> None:
        """A close handshake, after which nothing more comes."""
        self.send(frame(CLOSE, (1000).to_bytes(2, "big")))
        assert self.read_all() == [(CLOSE, (1000).to_bytes(2, "big"))]


@pytest.fixture
def client(address: tuple[str, int]) -> Iterator[Client]:
    made = Client(address)
    yield made
    made.socket.close()


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    """A masked frame; reserved bits and opcodes that are no opcodes are put in by hand."""
    known = Opcode(opcode) if opcode in set(Opcode) else TEXT
    # Built as text: the library refuses to build broken control frames.
    whole = bytearray(Frame(TEXT, payload, fin=fin).serialize(mask=True))
    whole[0] = (0x80 if fin else 0) | rsv << 4 | (opcode if known is TEXT else known)
    return bytes(whole)


def fragments(opcode: int, parts: Sequence[bytes]) -> bytes:
    last = len(parts) - 1
    return b"".join(frame(opcode if i == 0 else CONT, part, fin=i == last) for i, part in enumerate(parts))


def code_of(heard: Heard) -> int:
    """Of the close frame, which must be the last."""
    opcode, payload = heard[-1]
    assert opcode == CLOSE
    payload[2:].decode()
    return int.from_bytes(payload[:2], "big")


def check_failed(client: Client, code: int, allowed_before: Heard | None = None) -> None:
    """The server ends the connection with this code; before it, it may have sent some of these."""
    heard = client.read_all()
    assert code_of(heard) == code
    before = heard[:-1]
    assert before == (allowed_before or [])[: len(before)]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", SIZES)
def test_1_echo(client: Client, opcode: Opcode, size: int) -> None:
    payload = b"*" * size if opcode == TEXT else (bytes(range(256)) * 256)[:size]
    client.send(frame(opcode, payload))
    assert client.read(1) == [(opcode, payload)]
    client.close_well()


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_1_echo_chopped(client: Client, opcode: Opcode) -> None:
    client.send(frame(opcode, b"*" * 65_536), chop=997)
    assert client.read(1) == [(opcode, b"*" * 65_536)]
    client.close_well()


@pytest.mark.parametrize("chop", [0, 1])
@pytest.mark.parametrize(
    "payload", [b"", b"Hello, world!", b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", b"\xfe" * 125]
)
def test_2_ping(client: Client, payload: bytes, chop: int) -> None:
    client.send(frame(PING, payload), chop)
    assert client.read(1) == [(PONG, payload)]
    client.close_well()


def test_2_5_ping_too_large(client: Client) -> None:
    client.send(frame(PING, b"\xfe" * 126))
    check_failed(client, 1002)


@pytest.mark.parametrize("payload", [b"", b"unsolicited"])
def test_2_7_pong_is_ignored(client: Client, payload: bytes) -> None:
    client.send(frame(PONG, payload) + frame(PING, b"ping"))
    assert client.read(1) == [(PONG, b"ping")]
    client.close_well()


@pytest.mark.parametrize("chop", [0, 1])
def test_2_10_pings(client: Client, chop: int) -> None:
    client.send(b"".join(frame(PING, b"payload-%d" % i) for i in range(10)), chop)
    assert client.read(10) == [(PONG, b"payload-%d" % i) for i in range(10)]
    client.close_well()


@pytest.mark.parametrize("rsv", range(1, 8))
@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, CLOSE])
def test_3_reserved_bits(client: Client, opcode: Opcode, rsv: int) -> None:
    client.send(frame(opcode, b"", rsv=rsv))
    check_failed(client, 1002)


@pytest.mark.parametrize("chop", [0, 1])
@pytest.mark.parametrize("rsv", [2, 3, 4])
def test_3_2_between_messages(client: Client, rsv: int, chop: int) -> None:
    client.send(frame(TEXT, b"good") + frame(TEXT, b"bad", rsv=rsv) + frame(PING, b""), chop)
    check_failed(client, 1002, [(TEXT, b"good")])


@pytest.mark.parametrize("payload", [b"", b"reserved opcode payload"])
@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_4_reserved_opcodes(client: Client, opcode: int, payload: bytes) -> None:
    client.send(frame(opcode, payload))
    check_failed(client, 1002)


@pytest.mark.parametrize("chop", [0, 1])
@pytest.mark.parametrize("opcode", [5, 7, 13, 15])
def test_4_between_messages(client: Client, opcode: int, chop: int) -> None:
    client.send(frame(TEXT, b"good") + frame(opcode, b"bad") + frame(PING, b""), chop)
    check_failed(client, 1002, [(TEXT, b"good")])


@pytest.mark.parametrize("opcode", [PING, PONG])
def test_5_1_fragmented_control(client: Client, opcode: Opcode) -> None:
    client.send(fragments(opcode, [b"fragment1", b"fragment2"]))
    check_failed(client, 1002)


@pytest.mark.parametrize("chop", [0, 1])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_5_3_fragments(client: Client, opcode: Opcode, chop: int) -> None:
    client.send(fragments(opcode, [b"fragment1", b"", b"fragment2"]), chop)
    assert client.read(1) == [(opcode, b"fragment1fragment2")]
    client.close_well()


@pytest.mark.parametrize("chop", [0, 1])
def test_5_6_ping_between_fragments(client: Client, chop: int) -> None:
    first, second = frame(TEXT, b"fragment1", fin=False), frame(CONT, b"fragment2")
    client.send(first + frame(PING, b"ping") + second, chop)
    assert client.read(2) == [(PONG, b"ping"), (TEXT, b"fragment1fragment2")]
    client.close_well()


@pytest.mark.parametrize("chop", [0, 1])
@pytest.mark.parametrize("fin", [False, True])
def test_5_9_continuation_of_nothing(client: Client, fin: bool, chop: int) -> None:
    client.send(frame(CONT, b"nothing", fin=fin) + frame(TEXT, b"Hello, world!"), chop)
    check_failed(client, 1002)


@pytest.mark.parametrize("fin", [False, True])
def test_5_15_continuation_behind_a_whole_message(client: Client, fin: bool) -> None:
    client.send(fragments(TEXT, [b"fragment1", b"fragment2"]) + frame(CONT, b"fragment3", fin=fin))
    check_failed(client, 1002, [(TEXT, b"fragment1fragment2")])


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_5_18_a_message_within_a_message(client: Client, opcode: Opcode) -> None:
    client.send(frame(TEXT, b"fragment1", fin=False) + frame(opcode, b"fragment2"))
    check_failed(client, 1002)


def test_5_19_pings_within_five_fragments(client: Client) -> None:
    parts = [
        frame(TEXT, b"fragment1", fin=False),
        frame(CONT, b"fragment2", fin=False),
        frame(PING, b"ping1"),
    ]
    parts += [
        frame(CONT, b"fragment3", fin=False),
        frame(CONT, b"fragment4", fin=False),
        frame(PING, b"ping2"),
    ]
    client.send(b"".join(parts[:3]))
    assert client.read(1) == [(PONG, b"ping1")]
    client.send(b"".join(parts[3:]))
    assert client.read(1) == [(PONG, b"ping2")]
    client.send(frame(CONT, b"fragment5"))
    assert client.read(1) == [(TEXT, b"fragment1fragment2fragment3fragment4fragment5")]
    client.close_well()


@pytest.mark.parametrize("cut", ["whole", "octets", "characters", "writes"])
@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_6_texts(client: Client, text: str, cut: str) -> None:
    payload = text.encode()
    parts = [payload]
    if cut == "octets" and payload:
        parts = [payload[i : i + 1] for i in range(len(payload))]
    elif cut == "characters" and payload:
        parts = [character.encode() for character in text]
    client.send(fragments(TEXT, parts), chop=1 if cut == "writes" else 0)
    assert client.read(1) == [(TEXT, payload)]
    client.close_well()


@pytest.mark.parametrize("octets", [False, True])
@pytest.mark.parametrize("payload", BROKEN_TEXTS, ids=bytes.hex)
def test_6_broken_texts(client: Client, payload: bytes, octets: bool) -> None:
    parts = [payload[i : i + 1] for i in range(len(payload))] if octets else [payload]
    client.send(fragments(TEXT, parts))
    check_failed(client, 1007)


@pytest.mark.parametrize("fragmented", [True, False])
@pytest.mark.parametrize("broken", [b"\xf4\x90", b"\xed\xa0", b"\xc0", b"\xff"])
def test_6_4_fails_fast(client: Client, broken: bytes, fragmented: bool) -> None:
    """As soon as the bytes show it: neither the message nor even the frame is ever ended."""
    start = GREEK.encode() + broken
    client.send(
        frame(TEXT, start, fin=False) if fragmented else frame(TEXT, start + b"x" * 100)[: 8 + len(start)]
    )
    check_failed(client, 1007)


def test_7_1_close_then_nothing_counts(client: Client) -> None:
    close = frame(CLOSE, (1000).to_bytes(2, "big"))
    client.send(close + close + frame(PING, b"late") + frame(TEXT, b"late"))
    assert client.read_all() == [(CLOSE, (1000).to_bytes(2, "big"))]


def test_7_1_5_close_within_a_message(client: Client) -> None:
    client.send(frame(TEXT, b"fragment1", fin=False) + frame(CLOSE, b"\x03\xe8") + frame(CONT, b"fragment2"))
    assert client.read_all() == [(CLOSE, b"\x03\xe8")]


def test_7_1_6_close_behind_a_large_message(client: Client) -> None:
    client.send(frame(TEXT, b"BAsd7&jh23" * 26_000) + frame(CLOSE, b"\x03\xe8") + frame(PING, b""))
    heard = client.read_all()
    assert code_of(heard) == 1000
    assert heard[:-1] in ([], [(TEXT, b"BAsd7&jh23" * 26_000)])


@pytest.mark.parametrize("reason", [b"", b"Hello World!", "κόσμε".encode(), b"*" * 123])
def test_7_3_close_with_a_reason(client: Client, reason: bytes) -> None:
    client.send(frame(CLOSE, b"\x03\xe8" + reason))
    assert code_of(client.read_all()) == 1000


def test_7_3_1_close_without_a_code(client: Client) -> None:
    client.send(frame(CLOSE))
    assert client.read_all() == [(CLOSE, b"")]


@pytest.mark.parametrize("payload", [b"a", b"\x03\xe8" + b"*" * 124])
def test_7_3_2_broken_close(client: Client, payload: bytes) -> None:
    client.send(frame(CLOSE, payload))
    check_failed(client, 1002)


@pytest.mark.parametrize("reason", [payload for payload in BROKEN_TEXTS if len(payload) > 2], ids=bytes.hex)
def test_7_5_broken_reason(client: Client, reason: bytes) -> None:
    client.send(frame(CLOSE, b"\x03\xe8" + reason))
    check_failed(client, 1007)


@pytest.mark.parametrize("code", VALID_CODES)
def test_7_7_valid_codes(client: Client, code: int) -> None:
    client.send(frame(CLOSE, code.to_bytes(2, "big")))
    assert client.read_all() == [(CLOSE, code.to_bytes(2, "big"))]


@pytest.mark.parametrize("code", INVALID_CODES)
def test_7_9_invalid_codes(client: Client, code: int) -> None:
    client.send(frame(CLOSE, code.to_bytes(2, "big") + b"reason"))
    check_failed(client, 1002)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [64 * KIB, 256 * KIB, 1024 * KIB, 4096 * KIB])
def test_9_sizes(client: Client, opcode: Opcode, size: int) -> None:
    client.send(frame(opcode, b"B" * size))
    assert client.read(1) == [(opcode, b"B" * size)]
    client.close_well()


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("step", [64, 256, 4096, 65_536])
def test_9_3_fragmented(client: Client, opcode: Opcode, step: int) -> None:
    message = b"F" * (256 * KIB)
    client.send(fragments(opcode, [message[at : at + step] for at in range(0, len(message), step)]))
    assert client.read(1) == [(opcode, message)]
    client.close_well()


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("chop", [64, 512, 2048])
def test_9_5_chopped(client: Client, opcode: Opcode, chop: int) -> None:
    message = b"C" * (128 * KIB)
    client.send(frame(opcode, message), chop)
    assert client.read(1) == [(opcode, message)]
    client.close_well()


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [0, 16, 64, 256, 1024])
def test_9_7_round_trips(client: Client, opcode: Opcode, size: int) -> None:
    for _ in range(200):
        client.send(frame(opcode, b"*" * size))
        assert client.read(1) == [(opcode, b"*" * size)]
    client.close_well()


def test_10_fragments_of_1300_octets(client: Client) -> None:
    message = b"*" * 65_536
    client.send(fragments(TEXT, [message[at : at + 1300] for at in range(0, len(message), 1300)]))
    assert client.read(1) == [(TEXT, message)]
    client.close_well()
