# What a client certificate says.

from libc.stdint cimport uint32_t, uint8_t

from otagate.plane.openssl cimport X509Stack

# Of a verified chain, the device's certificate first: the one name of a kind (one of NameKind; nothing if there
# is not exactly one), then for each authority of its chain "\n" and the SHA-256 of its certificate in hex.
# malloc'ed. 0, or -1: no memory.
cdef int describe(const X509Stack* chain, int kind, uint8_t** out, uint32_t* size) noexcept nogil
