"""The phases of a connection: its writes, its deadlines, its end.

    OPENING ──► LOGIN ──► OPEN ──► CLOSING ──► LINGERING ──► free
       │          └────────────────────┤             │
       └───────────────────────────────┴─────────────┴──────► free

There is one way to close politely, for every reason: the phase becomes CLOSING, nothing is read any more,
what is queued is written (a running chunk is finished, a transfer cut after it), then our FIN goes out and
whatever still arrives is thrown away until the peer's FIN, or for `close_timeout_ms`. The writing, too, has its
time (96 s: the largest chunk at 2.8 KB/s): who reads a byte now and then is never stuck, and a device that does so
could leave one connection, and one place among the downloads, behind with each login. To close a socket
with bytes unread would send RST, and RST destroys what the peer has not read yet: our error, our close frame.
Only a peer whose own close frame is here need not be waited for, and not even it below TLS: a close_notify
may follow. What lingers is read as it comes, without TLS.

Everything else ends at once: `end_connection`, the one place where a socket is closed and a slot freed.

Who is told what: Python hears of the end of a connection that it admitted, exactly once. Where the plane
decides (silence, a broken rule, a close frame) it hears at once, for nothing more will come of it; where
Python said CLOSE it hears when the socket is gone, for it knows the rest.

Invariant: WRITABLE is unset only if the kernel refused bytes, and then an edge will set it again.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset, strlen
from posix.unistd cimport close

from otagate.wire.frames cimport OPCODE_CLOSE, OPCODE_TEXT

from otagate.plane.events cimport push_closed
from otagate.plane.listener cimport rouse
from otagate.plane.output cimport drop_output, flush, queue_frame
from otagate.plane.state cimport (
    ADMITTED, BACKLOG, CAUSE_BROKEN, CAUSE_HANDSHAKE_TIMEOUT, CAUSE_HELLO_TIMEOUT, CAUSE_IMAGE,
    CAUSE_LOST, CAUSE_MEMORY, CAUSE_NONE, CAUSE_PEER, CAUSE_SILENT, CAUSE_STALLED, CODE_IMAGE, CODE_LOST,
    CODE_NONE, CODE_SILENT, CODE_STALLED, CODE_UNAUTHORIZED, DUE, FINISHED, HELD, LINK_UNKNOWN, PHASE_CLOSING,
    PHASE_FREE, PHASE_LINGERING, PHASE_LOGIN, PHASE_OPEN, PHASE_OPENING, READABLE, SHAKING,
    TRANSPORT_AGAIN, WRITABLE,
    Cause, Connection, Core, Phase,
)
from otagate.plane.strangers cimport count_stranger, forget_stranger
from otagate.plane.system cimport (
    EPOLL_CTL_ADD, EPOLLET, EPOLLIN, EPOLLOUT, EPOLLRDHUP, SHUT_WR, SIOCOUTQ, SO_LINGER, SOL_SOCKET,
    epoll_ctl, epoll_event, ioctl, linger, setsockopt, shutdown,
)
from otagate.plane.table cimport claim, number_of, release
from otagate.plane.transfer cimport (
    FEED_BLOCKED, FEED_BOUNDARY, FEED_LOST, FEED_UNREADABLE, Feed,
    abandon_transfer, feed, mid_chunk,
)
from otagate.plane.tls cimport (
    drop_below, drop_tls, has_sealed, is_clogged, is_secured, push_sealed, say_farewell, was_secured,
)
from otagate.plane.wheel cimport FOREVER, age_ms, schedule, unschedule

cdef enum:
    LOOKS = 16                          # at a reader that may be stuck, in the time that it is given
    CLOSING_STALLS = 4                  # times what a stuck reader is given: for all that is queued at a close,
                                        # and for the rest of a chunk when its transfer is stopped
    ERROR_BYTES_MAX = 256
    CLOSE_PAYLOAD_BYTES_MAX = 125

cdef const char* ERROR_HEAD = b'{"type":"error","code":"bad_message","message":"'
cdef const char* ERROR_TAIL = b'"}'


cdef Connection* open_connection(Core* core, int fd, int listener, uint16_t bucket) noexcept nogil:
    cdef epoll_event event
    cdef Connection* connection = claim(core)
    if connection == NULL:
        return NULL
    memset(&event, 0, sizeof(event))
    # All edges, once and for ever: a connection costs one epoll_ctl in its life. EPOLLOUT adds no wake-ups
    # of its own, since the kernel reports it only after it has refused bytes.
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | <uint32_t>EPOLLET
    event.data.u64 = number_of(core, connection)
    if epoll_ctl(core.epoll, EPOLL_CTL_ADD, fd, &event) < 0:
        release(core, connection)
        return NULL
    connection.fd = fd
    count_stranger(core, connection, bucket)
    connection.listener = <uint8_t>listener
    connection.flags |= WRITABLE
    enter(core, connection, PHASE_OPENING)
    return connection


cdef void enter(Core* core, Connection* connection, Phase phase) noexcept nogil:
    connection.phase = phase
    connection.since = <uint32_t>core.now_ms
    schedule(core, connection, time_left(core, connection))


# -- deadlines -------------------------------------------------------------------------------------

cdef int64_t time_left(Core* core, Connection* connection) noexcept nogil:
    """Milliseconds to the connection's deadline; FOREVER: it has none.

    While output waits for the peer, the peer is judged by what it reads: what it sends, we do not read.
    """
    cdef int64_t left = FOREVER, stall_ms = core.bounds.write_stall_timeout_ms
    if connection.phase == PHASE_OPENING:
        left = core.bounds.handshake_timeout_ms - age_ms(core, connection.since)
    elif connection.phase == PHASE_LOGIN:
        left = core.bounds.hello_timeout_ms - age_ms(core, connection.since)
    elif connection.phase == PHASE_CLOSING:
        left = CLOSING_STALLS * stall_ms - age_ms(core, connection.since)
    elif connection.phase == PHASE_LINGERING:
        left = core.bounds.close_timeout_ms - age_ms(core, connection.since)
    elif connection.phase == PHASE_OPEN and connection.flags & WRITABLE and core.bounds.heartbeat_timeout_ms:
        left = core.bounds.heartbeat_timeout_ms - age_ms(core, connection.seen)
    if not connection.flags & WRITABLE and connection.phase != PHASE_LINGERING:
        left = min(left, stall_ms - age_ms(core, connection.progress))
    if connection.transfer != NULL and connection.transfer.ending:
        left = min(left, CLOSING_STALLS * stall_ms - age_ms(core, connection.transfer.stopped))
    return left


cdef bint is_stuck(Core* core, Connection* connection) noexcept nogil:
    """Reads nothing; or keeps its place among the downloads by reading the last chunk in sips."""
    cdef int64_t stall_ms = core.bounds.write_stall_timeout_ms
    if connection.transfer != NULL and connection.transfer.ending:
        if age_ms(core, connection.transfer.stopped) >= CLOSING_STALLS * stall_ms:
            return True
    return not connection.flags & WRITABLE and age_ms(core, connection.progress) >= stall_ms


cdef void schedule_look(Core* core, Connection* connection) noexcept nogil:
    """Look at it at its deadline; while output waits LOOKS times before that, since progress is known by
    looking alone: a reader that stops is ended so much of its time late, at most, and a tick."""
    cdef int64_t left = time_left(core, connection)
    if not connection.flags & WRITABLE:
        left = min(left, core.bounds.write_stall_timeout_ms // LOOKS)
    schedule(core, connection, left)


cdef void meet_deadline(Core* core, Connection* connection) noexcept nogil:
    connection.flags &= ~DUE
    if not connection.flags & WRITABLE:
        look_for_progress(core, connection)
    if time_left(core, connection) > 0:
        schedule_look(core, connection)
    elif connection.phase == PHASE_LINGERING:
        end_connection(core, connection, CODE_LOST, CAUSE_LOST, False)
    elif connection.phase == PHASE_OPENING:
        end_connection(core, connection, CODE_LOST, CAUSE_HANDSHAKE_TIMEOUT, True)
    elif is_stuck(core, connection) or connection.phase == PHASE_CLOSING:
        end_connection(core, connection, CODE_STALLED, CAUSE_STALLED, True)
    elif connection.phase == PHASE_LOGIN:
        begin_close(core, connection, CODE_UNAUTHORIZED, NULL, 0, CAUSE_HELLO_TIMEOUT)
    else:
        begin_close(core, connection, CODE_SILENT, NULL, 0, CAUSE_SILENT)
        report_closed(core, connection, CODE_SILENT)


cdef uint32_t bytes_unacknowledged(Connection* connection) noexcept nogil:
    cdef int count = 0
    ioctl(connection.fd, SIOCOUTQ, &count)
    return <uint32_t>count


cdef void block(Core* core, Connection* connection) noexcept nogil:
    """The kernel takes no more for now."""
    if core.write_bytes_max:
        return  # a test's limit: the kernel has refused nothing, no edge would follow
    connection.flags &= ~WRITABLE
    connection.progress = <uint32_t>core.now_ms
    connection.unacknowledged = bytes_unacknowledged(connection)
    schedule_look(core, connection)


cdef void look_for_progress(Core* core, Connection* connection) noexcept nogil:
    # The edge comes when a third of the send buffer is free, which takes a slow reader longer than a stuck
    # one is given. Any byte acknowledged since is progress, and a sign of life.
    cdef uint32_t count = bytes_unacknowledged(connection)
    if count < connection.unacknowledged:
        connection.unacknowledged = count
        connection.progress = connection.seen = <uint32_t>core.now_ms


# -- writing ---------------------------------------------------------------------------------------

cdef bint may_read(Connection* connection) noexcept nogil:
    """What waits may be taken: nobody may send who does not read."""
    if connection.phase == PHASE_LINGERING:
        return connection.flags & READABLE != 0
    if connection.phase == PHASE_FREE or connection.phase == PHASE_CLOSING:
        return False
    return (
        connection.flags & (READABLE | BACKLOG) != 0
        and not connection.flags & HELD
        and connection.output == NULL
        and not is_clogged(connection)
    )


cdef bint may_write(Connection* connection) noexcept nogil:
    cdef bint runs = connection.transfer != NULL and connection.transfer.running
    return connection.flags & WRITABLE != 0 and (
        connection.output != NULL or runs or has_sealed(connection)
    )


cdef bint wants_turn(Connection* connection) noexcept nogil:
    return may_read(connection) or may_write(connection)


cdef void queue_message(
    Core* core, Connection* connection, uint8_t opcode, const uint8_t* payload, uint64_t size
) noexcept nogil:
    if queue_frame(core, connection, opcode, payload, size) < 0:
        end_connection(core, connection, CODE_LOST, CAUSE_MEMORY, True)


cdef void write_turn(Core* core, Connection* connection, int64_t* left) noexcept nogil:
    cdef bint chunk
    cdef ssize_t flushed
    while True:
        chunk = connection.transfer != NULL and mid_chunk(connection.transfer)
        if connection.phase == PHASE_CLOSING and not chunk:
            abandon_transfer(core, connection)
            if connection.output == NULL and not has_sealed(connection):
                finish_close(core, connection)
                if connection.phase != PHASE_CLOSING:
                    return
        if has_sealed(connection):
            if not sealed_turn(core, connection):
                return
            continue
        if not may_write(connection):
            return
        if chunk or connection.output == NULL:
            if left[0] <= 0 or not feed_turn(core, connection, left):
                return
        else:
            flushed = flush(core, connection)
            if flushed == TRANSPORT_AGAIN:
                block(core, connection)
                return
            if flushed < 0:
                end_connection(core, connection, CODE_LOST, CAUSE_LOST, False)
                return


cdef bint sealed_turn(Core* core, Connection* connection) noexcept nogil:
    """True: nothing waits any more, go on."""
    cdef ssize_t pushed
    if not connection.flags & WRITABLE:
        return False
    pushed = push_sealed(core, connection)
    if pushed == TRANSPORT_AGAIN:
        block(core, connection)
    elif pushed < 0:
        end_connection(core, connection, CODE_LOST, CAUSE_LOST, False)
    return pushed == 0


cdef bint feed_turn(Core* core, Connection* connection, int64_t* left) noexcept nogil:
    """True: at a boundary between chunks, go on."""
    cdef Feed outcome = feed(core, connection, left)
    if outcome == FEED_BLOCKED:
        block(core, connection)
    elif outcome == FEED_LOST:
        end_connection(core, connection, CODE_LOST, CAUSE_LOST, False)
    elif outcome == FEED_UNREADABLE:
        end_connection(core, connection, CODE_IMAGE, CAUSE_IMAGE, True)
    return outcome == FEED_BOUNDARY


# -- closing ---------------------------------------------------------------------------------------

cdef void report_closed(Core* core, Connection* connection, uint16_t code) noexcept nogil:
    if connection.flags & ADMITTED:
        connection.flags &= ~ADMITTED
        push_closed(core, number_of(core, connection), connection.identity.device, code)


cdef void drop_input(Connection* connection) noexcept nogil:
    if connection.input != NULL:
        free(connection.input.held)
        free(connection.input.message)
        free(connection.input)
        connection.input = NULL


cdef void end_connection(
    Core* core, Connection* connection, uint16_t code, Cause cause, bint reset
) noexcept nogil:
    cdef linger at_once
    if connection.cause != CAUSE_NONE:  # decided when the close began
        cause = <Cause>connection.cause
        code = connection.code
    report_closed(core, connection, code)
    core.counters.ended[<int>cause] += 1
    if connection.link != LINK_UNKNOWN:
        core.counters.live[connection.link] -= 1
    forget_stranger(core, connection)
    abandon_transfer(core, connection)
    drop_output(core, connection)
    drop_input(connection)
    drop_below(core, connection)
    unschedule(core, connection)
    if reset:
        at_once.l_onoff = 1
        at_once.l_linger = 0
        setsockopt(connection.fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once))
    close(connection.fd)  # the only descriptor of this socket, so epoll forgets it
    release(core, connection)
    rouse(core)


cdef void begin_close(
    Core* core, Connection* connection, uint16_t code, const uint8_t* reason, uint64_t size, Cause cause
) noexcept nogil:
    cdef uint8_t payload[CLOSE_PAYLOAD_BYTES_MAX]
    connection.cause = cause
    connection.code = code if code else CODE_NONE
    connection.flags &= ~(HELD | BACKLOG | SHAKING)
    drop_input(connection)
    enter(core, connection, PHASE_CLOSING)
    if code:
        size = min(size, <uint64_t>CLOSE_PAYLOAD_BYTES_MAX - 2)
        payload[0] = <uint8_t>(code >> 8)
        payload[1] = <uint8_t>code
        if size:
            memcpy(payload + 2, reason, size)
        queue_message(core, connection, OPCODE_CLOSE, payload, size + 2)


cdef void finish_close(Core* core, Connection* connection) noexcept nogil:
    """All is written: close_notify, FIN."""
    if is_secured(connection):
        say_farewell(core, connection)
        if push_sealed(core, connection) == TRANSPORT_AGAIN:
            drop_tls(core, connection)
            return
        drop_tls(core, connection)
    if connection.flags & FINISHED and not was_secured(connection):
        end_connection(core, connection, CODE_LOST, CAUSE_PEER, False)
    elif shutdown(connection.fd, SHUT_WR) < 0:
        end_connection(core, connection, CODE_LOST, CAUSE_LOST, False)
    else:
        enter(core, connection, PHASE_LINGERING)


cdef void fail(Core* core, Connection* connection, uint16_t code, const char* what) noexcept nogil:
    cdef uint8_t text[ERROR_BYTES_MAX]
    cdef size_t head = strlen(ERROR_HEAD)
    cdef size_t middle = strlen(what)
    cdef size_t tail = strlen(ERROR_TAIL)
    if not core.bounds.echo and head + middle + tail <= ERROR_BYTES_MAX:
        memcpy(text, ERROR_HEAD, head)
        memcpy(text + head, what, middle)
        memcpy(text + head + middle, ERROR_TAIL, tail)
        queue_message(core, connection, OPCODE_TEXT, text, head + middle + tail)
        if connection.phase == PHASE_FREE:
            return
    begin_close(core, connection, code, <const uint8_t*>what, strlen(what), CAUSE_BROKEN)
    if connection.phase != PHASE_FREE:
        report_closed(core, connection, code)
