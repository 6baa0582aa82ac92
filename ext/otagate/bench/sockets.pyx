"""Sockets and timers of simulated devices.

A source address is shared by SHARERS devices, so that ports do not run out however often they reconnect.
Timers stand in a wheel of 4 ms ticks, in lists by number; a device has at most one, and a timer that is
no longer wanted (`Device.timer` says what is) is passed over when its tick comes.
"""

from libc.errno cimport EAGAIN, EINPROGRESS, EINTR, errno
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from otagate.bench.common cimport line_pop, line_push, protocol_error, random_number
from otagate.bench.download cimport flush_hashes
from otagate.bench.state cimport (
    LINK_WEBSOCKET, NO_DEVICE, OUT_BYTES, PHASE_CONNECTING, PHASE_OUT, TICK_NS, TIMER_CONNECT, TIMER_NONE,
    WHEEL_TICKS, Device, Engine,
)
from otagate.bench.system cimport (
    EPOLL_CTL_MOD, IP_BIND_ADDRESS_NO_PORT, IPPROTO_IP, SOCK_STREAM, bind, connect, htonl, socket, sockaddr,
    sockaddr_in,
)
from otagate.plane.system cimport (
    AF_INET, EPOLL_CTL_ADD, EPOLLIN, EPOLLOUT, IPPROTO_TCP, MSG_NOSIGNAL, SO_LINGER, SOCK_CLOEXEC,
    SOCK_NONBLOCK, SOL_SOCKET, TCP_NODELAY, epoll_ctl, epoll_event, linger, send, setsockopt,
)
from otagate.wire.frames cimport (
    WEBSOCKET_HEADER_BYTES_MAX, unmask, write_tcp_header, write_websocket_header_masked,
)

cdef extern from "unistd.h" nogil:
    int close(int fd)

cdef enum:
    SHARERS = 200


# -- timers ----------------------------------------------------------------------------------------

cdef void timer_start(Engine* engine, Device* device, uint8_t reason, uint64_t delay_ns) noexcept nogil:
    cdef uint64_t ticks = delay_ns // TICK_NS + 1
    cdef uint64_t tick
    cdef bint stands = device.timer_next != NO_DEVICE - 1
    device.timer = reason
    if stands:
        return  # in the wheel already: it comes at the time of the first
    if ticks >= WHEEL_TICKS:
        ticks = WHEEL_TICKS - 1
    tick = (engine.tick + ticks) % WHEEL_TICKS
    device.timer_next = engine.wheel[tick]
    engine.wheel[tick] = <int32_t>(device - engine.devices)
    engine.timers += 1


cdef Device* timer_due(Engine* engine, uint8_t* reason) noexcept nogil:
    cdef Device* device
    cdef uint64_t now_tick = engine.now_ns // TICK_NS
    cdef int32_t first
    if engine.timers == 0:
        engine.tick = now_tick
        return NULL
    while True:
        first = engine.wheel[engine.tick % WHEEL_TICKS]
        if first != NO_DEVICE:
            break
        if engine.tick >= now_tick:
            return NULL
        engine.tick += 1
    device = &engine.devices[first]
    engine.wheel[engine.tick % WHEEL_TICKS] = device.timer_next
    engine.timers -= 1
    device.timer_next = NO_DEVICE - 1
    reason[0] = device.timer
    device.timer = TIMER_NONE
    return device


# -- connections -----------------------------------------------------------------------------------

cdef void connect_soon(Engine* engine, Device* device) noexcept nogil:
    line_push(&engine.to_connect, <uint32_t>(device - engine.devices))


cdef void opened(Engine* engine, Device* device) noexcept nogil:
    if device.counted:
        device.counted = False
        engine.opening -= 1


