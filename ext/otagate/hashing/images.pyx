"""Everything that is computed over an image while its bytes arrive: MD5, SHA-256, chunk digests.

The three run over the same few KiB in turn, so that the image passes through the first-level cache once;
MD5 and SHA-256 are libcrypto's (the fastest there is for one stream). The GIL is released for each `update`.

Invariant: `_size` bytes have gone through all of them, and `_table` has room for every digest written.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc

from otagate.hashing.chunks cimport ChunkDigests, chunks_begin, chunks_feed, chunks_finish

cdef extern from "openssl/evp.h" nogil:
    ctypedef struct EVP_MD:
        pass
    ctypedef struct EVP_MD_CTX:
        pass
    ctypedef struct ENGINE:
        pass
    const EVP_MD* EVP_md5()
    const EVP_MD* EVP_sha256()
    EVP_MD_CTX* EVP_MD_CTX_new()
    void EVP_MD_CTX_free(EVP_MD_CTX* context)
    int EVP_DigestInit_ex(EVP_MD_CTX* context, const EVP_MD* kind, ENGINE* engine)
    int EVP_DigestUpdate(EVP_MD_CTX* context, const void* data, size_t size)
    int EVP_DigestFinal_ex(EVP_MD_CTX* context, unsigned char* digest, unsigned int* size)
    int EVP_MD_CTX_copy_ex(EVP_MD_CTX* out, const EVP_MD_CTX* context)

cdef enum:
    SLICE_BYTES = 16 * 1024  # half of the smallest first-level cache
    DIGEST_BYTES_MAX = 32


cdef class ImageHasher:
    """MD5, SHA-256 and chunk digests in one pass.

    The digests may be read at any time, also before more bytes come. One thread at a time: an `update` while
    another runs raises RuntimeError.
    """

    cdef EVP_MD_CTX* _md5
    cdef EVP_MD_CTX* _sha256
    cdef ChunkDigests _chunks
    cdef uint8_t* _table        # the digests of whole chunks, and room for one more
    cdef uint64_t _size
    cdef bint _busy

    def __cinit__(self, chunk_size=65536):
        cdef uint32_t size = 0
        if chunk_size is not None:
            if not 1 <= chunk_size < 2**32:
                raise ValueError("chunk_size is an integer from 1 to 2**32 - 1, or None")
            size = chunk_size
        self._md5 = EVP_MD_CTX_new()
        self._sha256 = EVP_MD_CTX_new()
        if self._md5 == NULL or self._sha256 == NULL:
            raise MemoryError
        if not EVP_DigestInit_ex(self._md5, EVP_md5(), NULL):
            raise RuntimeError("libcrypto refuses MD5")  # as a FIPS build does
        if not EVP_DigestInit_ex(self._sha256, EVP_sha256(), NULL):
            raise RuntimeError("libcrypto refuses SHA-256")
        chunks_begin(&self._chunks, size, NULL)

    def __dealloc__(self):
        EVP_MD_CTX_free(self._md5)
        EVP_MD_CTX_free(self._sha256)
        free(self._table)

    def update(self, data):
        """The next bytes: any contiguous buffer. Nothing is copied; the GIL is released."""
        cdef Py_buffer view
        cdef bint done
        self._check_idle()
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        self._busy = True
        try:
            self._make_room(view.len)
            with nogil:
                done = self._feed(<const uint8_t*>view.buf, view.len)
            if not done:
                raise RuntimeError("libcrypto failed")
            self._size += view.len
        finally:
            self._busy = False
            PyBuffer_Release(&view)

    @property
    def size(self):
        """Bytes so far."""
        return self._size

    @property
    def md5(self):
        """MD5 of the bytes so far, 32 lower-case hex characters."""
        self._check_idle()
        return hexdigest(self._md5)

    @property
    def sha256(self):
        """SHA-256 of the bytes so far, 64 lower-case hex characters."""
        self._check_idle()
        return hexdigest(self._sha256)

    @property
    def chunk_digests(self):
        """The xxh32 of each chunk so far, 4 bytes big-endian each; the last chunk may be short. Empty without a
        chunk size."""
        cdef ChunkDigests last
        self._check_idle()
        if self._chunks.out == NULL:
            return b""
        last = self._chunks
        chunks_finish(&last)  # into the room for one more
        return PyBytes_FromStringAndSize(<const char*>self._table, last.out - self._table)

    cdef int _check_idle(self) except -1:
        if self._busy:
            raise RuntimeError("another thread is updating this hasher")
        return 0

    cdef int _make_room(self, uint64_t size) except -1:
        cdef uint8_t* table
        cdef uint64_t written = self._chunks.out - self._table if self._table != NULL else 0
        if self._chunks.chunk_size == 0 or size == 0:
            return 0
        table = <uint8_t*>realloc(self._table, ((self._size + size) // self._chunks.chunk_size + 1) * 4)
        if table == NULL:
            raise MemoryError
        self._table = table
        self._chunks.out = table + written
        return 0

    cdef bint _feed(self, const uint8_t* data, size_t size) noexcept nogil:
        cdef size_t piece
        while size:
            piece = min(size, <size_t>SLICE_BYTES)
            if not EVP_DigestUpdate(self._md5, data, piece) or not EVP_DigestUpdate(self._sha256, data, piece):
                return False
            if self._chunks.chunk_size:
                chunks_feed(&self._chunks, data, piece)
            data += piece
            size -= piece
        return True


cdef str hexdigest(const EVP_MD_CTX* context):
    """The digest so far; the context can be fed on."""
    cdef unsigned char digest[DIGEST_BYTES_MAX]
    cdef unsigned int size = 0
    cdef EVP_MD_CTX* copy = EVP_MD_CTX_new()
    if copy == NULL:
        raise MemoryError
    try:
        if not EVP_MD_CTX_copy_ex(copy, context) or not EVP_DigestFinal_ex(copy, digest, &size):
            raise RuntimeError("libcrypto failed")
    finally:
        EVP_MD_CTX_free(copy)
    return PyBytes_FromStringAndSize(<const char*>digest, size).hex()
