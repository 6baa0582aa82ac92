"""Receive, send and sendfile through OpenSSL, and the handshake before them.

OpenSSL reads straight from the socket, through a BIO of ours that knows when the kernel has no more: one
recv(2) for all records that have come, and none to be told so again. All connections share that one BIO:
whose call it is stands in `current`, and what it says of itself (retry, end) is asked within the call.
OpenSSL's buffers exist only while half a record waits (SSL_MODE_RELEASE_BUFFERS), so an idle connection has
none.

Writing never waits inside OpenSSL. What it writes (a flight, an alert, records) is gathered in `sealing`, of
which the plane has one, and goes to the kernel in one send; what the kernel does not take is kept in the
connection's `sealed`, in order, until it does. So a byte accepted here counts as sent, no call has to be made
again with the same bytes, and whoever writes is told AGAIN before anything new is sealed. A file's pages are
read into `plain`, four records' at a time (one at a time was a tenth slower), and sealed from there: mapped
pages would spare a copy of a fourth of the sealing's time, and kill the process when a file is truncated.

Invariant: between calls `sealing` is empty; while `sealed` is there, nothing that anybody writes is sealed.
What reading makes (a key update, an alert) goes behind it, and reading stops above a bound.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy

from otagate.plane.flight cimport follow
from otagate.plane.identity cimport mark_of_certificate
from otagate.plane.openssl cimport (
    BIO, BIO_clear_retry_flags, BIO_CTRL_EOF, BIO_CTRL_FLUSH, BIO_free, BIO_get_data, BIO_meth_free,
    BIO_meth_new, BIO_meth_set_ctrl, BIO_meth_set_read, BIO_meth_set_write, BIO_new, BIO_set_data,
    BIO_set_init, BIO_set_retry_read, BIO_TYPE_SOURCE_SINK, BIO_up_ref, ERR_clear_error, SSL_CTX_free,
    SSL_ERROR_SYSCALL, SSL_ERROR_WANT_READ, SSL_ERROR_ZERO_RETURN, SSL_free, SSL_get_error,
    SSL_get_peer_cert_chain, SSL_get_session, SSL_is_init_finished, SSL_new, SSL_read, SSL_SESSION,
    SSL_SESSION_free, SSL_SESSION_get0_cipher, SSL_SESSION_get0_peer, SSL_SESSION_get0_ticket_appdata,
    SSL_SESSION_get_protocol_version, SSL_SESSION_new, SSL_SESSION_set_cipher,
    SSL_SESSION_set_protocol_version, SSL_session_reused, SSL_set_accept_state, SSL_set_bio, SSL_shutdown,
    SSL_version, SSL_write, TLS1_3_VERSION, X509_free, X509Stack, d2i_SSL_SESSION, i2d_SSL_SESSION, sk_X509_num, sk_X509_pop,
)
from otagate.plane.state cimport (
    HANGUP, PLAIN_BYTES, RECORD_BYTES_MAX, SEALING_BYTES, SHAKING,
    TRANSPORT_AGAIN, TRANSPORT_LOST, TRANSPORT_REFUSED, TRANSPORT_UNREADABLE,
    Below, Connection, Core, Tls,
)
from otagate.plane.system cimport MSG_MORE, MSG_NOSIGNAL, explicit_bzero, iovec, pread, recv, send

cdef enum:
    # Records are gathered up to here before a send: fewer calls, while all of it stays in the cache.
    SEALING_BYTES_ENOUGH = SEALING_BYTES - 2 * RECORD_BYTES_MAX
    # Above what is asked for. A record of one byte costs 22 more, and one of none may stand before it.
    OVERHEAD_BYTES = 4096
    SESSION_BYTES_MAX = 256             # of one that says nothing of the peer


# -- what OpenSSL calls ----------------------------------------------------------------------------

cdef int hand_over(Tls* tls, const char* data, int size) noexcept nogil:
    """As many bytes; or -1, and the connection's TLS is over."""
    cdef Below* below = tls.current.below
    if (
        tls.current.flags & SHAKING
        and SSL_version(below.ssl) == TLS1_3_VERSION  # or not known yet
        and not follow(&below.flight, <const uint8_t*>data, <size_t>size)
    ):
        tls.refused = True
        return -1
    return size


