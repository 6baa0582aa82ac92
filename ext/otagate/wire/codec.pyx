"""The compiled frame codec and handshake, as functions over bytes: for tests, SDK and bench.

The plane does not come this way: it cimports `frames` and `handshake`. The same functions, readable, stand
in `otagate.wire.twin`, and one test suite runs over both.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from otagate.wire cimport frames, handshake

cdef const char* NOTHING = b""  # an empty head is somewhere, too: arithmetic on NULL is undefined

UTF8_ACCEPT = frames.UTF8_ACCEPT
UTF8_REJECT = frames.UTF8_REJECT


cdef object header_of(int parsed, const frames.FrameHeader* header):
    if parsed == 0:
        return None
    if parsed < 0:
        return -parsed
    mask = PyBytes_FromStringAndSize(<const char*>header.mask, 4) if header.masked else b""
    return header.opcode, bool(header.fin), mask, header.size, header.length


def parse_websocket_header(const uint8_t[::1] data, bint from_client):
    """The header at the start of `data`: (opcode, fin, mask, header bytes, payload bytes); None: more bytes
    are needed; an int: broken, with this close code."""
    cdef frames.FrameHeader header
    cdef size_t size = data.shape[0]
    return header_of(frames.parse_websocket_header(&data[0] if size else NULL, size, from_client, &header), &header)


def parse_tcp_header(const uint8_t[::1] data):
    """As parse_websocket_header, for the TCP link; fin is always True, mask always empty."""
    cdef frames.FrameHeader header
    cdef size_t size = data.shape[0]
    return header_of(frames.parse_tcp_header(&data[0] if size else NULL, size, &header), &header)


def encode_websocket_frame(uint8_t opcode, const uint8_t[::1] payload, bytes mask=b""):
    """A whole frame, FIN set; `mask` (4 bytes) for the client's side, empty for the server's."""
    cdef uint8_t head[frames.WEBSOCKET_HEADER_BYTES_MAX]
    cdef size_t size = payload.shape[0]
    cdef size_t head_size
    cdef uint8_t* out
    cdef const uint8_t* key = NULL
    if mask:
        if len(mask) != 4:
            raise ValueError("a mask has 4 bytes")
        key = <const uint8_t*>PyBytes_AS_STRING(mask)
        head_size = frames.write_websocket_header_masked(head, opcode, size, key)
    else:
        head_size = frames.write_websocket_header(head, opcode, size)
    frame = PyBytes_FromStringAndSize(NULL, head_size + size)
    out = <uint8_t*>PyBytes_AS_STRING(frame)
    memcpy(out, head, head_size)
    if size:
        memcpy(out + head_size, &payload[0], size)
    if key != NULL:
        frames.unmask(out + head_size, size, key, 0)
    return frame


def encode_tcp_frame(uint8_t opcode, const uint8_t[::1] payload):
    """A whole frame; ValueError above 2**24 - 1 bytes."""
    cdef size_t size = payload.shape[0]
    cdef uint8_t* out
    if size >> 24:
        raise ValueError("a TCP frame holds at most 2**24 - 1 bytes")
    frame = PyBytes_FromStringAndSize(NULL, frames.TCP_HEADER_BYTES + size)
    out = <uint8_t*>PyBytes_AS_STRING(frame)
    frames.write_tcp_header(out, opcode, size)
    if size:
        memcpy(out + frames.TCP_HEADER_BYTES, &payload[0], size)
    return frame


def encode_chunk_header(uint32_t transfer, uint32_t xxh32, uint64_t offset):
    """The 16 bytes before a chunk's data."""
    cdef uint8_t out[frames.CHUNK_HEADER_BYTES]
    frames.write_chunk_header(out, transfer, xxh32, offset)
    return PyBytes_FromStringAndSize(<const char*>out, frames.CHUNK_HEADER_BYTES)


def unmask(uint8_t[::1] data, bytes mask, size_t phase=0):
    """Masks or unmasks in place; `phase`: bytes of this payload already done."""
    if len(mask) != 4:
        raise ValueError("a mask has 4 bytes")
    if data.shape[0]:
        frames.unmask(&data[0], data.shape[0], <const uint8_t*>PyBytes_AS_STRING(mask), phase)


def utf8_feed(uint32_t state, const uint8_t[::1] data):
    """The state after these bytes; begin with UTF8_ACCEPT, the text is whole at UTF8_ACCEPT, broken at
    UTF8_REJECT."""
    return frames.utf8_feed(state, &data[0], data.shape[0]) if data.shape[0] else state


def close_code_valid(uint32_t code):
    """May a peer send this code in a close frame (RFC 6455 section 7.4)?"""
    return bool(frames.close_code_valid(code))


def parse_head(const uint8_t[::1] head, bint any_path=False):
    """The handshake of a head (up to and including CRLF CRLF): (status, accept, subprotocol)."""
    cdef handshake.Handshake out
    cdef size_t size = head.shape[0]
    handshake.parse_head(&head[0] if size else <const uint8_t*>NOTHING, size, any_path, &out)
    accept = PyBytes_FromStringAndSize(<const char*>out.accept, 28) if out.status == 101 else b""
    return out.status, accept, bool(out.subprotocol)


def handshake_response(const uint8_t[::1] head, bint any_path=False):
    """The server's whole answer to a head."""
    cdef handshake.Handshake out
    cdef uint8_t response[handshake.HANDSHAKE_RESPONSE_BYTES_MAX]
    cdef size_t size = head.shape[0]
    handshake.parse_head(&head[0] if size else <const uint8_t*>NOTHING, size, any_path, &out)
    size = handshake.write_response(&out, response, handshake.HANDSHAKE_RESPONSE_BYTES_MAX)
    return PyBytes_FromStringAndSize(<const char*>response, size)
