# Durations counted in buckets of 1.6 %: 64 to each power of two.

from libc.stdint cimport uint64_t

from otagate.bench.state cimport Histogram, Tally

cdef void histogram_add(Histogram* histogram, uint64_t value) noexcept nogil
cdef void tally(Tally* moment, uint64_t now_ns) noexcept nogil
cdef uint64_t clock_ns() noexcept nogil
