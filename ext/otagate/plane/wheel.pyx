"""The clock, and the wheel of deadlines.

Every connection has one deadline at a time (see connection.time_left), which moves away whenever a frame
arrives. To move its entry each time would cost more than the frame. So the wheel is lazy: an entry may be
early, never late. When its bucket comes round, the connection is given a turn with DUE set; the turn
works out what is left, and schedules it anew if that is more than nothing.

Invariant: a connection with a finite deadline is in the bucket of a tick not later than the first whole
tick after its deadline. Only a deadline that comes nearer moves an entry. The wheel goes round in 262 s;
what lies beyond shares a bucket with what is near, so it is looked at early, once each round.

The clock is CLOCK_BOOTTIME, which runs on while the machine sleeps, plus an offset that a test may set.
The timer descriptor is edge-triggered and never read: setting it anew is what makes it quiet. So is the alarm,
by which Python is woken for deadlines of its own: a system call, where one of Trio's scopes took a quarter of
a turn of the loop.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from posix.unistd cimport close

from otagate.plane.state cimport DUE, TICK_BITS, WHEEL_BUCKETS, Connection, Core
from otagate.plane.system cimport (
    CLOCK_BOOTTIME, TFD_CLOEXEC, TFD_NONBLOCK,
    clock_gettime, itimerspec, timerfd_create, timerfd_settime, timespec,
)
from otagate.plane.table cimport enqueue, slot_of


cdef uint32_t tick_of(uint64_t ms) noexcept nogil:
    return <uint32_t>(ms >> TICK_BITS)


cdef int create_wheel(Core* core) noexcept nogil:
    core.buckets = <uint32_t*>calloc(WHEEL_BUCKETS, sizeof(uint32_t))
    if core.buckets == NULL:
        return -1
    core.timer = timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK | TFD_CLOEXEC)
    core.alarm = timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK | TFD_CLOEXEC)
    if core.timer < 0 or core.alarm < 0:
        return -1
    read_clock(core)
    core.tick = tick_of(core.now_ms)
    return 0


cdef void destroy_wheel(Core* core) noexcept nogil:
    free(core.buckets)
    core.buckets = NULL
    if core.timer >= 0:
        close(core.timer)
        core.timer = -1
    if core.alarm >= 0:
        close(core.alarm)
        core.alarm = -1


cdef void read_clock(Core* core) noexcept nogil:
    cdef timespec time
    clock_gettime(CLOCK_BOOTTIME, &time)
    core.now_ns = <int64_t>time.tv_sec * 1_000_000_000 + time.tv_nsec
    core.now_ms = <uint64_t>(core.now_ns // 1_000_000 + core.clock_offset_ms)


cdef void schedule(Core* core, Connection* connection, int64_t left_ms) noexcept nogil:
    cdef uint32_t distance, slot, first
    cdef uint32_t* bucket
    if left_ms >= FOREVER:
        return
    distance = tick_of(core.now_ms + <uint64_t>max(left_ms, 0)) + 1 - core.tick
    if connection.wheel_tick:
        if connection.wheel_tick - core.tick <= distance:
            return
        unschedule(core, connection)
    slot = slot_of(core, connection)
    connection.wheel_tick = core.tick + distance
    bucket = core.buckets + connection.wheel_tick % WHEEL_BUCKETS
    first = bucket[0]
    connection.wheel_previous = 0
    connection.wheel_next = first
    if first:
        core.connections[first].wheel_previous = slot
    bucket[0] = slot


cdef void unschedule(Core* core, Connection* connection) noexcept nogil:
    if connection.wheel_tick == 0:
        return
    if connection.wheel_previous:
        core.connections[connection.wheel_previous].wheel_next = connection.wheel_next
    else:
        core.buckets[connection.wheel_tick % WHEEL_BUCKETS] = connection.wheel_next
    if connection.wheel_next:
        core.connections[connection.wheel_next].wheel_previous = connection.wheel_previous
    connection.wheel_tick = connection.wheel_previous = connection.wheel_next = 0


cdef void turn_wheel(Core* core) noexcept nogil:
    cdef uint32_t now = tick_of(core.now_ms)
    cdef uint32_t bucket
    cdef Connection* connection
    if now - core.tick > WHEEL_BUCKETS:  # the clock leapt: once round is enough
        core.tick = now - WHEEL_BUCKETS
    while core.tick != now:
        core.tick += 1
        bucket = core.tick % WHEEL_BUCKETS
        while core.buckets[bucket]:
            connection = core.connections + core.buckets[bucket]
            unschedule(core, connection)
            connection.flags |= DUE
            enqueue(core, connection)


cdef void set_timer(int timer, int64_t ns) noexcept nogil:
    cdef itimerspec value
    value.it_interval.tv_sec = value.it_interval.tv_nsec = 0
    value.it_value.tv_sec = ns // 1_000_000_000
    value.it_value.tv_nsec = ns % 1_000_000_000
    timerfd_settime(timer, 0, &value, NULL)


cdef void arm_timer(Core* core) noexcept nogil:
    if not core.timer_armed and (core.count or core.resting):
        core.timer_armed = True
        set_timer(core.timer, (1 << TICK_BITS) * 1_000_000)


cdef void wake(Core* core) noexcept nogil:
    if not core.timer_woken:
        core.timer_armed = core.timer_woken = True
        set_timer(core.timer, 1)


cdef void set_alarm(Core* core, int64_t ns) noexcept nogil:
    set_timer(core.alarm, ns)
