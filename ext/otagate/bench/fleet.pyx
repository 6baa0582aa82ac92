"""A fleet of simulated devices in one process: the loop, and the Python class.

Theory. One epoll, one thread, no task and no object for a device. A turn takes what epoll has, reads
each connection once, and runs the MD5 lanes when every slot for received bytes holds some, or the turn ends; so with
many devices downloading, the lanes are full. `run` gives the GIL away for all its time.

Invariant: `engine.out` is empty between two devices.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

import ipaddress

from otagate.bench.behaviour cimport (
    on_connected, on_downloaded, on_image_bytes, on_lost, send_next, start_work,
)
from otagate.bench.common cimport line_pop, mixed
from otagate.bench.download cimport chunk_data, flush_hashes
from otagate.bench.histogram cimport clock_ns
from otagate.bench.intake cimport take
from otagate.bench.sockets cimport (
    connect_soon, disconnect, hold, open_waiting, send_out, timer_due, timer_start, watch,
)
from otagate.bench.state cimport (
    DEPTH_MAX, FAULT_SLOW, FAULTS, HISTOGRAM_BUCKETS, LINK_HTTP, LINK_MQTT, LINK_TCP, LINK_WEBSOCKET,
    NO_DEVICE, PHASE_CONNECTING, PHASE_OPEN, SLOT_BYTES, SLOTS, TICK_NS, TIMER_CONNECT, TIMER_READ,
    TEXT_BYTES_MAX, WHEEL_TICKS, WORK_CAMPAIGN, Device, Engine, Histogram, Line,
)
from otagate.bench.system cimport MSG_TRUNC, SO_ERROR, getsockopt, htonl, htons, socklen_t
from otagate.plane.system cimport (
    EPOLL_CLOEXEC, EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, MSG_NOSIGNAL, SOL_SOCKET, epoll_create1,
    epoll_event, epoll_wait, recv, send,
)

cdef extern from "unistd.h" nogil:
    int close(int fd)

cdef enum:
    EVENTS_MAX = 512
    SLOW_READ_BYTES = 16 * 1024         # FAULT_SLOW: so much at a time
    SLOW_PAUSE_MS = 20
    HEAD_READ_BYTES = 512               # of a frame whose payload will be dropped in the kernel
    MILLISECOND_NS = 1000000

LINKS = {"websocket": LINK_WEBSOCKET, "tcp": LINK_TCP, "http": LINK_HTTP, "mqtt": LINK_MQTT}
WORKS = ["idle", "report", "transitions", "versions", "stream", "campaign", "requests"]
FAULT_NAMES = ["none", "drop", "corrupt", "fail", "silent", "slow", "storm"]


# -- turns -------------------------------------------------------------------------------------------------

cdef void write_unsent(Engine* engine, Device* device) noexcept nogil:
    cdef ssize_t sent = send(device.fd, device.unsent, device.unsent_size, MSG_NOSIGNAL)
    cdef uint32_t i
    if sent < 0 and errno != EAGAIN and errno != EINTR:
        on_lost(engine, device)
        return
    if sent > 0:
        device.unsent_size -= <uint32_t>sent
        for i in range(device.unsent_size):  # memmove
            device.unsent[i] = device.unsent[i + sent]
    if device.unsent_size == 0:
        device.writing = False
        watch(engine, device, True)


cdef void connected(Engine* engine, Device* device) noexcept nogil:
    cdef int error = 0
    cdef socklen_t size = sizeof(error)
    getsockopt(device.fd, SOL_SOCKET, SO_ERROR, &error, &size)
    if error:
        on_lost(engine, device)
        return
    device.writing = False
    watch(engine, device, True)
    on_connected(engine, device)
    if not send_out(engine, device):
        on_lost(engine, device)


cdef bint drop_payload(Engine* engine, Device* device) noexcept nogil:
    """The kernel throws the bytes of a chunk away, and says how many. False: the connection is gone."""
    cdef ssize_t size = recv(device.fd, NULL, device.frame_left, MSG_TRUNC)
    if size < 0:
        return errno == EAGAIN or errno == EINTR
    if size == 0:
        return False
    engine.counters.bytes_in += size
    device.frame_left -= size
    if engine.settings.login:
        chunk_data(engine, device, NULL, size)
    else:
        on_image_bytes(engine, device, size)
    return send_out(engine, device)


cdef void readable(Engine* engine, Device* device) noexcept nogil:
    cdef uint8_t* slot = engine.slots + <size_t>engine.slot * (SLOT_BYTES + TEXT_BYTES_MAX)
    cdef size_t held = device.held_size
    cdef size_t most = engine.settings.read_bytes
    cdef ssize_t size, taken
    cdef bint slow = device.fault == FAULT_SLOW and device.works and engine.settings.work == WORK_CAMPAIGN
    if engine.settings.discard and device.frame_left and not held:
        if not drop_payload(engine, device):
            on_lost(engine, device)
            return
        if device.frame_left:
            return
    if engine.settings.discard and device.phase == PHASE_OPEN:
        most = HEAD_READ_BYTES
    if slow:
        most = SLOW_READ_BYTES
    if held:
        memcpy(slot, device.held, held)
    size = recv(device.fd, slot + held, most, 0)
    if size < 0 and (errno == EAGAIN or errno == EINTR):
        return
    if size <= 0:
        on_lost(engine, device)
        return
    engine.counters.bytes_in += size
    taken = take(engine, device, slot, held + size)
    if taken < 0 or not send_out(engine, device):
        if device.fd >= 0:
            on_lost(engine, device)
        return
    if not hold(device, slot + taken, held + size - taken):
        on_lost(engine, device)
    elif slow:
        watch(engine, device, False)
        timer_start(engine, device, TIMER_READ, SLOW_PAUSE_MS * MILLISECOND_NS)


cdef void judge_finished(Engine* engine) noexcept nogil:
    cdef uint32_t number
    cdef Device* device
    while line_pop(&engine.finished, &number):
        device = &engine.devices[number]
        on_downloaded(engine, device)
        if device.fd >= 0 and not send_out(engine, device):
            on_lost(engine, device)


cdef void handle(Engine* engine, Device* device, uint32_t events) noexcept nogil:
    engine.now_ns = clock_ns()
    if device.phase == PHASE_CONNECTING:
        connected(engine, device)
        return
    if events & EPOLLOUT and device.unsent_size:
        write_unsent(engine, device)
    if device.fd >= 0 and events & (EPOLLIN | EPOLLERR | EPOLLHUP):
        readable(engine, device)
    if engine.job_count:
        engine.slot += 1
        if engine.slot == SLOTS:
            flush_hashes(engine)
    if engine.job_count == 0:
        engine.slot = 0


cdef void release(Engine* engine) noexcept nogil:
    """Lets devices in the line send, as many as the rate allows; it does not make up for more than 50 ms."""
    cdef uint32_t number
    cdef Device* device
    cdef double rate = engine.settings.rate
    if not engine.running:
        return
    if rate > 0:
        engine.allowance += rate * <double>(engine.now_ns - engine.allowance_ns) / 1e9
        engine.allowance = min(engine.allowance, max(rate / 20, 1.0))
        engine.allowance_ns = engine.now_ns
    while (rate <= 0 or engine.allowance >= 1) and line_pop(&engine.to_send, &number):
        device = &engine.devices[number]
        device.waits = False
        engine.allowance -= 1
        engine.now_ns = clock_ns()
        send_next(engine, device)
        if device.fd >= 0 and not send_out(engine, device):
            on_lost(engine, device)


cdef void meet_timers(Engine* engine) noexcept nogil:
    cdef uint8_t reason = 0
    cdef Device* device = timer_due(engine, &reason)
    while device != NULL:
        if reason == TIMER_CONNECT and device.fd < 0:
            connect_soon(engine, device)
        elif reason == TIMER_READ and device.fd >= 0:
            watch(engine, device, True)
        device = timer_due(engine, &reason)


cdef int timeout_ms(Engine* engine, uint64_t end_ns) noexcept nogil:
    cdef uint64_t left_ms
    if engine.now_ns >= end_ns:
        return 0
    left_ms = (end_ns - engine.now_ns) // MILLISECOND_NS + 1
    if engine.running and engine.to_send.size:
        return 1 if engine.settings.rate > 0 else 0
    if engine.timers:
        left_ms = min(left_ms, <uint64_t>(TICK_NS // MILLISECOND_NS))
    return <int>left_ms


cdef int turn(Engine* engine, uint64_t end_ns, epoll_event* events) noexcept nogil:
    """Waits at most until `end_ns`. An errno, or 0."""
    cdef int count, i
    engine.now_ns = clock_ns()
    meet_timers(engine)
    open_waiting(engine)
    release(engine)
    count = epoll_wait(engine.epoll, events, EVENTS_MAX, timeout_ms(engine, end_ns))
    if count < 0 and errno != EINTR:
        return errno
    for i in range(max(count, 0)):
        if engine.devices[events[i].data.u64].fd >= 0:
            handle(engine, &engine.devices[events[i].data.u64], events[i].events)
    flush_hashes(engine)
    engine.slot = 0
    engine.now_ns = clock_ns()
    judge_finished(engine)
    return 0


# -- Python face -------------------------------------------------------------------------------------------

cdef int line_make(Line* line, uint32_t capacity) except -1:
    line.items = <uint32_t*>calloc(capacity, sizeof(uint32_t))
    if line.items == NULL:
        raise MemoryError
    line.capacity = capacity
    return 0


cdef uint32_t copy_text(object text, uint8_t* out, size_t size_max) except? 0:
    encoded = text.encode("ascii")
    if <size_t>len(encoded) > size_max:
        raise ValueError(f"{text!r} is too long")
    memcpy(out, PyBytes_AS_STRING(encoded), PyBytes_GET_SIZE(encoded))
    return <uint32_t>PyBytes_GET_SIZE(encoded)


cdef class Fleet:
    """Devices `first` to `first + count - 1`, by number; `prefix` and number make the identifier, and
    "s" and the number in 31 digits the secret.

    links: device i has links[i % len(links)]. Nothing moves but in `run`.
    """

    cdef Engine* engine
    cdef epoll_event* events

    def __cinit__(self, *, uint32_t first, uint32_t count, links, str prefix="d", str product="bench",
                  str version="1.0.0", uint64_t seed=1):
        cdef uint32_t i
        numbers = [LINKS[link] for link in links]
        if count == 0 or not numbers:
            raise ValueError("a fleet has devices, and each has a link")
        self.engine = <Engine*>calloc(1, sizeof(Engine))
        self.events = <epoll_event*>calloc(EVENTS_MAX, sizeof(epoll_event))
        if self.engine == NULL or self.events == NULL:
            raise MemoryError
        self.engine.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.engine.epoll < 0:
            raise OSError(errno, "epoll_create1")
        self.engine.devices = <Device*>calloc(count, sizeof(Device))
        self.engine.slots = <uint8_t*>malloc(SLOTS * (SLOT_BYTES + TEXT_BYTES_MAX))
        if self.engine.devices == NULL or self.engine.slots == NULL:
            raise MemoryError
        line_make(&self.engine.to_connect, count)
        line_make(&self.engine.to_send, count)
        line_make(&self.engine.finished, count)
        self.engine.count = count
        self.engine.version_size = copy_text(version, self.engine.version, 100)
        for i in range(count):
            self.engine.devices[i].fd = -1
            memcpy(self.engine.devices[i].version, self.engine.version, self.engine.version_size)
            self.engine.devices[i].version_size = <uint8_t>self.engine.version_size
            self.engine.devices[i].number = first + i
            self.engine.devices[i].link = numbers[(first + i) % len(numbers)]
            self.engine.devices[i].timer_next = NO_DEVICE - 1
        for i in range(<uint32_t>WHEEL_TICKS):
            self.engine.wheel[i] = NO_DEVICE
        self.engine.settings.seed = seed
        self.engine.chance = mixed(seed, first) >> 8
        self.engine.product_size = copy_text(product, self.engine.product, 64)
        self.engine.prefix_size = copy_text(prefix, self.engine.prefix, 64)
        self.engine.now_ns = clock_ns()
        self.engine.tick = self.engine.now_ns // TICK_NS

    def __dealloc__(self):
        cdef uint32_t i
        if self.engine == NULL:
            return
        if self.engine.devices != NULL:
            for i in range(self.engine.count):
                if self.engine.devices[i].fd >= 0:
                    close(self.engine.devices[i].fd)
                free(self.engine.devices[i].held)
                free(self.engine.devices[i].unsent)
        if self.engine.epoll >= 0:
            close(self.engine.epoll)
        free(self.engine.to_connect.items)
        free(self.engine.to_send.items)
        free(self.engine.finished.items)
        free(self.engine.slots)
        free(self.engine.devices)
        free(self.engine)
        free(self.events)

    def configure(self, *, str address, int port, str work="idle", bint login=True, bint verify=True,
                  bint discard=False, bint reconnect=True, bint reports=True, int depth=1,
                  int opening_max=256, int read_bytes=65536, int retry_ms=100, int reboot_ms=0,
                  uint32_t chunk_size=65536, uint64_t image_size=0, double rate=0.0, str source="127.1.0.1",
                  uint32_t sources=1000, faults=None, bytes request=b""):
        """What the devices are to do. May be called again; what is under way is not touched.

        faults: {name: share}, shares of the devices. rate: of transitions and versions, per second; 0: no
        bound. Raises ValueError for what is out of range: also for addresses that are not of this machine.
        """
        cdef uint32_t i
        settings = &self.engine.settings
        for text in (address, source):
            if ipaddress.IPv4Address(text) not in ipaddress.IPv4Network("127.0.0.0/8"):
                raise ValueError(f"{text} is not in 127.0.0.0/8")
        if not 1 <= depth <= DEPTH_MAX or not 128 <= read_bytes <= SLOT_BYTES or opening_max < 1:
            raise ValueError("depth, read_bytes or opening_max is out of range")
        if <size_t>len(request) > sizeof(settings.request):
            raise ValueError("request is too long")
        settings.address = htonl(int(ipaddress.IPv4Address(address)))
        settings.port = htons(port)
        settings.source = int(ipaddress.IPv4Address(source))
        settings.sources = sources
        settings.work = WORKS.index(work)
        settings.login = login
        settings.verify = verify
        settings.discard = discard
        settings.reconnect = reconnect
        settings.reports = reports
        settings.depth = depth
        settings.opening_max = opening_max
        settings.read_bytes = read_bytes
        settings.retry_ms = retry_ms
        settings.reboot_ms = reboot_ms
        settings.chunk_size = chunk_size
        settings.image_size = image_size
        settings.rate = rate
        memcpy(settings.request, PyBytes_AS_STRING(request), len(request))
        settings.request_size = <uint32_t>len(request)
        self._share_faults(faults or {})

    cdef int _share_faults(self, faults) except -1:
        cdef uint32_t i
        cdef double drawn
        unknown = set(faults) - set(FAULT_NAMES)
        if unknown or sum(faults.values()) > 1:
            raise ValueError(f"faults are shares of {FAULT_NAMES[1:]}, at most 1 together")
        for i in range(self.engine.count):
            drawn = mixed(self.engine.settings.seed, self.engine.devices[i].number) / 2.0**64
            self.engine.devices[i].fault = 0
            for name, share in faults.items():
                if drawn < share:
                    self.engine.devices[i].fault = FAULT_NAMES.index(name)
                    break
                drawn -= share
        return 0

    def connect(self, count=None):
        """Have the first `count` devices (all, if None) connect, those that are not."""
        cdef uint32_t i
        for i in range(min(self.engine.count, self.engine.count if count is None else count)):
            if self.engine.devices[i].fd < 0:
                connect_soon(self.engine, &self.engine.devices[i])

    def disconnect(self):
        """End every connection."""
        cdef uint32_t i
        for i in range(self.engine.count):
            disconnect(self.engine, &self.engine.devices[i])

    def start(self):
        """Let the work begin: requests, transitions and versions are sent, downloads repeated."""
        cdef uint32_t i
        self.engine.running = True
        self.engine.now_ns = self.engine.allowance_ns = clock_ns()
        self.engine.allowance = 0
        for i in range(self.engine.count):
            if self.engine.devices[i].fd >= 0:
                start_work(self.engine, &self.engine.devices[i])
                if not send_out(self.engine, &self.engine.devices[i]):
                    on_lost(self.engine, &self.engine.devices[i])

    def stop(self):
        """Nothing new is sent; what is in flight is still answered."""
        self.engine.running = False

    def run(self, double seconds):
        """Work for so long. Raises OSError if epoll fails."""
        cdef uint64_t end_ns = clock_ns() + <uint64_t>(seconds * 1e9)
        cdef int error = 0
        with nogil:
            while error == 0 and clock_ns() < end_ns:
                error = turn(self.engine, end_ns, self.events)
        if error:
            raise OSError(error, "epoll_wait")

    def mark(self):
        """Upgrade messages are timed from now on from this moment (CLOCK_MONOTONIC, returned in ns)."""
        self.engine.mark_ns = clock_ns()
        return self.engine.mark_ns

    def reset(self):
        """Counters and histograms begin anew."""
        memset(&self.engine.counters, 0, sizeof(self.engine.counters))
        memset(&self.engine.login_ns, 0, sizeof(Histogram))
        memset(&self.engine.answer_ns, 0, sizeof(Histogram))
        memset(&self.engine.upgrade_ns, 0, sizeof(Histogram))

    def faults(self):
        """The fault of each device, by its place in the list of names (0: none), and the names are
        none, drop, corrupt, fail, silent, slow, storm."""
        cdef uint32_t i
        return tuple(self.engine.devices[i].fault for i in range(self.engine.count))

    def counters(self):
        """Everything that was counted; tallies as {count, first_ns, last_ns}."""
        cdef uint32_t i
        cdef uint32_t online = 0
        counted = dict(self.engine.counters)
        for i in range(self.engine.count):
            online += self.engine.devices[i].phase == PHASE_OPEN
        faults = counted.pop("faults")
        counted["faults"] = {FAULT_NAMES[i]: faults[i] for i in range(1, FAULTS)}
        counted["online"] = online
        counted["last_error"] = bytes(
            self.engine.last_error[: self.engine.last_error_size]
        ).decode("utf-8", "replace")
        return counted

    def histograms(self):
        """{name: {bucket: count}, and the largest value}: see bench/histogram.py."""
        return {
            "login": histogram_of(&self.engine.login_ns),
            "answer": histogram_of(&self.engine.answer_ns),
            "upgrade": histogram_of(&self.engine.upgrade_ns),
        }


cdef object histogram_of(const Histogram* histogram):
    cdef int i
    return {
        "buckets": {i: histogram.buckets[i] for i in range(HISTOGRAM_BUCKETS) if histogram.buckets[i]},
        "count": histogram.count, "largest": histogram.largest, "total": histogram.total,
    }
