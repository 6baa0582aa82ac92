"""Received bytes to messages and chunks, on both links; and to the answers of the servers beside which the gateway is
measured: HTTP/1.1 with Content-Length, and the four packets of MQTT 3.1.1 that a subscriber sees.

A text message is taken when it is whole; the payload of a binary one as it comes (`frame_left`).
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp

from otagate.bench.behaviour cimport on_answer, on_handshake, on_image_bytes, on_progress, on_text
from otagate.bench.common cimport protocol_error
from otagate.bench.download cimport chunk_begin, chunk_data
from otagate.bench.sockets cimport put_frame
from otagate.bench.state cimport (
    LINK_HTTP, LINK_MQTT, LINK_WEBSOCKET, PHASE_HANDSHAKE, TEXT_BYTES_MAX,
    WORK_REQUESTS, Device, Engine,
)
from otagate.plane.system cimport memmem
from otagate.wire.frames cimport (
    CHUNK_HEADER_BYTES, OPCODE_BINARY, OPCODE_CLOSE, OPCODE_CONTINUATION, OPCODE_PING, OPCODE_PONG,
    OPCODE_TEXT, FrameHeader, parse_tcp_header, parse_websocket_header,
)

cdef enum:
    BROKEN = -1
    HEAD_END_BYTES = 4                  # CRLF CRLF

# Of the key that behaviour sends.
cdef const char* ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


cdef ssize_t take(Engine* engine, Device* device, const uint8_t* data, size_t size) noexcept nogil:
    cdef size_t at = 0
    cdef ssize_t taken
    while at < size and device.fd >= 0:
        if device.frame_left:
            taken = take_payload(engine, device, data + at, size - at)
        elif device.link == LINK_HTTP:
            taken = take_http(engine, device, data + at, size - at)
        elif device.link == LINK_MQTT:
            taken = take_mqtt(engine, device, data + at, size - at)
        elif device.phase == PHASE_HANDSHAKE:
            taken = take_handshake(engine, device, data + at, size - at)
        else:
            taken = take_frame(engine, device, data + at, size - at)
        if taken < 0:
            return BROKEN
        if taken == 0:
            break
        at += taken
    if size - at > TEXT_BYTES_MAX:
        protocol_error(engine, b"a message too long")
        return BROKEN
    return at


cdef ssize_t take_payload(Engine* engine, Device* device, const uint8_t* data, size_t size) noexcept nogil:
    cdef size_t piece = min(size, <size_t>device.frame_left)
    device.frame_left -= piece
    if engine.settings.login:
        chunk_data(engine, device, data, piece)
        on_progress(engine, device)
    elif engine.settings.work == WORK_REQUESTS or device.phase == PHASE_HANDSHAKE:
        if device.frame_left == 0:
            http_answered(engine, device)
    else:
        on_image_bytes(engine, device, piece)
    return piece


cdef ssize_t take_handshake(Engine* engine, Device* device, const uint8_t* data, size_t size) noexcept nogil:
    cdef const uint8_t* end = <const uint8_t*>memmem(data, size, b"\r\n\r\n", HEAD_END_BYTES)
    if end == NULL:
        return 0
    if size < 12 or memcmp(data, b"HTTP/1.1 101", 12) or memmem(data, end - data, ACCEPT, 28) == NULL:
        protocol_error(engine, b"a handshake that was refused")
        return BROKEN
    on_handshake(engine, device)
    return end + HEAD_END_BYTES - data


cdef ssize_t take_frame(Engine* engine, Device* device, const uint8_t* data, size_t size) noexcept nogil:
    cdef FrameHeader header
    cdef const uint8_t* payload
    cdef int parsed
    if device.link == LINK_WEBSOCKET:
        parsed = parse_websocket_header(data, size, False, &header)
    else:
        parsed = parse_tcp_header(data, size, &header)
    if parsed == 0:
        return 0
    if parsed < 0:
        protocol_error(engine, b"a broken frame")
        return BROKEN
    payload = data + header.size
    if header.opcode == OPCODE_BINARY or header.opcode == OPCODE_CONTINUATION:
        return take_binary(engine, device, payload, size - header.size, &header)
    if size - header.size < header.length:
        return 0
    if header.opcode == OPCODE_TEXT:
        on_text(engine, device, payload, header.length)
    elif header.opcode == OPCODE_PING:
        put_frame(engine, device, OPCODE_PONG, payload, header.length)
    elif header.opcode == OPCODE_CLOSE:
        engine.counters.closes += 1
        return BROKEN
    return header.size + header.length


cdef ssize_t take_binary(
    Engine* engine, Device* device, const uint8_t* payload, size_t size, FrameHeader* header
) noexcept nogil:
    """The header of a chunk; of what other servers stream, the frame's alone."""
    if not engine.settings.login:
        device.frame_left = header.length
        return header.size
    if header.length <= CHUNK_HEADER_BYTES or not header.fin:
        protocol_error(engine, b"a binary message that is no chunk")
        return BROKEN
    if size < CHUNK_HEADER_BYTES:
        return 0
    if not chunk_begin(engine, device, payload, header.length - CHUNK_HEADER_BYTES):
        return BROKEN
    device.frame_left = header.length - CHUNK_HEADER_BYTES
    return header.size + CHUNK_HEADER_BYTES


# -- other servers ---------------------------------------------------------------------------------------

cdef void http_answered(Engine* engine, Device* device) noexcept nogil:
    if device.phase == PHASE_HANDSHAKE:
        on_handshake(engine, device)
    else:
        on_answer(engine, device)


cdef ssize_t take_http(Engine* engine, Device* device, const uint8_t* data, size_t size) noexcept nogil:
    """A head; the body is `frame_left`."""
    cdef const uint8_t* end = <const uint8_t*>memmem(data, size, b"\r\n\r\n", HEAD_END_BYTES)
    cdef const uint8_t* length
    if end == NULL:
        return 0
    length = <const uint8_t*>memmem(data, end - data, b"Content-Length: ", 16)
    if memcmp(data, b"HTTP/1.1 200", 12) or length == NULL:
        protocol_error(engine, b"an HTTP answer other than 200")
        return BROKEN
    length += 16
    while c"0" <= length[0] <= c"9":
        device.frame_left = device.frame_left * 10 + (length[0] - c"0")
        length += 1
    if device.frame_left == 0:
        http_answered(engine, device)
    return end + HEAD_END_BYTES - data


cdef ssize_t take_mqtt(Engine* engine, Device* device, const uint8_t* data, size_t size) noexcept nogil:
    """CONNACK, PUBACK, SUBACK and PUBLISH (MQTT 3.1.1 section 2.2: type, length by sevens)."""
    cdef size_t at = 1
    cdef uint64_t length = 0
    cdef int shift = 0
    while True:
        if at >= size:
            return 0
        length |= <uint64_t>(data[at] & 127) << shift
        shift += 7
        at += 1
        if data[at - 1] < 128:
            break
        if shift > 21:
            return BROKEN
    if size - at < length:
        return 0
    if data[0] == 0x20:
        if device.phase != PHASE_HANDSHAKE or length != 2 or data[at + 1]:
            protocol_error(engine, b"an MQTT connection that was refused")
            return BROKEN
        on_handshake(engine, device)
    elif data[0] == 0x40 or data[0] & 0xF0 == 0x30:
        on_answer(engine, device)
    return at + length
