# What a client certificate says.

from libc.stdint cimport uint32_t, uint64_t, uint8_t

from otagate.plane.openssl cimport ASN1_STRING, X509, X509_NAME, X509Stack

# Of a verified chain, the device's certificate first: the one name of a kind (one of NameKind; nothing if there
# is not exactly one), then for each authority of its chain "\n" and the SHA-256 of its certificate in hex.
# malloc'ed. 0, or -1: no memory.
cdef int describe(const X509Stack* chain, int kind, uint8_t** out, uint32_t* size) noexcept nogil

# By issuer and serial number, as a revocation list names it. Never 0; two certificates may share one.
cdef uint64_t mark_of(const X509_NAME* issuer, const ASN1_STRING* serial) noexcept nogil
cdef uint64_t mark_of_certificate(const X509* certificate) noexcept nogil
