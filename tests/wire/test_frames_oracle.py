"""Frames and close codes, against the sans-I/O parser of `websockets`, which knows nothing of ours.

Where ours is stricter on purpose: a length that is not in its shortest form (RFC 6455 section 5.2), and one
of 2**63 or more.
"""

import struct

from hypothesis import example, given
from hypothesis import strategies as st
from websockets.exceptions import ProtocolError
from websockets.frames import Close, Frame
from websockets.streams import StreamReader

from otagate.wire import codec

BROKEN = "broken"
Read = tuple[int, bool, bytes] | str | None  # opcode, FIN and payload; BROKEN; None: more is to come


def theirs(data: bytes, from_client: bool) -> Read:
    reader = StreamReader()
    reader.feed_data(data)
    try:
        next(Frame.parse(reader.read_exact, mask=from_client))
    except StopIteration as done:
        frame: Frame = done.value
        return int(frame.opcode), frame.fin, bytes(frame.data)
    except ProtocolError:
        return BROKEN
    return None


def ours(data: bytes, from_client: bool) -> Read:
    header = codec.parse_websocket_header(data, from_client)
    if header is None or isinstance(header, int):
        return None if header is None else BROKEN
    opcode, fin, mask, begin, length = header
    if len(data) < begin + length:
        return None
    payload = bytearray(data[begin : begin + length])
    if mask:
        codec.unmask(payload, mask)
    return opcode, fin, bytes(payload)


def stricter_on_purpose(data: bytes) -> bool:
    short = data[1] & 0x7F
    if short == 126:
        return struct.unpack(">H", data[2:4])[0] < 126
    return short == 127 and not 2**16 <= struct.unpack(">Q", data[2:10])[0] < 2**63


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Frames that are nearly right, so that every rule decides some of them."""
    first = draw(st.sampled_from((0, 1, 2, 8, 9, 10, 3, 11))) | draw(
        st.sampled_from((0x80, 0x80, 0, 0xC0, 0x90))
    )
    masked = draw(st.sampled_from((0, 0x80)))
    payload = draw(st.binary(max_size=200))
    length = draw(st.sampled_from((len(payload), 0, 125, 126, 65_535, 65_536, 2**63)))
    form = draw(st.sampled_from((7, 16, 64)))
    if form == 7:
        head = bytes([first, masked | min(length, 127)])
    elif form == 16:
        head = bytes([first, masked | 126]) + struct.pack(">H", min(length, 65_535))
    else:
        head = bytes([first, masked | 127]) + struct.pack(">Q", length)
    return head + draw(st.binary(min_size=4, max_size=4)) * bool(masked) + payload


@given(st.one_of(frames(), st.binary(max_size=300)), st.booleans())
@example(b"\x81\x7e\x00\x05hello", False)
@example(b"\x81\x7f\x00\x00\x00\x00\x00\x00\x00\x05hello", False)
def test_a_frame_is_read_alike(data: bytes, from_client: bool) -> None:
    said, expected = ours(data, from_client), theirs(data, from_client)
    if said == expected:
        return
    # They look at the rules when the whole frame is there, we as soon as one is broken.
    assert said == BROKEN, (said, expected)
    assert expected is None or stricter_on_purpose(data), expected


@given(st.sampled_from((1, 2, 8, 9, 10)), st.binary(max_size=125), st.binary(min_size=4, max_size=4))
def test_what_we_write_they_read(opcode: int, payload: bytes, mask: bytes) -> None:
    for key in (b"", mask):
        written = codec.encode_websocket_frame(opcode, payload, key)
        assert theirs(written, bool(key)) == (opcode, True, payload)


def test_close_codes() -> None:
    def valid(code: int) -> bool:
        try:
            Close.parse(struct.pack(">H", code))
        except ProtocolError:
            return False
        return True

    assert [code for code in range(2**16) if codec.close_code_valid(code) != valid(code)] == []
