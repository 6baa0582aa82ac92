"""The plane's turns: poll, accept, read, write.

A drain goes in rounds. Each polls epoll without waiting, which puts connections on the ready list, and then
gives one turn to every connection that was on the list when the round began. A turn is bounded: one receive
and at most `turn_messages_max` frames, `turn_sendfile_bytes_max` bytes of file. Who wants more goes to the
end of the list and keeps its turn for the next round, so a flood and a download take turns with everyone.

The clock is read before each unit of work, and the drain ends when its budget is used up; when events wait
for Python, at the end of the round (so that one connection gives at most `turn_messages_max` messages to a
drain, and answers cannot pile up behind them); when nothing is left to do. Rounds without events (handshakes,
pings, downloads) follow one another within the budget and wake no Python.

A download's turn is as long as thirty messages' turns, so who has but a file to send waits in a line of its
own, and a slice of each round, `stream_ns`, is for that line. A message waits for a slice, never for a turn of
each of 1,000 downloads; and downloads get their slice however many messages there are.

A TLS handshake costs as much as a hundred messages, so those in one wait in a line of their own behind
everybody else's turns, and few of them get one in a drain. A fleet that returns is let in as fast as the
handshakes go, and meanwhile nobody waits for more than these few.

Edge-triggered epoll tells once. Invariant: a connection whose READABLE is set and that may be read, or whose
WRITABLE is set and that has something to write, is on the ready list or in its turn.
"""

from libc.errno cimport EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM, errno
from libc.stdint cimport UINT32_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset
from posix.unistd cimport close

from otagate.plane.connection cimport (
    begin_close, drop_input, end_connection, enter, may_read, meet_deadline, open_connection, wants_turn,
    write_turn,
)
from otagate.plane.events cimport create_events, destroy_events
from otagate.plane.intake cimport take_frames
from otagate.plane.listener cimport drop_listeners, rest, rouse, tag_of_alarm, tag_of_listener, tag_of_timer
from otagate.plane.opening cimport take_opening
from otagate.plane.output cimport destroy_pool
from otagate.plane.proxy cimport is_trusted
from otagate.plane.state cimport (
    BACKLOG, BROKEN, CAUSE_LOST, CAUSE_MEMORY, CAUSE_SHUTDOWN, CAUSE_TLS, CODE_LOST, DUE, HANGUP,
    LISTENERS_MAX,
    NONCE_POOL_BYTES, PHASE_FREE, PHASE_LINGERING, PHASE_LOGIN, PHASE_OPEN, PHASE_OPENING,
    POLL_EVENTS_MAX, READABLE, READ_BYTES_ECHO, READ_BYTES_SESSION, READ_BYTES_STRANGER, SCRATCH_BYTES,
    SHAKING, TRANSPORT_AGAIN, TRANSPORT_REFUSED, WRITABLE,
    Bounds, Connection, Core, Input, Line,
)
from otagate.plane.system cimport (
    EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP,
    SOCK_CLOEXEC, SOCK_NONBLOCK, accept4, epoll_create1, epoll_ctl, epoll_event, epoll_wait,
    sockaddr, sockaddr_storage, socklen_t,
)
from otagate.plane.strangers cimport create_strangers, destroy_strangers, find_bucket
from otagate.plane.table cimport create_table, dequeue, destroy_table, enqueue, find
from otagate.plane.transfer cimport destroy_images
from otagate.plane.tls cimport begin_tls, destroy_tls, finish_handshake, has_more
from otagate.plane.transport cimport receive
from otagate.plane.wheel cimport arm_timer, create_wheel, destroy_wheel, read_clock, turn_wheel

cdef enum:
    ACCEPTS_MAX = 64                    # of one listener in a round


# -- life ------------------------------------------------------------------------------------------

cdef int watch_timer(Core* core, int timer, uint64_t tag) noexcept nogil:
    cdef epoll_event event
    memset(&event, 0, sizeof(event))
    event.events = EPOLLIN | <uint32_t>EPOLLET
    event.data.u64 = tag
    return epoll_ctl(core.epoll, EPOLL_CTL_ADD, timer, &event)


