# Sockets and timers of simulated devices.

from libc.stdint cimport uint8_t, uint64_t

from otagate.bench.state cimport Device, Engine

# One timer a device: a second one takes the place of the first.
cdef void timer_start(Engine* engine, Device* device, uint8_t reason, uint64_t delay_ns) noexcept nogil
# The next device whose time has come, and what for; NULL: none.
cdef Device* timer_due(Engine* engine, uint8_t* reason) noexcept nogil

cdef void connect_soon(Engine* engine, Device* device) noexcept nogil
# Opens waiting connections while fewer than opening_max are being opened.
cdef void open_waiting(Engine* engine) noexcept nogil
cdef void opened(Engine* engine, Device* device) noexcept nogil     # no more counted as being opened
cdef void disconnect(Engine* engine, Device* device) noexcept nogil
cdef void abort_connection(Engine* engine, Device* device) noexcept nogil   # by RST
cdef void watch(Engine* engine, Device* device, bint reading) noexcept nogil

# Gathers what is to be sent to the device at hand; send_out sends it.
cdef void put(Engine* engine, const uint8_t* data, size_t size) noexcept nogil
cdef void put_frame(
    Engine* engine, Device* device, uint8_t opcode, const uint8_t* payload, size_t size) noexcept nogil
cdef bint send_out(Engine* engine, Device* device) noexcept nogil   # False: the connection is gone
cdef bint hold(Device* device, const uint8_t* data, size_t size) noexcept nogil
