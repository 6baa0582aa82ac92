# The opening handshake of the WebSocket link, server side: a strict parser of the request's head, and the
# answer. Nothing here allocates, keeps a pointer or takes the GIL.
#
# Python face: otagate.wire.codec. Readable specification and oracle: otagate.wire.twin.

from libc.stdint cimport uint8_t

cdef enum Refusal:                      # why; each has one HTTP status
    REFUSED_NOT = 0
    REFUSED_REQUEST_LINE = 1            # 400
    REFUSED_FIELD = 2                   # 400
    REFUSED_HOST = 3                    # 400
    REFUSED_BODY = 4                    # 400
    REFUSED_KEY = 5                     # 400
    REFUSED_SUBPROTOCOL = 6             # 400
    REFUSED_METHOD = 7                  # 405
    REFUSED_PATH = 8                    # 404
    REFUSED_HTTP_VERSION = 9            # 505
    REFUSED_NO_UPGRADE = 10             # 426
    REFUSED_VERSION = 11                # 426
    REFUSED_HEAD_TOO_LARGE = 12         # 431, found by the caller: no end within http_head_bytes_max
    REFUSED_TIMEOUT = 13                # 408, found by the caller
    REFUSED_OVERLOADED = 14             # 503, found by the caller

cdef enum:
    HANDSHAKE_RESPONSE_BYTES_MAX = 512

cdef struct Handshake:
    int status                          # 101, or the HTTP status of the refusal
    int refusal                         # a Refusal
    bint subprotocol                    # the client offered otagate.v1: the answer names it
    uint8_t accept[28]                  # Sec-WebSocket-Accept, if status is 101

# head: everything up to and including CRLF CRLF. any_path: the echo server's rules (any path, and no
# subprotocol asked for). Fills every field of `out`.
cdef void parse_head(const uint8_t* head, size_t size, bint any_path, Handshake* out) noexcept nogil

# Makes `out` a refusal, for what the caller itself finds (no head in time, a head without an end …).
cdef void refuse(Handshake* out, int refusal) noexcept nogil

# The whole answer: 101, or a short refusal that names the reason, with Connection: close. Returns its
# size; 0 if `capacity` is under HANDSHAKE_RESPONSE_BYTES_MAX.
cdef size_t write_response(const Handshake* handshake, uint8_t* out, size_t capacity) noexcept nogil
