# Lines, random numbers and the note of what went wrong.

from libc.stdint cimport uint32_t, uint64_t

from otagate.bench.state cimport Engine, Line

cdef uint64_t random_number(Engine* engine) noexcept nogil
cdef uint64_t mixed(uint64_t seed, uint64_t number) noexcept nogil

cdef void line_push(Line* line, uint32_t item) noexcept nogil
cdef bint line_pop(Line* line, uint32_t* item) noexcept nogil

# Counted, and kept as the last thing that went wrong.
cdef void protocol_error(Engine* engine, const char* words) noexcept nogil
