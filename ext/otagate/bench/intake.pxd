# Received bytes to messages and chunks, on both links, and to the answers of other servers.

from libc.stdint cimport uint8_t

from otagate.bench.state cimport Device, Engine

# Returns how many bytes were taken; the rest belongs before those that come next. < 0: the connection cannot
# go on. Payloads of chunks must stay where they are until flush_hashes.
cdef ssize_t take(Engine* engine, Device* device, const uint8_t* data, size_t size) noexcept nogil
