"""Frames of both links: one suite over the compiled codec and its readable twin."""

import itertools
import struct
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otagate.wire import codec, twin

CODECS = [pytest.param(codec, id="compiled"), pytest.param(twin, id="twin")]
MASK = b"\x01\x82\x43\xc4"

WEBSOCKET_HEADERS = [
    # (bytes, from_client, answer)
    (b"", False, None),
    (b"\x81", False, None),
    (b"\x81\x00", False, (1, True, b"", 2, 0)),
    (b"\x81\x7d", False, (1, True, b"", 2, 125)),
    (b"\x82\x7e\x00", False, None),
    (b"\x82\x7e\x00\x7e", False, (2, True, b"", 4, 126)),
    (b"\x82\x7e\xff\xff", False, (2, True, b"", 4, 65535)),
    (b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00", False, (2, True, b"", 10, 65536)),
    (b"\x82\x7f\x7f" + b"\xff" * 7, False, (2, True, b"", 10, 2**63 - 1)),
    (b"\x00\x01payload", False, (0, False, b"", 2, 1)),
    (b"\x01\x00", False, (1, False, b"", 2, 0)),
    (b"\x81\x85" + MASK, True, (1, True, MASK, 6, 5)),
    (b"\x81\x85" + MASK[:3], True, None),
    (b"\x81\xfe\x01\x00" + MASK, True, (1, True, MASK, 8, 256)),
    (b"\x82\xff" + struct.pack(">Q", 2**20) + MASK, True, (2, True, MASK, 14, 2**20)),
    (b"\x88\x00", False, (8, True, b"", 2, 0)),
    (b"\x89\x7d", False, (9, True, b"", 2, 125)),
    (b"\x8a\x80" + MASK, True, (10, True, MASK, 6, 0)),
    # broken, each as early as it shows
    (b"\xc1", False, 1002),  # RSV1
    (b"\xa1", False, 1002),  # RSV2
    (b"\x91", False, 1002),  # RSV3
    (b"\x83", False, 1002),  # reserved opcodes
    (b"\x87", False, 1002),
    (b"\x8b", False, 1002),
    (b"\x8f", False, 1002),
    (b"\x08", False, 1002),  # a fragmented control frame
    (b"\x09\x00", False, 1002),
    (b"\x89\x7e", False, 1002),  # a control frame above 125 bytes
    (b"\x88\x7f", False, 1002),
    (b"\x81\x80", False, 1002),  # a masked server
    (b"\x81\x00", True, 1002),  # an unmasked client
    (b"\x81\x7e\x00\x7d", False, 1002),  # not the shortest form
    (b"\x81\x7f\x00\x00\x00\x00\x00\x00\xff\xff", False, 1002),
    (b"\x81\x7f\x80\x00\x00\x00\x00\x00\x00\x00", False, 1002),  # 2**63
]

TCP_HEADERS = [
    (b"", None),
    (b"\x01", None),
    (b"\x01\x00\x00", None),
    (b"\x01\x00\x00\x00", (1, True, b"", 4, 0)),
    (b"\x02\xff\xff\xffdata", (2, True, b"", 4, 2**24 - 1)),
    (b"\x08\x00\x00\x02", (8, True, b"", 4, 2)),
    (b"\x09\x00\x00\x7d", (9, True, b"", 4, 125)),
    (b"\x0a\x00\x00\x00", (10, True, b"", 4, 0)),
    (b"\x09\x00\x00\x7e", 1002),
    (b"\x08\x01\x00\x00", 1002),
    (b"\x00", 1002),  # no fragments on this link
    (b"\x03", 1002),
    (b"\x0b", 1002),
    (b"\x81", 1002),
    (b"\xff\x00\x00\x00", 1002),
]

TEXTS = [
    (b"", True),
    (b"plain", True),
    ("Grüße, 固件 🛰".encode(), True),
    (b"\xc2\x80", True),
    (b"\xdf\xbf", True),
    (b"\xe0\xa0\x80", True),
    (b"\xed\x9f\xbf", True),
    (b"\xee\x80\x80", True),
    (b"\xf0\x90\x80\x80", True),
    (b"\xf4\x8f\xbf\xbf", True),
    (b"\x80", False),
    (b"\xc0\x80", False),  # overlong
    (b"\xc1\xbf", False),
    (b"\xe0\x9f\xbf", False),
    (b"\xf0\x8f\xbf\xbf", False),
    (b"\xed\xa0\x80", False),  # a surrogate
    (b"\xed\xbf\xbf", False),
    (b"\xf4\x90\x80\x80", False),  # above U+10FFFF
    (b"\xf5\x80\x80\x80", False),
    (b"\xff", False),
    (b"\xc2A", False),
    (b"\xe2\x82", False),  # cut
]


@pytest.mark.parametrize("implementation", CODECS)
@pytest.mark.parametrize(("data", "from_client", "answer"), WEBSOCKET_HEADERS)
def test_websocket_header(
    implementation: ModuleType, data: bytes, from_client: bool, answer: tuple[int, ...] | int | None
) -> None:
    assert implementation.parse_websocket_header(data, from_client) == answer


@pytest.mark.parametrize("implementation", CODECS)
@pytest.mark.parametrize(("data", "answer"), TCP_HEADERS)
def test_tcp_header(implementation: ModuleType, data: bytes, answer: tuple[int, ...] | int | None) -> None:
    assert implementation.parse_tcp_header(data) == answer


@settings(max_examples=500)
@given(st.binary(max_size=20), st.booleans())
def test_headers_same_in_both(data: bytes, from_client: bool) -> None:
    for end in range(len(data) + 1):
        cut = data[:end]
        assert codec.parse_websocket_header(cut, from_client) == twin.parse_websocket_header(cut, from_client)
        assert codec.parse_tcp_header(cut) == twin.parse_tcp_header(cut)


@given(
    st.sampled_from([0x81, 0x82, 0x01, 0x80, 0x00, 0x88, 0x8A]), st.integers(0, 255), st.binary(max_size=16)
)
def test_likely_websocket_headers_same_in_both(first: int, second: int, rest: bytes) -> None:
    data = bytes([first, second]) + rest
    for from_client in (False, True):
        answer = codec.parse_websocket_header(data, from_client)
        assert answer == twin.parse_websocket_header(data, from_client)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 65537])