cdef Core* create_core(const Bounds* bounds, int* failure) noexcept nogil:
    cdef int index
    cdef Core* core = <Core*>calloc(1, sizeof(Core))
    if core == NULL:
        failure[0] = ENOMEM
        return NULL
    core.bounds = bounds[0]
    core.timer = core.alarm = -1
    for index in range(LISTENERS_MAX):
        core.listeners[index].fd = -1
    core.epoll = epoll_create1(EPOLL_CLOEXEC)
    core.scratch = <uint8_t*>malloc(SCRATCH_BYTES)
    core.nonces = <uint8_t*>malloc(NONCE_POOL_BYTES)
    core.nonces_used = NONCE_POOL_BYTES
    if (
        core.epoll < 0 or core.scratch == NULL or core.nonces == NULL or create_table(core) < 0
        or create_events(core) < 0 or create_wheel(core) < 0 or create_strangers(core) < 0
        or watch_timer(core, core.timer, tag_of_timer()) < 0
        or watch_timer(core, core.alarm, tag_of_alarm()) < 0
    ):
        failure[0] = errno
        destroy_core(core)
        return NULL
    return core


cdef void destroy_core(Core* core) noexcept nogil:
    cdef uint32_t slot
    drop_listeners(core)
    for slot in range(1, core.slots_used + 1):
        if core.connections[slot].phase != PHASE_FREE:
            end_connection(core, core.connections + slot, CODE_LOST, CAUSE_SHUTDOWN, False)
    destroy_images(core)
    destroy_events(core)
    destroy_wheel(core)
    destroy_pool(core)
    destroy_strangers(core)
    destroy_table(core)
    destroy_tls(core)
    free(core.nonces)
    free(core.scratch)
    if core.epoll >= 0:
        close(core.epoll)
    free(core)


# -- rounds ----------------------------------------------------------------------------------------

cdef void run(Core* core, int64_t budget_ns) noexcept nogil:
    cdef int polled
    cdef int64_t end_ns
    read_clock(core)
    end_ns = core.now_ns + budget_ns
    core.arena_used = 0
    core.handshakes_left = core.bounds.handshakes_max
    while core.events_size < core.bounds.events_max:
        turn_wheel(core)
        polled = poll(core, end_ns)
        if (
            polled <= 0 and core.ready.count == 0 and core.streaming.count == 0
            and (core.shaking.count == 0 or core.handshakes_left == 0)
        ):
            break
        stream(core, end_ns)
        run_round(core, end_ns)
        shake_hands(core, end_ns)
        if core.events_size or core.now_ns >= end_ns:
            break
    arm_timer(core)


cdef uint32_t give_turns(
    Core* core, Line* line, uint32_t most, uint32_t events_max, int64_t end_ns
) noexcept nogil:
    """To the first ones of a line, until the time or the room for events is used up. How many it gave."""
    cdef Connection* connection
    cdef uint32_t given = 0
    while given < most and core.events_size < events_max:
        given += 1
        connection = dequeue(core, line)
        if connection != NULL:
            take_turn(core, connection)
        read_clock(core)
        if core.now_ns >= end_ns:
            break
    return given


cdef void run_round(Core* core, int64_t end_ns) noexcept nogil:
    give_turns(core, &core.ready, core.ready.count, core.bounds.events_max, end_ns)


cdef void stream(Core* core, int64_t end_ns) noexcept nogil:
    """Before the messages, whose events may end the round; one turn at least."""
    end_ns = min(end_ns, core.now_ns + core.bounds.stream_ns)
    give_turns(core, &core.streaming, core.streaming.count, core.bounds.events_max, end_ns)


