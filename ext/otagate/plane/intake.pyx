"""Frames to messages: reassembly, control frames, and every bound and rule about them.

What is whole goes the short way: a message that lies whole in the bytes received, as nearly all do, is
unmasked in place, checked, and copied into the arena once. Only what comes in parts is gathered in `input`.

Every rule is checked as soon as the bytes show it: the length of a message when a frame's header is read,
UTF-8 with each part of a text. A header or a control frame is taken only when it is whole (at most 139
bytes wait for that); the payload of a data frame as it comes.

RFC 6455 sections 5.4 (fragmentation), 5.5 (control frames), 7.4 (codes), 8.1 (UTF-8), 10.3 (masking). The TCP
link has the same opcodes and rules, without fragments and masks.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, realloc
from libc.string cimport memcpy

from otagate.wire.frames cimport (
    OPCODE_BINARY, OPCODE_CLOSE, OPCODE_CONTINUATION, OPCODE_PING, OPCODE_PONG, OPCODE_TEXT,
    UTF8_ACCEPT, UTF8_REJECT,
    FrameHeader, close_code_valid, parse_tcp_header, parse_websocket_header, unmask, utf8_feed,
)

from otagate.plane.connection cimport begin_close, end_connection, fail, queue_message, report_closed
from otagate.plane.events cimport push_gathered, push_message
from otagate.plane.state cimport (
    ARENA_MESSAGE_BYTES_MAX, BACKLOG, CAUSE_MEMORY, CAUSE_PEER, CODE_BAD_FRAME, CODE_BAD_TEXT,
    CODE_BINARY, CODE_LOST, CODE_NONE, CODE_TOO_LARGE, EVENT_BINARY, EVENT_HELLO, EVENT_MESSAGE,
    FINISHED, HELD, LINK_TCP, PHASE_FREE, PHASE_LOGIN, PHASE_OPEN,
    Connection, Core, Input,
)

cdef enum:
    GATHERED_BYTES_MIN = 512            # first memory of a message that comes in parts; then it doubles


cdef size_t take_frames(Core* core, Connection* connection, uint8_t* data, size_t size) noexcept nogil:
    cdef size_t taken = 0
    cdef size_t step
    cdef uint32_t left = core.bounds.turn_messages_max
    connection.flags &= ~BACKLOG
    while taken < size:
        if connection.phase != PHASE_LOGIN and connection.phase != PHASE_OPEN:
            return size  # it is being closed: the rest counts for nothing
        if left == 0 or connection.flags & HELD or core.events_size >= core.bounds.events_max:
            connection.flags |= BACKLOG
            break
        step = take_frame(core, connection, data + taken, size - taken)
        if step == 0:
            break
        taken += step
        left -= 1
    return taken


cdef size_t take_frame(Core* core, Connection* connection, uint8_t* data, size_t size) noexcept nogil:
    """Takes a frame, or of a data frame what there is. 0: not enough for either."""
    cdef FrameHeader header
    cdef int parsed
    if connection.input != NULL and connection.input.in_frame:
        return take_payload(core, connection, data, size)
    if connection.link == LINK_TCP:
        parsed = parse_tcp_header(data, size, &header)
    else:
        parsed = parse_websocket_header(data, size, True, &header)
    if parsed == 0:
        return 0
    if parsed < 0:
        fail(core, connection, <uint16_t>-parsed, "broken frame header")
        return size
    if header.opcode >= OPCODE_CLOSE:
        if size - header.size < header.length:
            return 0
        take_control(core, connection, &header, data + header.size)
        return header.size + header.length
    if not allowed(core, connection, &header):
        return size
    return header.size + begin_data(core, connection, &header, data + header.size, size - header.size)


# -- data frames -----------------------------------------------------------------------------------

cdef bint allowed(Core* core, Connection* connection, FrameHeader* header) noexcept nogil:
    """May this data frame come now? If not, the connection has failed."""
    cdef Input* input = connection.input
    cdef bint under_way = input != NULL and input.opcode != 0
    cdef uint64_t sofar = input.message_size if under_way else 0
    cdef uint64_t bytes_max = core.bounds.message_bytes_max
    if connection.phase == PHASE_LOGIN:
        bytes_max = core.bounds.hello_bytes_max
    if (header.opcode == OPCODE_CONTINUATION) != under_way:
        fail(core, connection, CODE_BAD_FRAME, "fragments out of order")
    elif header.opcode == OPCODE_BINARY and not core.bounds.echo:
        fail(core, connection, CODE_BINARY, "binary messages are not for devices to send")
    elif header.length > bytes_max - sofar:
        fail(core, connection, CODE_TOO_LARGE, "message too large")
    else:
        return True
    return False


cdef uint64_t begin_data(
    Core* core, Connection* connection, FrameHeader* header, uint8_t* payload, size_t size
) noexcept nogil:
    """Returns how many bytes of `payload`, where `size` have arrived, are taken: at most the frame's."""
    cdef Input* input = connection.input
    cdef bint whole = header.fin and size >= header.length and header.length <= ARENA_MESSAGE_BYTES_MAX
    if whole and header.opcode != OPCODE_CONTINUATION:
        take_whole(core, connection, header, payload)
        return header.length
    if input == NULL:
        input = connection.input = <Input*>calloc(1, sizeof(Input))
        if input == NULL:
            end_connection(core, connection, CODE_LOST, CAUSE_MEMORY, True)
            return size
    if header.opcode != OPCODE_CONTINUATION:
        input.opcode = header.opcode
    input.frame = header[0]
    input.frame_left = header.length
    input.in_frame = 1
    return take_payload(core, connection, payload, size)


