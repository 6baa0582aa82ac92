"""Frames of both links: WebSocket (RFC 6455 section 5) and raw TCP (docs/protocol.md).

Every function is a pure function of bytes that the caller owns; a header is parsed from the start of
what has arrived, again and again until it is whole (at most 14 bytes), so no parser state is kept between
calls. The one state that is carried is that of UTF-8, in 32 bits:

    bits 0-7    continuation bytes still to come (0: at the end of a character)
    bits 8-15   lowest value that the next byte may have
    bits 16-23  highest value that the next byte may have

The range after a first byte is what excludes overlong forms, surrogates and everything above U+10FFFF
(Unicode 16, table 3-7); after the second byte it is always 80-BF. `UTF8_REJECT` is an empty range (lowest
FF, highest 0): no byte is in it, so it needs no test of its own and stays.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy


cdef bint opcode_known(uint8_t opcode) noexcept nogil:
    return opcode <= OPCODE_BINARY or OPCODE_CLOSE <= opcode <= OPCODE_PONG


cdef uint64_t load_big_endian(const uint8_t* data, size_t size) noexcept nogil:
    cdef uint64_t value = 0
    cdef size_t i
    for i in range(size):
        value = value << 8 | data[i]
    return value


cdef void store_big_endian(uint8_t* out, uint64_t value, size_t size) noexcept nogil:
    cdef size_t i
    for i in range(size):
        out[i] = <uint8_t>(value >> 8 * (size - 1 - i))


# -- headers ---------------------------------------------------------------------------------------

cdef int parse_websocket_header(
    const uint8_t* data, size_t size, bint from_client, FrameHeader* header
) noexcept nogil:
    cdef uint8_t short_length
    cdef uint32_t position = 2
    cdef uint32_t length_bytes = 0
    if size == 0:
        return 0
    header.fin = data[0] >> 7
    header.opcode = data[0] & 0x0F
    if data[0] & 0x70 or not opcode_known(header.opcode):  # RSV: no extension was negotiated
        return -CLOSE_PROTOCOL_ERROR
    if header.opcode >= OPCODE_CLOSE and not header.fin:
        return -CLOSE_PROTOCOL_ERROR
    if size == 1:
        return 0
    header.masked = data[1] >> 7
    short_length = data[1] & 0x7F
    if header.masked != (1 if from_client else 0):
        return -CLOSE_PROTOCOL_ERROR
    if header.opcode >= OPCODE_CLOSE and short_length > CONTROL_PAYLOAD_BYTES_MAX:
        return -CLOSE_PROTOCOL_ERROR
    if short_length == 126:
        length_bytes = 2
    elif short_length == 127:
        length_bytes = 8
    header.size = position + length_bytes + (4 if header.masked else 0)
    if size < header.size:
        return 0
    header.length = short_length
    if length_bytes:
        header.length = load_big_endian(data + position, length_bytes)
        position += length_bytes
        if header.length < (126 if length_bytes == 2 else 0x10000) or header.length >> 63:
            return -CLOSE_PROTOCOL_ERROR  # not the shortest form, or above 2**63
    if header.masked:
        memcpy(header.mask, data + position, 4)
    return <int>header.size


cdef int parse_tcp_header(const uint8_t* data, size_t size, FrameHeader* header) noexcept nogil:
    if size == 0:
        return 0
    header.opcode = data[0]
    if header.opcode == OPCODE_CONTINUATION or not opcode_known(header.opcode):
        return -CLOSE_PROTOCOL_ERROR
    if size < TCP_HEADER_BYTES:
        return 0
    header.fin = 1
    header.masked = 0
    header.size = TCP_HEADER_BYTES
    header.length = load_big_endian(data + 1, 3)
    if header.opcode >= OPCODE_CLOSE and header.length > CONTROL_PAYLOAD_BYTES_MAX:
        return -CLOSE_PROTOCOL_ERROR
    return TCP_HEADER_BYTES


cdef size_t write_websocket_header(uint8_t* out, uint8_t opcode, uint64_t length) noexcept nogil:
    out[0] = 0x80 | opcode
    if length < 126:
        out[1] = <uint8_t>length
        return 2
    if length < 0x10000:
        out[1] = 126
        store_big_endian(out + 2, length, 2)
        return 4
    out[1] = 127
    store_big_endian(out + 2, length, 8)
    return 10


cdef size_t write_websocket_header_masked(
    uint8_t* out, uint8_t opcode, uint64_t length, const uint8_t* mask
) noexcept nogil:
    cdef size_t size = write_websocket_header(out, opcode, length)
    out[1] |= 0x80
    memcpy(out + size, mask, 4)
    return size + 4


cdef size_t write_tcp_header(uint8_t* out, uint8_t opcode, uint64_t length) noexcept nogil:
    out[0] = opcode
    store_big_endian(out + 1, length, 3)
    return TCP_HEADER_BYTES


cdef void write_chunk_header(uint8_t* out, uint32_t transfer, uint32_t xxh32, uint64_t offset) noexcept nogil:
    store_big_endian(out, transfer, 4)
    store_big_endian(out + 4, xxh32, 4)
    store_big_endian(out + 8, offset, 8)


# -- payloads --------------------------------------------------------------------------------------

cdef void unmask(uint8_t* data, size_t size, const uint8_t* mask, size_t phase) noexcept nogil:
    # Single bytes up to an aligned address, then words (which the compiler makes vectors), then the rest.
    cdef uint8_t turned[8]
    cdef uint64_t word
    cdef uint64_t* words
    cdef size_t i, count
    cdef size_t head = (8 - (<uintptr_t>data & 7)) & 7
    if head > size:
        head = size
    for i in range(head):
        data[i] ^= mask[(phase + i) & 3]
    for i in range(8):
        turned[i] = mask[(phase + head + i) & 3]
    memcpy(&word, turned, 8)
    words = <uint64_t*>(data + head)
    count = (size - head) // 8
    for i in range(count):
        words[i] ^= word
    for i in range(head + count * 8, size):
        data[i] ^= turned[(i - head) & 7]


cdef uint32_t utf8_range(uint32_t remaining, uint32_t low, uint32_t high) noexcept nogil:
    return remaining | low << 8 | high << 16


cdef uint32_t utf8_first(uint8_t byte) noexcept nogil:
    """The state after the first byte (>= 80) of a character: Unicode 16, table 3-7."""
    if byte < 0xC2 or byte > 0xF4:
        return UTF8_REJECT
    if byte < 0xE0:
        return utf8_range(1, 0x80, 0xBF)
    if byte < 0xF0:
        return utf8_range(2, 0xA0 if byte == 0xE0 else 0x80, 0x9F if byte == 0xED else 0xBF)
    return utf8_range(3, 0x90 if byte == 0xF0 else 0x80, 0x8F if byte == 0xF4 else 0xBF)


cdef uint32_t utf8_feed(uint32_t state, const uint8_t* data, size_t size) noexcept nogil:
    cdef size_t i = 0
    cdef uint64_t word
    cdef uint8_t byte
    while i < size:
        if state == UTF8_ACCEPT:
            while i + 8 <= size:  # messages are nearly always ASCII
                memcpy(&word, data + i, 8)
                if word & 0x8080808080808080ULL:
                    break
                i += 8
            if i == size:
                break
            byte = data[i]
            if byte >= 0x80:
                state = utf8_first(byte)
        else:
            byte = data[i]
            if byte < (state >> 8 & 0xFF) or byte > (state >> 16 & 0xFF):
                return UTF8_REJECT
            state = utf8_range((state & 0xFF) - 1, 0x80, 0xBF) if state & 0xFF > 1 else UTF8_ACCEPT
        i += 1
    return state


cdef bint close_code_valid(uint32_t code) noexcept nogil:
    # RFC 6455 section 7.4 and its registry: 1004-1006 and 1015 never stand in a frame, the rest of
    # 1000-2999 is not assigned, 3000-3999 are registered by libraries, 4000-4999 private.
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999