cdef void shake_hands(Core* core, int64_t end_ns) noexcept nogil:
    """A handshake is 100 times a message's work, so there are few of them in a drain; but one there is,
    however much else there was to do. They need no room for events, or a flood of messages, which leaves
    none, would keep all who begin out: frames behind a handshake wait where there is none (`take_frames`)."""
    cdef uint32_t most = min(core.shaking.count, core.handshakes_left)
    core.handshakes_left -= give_turns(core, &core.shaking, most, UINT32_MAX, end_ns)


cdef int poll(Core* core, int64_t end_ns) noexcept nogil:
    cdef epoll_event events[POLL_EVENTS_MAX]
    cdef uint64_t tag
    cdef int i
    cdef int count = epoll_wait(core.epoll, events, POLL_EVENTS_MAX, 0)
    for i in range(count):
        tag = events[i].data.u64
        if tag == tag_of_timer():
            core.timer_armed = core.timer_woken = False
            rouse(core)
        elif tag == tag_of_alarm():
            pass  # it has woken Python
        elif tag >= tag_of_listener(0):
            accept_batch(core, <int>(tag - tag_of_listener(0)), end_ns)
        else:
            note(core, find(core, tag), events[i].events)
    return count


cdef void note(Core* core, Connection* connection, uint32_t happened) noexcept nogil:
    if connection == NULL:
        return  # it ended after the kernel noted this
    if happened & (EPOLLIN | EPOLLRDHUP | EPOLLERR | EPOLLHUP):
        connection.flags |= READABLE
    if happened & (EPOLLRDHUP | EPOLLERR | EPOLLHUP):
        connection.flags |= HANGUP
    if happened & (EPOLLERR | EPOLLHUP):
        connection.flags |= BROKEN
    if happened & EPOLLOUT and not connection.flags & WRITABLE:
        connection.flags |= WRITABLE
        connection.seen = <uint32_t>core.now_ms  # it has acknowledged bytes: a sign of life
    if connection.flags & BROKEN or wants_turn(connection):
        enqueue(core, connection)