cdef int read_socket(BIO* bio, char* buffer, int size) noexcept nogil:
    cdef Core* core = <Core*>BIO_get_data(bio)
    cdef Tls* tls = &core.tls
    cdef ssize_t received
    BIO_clear_retry_flags(bio)
    if tls.given_size:
        received = min(size, <ssize_t>tls.given_size)
        memcpy(buffer, tls.given, received)
        tls.given += received
        tls.given_size -= received
        return hand_over(tls, buffer, <int>received)
    size = <int>min(<size_t>size, tls.allowed)
    while size and not tls.drained:
        received = recv(tls.current.fd, buffer, size, 0)
        if received > 0:
            core.counters.bytes_in += <uint64_t>received
            tls.allowed -= <size_t>received
            # A short count means that nothing is left; but behind a FIN no edge would follow.
            tls.drained = received < size and not tls.current.flags & HANGUP
            return hand_over(tls, buffer, <int>received)
        if received == 0 or (errno != EAGAIN and errno != EINTR):
            tls.ended = True
            return 0
        tls.drained = errno == EAGAIN
    BIO_set_retry_read(bio)
    return -1


cdef int gather(BIO* bio, const char* data, int size) noexcept nogil:
    cdef Tls* tls = &(<Core*>BIO_get_data(bio)).tls
    if size <= 0 or <uint32_t>size > SEALING_BYTES - tls.sealing_size:
        return -1
    memcpy(tls.sealing + tls.sealing_size, data, size)
    tls.sealing_size += <uint32_t>size
    return size


cdef long control(BIO* bio, int command, long number, void* pointer) noexcept nogil:
    if command == BIO_CTRL_EOF:
        return (<Core*>BIO_get_data(bio)).tls.ended
    return command == BIO_CTRL_FLUSH


# -- life ------------------------------------------------------------------------------------------

cdef int create_tls(Core* core) noexcept nogil:
    cdef Tls* tls = &core.tls
    if tls.method != NULL:
        return 0
    tls.plain = <uint8_t*>malloc(PLAIN_BYTES)
    tls.sealing = <uint8_t*>malloc(SEALING_BYTES)
    tls.method = BIO_meth_new(BIO_TYPE_SOURCE_SINK, b"otagate")
    if tls.plain == NULL or tls.sealing == NULL or tls.method == NULL:
        destroy_tls(core)
        return -1
    BIO_meth_set_read(tls.method, read_socket)
    BIO_meth_set_write(tls.method, gather)
    BIO_meth_set_ctrl(tls.method, control)
    tls.bio = BIO_new(tls.method)
    if tls.bio == NULL:
        destroy_tls(core)
        return -1
    BIO_set_data(tls.bio, core)
    BIO_set_init(tls.bio, 1)
    return 0


cdef void destroy_tls(Core* core) noexcept nogil:
    cdef Tls* tls = &core.tls
    SSL_CTX_free(tls.context)
    BIO_free(tls.bio)
    BIO_meth_free(tls.method)
    free(tls.plain)
    free(tls.sealing)
    explicit_bzero(tls, sizeof(Tls))


cdef int begin_tls(Core* core, Connection* connection, const uint8_t* data, size_t size) noexcept nogil:
    cdef Below* below = connection.below
    if below == NULL:
        below = connection.below = <Below*>calloc(1, sizeof(Below))
        if below == NULL:
            return -1
    below.ssl = SSL_new(core.tls.context)
    if below.ssl == NULL:
        return -1
    BIO_up_ref(core.tls.bio)
    SSL_set_bio(below.ssl, core.tls.bio, core.tls.bio)
    SSL_set_accept_state(below.ssl)
    below.secured = 1
    core.counters.live_tls += 1
    core.tls.given = data
    core.tls.given_size = size
    return 0