cdef void take_whole(
    Core* core, Connection* connection, FrameHeader* header, uint8_t* payload
) noexcept nogil:
    cdef uint32_t utf8 = UTF8_ACCEPT
    if header.masked:
        unmask(payload, header.length, header.mask, 0)
    if header.opcode == OPCODE_TEXT:
        utf8 = utf8_feed(utf8, payload, header.length)
    if utf8 != UTF8_ACCEPT:
        fail(core, connection, CODE_BAD_TEXT, "text is not UTF-8")
        return
    push_message(core, connection, accept_message(core, connection, header.opcode), payload, header.length)


cdef uint16_t accept_message(Core* core, Connection* connection, uint8_t opcode) noexcept nogil:
    """Counts a whole message, and returns which event it is."""
    core.counters.messages_in += 1
    connection.seen = <uint32_t>core.now_ms
    if connection.phase == PHASE_LOGIN:
        connection.flags |= HELD
        return EVENT_HELLO
    return EVENT_BINARY if opcode == OPCODE_BINARY else EVENT_MESSAGE


cdef size_t take_payload(Core* core, Connection* connection, uint8_t* payload, size_t size) noexcept nogil:
    cdef Input* input = connection.input
    cdef uint64_t taken = min(<uint64_t>size, input.frame_left)
    if append(input, payload, taken) < 0:
        end_connection(core, connection, CODE_LOST, CAUSE_MEMORY, True)
        return size
    if input.opcode == OPCODE_TEXT and taken:  # an empty first fragment has no memory yet
        input.utf8 = utf8_feed(input.utf8, input.message + input.message_size - taken, taken)
        if input.utf8 == UTF8_REJECT:
            fail(core, connection, CODE_BAD_TEXT, "text is not UTF-8")
            return size
    if input.frame_left == 0:
        input.in_frame = 0
        connection.seen = <uint32_t>core.now_ms
        if input.frame.fin:
            finish_message(core, connection, input)
    return taken


cdef int append(Input* input, const uint8_t* payload, uint64_t size) noexcept nogil:
    """Adds to the message, unmasked. Memory grows with what arrives, not with what was announced."""
    cdef uint64_t wanted = input.message_size + size
    cdef uint8_t* grown
    if wanted > input.message_capacity:
        wanted = max(wanted, max(2 * input.message_capacity, <uint64_t>GATHERED_BYTES_MIN))
        grown = <uint8_t*>realloc(input.message, wanted)
        if grown == NULL:
            return -1
        input.message = grown
        input.message_capacity = wanted
    if size:
        grown = input.message + input.message_size
        memcpy(grown, payload, size)
        if input.frame.masked:
            unmask(grown, size, input.frame.mask, input.frame.length - input.frame_left)
    input.message_size += size
    input.frame_left -= size
    return 0


cdef void finish_message(Core* core, Connection* connection, Input* input) noexcept nogil:
    cdef uint8_t opcode = input.opcode
    if opcode == OPCODE_TEXT and input.utf8 != UTF8_ACCEPT:
        fail(core, connection, CODE_BAD_TEXT, "text is not UTF-8")
        return
    push_gathered(
        core, connection, accept_message(core, connection, opcode), input.message, input.message_size
    )
    input.message = NULL
    input.message_size = input.message_capacity = 0
    input.opcode = 0


# -- control frames --------------------------------------------------------------------------------

cdef void take_control(
    Core* core, Connection* connection, FrameHeader* header, uint8_t* payload
) noexcept nogil:
    if header.masked:
        unmask(payload, header.length, header.mask, 0)
    connection.seen = <uint32_t>core.now_ms
    if header.opcode == OPCODE_PING:
        # Answered each, in order. What waits is bounded by one turn's frames, for nothing more is read
        # from a peer before it has taken these.
        core.counters.pings += 1
        queue_message(core, connection, OPCODE_PONG, payload, header.length)
    elif header.opcode == OPCODE_CLOSE:
        take_close(core, connection, payload, header.length)


cdef void take_close(
    Core* core, Connection* connection, const uint8_t* payload, uint64_t size
) noexcept nogil:
    cdef uint16_t code = CODE_NONE
    if size >= 2:
        code = <uint16_t>(payload[0] << 8 | payload[1])
    if size == 1 or size >= 2 and not close_code_valid(code):
        fail(core, connection, CODE_BAD_FRAME, "broken close frame")
        return
    if size > 2 and utf8_feed(UTF8_ACCEPT, payload + 2, size - 2) != UTF8_ACCEPT:
        fail(core, connection, CODE_BAD_TEXT, "close reason is not UTF-8")
        return
    queue_message(core, connection, OPCODE_CLOSE, payload, min(size, <uint64_t>2))
    if connection.phase == PHASE_FREE:
        return
    begin_close(core, connection, 0, NULL, 0, CAUSE_PEER)
    connection.code = code
    connection.flags |= FINISHED
    report_closed(core, connection, code)
