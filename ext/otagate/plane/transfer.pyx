"""Images, and downloads by sendfile.

A transfer is a connection's place among the downloads: it runs, or it waits in line while `transfers_max`
others run. What it sends is its job. A new STREAM changes the job and keeps the place.

A chunk is one frame: the frame's header and the chunk's header (the prefix, sent with MSG_MORE), then bytes
of the file. A write may stop at any byte of it: `prefix_sent` and `position` say where to go on.

Invariant: a chunk whose first byte has left (`mid_chunk`) is finished before anything else is written to
that connection. Whatever is asked meanwhile (stop, replacement, close, messages) is noted, and done at the
boundary, which has to come in time (connection.time_left). Where no byte has left, it is done at once.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy
from posix.unistd cimport close

from otagate.wire.frames cimport (
    CHUNK_HEADER_BYTES, OPCODE_BINARY, write_chunk_header, write_tcp_header, write_websocket_header,
)

from otagate.plane.events cimport push_transfer
from otagate.plane.state cimport (
    CHUNK_BITS_MIN, CHUNK_SIZES, END_DONE, END_FAILED, END_NOT, END_REPLACED, END_STOPPED,
    EVENT_ENDED, EVENT_STARTED, LINK_TCP, PHASE_OPEN, TRANSPORT_AGAIN, TRANSPORT_UNREADABLE,
    Connection, Core, Image, Job, Transfer,
)
from otagate.plane.system cimport SO_SNDBUF, SOL_SOCKET, iovec, setsockopt
from otagate.plane.table cimport enqueue, slot_of
from otagate.plane.transport cimport send_file, send_vector

cdef enum:
    TURN_CHUNKS_MAX = 32                # two calls each: they bound a turn of small ones


# -- images ----------------------------------------------------------------------------------------

cdef Image* find_image(Core* core, uint64_t number) noexcept nogil:
    # A list: a gateway streams a handful of images at a time.
    cdef Image* image = core.images
    while image != NULL and (image.number != number or image.dropped):
        image = image.next
    return image


cdef Image* add_image(Core* core, uint64_t number, int fd, uint64_t size) noexcept nogil:
    cdef Image* image = <Image*>calloc(1, sizeof(Image))
    if image == NULL:
        return NULL
    image.number = number
    image.fd = fd
    image.size = size
    image.next = core.images
    core.images = image
    return image


cdef uint32_t chunk_index(uint32_t chunk_size) noexcept nogil:
    """The place of this power of two among the chunk sizes."""
    cdef uint32_t index = 0
    while index < CHUNK_SIZES - 1 and (<uint32_t>1 << CHUNK_BITS_MIN + index) < chunk_size:
        index += 1
    return index


cdef bint has_digests(const Image* image, uint32_t chunk_size) noexcept nogil:
    return image.digests[chunk_index(chunk_size)] != NULL


cdef int set_digests(Image* image, uint32_t chunk_size, const uint8_t* table, size_t size) noexcept nogil:
    cdef uint32_t index = chunk_index(chunk_size)
    cdef uint8_t* copy = <uint8_t*>malloc(size)
    if copy == NULL:
        return -1
    memcpy(copy, table, size)
    free(image.digests[index])
    image.digests[index] = copy
    return 0


cdef void free_image(Core* core, Image* image) noexcept nogil:
    cdef Image** link = &core.images
    cdef int index
    while link[0] != image:
        link = &link[0].next
    link[0] = image.next
    if image.fd >= 0:
        close(image.fd)
    for index in range(CHUNK_SIZES):
        free(image.digests[index])
    free(image)


cdef void drop_image(Core* core, Image* image) noexcept nogil:
    image.dropped = True
    if image.transfers == 0:
        free_image(core, image)


cdef void release_image(Core* core, Image* image) noexcept nogil:
    image.transfers -= 1
    if image.dropped and image.transfers == 0:
        free_image(core, image)


cdef void destroy_images(Core* core) noexcept nogil:
    while core.images != NULL:
        free_image(core, core.images)


# -- places ----------------------------------------------------------------------------------------

cdef void join_line(Core* core, Transfer* transfer) noexcept nogil:
    transfer.previous = core.waiting_last
    transfer.following = NULL
    if core.waiting_last != NULL:
        core.waiting_last.following = transfer
    else:
        core.waiting_first = transfer
    core.waiting_last = transfer
    core.waiting += 1


cdef void leave_line(Core* core, Transfer* transfer) noexcept nogil:
    if transfer.previous != NULL:
        transfer.previous.following = transfer.following
    else:
        core.waiting_first = transfer.following
    if transfer.following != NULL:
        transfer.following.previous = transfer.previous
    else:
        core.waiting_last = transfer.previous
    core.waiting -= 1


cdef int share_of_sndbuf(Core* core) noexcept nogil:
    """What is under way to all readers is to stay in the processor's cache until they read it."""
    cdef int share = core.bounds.streaming_sndbuf_bytes // <int>core.running
    return min(max(share, <int>core.bounds.output_bytes_max), core.bounds.sndbuf_bytes)


