# What compiled rooms of the gateway look up in its tables without a call of Python.

from libc.stdint cimport uint64_t

cdef struct Slot:
    uint64_t device                     # 0: free
    uint64_t conn


cdef class Presence:
    cdef Slot* slots
    cdef uint64_t mask
    cdef uint64_t used

    cdef uint64_t _place(self, uint64_t device) noexcept nogil
    cdef uint64_t find(self, uint64_t device) noexcept nogil
    cdef int _resize(self, uint64_t size) except -1