@pytest.mark.parametrize("mask", [b"", MASK])
def test_encoded_websocket_frame_is_read_back(size: int, mask: bytes) -> None:
    payload = bytes(i * 7 & 0xFF for i in range(size))
    frame = codec.encode_websocket_frame(2, payload, mask)
    assert frame == twin.encode_websocket_frame(2, payload, mask)
    header = codec.parse_websocket_header(frame, bool(mask))
    assert isinstance(header, tuple)
    opcode, fin, found_mask, header_bytes, length = header
    assert (opcode, fin, found_mask, length) == (2, True, mask, size)
    body = bytearray(frame[header_bytes:])
    if mask:
        twin.unmask(body, mask)
    assert body == payload


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65536])
def test_encoded_tcp_frame_is_read_back(size: int) -> None:
    frame = codec.encode_tcp_frame(2, b"x" * size)
    assert frame == twin.encode_tcp_frame(2, b"x" * size)
    assert codec.parse_tcp_header(frame) == (2, True, b"", 4, size)
    assert len(frame) == 4 + size


@pytest.mark.parametrize("implementation", CODECS)
def test_too_large_tcp_frame_is_refused(implementation: ModuleType) -> None:
    with pytest.raises(ValueError, match="at most"):
        implementation.encode_tcp_frame(2, bytes(2**24))


@pytest.mark.parametrize("implementation", CODECS)
def test_short_mask_is_refused(implementation: ModuleType) -> None:
    with pytest.raises(ValueError, match="4 bytes"):
        implementation.encode_websocket_frame(1, b"x", b"abc")
    with pytest.raises(ValueError, match="4 bytes"):
        implementation.unmask(bytearray(8), b"abc", 0)


