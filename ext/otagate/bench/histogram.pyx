"""Durations counted in buckets, 64 to each power of two; counters that remember their first and last moment.

Bucket of a value below 128: the value. Above: shift it right until it is below 128; the bucket is
64 * shift + what is left. So buckets are 1.6 % wide or less. bench/histogram.py reads them.
"""

from libc.stdint cimport uint64_t

from otagate.bench.state cimport HISTOGRAM_BUCKETS, Histogram, Tally
from otagate.bench.system cimport CLOCK_MONOTONIC
from otagate.plane.system cimport clock_gettime, timespec

cdef extern from *:
    int leading_zeros "__builtin_clzll" (unsigned long long value) noexcept nogil


cdef void histogram_add(Histogram* histogram, uint64_t value) noexcept nogil:
    cdef int shift = 57 - leading_zeros(value | 1)
    cdef uint64_t bucket
    if shift < 0:
        shift = 0
    bucket = 64 * <uint64_t>shift + (value >> shift)
    if bucket >= HISTOGRAM_BUCKETS:
        bucket = HISTOGRAM_BUCKETS - 1
    histogram.buckets[bucket] += 1
    histogram.count += 1
    histogram.total += value
    if value > histogram.largest:
        histogram.largest = value


cdef void tally(Tally* moment, uint64_t now_ns) noexcept nogil:
    if moment.count == 0:
        moment.first_ns = now_ns
    moment.count += 1
    moment.last_ns = now_ns


cdef uint64_t clock_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec


def buckets_of(values):
    """The non-empty buckets of some values, as a test sees them: {bucket: count}."""
    cdef Histogram histogram
    cdef uint64_t value
    cdef int i
    for i in range(HISTOGRAM_BUCKETS):
        histogram.buckets[i] = 0
    histogram.count = histogram.largest = histogram.total = 0
    for value in values:
        histogram_add(&histogram, value)
    return {i: histogram.buckets[i] for i in range(HISTOGRAM_BUCKETS) if histogram.buckets[i]}