cdef void run_waiting(Core* core) noexcept nogil:
    cdef int sndbuf
    cdef Transfer* transfer
    cdef Connection* connection
    while core.running < core.bounds.transfers_max and core.waiting_first != NULL:
        transfer = core.waiting_first
        leave_line(core, transfer)
        transfer.running = 1
        core.running += 1
        connection = core.connections + transfer.slot
        sndbuf = share_of_sndbuf(core)
        setsockopt(connection.fd, SOL_SOCKET, SO_SNDBUF, &sndbuf, sizeof(sndbuf))
        enqueue(core, connection)


cdef void free_transfer(Core* core, Connection* connection) noexcept nogil:
    """Gives up the place; the next in line gets it."""
    cdef Transfer* transfer = connection.transfer
    connection.transfer = NULL
    if transfer.running:
        core.running -= 1
    else:
        leave_line(core, transfer)
    free(transfer)
    run_waiting(core)


cdef void end_job(Core* core, Connection* connection, Job* job, uint16_t reason) noexcept nogil:
    push_transfer(core, connection, EVENT_ENDED, job.transfer, reason)
    core.counters.transfers_ended += 1
    release_image(core, job.image)


cdef int begin_transfer(Core* core, Connection* connection, const Job* job) noexcept nogil:
    cdef Transfer* transfer = connection.transfer
    if transfer == NULL:
        transfer = <Transfer*>calloc(1, sizeof(Transfer))
        if transfer == NULL:
            return -1
        transfer.slot = slot_of(core, connection)
        transfer.job = job[0]
        connection.transfer = transfer
        join_line(core, transfer)
    elif transfer.replaced:
        end_job(core, connection, &transfer.successor, END_REPLACED)
        transfer.successor = job[0]
    elif mid_chunk(transfer):
        transfer.successor = job[0]
        transfer.replaced = 1
    else:
        end_job(core, connection, &transfer.job, END_REPLACED)
        transfer.job = job[0]
    job.image.transfers += 1
    run_waiting(core)
    return 0


cdef void end_at_boundary(Core* core, Transfer* transfer, uint8_t reason) noexcept nogil:
    if transfer.ending == END_NOT:
        transfer.stopped = <uint32_t>core.now_ms
    transfer.ending = reason


cdef void stop_transfer(Core* core, Connection* connection, int64_t wanted) noexcept nogil:
    cdef Transfer* transfer = connection.transfer
    if transfer == NULL:
        return
    if transfer.replaced and (wanted < 0 or wanted == transfer.successor.transfer):
        end_job(core, connection, &transfer.successor, END_STOPPED)
        transfer.replaced = 0
        end_at_boundary(core, transfer, END_REPLACED)
    if wanted < 0 or wanted == transfer.job.transfer:
        if mid_chunk(transfer):
            end_at_boundary(core, transfer, END_STOPPED)
        else:
            end_job(core, connection, &transfer.job, END_STOPPED)
            free_transfer(core, connection)


cdef void abandon_transfer(Core* core, Connection* connection) noexcept nogil:
    cdef Transfer* transfer = connection.transfer
    if transfer == NULL:
        return
    release_image(core, transfer.job.image)
    if transfer.replaced:
        release_image(core, transfer.successor.image)
    free_transfer(core, connection)


# -- chunks ----------------------------------------------------------------------------------------

cdef uint32_t digest_of(Job* job, uint64_t stop) noexcept nogil:
    """xxh32 of the chunk from job.offset to `stop`: from the table, if it is cut as the table's are."""
    cdef const uint8_t* digest
    cdef bint whole = stop - job.offset == job.chunk_size or stop == job.image.size
    if job.offset % job.chunk_size or not whole:
        return job.tail_xxh32 if job.started else job.head_xxh32
    digest = job.image.digests[chunk_index(job.chunk_size)] + job.offset // job.chunk_size * 4
    return <uint32_t>digest[0] << 24 | <uint32_t>digest[1] << 16 | <uint32_t>digest[2] << 8 | digest[3]


