# Which certificate for which name.

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from otagate.plane.openssl cimport SSL_CTX
from otagate.plane.state cimport Tls

cdef enum:
    HOST_BYTES_MAX = 255                # of a name (RFC 6066 section 3 has no longer one)
    RULES_BYTES = 32

cdef struct Host:
    uint16_t context                    # its index: whose certificate has the name
    uint8_t size
    uint8_t name[HOST_BYTES_MAX]        # in lower case; the first label may be `*`

# Belongs to the first of the contexts, which is not among those that it has references of.
cdef struct Hosts:
    Tls* tls
    uint8_t rules[RULES_BYTES]          # digest of those for client certificates
    uint32_t contexts_count
    SSL_CTX** contexts
    uint32_t count
    Host* items                         # sorted

cdef Hosts* create_hosts(uint32_t contexts_count) noexcept nogil        # NULL: no memory
cdef void destroy_hosts(Hosts* hosts) noexcept nogil                    # and the contexts
# Adds the DNS names of a context's certificate. How many there are; -1: no memory.
cdef int add_names(Hosts* hosts, uint32_t context) noexcept nogil
# Sorts the names. NULL; or one of two that are equal, and of different certificates: they are neighbours.
cdef const Host* sort_names(Hosts* hosts) noexcept nogil
# From now on connections that begin with the first context are given the one whose name they ask for.
cdef int choose_by_name(Hosts* hosts, Tls* tls) noexcept nogil          # 0, or -1: no memory
