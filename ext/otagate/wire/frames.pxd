# Frames of both links, as functions over bytes that the caller owns: nothing here allocates, keeps a
# pointer, takes the GIL or fails in any way but its return value.
#
# Python face: otagate.wire.codec. Readable specification and oracle: otagate.wire.twin.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    OPCODE_CONTINUATION = 0             # opcodes of RFC 6455 section 5.2, on both links (no 0 on TCP)
    OPCODE_TEXT = 1
    OPCODE_BINARY = 2
    OPCODE_CLOSE = 8
    OPCODE_PING = 9
    OPCODE_PONG = 10

    CLOSE_PROTOCOL_ERROR = 1002
    CONTROL_PAYLOAD_BYTES_MAX = 125     # RFC 6455 section 5.5, and the same on TCP

    WEBSOCKET_HEADER_BYTES_MAX = 14     # 2, length 8, mask 4
    TCP_HEADER_BYTES = 4                # opcode u8, length u24
    CHUNK_HEADER_BYTES = 16             # transfer u32, xxh32 u32, offset u64

cdef enum:
    UTF8_ACCEPT = 0                     # at the end of a character (or of nothing)
    UTF8_REJECT = 0xFF01                # broken; stays broken

cdef struct FrameHeader:
    uint8_t opcode
    uint8_t fin                         # 1: the last frame of its message
    uint8_t masked                      # 1: `mask` holds the key
    uint8_t mask[4]
    uint32_t size                       # bytes of the header itself
    uint64_t length                     # bytes of the payload that follows, < 2**63

# > 0: a whole header, of so many bytes; 0: more bytes are needed; < 0: minus the close code.
# Broken is told as early as the first bytes show it. Fragmentation (which opcode may follow which) and
# bounds on `length` are the caller's.
cdef int parse_websocket_header(
    const uint8_t* data, size_t size, bint from_client, FrameHeader* header) noexcept nogil
cdef int parse_tcp_header(const uint8_t* data, size_t size, FrameHeader* header) noexcept nogil

# Each returns the bytes written to `out`. WebSocket headers have FIN set and the shortest length.
cdef size_t write_websocket_header(uint8_t* out, uint8_t opcode, uint64_t length) noexcept nogil  # <= 10
cdef size_t write_websocket_header_masked(
    uint8_t* out, uint8_t opcode, uint64_t length, const uint8_t* mask) noexcept nogil            # <= 14
cdef size_t write_tcp_header(uint8_t* out, uint8_t opcode, uint64_t length) noexcept nogil        # 4

# Always CHUNK_HEADER_BYTES, big-endian.
cdef void write_chunk_header(uint8_t* out, uint32_t transfer, uint32_t xxh32, uint64_t offset) noexcept nogil

# In place; also masks. `phase`: bytes of this payload already done (only its low two bits matter).
cdef void unmask(uint8_t* data, size_t size, const uint8_t* mask, size_t phase) noexcept nogil

# Feeds the next bytes of a text to the state after the former ones (at first UTF8_ACCEPT). The text is
# whole only if the last state is UTF8_ACCEPT. Fails on the first byte that no text can have there.
cdef uint32_t utf8_feed(uint32_t state, const uint8_t* data, size_t size) noexcept nogil

# May a peer send this code in a close frame?
cdef bint close_code_valid(uint32_t code) noexcept nogil
