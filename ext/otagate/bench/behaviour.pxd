# What a simulated device does.

from libc.stdint cimport uint8_t

from otagate.bench.state cimport Device, Engine

cdef enum:
    STEP_IDLE = 0                       # of a campaign
    STEP_DOWNLOADING = 1
    STEP_HALFWAY = 2                    # and has said so
    STEP_ASKED = 3                      # may I burn?
    STEP_BURNT = 4

# All of these gather what is to be sent in `engine.out`; the caller sends it. After any of them the
# connection may be gone (fd < 0).
cdef void on_connected(Engine* engine, Device* device) noexcept nogil
cdef void on_handshake(Engine* engine, Device* device) noexcept nogil   # the server has answered
cdef void on_text(Engine* engine, Device* device, const uint8_t* payload, size_t size) noexcept nogil
cdef void on_progress(Engine* engine, Device* device) noexcept nogil    # bytes of the image came
cdef void on_downloaded(Engine* engine, Device* device) noexcept nogil  # all of them, and hashed
cdef void on_answer(Engine* engine, Device* device) noexcept nogil      # of a server that is no gateway
cdef void on_image_bytes(Engine* engine, Device* device, size_t size) noexcept nogil  # of such a server
cdef void on_lost(Engine* engine, Device* device) noexcept nogil        # the connection ended by itself

cdef void start_work(Engine* engine, Device* device) noexcept nogil     # `engine.running` has become true
cdef void send_next(Engine* engine, Device* device) noexcept nogil      # its turn in the line has come