cdef int begin_connect(Engine* engine, Device* device) noexcept nogil:
    """An errno if not even this could be done."""
    cdef sockaddr_in address
    cdef epoll_event wanted
    cdef int on = 1
    cdef int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if fd < 0:
        return errno
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on))
    memset(&address, 0, sizeof(address))
    address.sin_family = AF_INET
    if engine.settings.sources:
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on))
        address.sin_addr.s_addr = htonl(
            engine.settings.source + (device.number // SHARERS) % engine.settings.sources
        )
        if bind(fd, <sockaddr*>&address, sizeof(address)) < 0:
            close(fd)
            return errno
    address.sin_addr.s_addr = engine.settings.address
    address.sin_port = engine.settings.port
    if connect(fd, <sockaddr*>&address, sizeof(address)) < 0 and errno != EINPROGRESS:
        close(fd)
        return errno
    wanted.events = EPOLLIN | EPOLLOUT
    wanted.data.u64 = <uint64_t>(device - engine.devices)
    if epoll_ctl(engine.epoll, EPOLL_CTL_ADD, fd, &wanted) < 0:
        close(fd)
        return errno
    device.fd = fd
    device.phase = PHASE_CONNECTING
    device.writing = True
    device.connect_ns = engine.now_ns
    device.frame_left = 0
    device.in_flight = 0
    engine.counters.connects += 1
    return 0


cdef void open_waiting(Engine* engine) noexcept nogil:
    cdef uint32_t number
    cdef Device* device
    while engine.opening < engine.settings.opening_max and line_pop(&engine.to_connect, &number):
        device = &engine.devices[number]
        if device.fd >= 0:
            continue
        if begin_connect(engine, device):
            engine.counters.connect_errors += 1
            timer_start(engine, device, TIMER_CONNECT, 100 * TICK_NS)
            continue
        device.counted = True
        engine.opening += 1


cdef void disconnect(Engine* engine, Device* device) noexcept nogil:
    """Nothing of the connection is left; what is known of the upgrade stays."""
    if device.fd < 0:
        return
    if device.download.last_job != NULL:
        flush_hashes(engine)
    close(device.fd)
    device.fd = -1
    device.phase = PHASE_OUT
    device.in_flight = 0
    device.held_size = 0
    device.unsent_size = 0
    device.frame_left = 0
    engine.out_size = 0
    opened(engine, device)


cdef void abort_connection(Engine* engine, Device* device) noexcept nogil:
    cdef linger at_once
    at_once.l_onoff = 1
    at_once.l_linger = 0
    if device.fd >= 0:
        setsockopt(device.fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once))
    disconnect(engine, device)


cdef void watch(Engine* engine, Device* device, bint reading) noexcept nogil:
    cdef epoll_event wanted
    wanted.events = (EPOLLIN if reading else 0) | (EPOLLOUT if device.writing else 0)
    wanted.data.u64 = <uint64_t>(device - engine.devices)
    epoll_ctl(engine.epoll, EPOLL_CTL_MOD, device.fd, &wanted)


# -- bytes -----------------------------------------------------------------------------------------

cdef void put(Engine* engine, const uint8_t* data, size_t size) noexcept nogil:
    if engine.out_size + size > OUT_BYTES:
        protocol_error(engine, b"more to send than there is room for")
        return
    memcpy(engine.out + engine.out_size, data, size)
    engine.out_size += <uint32_t>size


cdef void put_frame(
    Engine* engine, Device* device, uint8_t opcode, const uint8_t* payload, size_t size
) noexcept nogil:
    cdef uint8_t header[WEBSOCKET_HEADER_BYTES_MAX]
    cdef uint64_t mask
    cdef uint32_t start
    if device.link != LINK_WEBSOCKET:
        put(engine, header, write_tcp_header(header, opcode, size))
        put(engine, payload, size)
        return
    mask = random_number(engine)
    put(engine, header, write_websocket_header_masked(header, opcode, size, <const uint8_t*>&mask))
    start = engine.out_size
    put(engine, payload, size)
    unmask(engine.out + start, engine.out_size - start, <const uint8_t*>&mask, 0)


cdef bint send_out(Engine* engine, Device* device) noexcept nogil:
    cdef size_t size = engine.out_size
    cdef size_t sent = 0
    cdef ssize_t done
    engine.out_size = 0
    if device.fd < 0:
        return False
    if device.unsent_size == 0:
        while sent < size:
            done = send(device.fd, engine.out + sent, size - sent, MSG_NOSIGNAL)
            if done >= 0:
                sent += done
            elif errno == EAGAIN:
                break
            elif errno != EINTR:
                return False
    if sent < size:
        if not grow(&device.unsent, &device.unsent_capacity, device.unsent_size + (size - sent)):
            return False
        memcpy(device.unsent + device.unsent_size, engine.out + sent, size - sent)
        device.unsent_size += <uint32_t>(size - sent)
        if not device.writing:
            device.writing = True
            watch(engine, device, True)
    return True


cdef bint grow(uint8_t** data, uint32_t* capacity, size_t size) noexcept nogil:
    cdef uint8_t* larger
    if size <= capacity[0]:
        return True
    larger = <uint8_t*>realloc(data[0], size)
    if larger == NULL:
        return False
    data[0] = larger
    capacity[0] = <uint32_t>size
    return True


cdef bint hold(Device* device, const uint8_t* data, size_t size) noexcept nogil:
    """Keeps what cannot be taken yet; nothing for nothing."""
    device.held_size = 0
    if size == 0:
        if device.held_capacity > 256:
            free(device.held)
            device.held = NULL
            device.held_capacity = 0
        return True
    if not grow(&device.held, &device.held_capacity, size):
        return False
    memcpy(device.held, data, size)
    device.held_size = <uint32_t>size
    return True