@pytest.mark.parametrize("implementation", CODECS)
def test_chunk_header(implementation: ModuleType) -> None:
    head = implementation.encode_chunk_header(7, 0xDEADBEEF, 2**40 + 3)
    assert head == struct.pack(">IIQ", 7, 0xDEADBEEF, 2**40 + 3)


@pytest.mark.parametrize("phase", range(9))
@pytest.mark.parametrize("alignment", range(8))
def test_unmask_at_every_phase_and_alignment(phase: int, alignment: int) -> None:
    for size in [*range(34), 100, 1001]:
        plain = bytes(i * 31 + 5 & 0xFF for i in range(size))
        store = bytearray(64 + size)
        view = memoryview(store)[alignment : alignment + size]
        view[:] = plain
        codec.unmask(view, MASK, phase)
        expected = bytearray(plain)
        twin.unmask(expected, MASK, phase)
        assert view == expected
        assert not any(store[:alignment])
        assert not any(store[alignment + size :])


@given(st.binary(max_size=200), st.binary(min_size=4, max_size=4), st.lists(st.integers(0, 200), max_size=4))
def test_unmask_in_pieces(data: bytes, mask: bytes, cuts: list[int]) -> None:
    whole, pieces = bytearray(data), bytearray(data)
    codec.unmask(whole, mask)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, stop in itertools.pairwise(edges):
        codec.unmask(memoryview(pieces)[start:stop], mask, start)
    assert pieces == whole
    codec.unmask(whole, mask)
    assert whole == data


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def can_go_on(data: bytes) -> bool:
    """Is there a text that begins with these bytes? Asked of Python's own decoder."""
    tails = [b""]
    for follow in range(1, 4):
        tails += [bytes([second]) + b"\x80" * (follow - 1) for second in (0x80, 0x90, 0xA0)]
    return any(is_utf8(data + tail) for tail in tails)


@pytest.mark.parametrize("implementation", CODECS)
@pytest.mark.parametrize(("data", "whole"), TEXTS)
def test_utf8_table(implementation: ModuleType, data: bytes, whole: bool) -> None:
    assert is_utf8(data) == whole
    for pad in range(10):
        padded = b"x" * pad + data
        assert (implementation.utf8_feed(0, padded) == implementation.UTF8_ACCEPT) == whole


@settings(max_examples=500)
@given(
    st.one_of(
        st.binary(max_size=40),
        st.text(max_size=20).map(str.encode),
        st.tuples(st.text(max_size=12), st.binary(max_size=4), st.text(max_size=4)).map(
            lambda parts: parts[0].encode() + parts[1] + parts[2].encode()
        ),
        st.lists(st.sampled_from(b"\x7f\x80\x8f\x90\x9f\xa0\xbf\xc1\xc2\xe0\xed\xee\xf0\xf4\xf5\xff")).map(
            bytes
        ),
    )
)
def test_utf8_as_pythons_own_at_every_cut(data: bytes) -> None:
    whole = codec.utf8_feed(codec.UTF8_ACCEPT, data)
    assert whole == twin.utf8_feed(twin.UTF8_ACCEPT, data)
    assert (whole == codec.UTF8_ACCEPT) == is_utf8(data)
    for cut in range(len(data) + 1):
        state = codec.utf8_feed(codec.UTF8_ACCEPT, data[:cut])
        assert codec.utf8_feed(state, data[cut:]) == whole
        assert (state != codec.UTF8_REJECT) == can_go_on(data[:cut])  # broken on the first bad byte


def test_utf8_of_every_character() -> None:
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    assert codec.utf8_feed(0, "".join(characters).encode()) == codec.UTF8_ACCEPT


def test_broken_utf8_stays_broken() -> None:
    for byte in range(256):
        for implementation in (codec, twin):
            assert implementation.utf8_feed(codec.UTF8_REJECT, bytes([byte])) == codec.UTF8_REJECT


@pytest.mark.parametrize("implementation", CODECS)
def test_close_codes(implementation: ModuleType) -> None:
    valid = {code for code in range(70_000) if implementation.close_code_valid(code)}
    assert valid == {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}
