# Certificates, keys, authorities and tickets: the SSL_CTX of new connections.

from libc.stdint cimport uint8_t, uint32_t

from otagate.plane.hosts cimport Host
from otagate.plane.state cimport CERTIFICATES_MAX, Core

cdef struct Pair:                       # PEM, each with its size
    const uint8_t* certificate          # the server's, then those between it and the root
    uint32_t certificate_size
    const uint8_t* key
    uint32_t key_size

cdef struct Credentials:                # PEM, each with its size; empty: none
    Pair pairs[CERTIFICATES_MAX]
    uint32_t pairs_count                # at least one
    const uint8_t* authorities          # who may sign client certificates
    uint32_t authorities_size
    const uint8_t* revocations          # CRLs of each of them
    uint32_t revocations_size
    bint ask                            # for a client certificate
    bint insist                         # … without which there is no connection
    int name_kind                       # one of NameKind

# 0; or which part is at fault, and the culprit may say why. The old context serves its connections on.
cdef enum Fault:
    FAULT_NONE = 0
    FAULT_MEMORY = 1
    FAULT_CERTIFICATE = 2
    FAULT_KEY = 3
    FAULT_AUTHORITIES = 4
    FAULT_REVOCATIONS = 5
    FAULT_NAMELESS = 6                  # a certificate that nobody could ask for
    FAULT_SAME_NAME = 7                 # in two certificates

cdef struct Culprit:
    uint32_t pair                       # its index
    uint32_t other                      # and that of the other one, which has the same name
    const char* reason                  # OpenSSL's; NULL: none
    Host host

# For what is encrypted; OpenSSL would ask at the terminal.
cdef int refuse_password(char* out, int size, int writing, void* argument) noexcept nogil
cdef Fault use_credentials(Core* core, const Credentials* given, Culprit* culprit) noexcept nogil
