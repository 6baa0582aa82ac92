"""What a client certificate says: a name, and who vouches for it.

OpenSSL has verified the chain by now. What is left is to find the name of the device, and to say which
authorities stand in the chain, since a product may accept its own only (Python knows which). Names are
compared byte for byte later, so anything but printable ASCII makes no name; neither do two names of one kind:
it would be left to chance which of them counts.

Of an idle connection's certificate nothing is kept but its mark: 64 bits of issuer and serial number. Should
two share one, the other's session ends with it, and that device logs in again.
"""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport malloc, realloc
from libc.string cimport memcpy

from otagate.plane.openssl cimport (
    GEN_DNS, GEN_URI, NID_commonName, NID_subject_alt_name,
    ASN1_STRING, ASN1_STRING_get0_data, ASN1_STRING_length, EVP_sha256, GENERAL_NAME_get0_value,
    GENERAL_NAMES_free, GeneralNames, X509, X509_NAME, X509_NAME_ENTRY_get_data, X509_NAME_get_entry,
    X509_NAME_get_index_by_NID, X509_NAME_hash_ex, X509_digest, X509_get0_serialNumber, X509_get_ext_d2i,
    X509_get_issuer_name, X509_get_subject_name, X509Stack,
    sk_GENERAL_NAME_num, sk_GENERAL_NAME_value, sk_X509_num, sk_X509_value,
)
from otagate.plane.state cimport NAME_CN, NAME_URI

cdef enum:
    NAME_BYTES_MAX = 255
    AUTHORITIES_MAX = 8                 # of a chain; OpenSSL follows up to 100
    DIGEST_BYTES = 32

cdef const char* HEX = b"0123456789abcdef"


cdef uint32_t copy_name(const ASN1_STRING* found, uint8_t* out) noexcept nogil:
    """Its size; 0: not printable, empty, or too long."""
    cdef const uint8_t* data = ASN1_STRING_get0_data(found)
    cdef int size = ASN1_STRING_length(found)
    cdef int i
    if size > NAME_BYTES_MAX:
        return 0
    for i in range(size):
        if not 0x21 <= data[i] <= 0x7E:
            return 0
    memcpy(out, data, size)
    return <uint32_t>size


cdef uint32_t find_common_name(const X509* certificate, uint8_t* out) noexcept nogil:
    cdef X509_NAME* subject = X509_get_subject_name(certificate)
    cdef int index = X509_NAME_get_index_by_NID(subject, NID_commonName, -1)
    if index < 0 or X509_NAME_get_index_by_NID(subject, NID_commonName, index) >= 0:
        return 0
    return copy_name(X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, index)), out)


cdef uint32_t find_alternative(const X509* certificate, int wanted, uint8_t* out) noexcept nogil:
    cdef GeneralNames* names = <GeneralNames*>X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL)
    cdef uint32_t size = 0
    cdef int count = 0
    cdef int kind = -1
    cdef int i
    cdef void* value
    if names == NULL:
        return 0
    for i in range(sk_GENERAL_NAME_num(names)):
        value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names, i), &kind)
        if kind == wanted:
            count += 1
            size = copy_name(<ASN1_STRING*>value, out)
    GENERAL_NAMES_free(names)
    return size if count == 1 else 0


cdef void write_hex(const uint8_t* digest, uint8_t* out) noexcept nogil:
    cdef int i
    for i in range(DIGEST_BYTES):
        out[2 * i] = HEX[digest[i] >> 4]
        out[2 * i + 1] = HEX[digest[i] & 15]


cdef int describe(const X509Stack* chain, int kind, uint8_t** out, uint32_t* size) noexcept nogil:
    cdef const X509* certificate = sk_X509_value(chain, 0)
    cdef uint8_t digest[64]
    cdef uint8_t* text
    cdef uint32_t at
    cdef int i
    cdef int count = min(sk_X509_num(chain), 1 + AUTHORITIES_MAX)
    text = <uint8_t*>malloc(NAME_BYTES_MAX + count * (1 + 2 * DIGEST_BYTES))
    if text == NULL:
        return -1
    if kind == NAME_CN:
        at = find_common_name(certificate, text)
    else:
        at = find_alternative(certificate, GEN_URI if kind == NAME_URI else GEN_DNS, text)
    for i in range(1, count):
        text[at] = c"\n"
        X509_digest(sk_X509_value(chain, i), EVP_sha256(), digest, NULL)
        write_hex(digest, text + at + 1)
        at += 1 + 2 * DIGEST_BYTES
    out[0] = <uint8_t*>realloc(text, max(at, <uint32_t>1))
    if out[0] == NULL:
        out[0] = text
    size[0] = at
    return 0


cdef uint64_t mark_of(const X509_NAME* issuer, const ASN1_STRING* serial) noexcept nogil:
    # OpenSSL's hash of a name is of its canonical form: it may be written otherwise in list and certificate.
    cdef const uint8_t* data = ASN1_STRING_get0_data(serial)
    cdef uint64_t mark = 0xCBF29CE484222325ULL ^ X509_NAME_hash_ex(issuer, NULL, NULL, NULL)
    cdef int i
    for i in range(ASN1_STRING_length(serial)):  # FNV-1a
        mark = (mark ^ data[i]) * 0x100000001B3ULL
    return max(mark, <uint64_t>1)


cdef uint64_t mark_of_certificate(const X509* certificate) noexcept nogil:
    return mark_of(X509_get_issuer_name(certificate), X509_get0_serialNumber(certificate))
