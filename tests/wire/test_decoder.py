"""The incremental decoder: events depend on the bytes alone, never on how they are cut."""

import itertools
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otagate.wire import codec, twin
from otagate.wire.decoder import Binary, Broken, Close, Decoder, Event, Link, Ping, Pong, Text

CODECS = [pytest.param(codec, id="compiled"), pytest.param(twin, id="twin")]
MASK = b"\xa1\x02\xf3\x04"


def websocket(opcode: int, payload: bytes, fin: bool = True) -> bytes:
    frame = bytearray(codec.encode_websocket_frame(opcode, payload, MASK))
    if not fin:
        frame[0] &= 0x7F
    return bytes(frame)


def tcp(opcode: int, payload: bytes) -> bytes:
    return codec.encode_tcp_frame(opcode, payload)


def events_of(
    data: bytes, link: Link, pieces: list[int] | None = None, *, from_client: bool, codec: ModuleType = codec
) -> list[Event]:
    decoder = Decoder(link, from_client=from_client, message_bytes_max=1000, codec=codec)
    edges = [0, *sorted(pieces or []), len(data)]
    found: list[Event] = []
    for start, stop in itertools.pairwise(edges):
        found += decoder.receive_data(data[start:stop])
    return found


WEBSOCKET_STREAMS: list[tuple[bytes, list[Event]]] = [
    (websocket(1, b"{}") + websocket(2, b"\x00" * 300), [Text(b"{}"), Binary(b"\x00" * 300)]),
    (
        websocket(1, b"a\xc3", fin=False)
        + websocket(9, b"p")
        + websocket(0, b"\xa9", fin=False)
        + websocket(0, b""),
        [Ping(b"p"), Text("aé".encode())],
    ),
    (websocket(10, b"") + websocket(8, b""), [Pong(b""), Close(1005, b"")]),
    (websocket(8, b"\x03\xe8bye") + websocket(1, b"late"), [Close(1000, b"bye")]),
    (websocket(8, b"\x03"), [Broken(1002, "the close code is broken")]),
    (websocket(8, b"\x03\xee"), [Broken(1002, "the close code is broken")]),
    (websocket(8, b"\x03\xe8\xff"), [Broken(1007, "the close reason is not UTF-8")]),
    (websocket(1, b"ok") + websocket(1, b"\xff!"), [Text(b"ok"), Broken(1007, "the text is not UTF-8")]),
    (websocket(1, b"\xc3"), [Broken(1007, "the text is not UTF-8")]),
    (websocket(0, b"x"), [Broken(1002, "a fragment is out of place")]),
    (websocket(1, b"x", fin=False) + websocket(2, b"y"), [Broken(1002, "a fragment is out of place")]),
    (websocket(2, b"x" * 1001), [Broken(1009, "the message is too large")]),
    (websocket(2, b"x" * 999, fin=False) + websocket(0, b"yz"), [Broken(1009, "the message is too large")]),
    (b"\x81\x01x", [Broken(1002, "a frame's header is broken")]),
]

TCP_STREAMS: list[tuple[bytes, list[Event]]] = [
    (b"OTG\x01" + tcp(1, b"{}") + tcp(9, b"") + tcp(2, b"chunk"), [Text(b"{}"), Ping(b""), Binary(b"chunk")]),
    (b"OTG\x01" + tcp(8, b"\x0f\xa2superseded"), [Close(4002, b"superseded")]),
    (b"OTG\x01" + tcp(1, b"\xed\xa0\x80"), [Broken(1007, "the text is not UTF-8")]),
    (b"OTG\x01" + tcp(2, b"x" * 1001), [Broken(1009, "the message is too large")]),
    (b"OTG\x02", [Broken(1002, "the first bytes are not those of the protocol")]),
    (b"GET /", [Broken(1002, "the first bytes are not those of the protocol")]),
    (b"OTG\x01\x00", [Broken(1002, "a frame's header is broken")]),
]


@pytest.mark.parametrize("implementation", CODECS)
@pytest.mark.parametrize(("data", "events"), WEBSOCKET_STREAMS)
def test_websocket_at_every_cut(implementation: ModuleType, data: bytes, events: list[Event]) -> None:
    for cut in range(len(data) + 1):
        assert events_of(data, Link.WEBSOCKET, [cut], from_client=True, codec=implementation) == events
    every = list(range(1, len(data)))
    assert events_of(data, Link.WEBSOCKET, every, from_client=True, codec=implementation) == events


@pytest.mark.parametrize("implementation", CODECS)
@pytest.mark.parametrize(("data", "events"), TCP_STREAMS)
def test_tcp_at_every_cut(implementation: ModuleType, data: bytes, events: list[Event]) -> None:
    for cut in range(len(data) + 1):
        assert events_of(data, Link.TCP, [cut], from_client=True, codec=implementation) == events


def test_gateways_side_has_neither_preface_nor_mask() -> None:
    assert events_of(tcp(1, b"{}"), Link.TCP, from_client=False) == [Text(b"{}")]
    frame = codec.encode_websocket_frame(1, b"{}")
    assert events_of(frame, Link.WEBSOCKET, from_client=False) == [Text(b"{}")]


FRAMES = st.tuples(
    st.sampled_from([0, 1, 1, 2, 8, 9, 10, 3]), st.binary(max_size=30) | st.just(b"plain"), st.booleans()
)


@given(st.lists(FRAMES, max_size=6), st.lists(st.integers(0, 200), max_size=5), st.sampled_from(list(Link)))
def test_any_stream_at_any_cuts_in_both(
    frames: list[tuple[int, bytes, bool]], cuts: list[int], link: Link
) -> None:
    if link is Link.TCP:
        data = b"OTG\x01" + b"".join(tcp(opcode, payload) for opcode, payload, _ in frames)
    else:
        data = b"".join(websocket(opcode, payload, fin) for opcode, payload, fin in frames)
    whole = events_of(data, link, from_client=True)
    pieces = [min(cut, len(data)) for cut in cuts]
    assert events_of(data, link, pieces, from_client=True) == whole
    assert events_of(data, link, pieces, from_client=True, codec=twin) == whole
