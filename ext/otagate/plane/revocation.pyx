"""Ends connections whose certificate was revoked.

New handshakes are OpenSSL's to refuse. This is for who is in by then: each connection has the mark of its
certificate (identity), and those that the lists name are closed as one is whose secret was changed. Who is
in its handshake is judged by what held when that began, so it has to begin anew.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport bsearch, free, qsort, realloc
from libc.string cimport strlen

from otagate.plane.context cimport refuse_password
from otagate.plane.connection cimport begin_close, end_connection, report_closed
from otagate.plane.identity cimport mark_of
from otagate.plane.openssl cimport (
    BIO, BIO_free, BIO_new_mem_buf, ERR_clear_error, PEM_read_bio_X509_CRL, RevokedStack, X509_CRL,
    X509_CRL_free, X509_CRL_get_issuer, X509_CRL_get_REVOKED, X509_REVOKED_get0_serialNumber,
    sk_X509_REVOKED_num, sk_X509_REVOKED_value,
)
from otagate.plane.state cimport (
    CAUSE_REVOKED, CODE_LOST, CODE_UNAUTHORIZED, PHASE_FREE, PHASE_LOGIN, PHASE_OPEN, PHASE_OPENING, SHAKING,
    Connection, Core,
)
from otagate.plane.table cimport touch
from otagate.plane.tls cimport is_secured

cdef const char* REASON = b"certificate revoked"


# A vector of marks.
cdef struct Marks:
    uint64_t* items
    size_t count


cdef int compare(const void* left, const void* right) noexcept nogil:
    cdef uint64_t a = (<const uint64_t*>left)[0]
    cdef uint64_t b = (<const uint64_t*>right)[0]
    return (a > b) - (a < b)


cdef int add_marks(Marks* marks, X509_CRL* crl) noexcept nogil:
    """0, or -1: no memory."""
    cdef RevokedStack* revoked = X509_CRL_get_REVOKED(crl)
    cdef int count = sk_X509_REVOKED_num(revoked)
    cdef uint64_t* grown
    cdef int i
    if count <= 0:
        return 0
    grown = <uint64_t*>realloc(marks.items, (marks.count + count) * sizeof(uint64_t))
    if grown == NULL:
        return -1
    marks.items = grown
    for i in range(count):
        marks.items[marks.count] = mark_of(
            X509_CRL_get_issuer(crl), X509_REVOKED_get0_serialNumber(sk_X509_REVOKED_value(revoked, i))
        )
        marks.count += 1
    return 0


cdef int read_marks(Marks* marks, const uint8_t* lists, uint32_t size) noexcept nogil:
    cdef BIO* bio = BIO_new_mem_buf(lists, <int>size)
    cdef X509_CRL* crl
    cdef int added = 0
    while added == 0:
        crl = PEM_read_bio_X509_CRL(bio, NULL, refuse_password, NULL)
        if crl == NULL:
            break
        added = add_marks(marks, crl)
        X509_CRL_free(crl)
    BIO_free(bio)
    ERR_clear_error()  # "no start line": the end
    return added


cdef bint is_revoked(const Marks* marks, Connection* connection) noexcept nogil:
    cdef uint64_t mark = connection.below.mark
    return mark != 0 and marks.count and bsearch(
        &mark, marks.items, marks.count, sizeof(uint64_t), compare
    ) != NULL


cdef void end_one(Core* core, Connection* connection) noexcept nogil:
    if connection.phase == PHASE_OPENING:
        end_connection(core, connection, CODE_LOST, CAUSE_REVOKED, True)
    elif connection.phase == PHASE_LOGIN or connection.phase == PHASE_OPEN:
        touch(core, connection)
        begin_close(
            core, connection, CODE_UNAUTHORIZED, <const uint8_t*>REASON, strlen(REASON), CAUSE_REVOKED
        )
        if connection.phase != PHASE_FREE:
            report_closed(core, connection, CODE_UNAUTHORIZED)


cdef int end_revoked(Core* core, const uint8_t* lists, uint32_t size) noexcept nogil:
    cdef Marks marks
    cdef Connection* connection
    cdef uint32_t slot
    marks.items = NULL
    marks.count = 0
    if read_marks(&marks, lists, size) < 0:
        free(marks.items)
        return -1
    if marks.count:
        qsort(marks.items, marks.count, sizeof(uint64_t), compare)
    for slot in range(1, core.slots_used + 1):
        connection = core.connections + slot
        if connection.phase == PHASE_FREE or not is_secured(connection):
            continue
        if connection.flags & SHAKING or is_revoked(&marks, connection):
            end_one(core, connection)
    free(marks.items)
    return 0
