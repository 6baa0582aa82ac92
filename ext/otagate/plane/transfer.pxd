# Images, and downloads by sendfile.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from otagate.plane.state cimport Connection, Core, Image, Job, Transfer

cdef enum Feed:
    FEED_BOUNDARY = 0                   # between chunks: frames may be written, or nothing is left to do
    FEED_SPENT = 1                      # the turn's bytes are used up
    FEED_BLOCKED = 2                    # an edge will follow
    FEED_LOST = 3
    FEED_UNREADABLE = 4                 # the image: ENDED was pushed, the connection must be closed


cdef inline bint mid_chunk(const Transfer* transfer) noexcept nogil:
    """The first byte of a chunk has left and the last one has not: nothing else may be written."""
    return transfer.prefix_sent > 0


cdef Image* find_image(Core* core, uint64_t number) noexcept nogil      # NULL: none, or dropped
cdef Image* add_image(Core* core, uint64_t number, int fd, uint64_t size) noexcept nogil   # owns fd
cdef bint has_digests(const Image* image, uint32_t chunk_size) noexcept nogil
cdef int set_digests(Image* image, uint32_t chunk_size, const uint8_t* table, size_t size) noexcept nogil
cdef void drop_image(Core* core, Image* image) noexcept nogil
cdef void destroy_images(Core* core) noexcept nogil

# 0, or -1: no memory. The image must hold digests for the chunk size.
cdef int begin_transfer(Core* core, Connection* connection, const Job* job) noexcept nogil
cdef void stop_transfer(Core* core, Connection* connection, int64_t transfer) noexcept nogil   # -1: whichever
cdef void abandon_transfer(Core* core, Connection* connection) noexcept nogil   # without an event
# Writes at most `left` bytes of file, and lowers it. The connection's transfer runs.
cdef Feed feed(Core* core, Connection* connection, int64_t* left) noexcept nogil