cdef void accept_batch(Core* core, int index, int64_t end_ns) noexcept nogil:
    cdef int fd, i
    cdef uint16_t bucket
    cdef sockaddr_storage address
    cdef socklen_t size
    for i in range(ACCEPTS_MAX):
        if core.count >= core.bounds.connections_max:
            rest(core)
            return
        size = sizeof(address)
        fd = accept4(core.listeners[index].fd, <sockaddr*>&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
        bucket = 0  # a proxy is not counted, but those for whom it speaks
        if fd >= 0 and not is_trusted(core, &address) and not find_bucket(core, &address, &bucket):
            close(fd)
            core.counters.refused_strangers += 1
        elif fd >= 0:
            if open_connection(core, fd, index, bucket) == NULL:
                close(fd)
                core.counters.accept_failures += 1
                rest(core)
                return
            core.counters.accepted += 1
        elif errno == EAGAIN:
            return
        elif errno in (EMFILE, ENFILE, ENOBUFS, ENOMEM):
            core.counters.accept_failures += 1
            rest(core)
            return
        # Any other error is of the connection that would have been accepted (accept(2)): go on.
        read_clock(core)
        if core.now_ns >= end_ns:
            return


# -- a turn ----------------------------------------------------------------------------------------

cdef void take_turn(Core* core, Connection* connection) noexcept nogil:
    cdef int64_t left = core.bounds.turn_sendfile_bytes_max
    if connection.flags & DUE:
        meet_deadline(core, connection)
    if connection.phase != PHASE_FREE:
        write_turn(core, connection, &left)
    if connection.phase != PHASE_FREE and may_read(connection):
        read_turn(core, connection)
        if connection.phase != PHASE_FREE:
            write_turn(core, connection, &left)
    if connection.phase == PHASE_FREE:
        return
    if connection.flags & BROKEN and not may_read(connection):
        end_connection(core, connection, CODE_LOST, CAUSE_LOST, False)
    elif wants_turn(connection):
        enqueue(core, connection)


cdef ssize_t read_bytes(Core* core, Connection* connection, uint8_t* buffer) noexcept nogil:
    """Bytes received; 0: none now, or the connection has ended."""
    cdef size_t size = READ_BYTES_STRANGER
    cdef ssize_t received
    cdef bint more
    if core.bounds.echo or connection.phase == PHASE_LINGERING:
        size = READ_BYTES_ECHO
    elif connection.phase == PHASE_OPEN:
        size = READ_BYTES_SESSION
    received = receive(core, connection, buffer, size)
    more = has_more(core, connection)
    if connection.flags & SHAKING and not shaken(core, connection):
        return 0
    if received > 0:
        # A short count means that nothing is left, and an edge will follow: one call less for each message.
        # But a FIN that is already here gives no further edge, so it is read for.
        if <size_t>received < size and not connection.flags & HANGUP and not more:
            connection.flags &= ~READABLE
        return received
    if received == TRANSPORT_AGAIN:
        if not more:
            connection.flags &= ~READABLE
    elif received == TRANSPORT_REFUSED and connection.phase == PHASE_OPENING:
        begin_close(core, connection, 0, NULL, 0, CAUSE_TLS)  # politely, or the alert would not be read
    else:
        end_connection(core, connection, CODE_LOST, CAUSE_LOST, False)
    return 0


cdef bint shaken(Core* core, Connection* connection) noexcept nogil:
    """True: go on. The handshake's time was its own; that of the head, or preface, begins."""
    cdef int finished = finish_handshake(core, connection)
    if finished < 0:
        end_connection(core, connection, CODE_LOST, CAUSE_MEMORY, True)
    elif finished > 0:
        enter(core, connection, PHASE_OPENING)
    return finished >= 0


cdef void read_turn(Core* core, Connection* connection) noexcept nogil:
    cdef Input* input = connection.input
    cdef size_t held = 0
    cdef size_t size
    cdef size_t taken = 0
    cdef ssize_t fresh = 0
    cdef uint8_t* data = core.scratch
    if connection.phase == PHASE_LINGERING:
        read_bytes(core, connection, core.scratch)  # thrown away
        return
    if input != NULL and input.held_size:
        held = input.held_size
        memcpy(core.scratch, input.held, held)
    if connection.flags & SHAKING and connection.flags & BACKLOG:
        # What has come of the ClientHello waited for this turn. What is inside of TLS is read behind it.
        connection.flags &= ~BACKLOG
        drop_input(connection)
        if begin_tls(core, connection, data, held) < 0:
            end_connection(core, connection, CODE_LOST, CAUSE_MEMORY, True)
            return
        data += held
        held = 0
    if not connection.flags & BACKLOG:
        fresh = read_bytes(core, connection, data + held)
        if fresh == 0:
            return
    size = held + <size_t>fresh
    if connection.phase == PHASE_OPENING:
        taken = take_opening(core, connection, data, size, <size_t>fresh)
    if taken < size and (connection.phase == PHASE_LOGIN or connection.phase == PHASE_OPEN):
        taken += take_frames(core, connection, data + taken, size - taken)
    if connection.phase != PHASE_FREE and hold(connection, data + taken, size - taken) < 0:
        end_connection(core, connection, CODE_LOST, CAUSE_MEMORY, True)


cdef int hold(Connection* connection, const uint8_t* rest, size_t size) noexcept nogil:
    """Keeps what was not taken; with nothing to keep, frees all that can be."""
    cdef Input* input = connection.input
    cdef uint8_t* held
    if size == 0:
        if input != NULL:
            free(input.held)
            input.held = NULL
            input.held_size = 0
            if input.opcode == 0:
                drop_input(connection)
        return 0
    if input == NULL:
        input = connection.input = <Input*>calloc(1, sizeof(Input))
        if input == NULL:
            return -1
    held = <uint8_t*>realloc(input.held, size)
    if held == NULL:
        return -1
    memcpy(held, rest, size)
    input.held = held
    input.held_size = <uint32_t>size
    return 0
