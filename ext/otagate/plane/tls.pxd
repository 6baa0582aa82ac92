# Receive, send and sendfile through OpenSSL, and the handshake before them.

from libc.stdint cimport uint8_t, uint64_t

from otagate.plane.state cimport SEALING_BYTES, Connection, Core
from otagate.plane.system cimport iovec


cdef inline bint is_secured(Connection* connection) noexcept nogil:
    """Its bytes go through OpenSSL."""
    return connection.below != NULL and connection.below.ssl != NULL


cdef inline bint was_secured(Connection* connection) noexcept nogil:
    return connection.below != NULL and connection.below.secured


cdef inline bint has_sealed(Connection* connection) noexcept nogil:
    """Records wait for the kernel."""
    return connection.below != NULL and connection.below.sealed != NULL


cdef inline bint is_clogged(Connection* connection) noexcept nogil:
    """So much waits that nothing may be read: what is read can make records (key updates, alerts)."""
    return has_sealed(connection) and (
        connection.below.sealed_stop - connection.below.sealed_start > SEALING_BYTES
    )


cdef inline bint has_more(Core* core, Connection* connection) noexcept nogil:
    """The last call, which received from it, stopped before the kernel had no more."""
    return is_secured(connection) and core.tls.allowed == 0 and not core.tls.drained


cdef int create_tls(Core* core) noexcept nogil                          # 0, or -1: no memory
cdef void destroy_tls(Core* core) noexcept nogil

# Begins with what has been received of the ClientHello; `data` must stay until the next receive. 0, or -1.
cdef int begin_tls(Core* core, Connection* connection, const uint8_t* data, size_t size) noexcept nogil
# Learns what is to be known once the handshake is done. 1: it is; 0: not yet; -1: no memory.
cdef int finish_handshake(Core* core, Connection* connection) noexcept nogil
# Makes our close_notify, if it can still be made.
cdef void say_farewell(Core* core, Connection* connection) noexcept nogil
# Hands the kernel what waits of records. 0: all of it; else as in transport.
cdef ssize_t push_sealed(Core* core, Connection* connection) noexcept nogil
# From now on bytes go straight through the socket.
cdef void drop_tls(Core* core, Connection* connection) noexcept nogil
cdef void drop_certificate(Connection* connection) noexcept nogil
cdef void drop_below(Core* core, Connection* connection) noexcept nogil

cdef ssize_t receive_opened(
    Core* core, Connection* connection, uint8_t* buffer, size_t size) noexcept nogil
cdef ssize_t send_sealed(
    Core* core, Connection* connection, iovec* vector, size_t count, bint more) noexcept nogil
cdef ssize_t send_file_sealed(
    Core* core, Connection* connection, int fd, uint64_t offset, size_t size) noexcept nogil