cdef void drop_certificate(Connection* connection) noexcept nogil:
    if connection.below != NULL:
        free(connection.below.certificate)
        connection.below.certificate = NULL
        connection.below.certificate_size = 0


cdef void drop_tls(Core* core, Connection* connection) noexcept nogil:
    if is_secured(connection):
        SSL_free(connection.below.ssl)
        connection.below.ssl = NULL
        core.counters.live_tls -= 1


cdef void drop_below(Core* core, Connection* connection) noexcept nogil:
    if connection.below == NULL:
        return
    drop_tls(core, connection)
    drop_certificate(connection)
    free(connection.below.sealed)
    free(connection.below)
    connection.below = NULL


# -- the handshake ---------------------------------------------------------------------------------

cdef int learn_certificate(Below* below) noexcept nogil:
    cdef void* kept = NULL
    cdef size_t size = 0
    if not SSL_session_reused(below.ssl):
        return 0  # it was noted when it was verified
    SSL_SESSION_get0_ticket_appdata(SSL_get_session(below.ssl), &kept, &size)
    if size == 0:
        return 0
    below.certificate = <uint8_t*>malloc(size)
    if below.certificate == NULL:
        return -1
    memcpy(below.certificate, kept, size)
    below.certificate_size = <uint32_t>size
    return 0


cdef void shed_certificate(Below* below) noexcept nogil:
    """The client's certificate hangs on the session, and takes 10 KB of an idle connection. Whatever it has
    to say was noted, and the tickets are made: so its mark is kept, and the session is read anew, over
    itself, from one that says no more than version and cipher. If that fails, memory is all it costs."""
    cdef SSL_SESSION* session = SSL_get_session(below.ssl)
    cdef SSL_SESSION* bare
    cdef X509Stack* chain = SSL_get_peer_cert_chain(below.ssl)
    cdef uint8_t encoded[SESSION_BYTES_MAX]
    cdef uint8_t* end = encoded
    cdef const uint8_t* start = encoded
    if SSL_SESSION_get0_peer(session) == NULL:
        return
    below.mark = mark_of_certificate(SSL_SESSION_get0_peer(session))
    bare = SSL_SESSION_new()
    if (
        bare != NULL
        and SSL_SESSION_set_cipher(bare, SSL_SESSION_get0_cipher(session))
        and SSL_SESSION_set_protocol_version(bare, SSL_SESSION_get_protocol_version(session))
        and 0 < i2d_SSL_SESSION(bare, NULL) <= SESSION_BYTES_MAX
        and i2d_SSL_SESSION(bare, &end) > 0
    ):
        d2i_SSL_SESSION(&session, &start, end - encoded)
        while chain != NULL and sk_X509_num(chain) > 0:
            X509_free(sk_X509_pop(chain))
    SSL_SESSION_free(bare)


cdef int finish_handshake(Core* core, Connection* connection) noexcept nogil:
    cdef Below* below = connection.below
    if not is_secured(connection) or not SSL_is_init_finished(below.ssl):
        return 0
    connection.flags &= ~SHAKING
    core.counters.handshakes += 1
    if SSL_session_reused(below.ssl):
        core.counters.resumptions += 1
    if learn_certificate(below) < 0:
        return -1
    shed_certificate(below)
    return 1


cdef void say_farewell(Core* core, Connection* connection) noexcept nogil:
    cdef Below* below = connection.below
    if below.closing or below.failed or not SSL_is_init_finished(below.ssl):
        return
    below.closing = 1
    core.tls.current = connection
    ERR_clear_error()
    SSL_shutdown(below.ssl)
    ERR_clear_error()


# -- writing ---------------------------------------------------------------------------------------

