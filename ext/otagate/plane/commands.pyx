"""What Python orders.

An order changes the connection and touches it; nothing is written until all orders of one `apply` are
carried out, so a connection that gets several messages gets them in one send. Files are streamed in the
turns of the next drain.

Whoever orders knows a connection by a number that may be stale by now. Then nothing happens, with one
exception: Python that admits a connection believes it to be online from then on, so it is told CLOSED.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from otagate.plane.connection cimport (
    begin_close, end_connection, enter, queue_message, wants_turn, write_turn,
)
from otagate.plane.events cimport push_closed, push_transfer
from otagate.plane.state cimport (
    ADMITTED, CAUSE_COMMANDED, CAUSE_MEMORY, CAUSE_OVERFLOWED, CODE_LOST, CODE_OVERFLOWED, END_FAILED,
    EVENT_ENDED, HELD, LINK_TCP, PHASE_FREE, PHASE_LOGIN, PHASE_OPEN,
    Connection, Core, Job,
)
from otagate.plane.strangers cimport forget_stranger
from otagate.plane.table cimport enqueue, find, has_turns, touch, untouch
from otagate.plane.tls cimport drop_certificate
from otagate.plane.transfer cimport begin_transfer, find_image, has_digests, stop_transfer
from otagate.plane.wheel cimport wake

cdef enum:
    TCP_PAYLOAD_BYTES_MAX = 0xFFFFFF    # a length of 24 bits


cdef Connection* find_session(Core* core, uint64_t number) noexcept nogil:
    """NULL: stale, or being closed."""
    cdef Connection* connection = find(core, number)
    if connection != NULL and connection.phase != PHASE_LOGIN and connection.phase != PHASE_OPEN:
        return NULL
    return connection


cdef Connection* find_admitted(Core* core, uint64_t number) noexcept nogil:
    cdef Connection* connection = find_session(core, number)
    if connection != NULL and connection.phase != PHASE_OPEN:
        return NULL
    return connection


cdef void order_send(
    Core* core, uint64_t number, uint8_t opcode, const uint8_t* payload, uint64_t size
) noexcept nogil:
    cdef Connection* connection = find_session(core, number)
    if connection == NULL:
        return
    if connection.output_size + size > core.bounds.output_bytes_max or (
        connection.link == LINK_TCP and size > TCP_PAYLOAD_BYTES_MAX
    ):
        end_connection(core, connection, CODE_OVERFLOWED, CAUSE_OVERFLOWED, True)
        return
    core.counters.messages_out += 1
    touch(core, connection)
    queue_message(core, connection, opcode, payload, size)


cdef void order_admit(Core* core, uint64_t number, uint64_t device) noexcept nogil:
    cdef Connection* connection = find_session(core, number)
    if connection == NULL:
        push_closed(core, number, device, CODE_LOST)
        return
    connection.identity.device = device
    if connection.phase == PHASE_OPEN:
        return
    forget_stranger(core, connection)
    connection.flags &= ~HELD
    connection.flags |= ADMITTED
    drop_certificate(connection)
    connection.seen = <uint32_t>core.now_ms
    enter(core, connection, PHASE_OPEN)
    touch(core, connection)


cdef void order_retry(Core* core, uint64_t number) noexcept nogil:
    cdef Connection* connection = find_session(core, number)
    if connection != NULL:
        connection.flags &= ~HELD
        touch(core, connection)


cdef bint streamable(const Job* job) noexcept nogil:
    return (
        job.image != NULL
        and job.image.fd >= 0
        and job.offset < job.end <= job.image.size
        and has_digests(job.image, job.chunk_size)
    )


cdef void order_stream(Core* core, uint64_t number, uint64_t image, Job* job) noexcept nogil:
    cdef Connection* connection = find_admitted(core, number)
    if connection == NULL:
        return
    job.image = find_image(core, image)
    if not streamable(job):
        stop_transfer(core, connection, -1)  # the device expects no more of it
        push_transfer(core, connection, EVENT_ENDED, job.transfer, END_FAILED)
        return
    if begin_transfer(core, connection, job) < 0:
        end_connection(core, connection, CODE_LOST, CAUSE_MEMORY, True)
        return
    touch(core, connection)


cdef void order_stop(Core* core, uint64_t number, int64_t transfer) noexcept nogil:
    cdef Connection* connection = find_admitted(core, number)
    if connection != NULL:
        stop_transfer(core, connection, transfer)


cdef void order_close(
    Core* core, uint64_t number, uint16_t code, const uint8_t* reason, uint64_t size
) noexcept nogil:
    cdef Connection* connection = find_session(core, number)
    if connection != NULL:
        touch(core, connection)
        begin_close(core, connection, code, reason, size, CAUSE_COMMANDED)


cdef void flush_touched(Core* core) noexcept nogil:
    cdef Connection* connection
    cdef int64_t left = 0  # bytes of files: none here
    while core.touched_first:
        connection = untouch(core)
        if connection == NULL:
            continue
        write_turn(core, connection, &left)
        if connection.phase != PHASE_FREE and wants_turn(connection):
            enqueue(core, connection)
    if has_turns(core) or core.events_size:
        wake(core)