cdef void begin_chunk(Connection* connection, Transfer* transfer) noexcept nogil:
    cdef Job* job = &transfer.job
    cdef uint64_t stop = min((job.offset // job.chunk_size + 1) * job.chunk_size, job.end)
    cdef uint64_t length = CHUNK_HEADER_BYTES + stop - job.offset
    cdef size_t header
    if connection.link == LINK_TCP:
        header = write_tcp_header(transfer.prefix, OPCODE_BINARY, length)
    else:
        header = write_websocket_header(transfer.prefix, OPCODE_BINARY, length)
    write_chunk_header(transfer.prefix + header, job.transfer, digest_of(job, stop), job.offset)
    transfer.prefix_size = <uint8_t>(header + CHUNK_HEADER_BYTES)
    transfer.prefix_sent = 0
    transfer.position = job.offset
    transfer.chunk_stop = stop


cdef bint settle(Core* core, Connection* connection) noexcept nogil:
    """At a boundary: ends what is to end. True: there is a chunk to begin."""
    cdef Transfer* transfer = connection.transfer
    cdef Job* job = &transfer.job
    cdef uint16_t reason = END_NOT
    if job.offset == job.end:
        reason = END_DONE
    elif transfer.ending:
        reason = transfer.ending
    elif transfer.replaced:
        reason = END_REPLACED
    if reason == END_NOT:
        return True
    end_job(core, connection, job, reason)
    transfer.ending = END_NOT
    if not transfer.replaced:
        free_transfer(core, connection)
        return False
    transfer.job = transfer.successor
    transfer.replaced = 0
    return True


cdef ssize_t send_prefix(Core* core, Connection* connection, Transfer* transfer) noexcept nogil:
    cdef iovec vector
    cdef ssize_t sent
    vector.iov_base = transfer.prefix + transfer.prefix_sent
    vector.iov_len = transfer.prefix_size - transfer.prefix_sent
    sent = send_vector(core, connection, &vector, 1, True)
    if sent <= 0:
        return sent
    transfer.prefix_sent += <uint8_t>sent
    if not transfer.job.started:
        transfer.job.started = True
        core.counters.transfers_started += 1
        push_transfer(core, connection, EVENT_STARTED, transfer.job.transfer, 0)
    return sent if transfer.prefix_sent == transfer.prefix_size else TRANSPORT_AGAIN


cdef Feed stuck(Core* core, Connection* connection, Transfer* transfer, ssize_t failure) noexcept nogil:
    if failure == TRANSPORT_AGAIN:
        return FEED_BLOCKED
    if failure != TRANSPORT_UNREADABLE:
        return FEED_LOST
    push_transfer(core, connection, EVENT_ENDED, transfer.job.transfer, END_FAILED)
    core.counters.transfers_ended += 1
    return FEED_UNREADABLE


cdef Feed feed(Core* core, Connection* connection, int64_t* left) noexcept nogil:
    cdef Transfer* transfer = connection.transfer
    cdef uint32_t chunks = 0
    cdef ssize_t sent
    while True:
        if not mid_chunk(transfer):
            if connection.phase != PHASE_OPEN or not settle(core, connection) or connection.output != NULL:
                return FEED_BOUNDARY
            if left[0] <= 0 or chunks == TURN_CHUNKS_MAX:
                return FEED_SPENT
            chunks += 1
            begin_chunk(connection, transfer)
        if transfer.prefix_sent < transfer.prefix_size:
            sent = send_prefix(core, connection, transfer)
            if sent <= 0:
                return stuck(core, connection, transfer, sent)
        while transfer.position < transfer.chunk_stop:
            if left[0] <= 0:
                return FEED_SPENT
            sent = send_file(
                core, connection, transfer.job.image.fd, transfer.position,
                min(<uint64_t>left[0], transfer.chunk_stop - transfer.position),
            )
            if sent <= 0:
                return stuck(core, connection, transfer, sent)
            transfer.position += <uint64_t>sent
            left[0] -= sent
            if core.write_bytes_max and transfer.position < transfer.chunk_stop:
                return FEED_BLOCKED
        transfer.job.offset = transfer.chunk_stop
        transfer.prefix_size = transfer.prefix_sent = 0