cdef ssize_t push(
    Core* core, Connection* connection, const uint8_t* data, size_t size, bint more
) noexcept nogil:
    """Bytes that the kernel took, all if it can; or TRANSPORT_LOST."""
    cdef size_t taken = 0
    cdef size_t wanted
    cdef ssize_t sent
    while taken < size:
        wanted = size - taken
        if core.write_bytes_max:
            wanted = min(wanted, <size_t>core.write_bytes_max)
        sent = send(connection.fd, data + taken, wanted, MSG_NOSIGNAL | (MSG_MORE if more else 0))
        if sent >= 0:
            core.counters.bytes_out += <uint64_t>sent
            taken += <size_t>sent
            if core.write_bytes_max:
                break
        elif errno == EAGAIN:
            break
        elif errno != EINTR:
            return TRANSPORT_LOST
    return <ssize_t>taken


cdef ssize_t keep_sealed(Below* below, const uint8_t* data, size_t size) noexcept nogil:
    cdef uint8_t* grown = <uint8_t*>realloc(below.sealed, below.sealed_stop + size)
    if grown == NULL:
        return TRANSPORT_LOST
    memcpy(grown + below.sealed_stop, data, size)
    below.sealed = grown
    below.sealed_stop += <uint32_t>size
    return TRANSPORT_AGAIN


cdef ssize_t push_sealed(Core* core, Connection* connection) noexcept nogil:
    return push_all(core, connection, False)


cdef ssize_t push_all(Core* core, Connection* connection, bint more) noexcept nogil:
    """What was kept, then what is gathered. 0: all is gone; AGAIN: the rest is kept."""
    cdef Below* below = connection.below
    cdef Tls* tls = &core.tls
    cdef uint32_t gathered = tls.sealing_size
    cdef ssize_t sent
    tls.sealing_size = 0
    if below.sealed != NULL:
        sent = push(
            core, connection, below.sealed + below.sealed_start, below.sealed_stop - below.sealed_start, more
        )
        if sent < 0:
            return sent
        below.sealed_start += <uint32_t>sent
        if below.sealed_start < below.sealed_stop:
            return keep_sealed(below, tls.sealing, gathered)
        free(below.sealed)
        below.sealed = NULL
        below.sealed_start = below.sealed_stop = 0
    if gathered == 0:
        return 0
    sent = push(core, connection, tls.sealing, gathered, more)
    if sent < 0 or <uint32_t>sent == gathered:
        return min(sent, <ssize_t>0)
    return keep_sealed(below, tls.sealing + sent, gathered - <size_t>sent)


cdef ssize_t begin_writing(Core* core, Connection* connection) noexcept nogil:
    """0: go on; else what to return."""
    if connection.below.failed:
        return TRANSPORT_LOST
    core.tls.current = connection
    ERR_clear_error()
    return push_all(core, connection, False) if has_sealed(connection) else 0


cdef int seal(Connection* connection, const uint8_t* data, size_t size) noexcept nogil:
    """One record. 0, or -1: OpenSSL cannot."""
    if SSL_write(connection.below.ssl, data, <int>size) == <int>size:
        return 0
    ERR_clear_error()
    connection.below.failed = 1
    return -1


cdef size_t take_plain(
    Tls* tls, iovec* vector, size_t count, size_t skip, const uint8_t** out
) noexcept nogil:
    """The next record's plaintext: in place if one piece fills it, else gathered from several."""
    cdef size_t taken = 0
    cdef size_t here
    cdef size_t i
    for i in range(count):
        if skip >= vector[i].iov_len:
            skip -= vector[i].iov_len
            continue
        here = min(vector[i].iov_len - skip, <size_t>RECORD_BYTES_MAX - taken)
        if taken == 0 and (here == RECORD_BYTES_MAX or i == count - 1):
            out[0] = <const uint8_t*>vector[i].iov_base + skip
            return here
        memcpy(tls.plain + taken, <const uint8_t*>vector[i].iov_base + skip, here)
        taken += here
        skip = 0
        if taken == RECORD_BYTES_MAX:
            break
    out[0] = tls.plain
    return taken


