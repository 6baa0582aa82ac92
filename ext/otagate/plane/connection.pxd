# The phases of a connection: its writes, its deadlines, its end.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t

from otagate.plane.state cimport Cause, Connection, Core, Phase

# NULL: no slot, or epoll refuses.
cdef Connection* open_connection(Core* core, int fd, int listener, uint16_t bucket) noexcept nogil
cdef void enter(Core* core, Connection* connection, Phase phase) noexcept nogil

# After each of these the connection may be free: look at its phase before going on with it.
#
# Ends the socket. Tells Python, if it was admitted. reset: throw away what the peer has not read.
cdef void end_connection(
    Core* core, Connection* connection, uint16_t code, Cause cause, bint reset) noexcept nogil
# What is queued, then a close frame (code 0: none), then our FIN.
cdef void begin_close(
    Core* core, Connection* connection, uint16_t code, const uint8_t* reason, uint64_t size,
    Cause cause) noexcept nogil
# The peer broke a rule: error bad_message saying `what` (not in echo mode), close frame, and Python is told.
cdef void fail(Core* core, Connection* connection, uint16_t code, const char* what) noexcept nogil
cdef void queue_message(
    Core* core, Connection* connection, uint8_t opcode, const uint8_t* payload, uint64_t size) noexcept nogil
# Writes what may be written; of files at most `left` bytes, which it lowers.
cdef void write_turn(Core* core, Connection* connection, int64_t* left) noexcept nogil
cdef void meet_deadline(Core* core, Connection* connection) noexcept nogil

cdef void report_closed(Core* core, Connection* connection, uint16_t code) noexcept nogil
cdef bint may_read(Connection* connection) noexcept nogil
cdef bint wants_turn(Connection* connection) noexcept nogil
cdef void drop_input(Connection* connection) noexcept nogil
