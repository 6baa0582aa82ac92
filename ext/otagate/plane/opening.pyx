"""First bytes: which link, its handshake, our challenge (docs/protocol.md, Links).

The device speaks first, and its first byte says what it speaks: `G` of GET, `O` of the TCP preface, 0x16 of a
TLS ClientHello, 0x0D of a PROXY header. The latter two are layers below: each takes its own bytes, and what
is inside comes here again. Anything else is closed at once.

Bytes are taken only when they are whole, so a half head simply waits in the connection's `held`. A
ClientHello waits there for the connection's turn among the handshakes.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memcpy, strlen

from otagate.wire.frames cimport OPCODE_TEXT
from otagate.wire.handshake cimport (
    HANDSHAKE_RESPONSE_BYTES_MAX, REFUSED_HEAD_TOO_LARGE, Handshake, parse_head, refuse, write_response,
)

from otagate.plane.connection cimport begin_close, end_connection, enter, queue_message
from otagate.plane.output cimport queue_bytes
from otagate.plane.state cimport (
    ADMITTED, BACKLOG, CAUSE_MEMORY, CAUSE_REFUSED_BYTE, CAUSE_REFUSED_HEAD, CAUSE_REFUSED_PLAIN,
    CAUSE_REFUSED_PROXY, CAUSE_REFUSED_STRANGER, CAUSE_REFUSED_TLS, CODE_LOST, LINK_TCP, LINK_WEBSOCKET,
    NONCE_BYTES, NONCE_POOL_BYTES, PHASE_LOGIN, PHASE_OPEN, SHAKING, TLS_OFF, TLS_REQUIRED,
    Cause, Connection, Core, Link,
)
from otagate.plane.proxy cimport PROXY_CROWDED, PROXY_MEMORY, PROXY_MORE, take_proxy_header
from otagate.plane.strangers cimport forget_stranger
from otagate.plane.system cimport getrandom, memmem
from otagate.plane.tls cimport is_secured

cdef enum:
    PREFACE_BYTES = 4
    CHALLENGE_BYTES_MAX = 128
    FIRST_TLS = 0x16
    FIRST_PROXY = 0x0D

cdef const char* PREFACE = b"OTG\x01"
cdef const char* CHALLENGE_HEAD = b'{"type":"challenge","nonce":"'
cdef const char* CHALLENGE_TAIL = b'","protocol":[1]}'
cdef const char* HEX = b"0123456789abcdef"


cdef size_t take_opening(
    Core* core, Connection* connection, uint8_t* data, size_t size, size_t fresh
) noexcept nogil:
    cdef uint8_t security = core.listeners[connection.listener].security
    if data[0] == FIRST_PROXY:
        return take_proxy(core, connection, data, size, fresh)
    if data[0] == FIRST_TLS and not is_secured(connection):
        if security == TLS_OFF or core.tls.context == NULL:
            reject(core, connection, CAUSE_REFUSED_TLS)
            return size
        connection.flags |= SHAKING | BACKLOG
        return 0
    if data[0] != c"G" and data[0] != c"O":
        reject(core, connection, CAUSE_REFUSED_BYTE)
        return size
    if security == TLS_REQUIRED and not is_secured(connection):
        reject(core, connection, CAUSE_REFUSED_PLAIN)
        return size
    if data[0] == c"G":
        return take_head(core, connection, data, size, fresh)
    return take_preface(core, connection, data, size)


cdef size_t take_proxy(
    Core* core, Connection* connection, uint8_t* data, size_t size, size_t fresh
) noexcept nogil:
    cdef int taken = take_proxy_header(core, connection, data, size)
    if taken == PROXY_MORE:
        return 0
    if taken == PROXY_MEMORY:
        end_connection(core, connection, CODE_LOST, CAUSE_MEMORY, True)
    elif taken == PROXY_CROWDED:
        core.counters.refused_strangers += 1
        reject(core, connection, CAUSE_REFUSED_STRANGER)
    elif taken < 0:
        reject(core, connection, CAUSE_REFUSED_PROXY)
    if taken < 0 or <size_t>taken == size:
        return size
    size -= taken
    return taken + take_opening(core, connection, data + taken, size, min(fresh, size))


cdef void reject(Core* core, Connection* connection, Cause cause) noexcept nogil:
    end_connection(core, connection, CODE_LOST, cause, False)


cdef size_t take_preface(Core* core, Connection* connection, uint8_t* data, size_t size) noexcept nogil:
    if memcmp(data, PREFACE, min(size, <size_t>PREFACE_BYTES)) != 0:
        reject(core, connection, CAUSE_REFUSED_BYTE)
        return size
    if size < PREFACE_BYTES:
        return 0
    begin_session(core, connection, LINK_TCP)
    return PREFACE_BYTES


cdef size_t take_head(
    Core* core, Connection* connection, uint8_t* data, size_t size, size_t fresh
) noexcept nogil:
    cdef Handshake handshake
    cdef size_t bound = min(size, <size_t>core.bounds.http_head_bytes_max)
    cdef size_t searched = size - fresh - 3 if size - fresh > 3 else 0
    cdef uint8_t* end = NULL
    if searched < bound:
        end = <uint8_t*>memmem(data + searched, bound - searched, b"\r\n\r\n", 4)
    if end != NULL:
        bound = end + 4 - data
        parse_head(data, bound, core.bounds.echo, &handshake)
    elif size < core.bounds.http_head_bytes_max:
        return 0
    else:
        refuse(&handshake, REFUSED_HEAD_TOO_LARGE)
    answer(core, connection, &handshake)
    return bound


cdef void answer(Core* core, Connection* connection, Handshake* handshake) noexcept nogil:
    cdef uint8_t response[HANDSHAKE_RESPONSE_BYTES_MAX]
    cdef size_t size = write_response(handshake, response, HANDSHAKE_RESPONSE_BYTES_MAX)
    if queue_bytes(core, connection, response, size) < 0:
        end_connection(core, connection, CODE_LOST, CAUSE_MEMORY, True)
    elif handshake.status == 101:
        begin_session(core, connection, LINK_WEBSOCKET)
    else:
        begin_close(core, connection, 0, NULL, 0, CAUSE_REFUSED_HEAD)


cdef void begin_session(Core* core, Connection* connection, Link link) noexcept nogil:
    connection.link = link
    connection.seen = <uint32_t>core.now_ms
    core.counters.opened[<int>link] += 1
    core.counters.live[<int>link] += 1
    if core.bounds.echo:
        forget_stranger(core, connection)
        connection.flags |= ADMITTED
        enter(core, connection, PHASE_OPEN)
    else:
        enter(core, connection, PHASE_LOGIN)
        challenge(core, connection)


cdef void challenge(Core* core, Connection* connection) noexcept nogil:
    cdef uint8_t text[CHALLENGE_BYTES_MAX]
    cdef uint8_t byte
    cdef int i
    cdef size_t at = strlen(CHALLENGE_HEAD)
    if draw_nonce(core, connection.identity.nonce) < 0:
        end_connection(core, connection, CODE_LOST, CAUSE_MEMORY, True)
        return
    memcpy(text, CHALLENGE_HEAD, at)
    for i in range(NONCE_BYTES):
        byte = connection.identity.nonce[i]
        text[at] = HEX[byte >> 4]
        text[at + 1] = HEX[byte & 15]
        at += 2
    memcpy(text + at, CHALLENGE_TAIL, strlen(CHALLENGE_TAIL))
    queue_message(core, connection, OPCODE_TEXT, text, at + strlen(CHALLENGE_TAIL))


cdef int draw_nonce(Core* core, uint8_t* out) noexcept nogil:
    """Random bytes, asked of the kernel for several connections at a time."""
    if core.nonces_used == NONCE_POOL_BYTES:
        if getrandom(core.nonces, NONCE_POOL_BYTES, 0) != NONCE_POOL_BYTES:
            return -1
        core.nonces_used = 0
    memcpy(out, core.nonces + core.nonces_used, NONCE_BYTES)
    core.nonces_used += NONCE_BYTES
    return 0