cdef ssize_t send_sealed(
    Core* core, Connection* connection, iovec* vector, size_t count, bint more
) noexcept nogil:
    cdef Tls* tls = &core.tls
    cdef const uint8_t* data = NULL
    cdef size_t total = 0
    cdef size_t size
    cdef ssize_t pushed = begin_writing(core, connection)
    while pushed == 0:
        size = take_plain(tls, vector, count, total, &data)
        if size and seal(connection, data, size) < 0:
            return TRANSPORT_LOST
        total += size
        if size == 0 or tls.sealing_size > SEALING_BYTES_ENOUGH:
            pushed = push_all(core, connection, more or size > 0)
            if size == 0:
                break
    if pushed == TRANSPORT_LOST or total == 0:
        return pushed
    return <ssize_t>total


cdef ssize_t send_file_sealed(
    Core* core, Connection* connection, int fd, uint64_t offset, size_t size
) noexcept nogil:
    cdef Tls* tls = &core.tls
    cdef ssize_t total = 0
    cdef ssize_t found, record
    cdef ssize_t pushed = begin_writing(core, connection)
    if pushed != 0:
        return pushed
    while True:
        found = pread(fd, tls.plain, min(size, <size_t>PLAIN_BYTES), offset)
        if found >= 0 or errno != EINTR:
            break
    if found <= 0:
        return TRANSPORT_UNREADABLE
    while total < found:
        record = min(found - total, <ssize_t>RECORD_BYTES_MAX)
        if seal(connection, tls.plain + total, <size_t>record) < 0:
            return TRANSPORT_LOST
        total += record
    if push_all(core, connection, False) == TRANSPORT_LOST:
        return TRANSPORT_LOST
    core.counters.bytes_streamed += <uint64_t>total
    return total


# -- reading ---------------------------------------------------------------------------------------

cdef ssize_t outcome_of(Core* core, Below* below, int returned) noexcept nogil:
    """Why OpenSSL gave no bytes."""
    cdef int error = SSL_get_error(below.ssl, returned)
    if error == SSL_ERROR_WANT_READ:
        return TRANSPORT_AGAIN
    if error == SSL_ERROR_ZERO_RETURN or core.tls.ended:
        return 0
    below.failed = 1
    if core.tls.refused:
        return TRANSPORT_REFUSED
    return TRANSPORT_LOST if error == SSL_ERROR_SYSCALL else TRANSPORT_REFUSED


cdef ssize_t receive_opened(
    Core* core, Connection* connection, uint8_t* buffer, size_t size
) noexcept nogil:
    """Fills the buffer as far as it can, so that a short count means here what it means of a socket; but where
    records have little in them, or nothing, another call goes on (has_more)."""
    cdef Tls* tls = &core.tls
    cdef Below* below = connection.below
    cdef size_t total = 0
    cdef ssize_t outcome = TRANSPORT_AGAIN
    cdef int opened
    tls.current = connection
    tls.drained = tls.ended = tls.refused = False
    tls.allowed = size + OVERHEAD_BYTES
    tls.oddities = 0
    ERR_clear_error()
    while total < size:
        opened = SSL_read(below.ssl, buffer + total, <int>(size - total))
        if opened <= 0:
            outcome = outcome_of(core, below, opened)
            break
        total += <size_t>opened
    ERR_clear_error()  # the thread's queue is Python's ssl's, too: it would take what lies there for its own
    tls.given_size = 0
    # Flights, tickets and alerts, and answers to key updates. What the kernel refuses waits for a write turn.
    if push_all(core, connection, False) == TRANSPORT_LOST:
        outcome = TRANSPORT_LOST
    if total == 0:
        return outcome
    if outcome != TRANSPORT_AGAIN:
        connection.flags |= HANGUP  # there is an end to be read, of which no edge will tell
    return <ssize_t>total
