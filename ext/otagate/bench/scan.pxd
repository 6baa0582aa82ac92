# Where the fields of a JSON object stand. Nothing is copied, checked or unescaped.

from libc.stdint cimport uint8_t, uint64_t

cdef enum:
    FIELDS_MAX = 16

cdef struct Span:
    const uint8_t* data                 # of a string: between its quotes
    size_t size

cdef struct Fields:
    Span names[FIELDS_MAX]
    Span values[FIELDS_MAX]
    int count

# The fields of the object's top level, in order; those beyond FIELDS_MAX are passed over. False: no object.
cdef bint scan_object(const uint8_t* text, size_t size, Fields* out) noexcept nogil

# The value of that name (zero-terminated); NULL and 0 if there is none.
cdef Span field(const Fields* fields, const char* name) noexcept nogil

cdef bint span_is(Span span, const char* words) noexcept nogil
cdef uint64_t span_number(Span span) noexcept nogil     # 0 for what is no whole number
