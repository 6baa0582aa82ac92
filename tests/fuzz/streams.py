"""One peer's bytes, cut in any way: plain, below TLS, and behind a proxy's header."""

import ipaddress
import select
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any

from otagate import limits, plane
from otagate.wire import decoder, twin
from otagate.wire.decoder import Decoder, Link
from tests.fuzz.reader import Reader
from tests.fuzz.stage import LINKS, Peer, Stage
from tests.fuzz.traces import without_a_trace
from tests.plane.rig import OPENINGS, PREFACE, TEXT, frame

PIECES_MAX = 64
PATIENCE_S = 20.0

# What Python hears, the frames that the peer reads, and the head before them.
Heard = tuple[list[tuple[int, Any]], list[tuple[int, bytes]], bytes]


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    return [data[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def steps(size: int, step: int) -> list[int]:
    """A cut after each `step` bytes, and not too many."""
    step = max(1, step, size // PIECES_MAX)
    return list(range(step, size, step))


def move(stage: Stage, peer: Peer, heard: list[tuple[int, Any]], push_max: int = 4096) -> None:
    """Until nothing more comes of what the peer has said; answers each HELLO."""
    while True:
        before = len(peer.unsent)
        peer.push(push_max)
        found = stage.drain()
        read = peer.read()
        for event in found:
            heard.append((event[0], event[2] if event[0] == plane.HELLO else event[3]))
            if event[0] == plane.HELLO and b"again" in event[2]:
                stage.retry(event[1])
            elif event[0] == plane.HELLO:
                stage.admit(event[1])
                stage.plane.apply([(plane.SEND, event[1], b"welcome")])
        if not found and not read and not stage.plane.pending and len(peer.unsent) == before:
            break


def end(stage: Stage, peer: Peer, heard: list[tuple[int, Any]]) -> Heard:
    """The peer has said all."""
    if not peer.ended:
        peer.socket.shutdown(socket.SHUT_WR)
    before_end = len(stage.events)
    stage.settle()
    heard += [(event[0], event[3]) for event in stage.events[before_end:]]
    frames = [(opcode, b"?" if b'"nonce"' in payload else payload) for opcode, payload in peer.frames]
    head = peer.head or b""
    stage.finish()
    return heard, frames, head


def play(link: str, data: bytes, cuts: list[int]) -> Heard:
    """What comes of these bytes in these pieces."""
    stage = Stage()
    peer = stage.connect(link)
    heard: list[tuple[int, Any]] = []
    for piece in pieces_of(data, cuts):
        peer.say(piece)
        move(stage, peer, heard)
    return end(stage, peer, heard)


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


def check_words(link: str, rest: bytes, heard: list[tuple[int, Any]]) -> None:
    """What was heard is what the oracle reads of the bytes behind the opening."""
    words, code = expected_words(link, PREFACE + rest if link == "tcp" else rest)
    assert [payload for kind, payload in heard if kind != plane.CLOSED] == words
    # A binary message or one above a bound is refused at its header, whatever would follow.
    assert all(found in (code, 1003, 1009) for kind, found in heard if kind == plane.CLOSED)


@without_a_trace
def fuzz_stream(data: bytes) -> None:
    """However a peer's bytes are cut, the same is heard and answered; and it is what the oracle reads."""
    reader = Reader(data)
    choice, step, at = reader.byte(), reader.byte(), reader.number(2)
    link = LINKS[choice & 1]
    opening = b"" if choice & 2 else OPENINGS[link]
    said = opening + reader.rest()
    whole = play(link, said, [])
    cuts = steps(len(said), step) if choice & 4 else [min(at, len(said))]
    assert play(link, said, cuts) == whole
    if opening:
        check_words(link, said[len(opening) :], whole[0])


# -- below TLS ---------------------------------------------------------------------------------------


def flipped(data: bytes, at: int, bits: int) -> bytes:
    """One byte of them is another."""
    at %= len(data)
    return data[:at] + bytes([data[at] ^ (bits or 1)]) + data[at + 1 :]


def play_sealed(
    link: str,
    data: bytes,
    records: list[int],
    step: int,
    version: ssl.TLSVersion,
    damage: tuple[int, int] | None,
) -> Heard:
    """As `play`, below TLS: in these records, whose bytes are cut in steps. damage: what is changed."""
    stage = Stage()
    peer = stage.connect_tls(link, version)
    heard: list[tuple[int, Any]] = []
    while not peer.shaken:
        assert peer.unsent, "a handshake that does not go on"
        move(stage, peer, heard, step)
    for piece in pieces_of(data, records):
        peer.say(piece)
    if damage is not None and peer.unsent:
        peer.say_raw(b"")
        peer.unsent = flipped(peer.unsent, *damage)
    while peer.unsent and not peer.ended:
        move(stage, peer, heard, step)
    return end(stage, peer, heard)


@without_a_trace
def fuzz_tls(data: bytes) -> None:
    """What is heard and answered below TLS is what is without, however records are filled and cut; of records
    that somebody changed nothing is heard."""
    reader = Reader(data)
    choice, size, step, at, bits = (
        reader.byte(),
        reader.byte(),
        reader.byte(),
        reader.number(2),
        reader.byte(),
    )
    link = LINKS[choice & 1]
    said = (b"" if choice & 2 else OPENINGS[link]) + reader.rest()
    if choice & 4:
        fuzz_first_bytes(said, steps(len(said), step))
        return
    version = ssl.TLSVersion.TLSv1_2 if choice & 8 else ssl.TLSVersion.TLSv1_3
    damage = (at, bits) if choice & 16 else None
    # A record's bytes in one piece, or in pieces no smaller than a handshake bears.
    step = 1 << 20 if choice & 32 else max(step, 40)
    heard, frames, head = play_sealed(link, said, steps(len(said), size), step, version, damage)
    plain = play(link, said, [])
    if damage is None:
        assert (heard, frames, head) == plain
    else:
        words = [payload for kind, payload in heard if kind != plane.CLOSED]
        assert words == [payload for kind, payload in plain[0] if kind != plane.CLOSED][: len(words)]
        assert frames == plain[1][: len(frames)]


def fuzz_first_bytes(data: bytes, cuts: list[int]) -> None:
    """Any, to a listener of TLS: however they are cut, what is heard and the end are the same; of a handshake
    that nobody finishes nothing is heard."""
    ends = []
    for pieces in ([data], pieces_of(data, cuts)):
        stage = Stage()
        stage.use_tls()
        peer = stage.connect("tcp")
        peer.head = None  # what it reads is not looked at
        heard: list[tuple[int, Any]] = []
        for piece in pieces:
            peer.say(piece)
            move(stage, peer, heard)
        if not peer.ended:
            peer.socket.shutdown(socket.SHUT_WR)
        stage.settle()
        counted = stage.plane.statistics()
        ends.append((heard, {name: count for name, count in counted.items() if name.startswith("ended_")}))
        stage.finish()
    assert ends[0] == ends[1]
    if data[:1] == b"\x16":
        assert ends[0][0] == []


# -- behind a proxy ----------------------------------------------------------------------------------

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
HEADER_BYTES_MAX = 2_048
MORE, REFUSED = "more", "refused"


def expected_address(data: bytes, source: tuple[str, int], trusted: bool) -> tuple[str, int]:
    """What a header says: an address and its size; REFUSED; or MORE."""
    if data[:12] != SIGNATURE[: len(data)] or not trusted:
        return REFUSED, 0
    if len(data) < 16:
        return MORE, 0
    command, family, length = data[12], data[13], int.from_bytes(data[14:16], "big")
    known = {0x11: 12, 0x21: 36}.get(family, 0) if command == 0x21 else 0
    if command not in (0x20, 0x21) or length < known or 16 + length > HEADER_BYTES_MAX:
        return REFUSED, 0
    if len(data) < 16 + length:
        return MORE, 0
    address, port = source
    if known == 12:
        address, port = socket.inet_ntoa(data[16:20]), int.from_bytes(data[24:26], "big")
    elif known == 36:
        address = "[" + socket.inet_ntop(socket.AF_INET6, data[16:32]) + "]"
        port = int.from_bytes(data[48:50], "big")
    return f"{address}:{port}", 16 + length


def header_of(reader: Reader) -> bytes:
    """Nearly a good one."""
    choice, lie = reader.byte(), reader.byte()
    command = (0x21, 0x21, 0x20, reader.byte())[choice & 3]
    family = (0x11, 0x21, 0x00, 0x31)[choice >> 2 & 3]
    body = reader.take({0x11: 12, 0x21: 36}.get(family, 0) + (reader.byte() if choice & 16 else 0))
    if choice & 32:
        body = body.ljust(HEADER_BYTES_MAX - 16 + (lie & 3) - 1, b"\0")
    length = len(body) + (lie - 128 if choice & 64 else 0)
    return SIGNATURE + bytes([command, family]) + struct.pack(">H", length & 0xFFFF) + body


def wait_until(stage: Stage, condition: Callable[[], bool]) -> None:
    """TCP on one machine is nearly, not quite, at once."""
    waiting = select.poll()
    waiting.register(stage.plane, select.POLLIN)
    for peer in stage.peers:
        if not peer.ended:
            waiting.register(peer.socket, select.POLLIN)
    while not condition():
        if not stage.plane.pending:
            assert waiting.poll(1000 * PATIENCE_S), "waited in vain"
        stage.drain()
        for peer in stage.peers:
            peer.read()


@without_a_trace
def fuzz_proxy(data: bytes) -> None:
    """A header is believed from a network that was named and from nobody else, and says what it says, however
    it is cut."""
    reader = Reader(data)
    choice, bits, at = reader.byte(), reader.byte() % 33, reader.number(2)
    network = ipaddress.ip_network((b"\x7f" + reader.take(3).ljust(3, b"\0"), bits), strict=False)
    source = "127." + ".".join(str(byte) for byte in reader.take(3).ljust(3, b"\1"))
    if ipaddress.ip_address(source).packed[1:] in (b"\0\0\0", b"\xff\xff\xff"):
        source = "127.0.0.1"
    link = LINKS[choice & 1]
    said = (reader.rest() if choice & 2 else header_of(reader)) or b"\r"
    said = said if said[:1] == b"\r" else b"\r" + said
    stage = Stage(socket.AF_INET)
    stage.plane.trust_proxies([str(network)])
    connecting = socket.socket()
    connecting.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # no TIME_WAIT
    connecting.bind((source, 0))
    connecting.connect(stage.address)
    connecting.setblocking(False)
    own = connecting.getsockname()
    peer = Peer(link, connecting)
    stage.peers.append(peer)
    trusted = ipaddress.ip_address(source) in network
    address, size = expected_address(said, own, trusted)
    if size and choice & 4:
        said, address, size = said[:size] * 2, REFUSED, 0  # there may be one
    if size:
        said = said[:size] + OPENINGS[link] + frame(link, TEXT, b"hello")
    at %= len(said) + 1
    for piece in (said[:at], said[at:]):
        peer.say(piece)
        peer.push(1 << 16)
        stage.drain()
    if size:
        wait_until(stage, lambda: bool(stage.greeted) or peer.ended)
        found = stage.plane.connection_info(stage.greeted[0]) if stage.greeted else None
        assert found is not None
        assert found[1] == address
        stage.admit(stage.greeted[0])
    elif address == REFUSED:
        wait_until(stage, lambda: peer.ended)
        assert stage.plane.statistics()["ended_refused_proxy"] == 1
    else:
        wait_until(stage, lambda: stage.plane.statistics()["bytes_in"] == len(said))
        stage.settle()
        assert stage.plane.statistics()["connections"] == 1
    if not peer.ended:
        connecting.close()
        peer.ended = True
        wait_until(stage, lambda: stage.plane.statistics()["connections"] == 0)
    stage.finish()
