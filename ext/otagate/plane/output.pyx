"""Queues of frames to be written, in pooled blocks.

A connection's queue is a ring of blocks of which it keeps the tail; an idle connection has none. A frame is
never split over blocks, so a block is a run of whole frames of which the first may be partly written. Blocks
of the standard size come from a pool and go back to it as soon as they are written; a larger frame gets a
block of its own size, which is freed.

Invariant: `output` is NULL exactly if nothing is queued, and no block in a ring is empty.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from otagate.wire.frames cimport (
    WEBSOCKET_HEADER_BYTES_MAX, write_tcp_header, write_websocket_header,
)

from otagate.plane.state cimport LINK_TCP, TRANSPORT_AGAIN, Block, Connection, Core
from otagate.plane.system cimport iovec
from otagate.plane.transport cimport send_vector

cdef enum:
    BLOCK_BYTES = 2048 - 24             # 24: sizeof(Block). A gateway message (<= 1000) fits, and some
    BLOCKS_FREE_MAX = 1024              # what the pool keeps: 2 MiB
    VECTOR_BLOCKS_MAX = 32


cdef uint8_t* bytes_of(Block* block) noexcept nogil:
    return <uint8_t*>(block + 1)


cdef Block* take_block(Core* core, uint64_t size) noexcept nogil:
    cdef Block* block
    if size <= BLOCK_BYTES and core.free_blocks != NULL:
        block = core.free_blocks
        core.free_blocks = block.next
        core.free_blocks_count -= 1
    else:
        size = max(size, <uint64_t>BLOCK_BYTES)
        block = <Block*>malloc(sizeof(Block) + size)
        if block == NULL:
            return NULL
        block.capacity = <uint32_t>size
    block.start = block.stop = 0
    return block


cdef void give_block(Core* core, Block* block) noexcept nogil:
    if block.capacity != BLOCK_BYTES or core.free_blocks_count == BLOCKS_FREE_MAX:
        free(block)
        return
    block.next = core.free_blocks
    core.free_blocks = block
    core.free_blocks_count += 1


cdef uint8_t* reserve(Core* core, Connection* connection, uint64_t size) noexcept nogil:
    """Room for `size` bytes in one block at the end of the queue; NULL: no memory."""
    cdef Block* tail = connection.output
    cdef Block* block
    if tail != NULL and tail.capacity - tail.stop >= size:
        return bytes_of(tail) + tail.stop
    block = take_block(core, size)
    if block == NULL:
        return NULL
    if tail == NULL:
        block.next = block
    else:
        block.next = tail.next
        tail.next = block
    connection.output = block
    return bytes_of(block)


cdef void commit(Connection* connection, uint64_t size) noexcept nogil:
    connection.output.stop += <uint32_t>size
    connection.output_size += <uint32_t>size


cdef int queue_bytes(Core* core, Connection* connection, const uint8_t* data, uint64_t size) noexcept nogil:
    cdef uint8_t* room = reserve(core, connection, size)
    if room == NULL:
        return -1
    memcpy(room, data, size)
    commit(connection, size)
    return 0


cdef int queue_frame(
    Core* core, Connection* connection, uint8_t opcode, const uint8_t* payload, uint64_t size
) noexcept nogil:
    cdef size_t header
    cdef uint8_t* room = reserve(core, connection, size + WEBSOCKET_HEADER_BYTES_MAX)
    if room == NULL:
        return -1
    if connection.link == LINK_TCP:
        header = write_tcp_header(room, opcode, size)
    else:
        header = write_websocket_header(room, opcode, size)
    if size:
        memcpy(room + header, payload, size)
    commit(connection, header + size)
    return 0


cdef void pop_block(Core* core, Connection* connection) noexcept nogil:
    cdef Block* tail = connection.output
    cdef Block* head = tail.next
    if head == tail:
        connection.output = NULL
    else:
        tail.next = head.next
    give_block(core, head)


cdef void advance(Core* core, Connection* connection, uint64_t written) noexcept nogil:
    cdef Block* head
    cdef uint32_t here
    connection.output_size -= <uint32_t>written
    while written:
        head = connection.output.next
        here = head.stop - head.start
        if written < here:
            head.start += <uint32_t>written
            return
        written -= here
        pop_block(core, connection)


cdef ssize_t flush(Core* core, Connection* connection) noexcept nogil:
    cdef iovec vector[VECTOR_BLOCKS_MAX]
    cdef size_t count
    cdef uint64_t wanted
    cdef ssize_t sent
    cdef Block* block
    while connection.output != NULL:
        count = 0
        wanted = 0
        block = connection.output
        while count < VECTOR_BLOCKS_MAX:
            block = block.next
            vector[count].iov_base = bytes_of(block) + block.start
            vector[count].iov_len = block.stop - block.start
            wanted += vector[count].iov_len
            count += 1
            if block == connection.output:
                break
        sent = send_vector(core, connection, vector, count, False)
        if sent < 0:
            return sent
        advance(core, connection, <uint64_t>sent)
        if <uint64_t>sent < wanted:
            return TRANSPORT_AGAIN
    return 0


cdef void drop_output(Core* core, Connection* connection) noexcept nogil:
    while connection.output != NULL:
        pop_block(core, connection)
    connection.output_size = 0


cdef void destroy_pool(Core* core) noexcept nogil:
    cdef Block* block
    while core.free_blocks != NULL:
        block = core.free_blocks
        core.free_blocks = block.next
        free(block)
    core.free_blocks_count = 0
