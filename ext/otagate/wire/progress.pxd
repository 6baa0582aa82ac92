# The commonest message of a device, read without an object. Python face and theory: progress.pyx.

from libc.stdint cimport uint8_t, uint64_t

cdef enum:
    IDENTITY_CHARS_MAX = 64             # messages.ID_CHARS_MAX
    ACKNOWLEDGEMENT_BYTES_MAX = 86      # 20 before the id, 2 behind it


cdef struct ProgressReport:
    uint64_t batch                      # the number behind its id
    uint64_t attempt
    const uint8_t* identity             # of the message, within its bytes; NULL: it wants no answer
    uint8_t identity_size
    uint8_t stage                       # as in upgrade.model.Stage: 1 downloading, 2 verifying, 3 burning
    uint8_t percent


cdef bint read_report(const uint8_t* data, size_t size, ProgressReport* report) noexcept nogil
cdef size_t write_acknowledgement(uint8_t* out, const uint8_t* identity, size_t size) noexcept nogil
