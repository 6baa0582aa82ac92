"""What the gateway keeps in memory of each device: compact native tables instead of Python objects.

Presence: who is online. An open-addressing hash table of (device number, connection number) pairs, 16 bytes
a slot, at most two thirds full; removal shifts the cluster back, so there are no tombstones and no rehash
of a steady fleet.

Roster: one batch in progress. Parallel arrays, ascending by device number: what dispatch and the deadlines
must ask of every member once a second (state, clock) without touching the store. 22 bytes a member. The
rows in the store are the truth; a roster is rebuilt from them at a start.

Both are used by the loop's thread alone.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Realloc
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint64_t

cdef enum:
    TO_BE_PUSHED = 1
    PUSHED = 2
    TO_BE_UPGRADED = 3
    UPGRADING = 4
    TO_BE_RETRIED = 5
    SUCCEEDED = 6

cdef enum:
    TAKEN = 1  # flag: handed to dispatch, whose decision is on its way


cdef inline uint64_t _mix(uint64_t x) noexcept nogil:
    # splitmix64's finalizer: device numbers are consecutive, their places must not be
    x = (x ^ (x >> 30)) * <uint64_t>0xbf58476d1ce4e5b9
    x = (x ^ (x >> 27)) * <uint64_t>0x94d049bb133111eb
    return x ^ (x >> 31)


cdef class Presence:
    """Device number → connection number of its newest session. Both are positive."""

    def __cinit__(self):
        self.mask = 63
        self.used = 0
        self.slots = <Slot*>PyMem_Calloc(64, sizeof(Slot))
        if self.slots == NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.slots)

    def __len__(self):
        return self.used

    cdef uint64_t _place(self, uint64_t device) noexcept nogil:
        # the slot that holds the device, or the free one where it would go
        cdef uint64_t at = _mix(device) & self.mask
        while self.slots[at].device != 0 and self.slots[at].device != device:
            at = (at + 1) & self.mask
        return at

    cdef uint64_t find(self, uint64_t device) noexcept nogil:
        return self.slots[self._place(device)].conn

    def get(self, uint64_t device):
        """The device's connection, or 0 when it is offline."""
        return self.find(device)

    def __contains__(self, uint64_t device):
        return self.find(device) != 0

    def enter(self, uint64_t device, uint64_t conn):
        """The device is online on this connection now; returns the one before, or 0."""
        assert device != 0
        assert conn != 0
        cdef uint64_t at = self._place(device)
        cdef uint64_t before = self.slots[at].conn
        if self.slots[at].device == 0:
            if (self.used + 1) * 3 > (self.mask + 1) * 2:
                self._resize((self.mask + 1) * 2)
                at = self._place(device)
            self.used += 1
            self.slots[at].device = device
        self.slots[at].conn = conn
        return before

    def leave(self, uint64_t device, uint64_t conn):
        """The connection is gone. True if it was the device's newest one, which is offline now."""
        cdef uint64_t at = self._place(device)
        if self.slots[at].device == 0 or self.slots[at].conn != conn:
            return False
        cdef uint64_t hole = at
        cdef uint64_t home
        while True:
            at = (at + 1) & self.mask
            if self.slots[at].device == 0:
                break
            home = _mix(self.slots[at].device) & self.mask
            # it may fill the hole unless its home lies cyclically in (hole, at]
            if ((at - home) & self.mask) >= ((at - hole) & self.mask):
                self.slots[hole] = self.slots[at]
                hole = at
        self.slots[hole].device = 0
        self.slots[hole].conn = 0
        self.used -= 1
        if self.mask > 63 and self.used * 8 < self.mask:
            self._resize((self.mask + 1) // 2)
        return True

    def items(self):
        """A list of (device, connection) pairs: a snapshot."""
        return [
            (self.slots[at].device, self.slots[at].conn)
            for at in range(self.mask + 1)
            if self.slots[at].device != 0
        ]

    cdef int _resize(self, uint64_t size) except -1:
        cdef Slot* old = self.slots
        cdef uint64_t old_size = self.mask + 1
        cdef Slot* fresh = <Slot*>PyMem_Calloc(size, sizeof(Slot))
        if fresh == NULL:
            raise MemoryError
        self.slots = fresh
        self.mask = size - 1
        for i in range(old_size):
            if old[i].device != 0:
                self.slots[self._place(old[i].device)] = old[i]
        PyMem_Free(old)
        return 0


cdef class Roster:
    """The members of one batch in progress. Index-free: everything is asked by device number.

    A member's clock (UTC ms, 0 for none) means, by its state: PUSHED, when the acknowledgement is overdue
    (set when the message was sent to a living session); UPGRADING, when it times out; TO_BE_RETRIED, when
    it is due again.
    """

    cdef uint64_t* devices
    cdef int64_t* clocks
    cdef uint8_t* states
    cdef uint8_t* attempts
    cdef uint8_t* deliveries
    cdef uint8_t* flags
    cdef Py_ssize_t size
    cdef Py_ssize_t capacity
    cdef Py_ssize_t cursor  # where take_pushable goes on: nobody is first each time
    cdef int64_t due_ms  # no clock of a running member is earlier
    cdef Py_ssize_t pushable  # members TO_BE_PUSHED or TO_BE_RETRIED: with none the sweep is free

    def __cinit__(self):
        self.size = self.capacity = self.cursor = self.pushable = 0
        self.due_ms = INT64_MAX
        self.devices = NULL
        self.clocks = NULL
        self.states = self.attempts = self.deliveries = self.flags = NULL

    def __dealloc__(self):
        PyMem_Free(self.devices)
        PyMem_Free(self.clocks)
        PyMem_Free(self.states)
        PyMem_Free(self.attempts)
        PyMem_Free(self.deliveries)
        PyMem_Free(self.flags)

    def __len__(self):
        return self.size

    def __contains__(self, uint64_t device):
        return self._find(device) >= 0

    def extend(self, devices, bytes states, clocks, bytes attempts):
        """Append members; parallel, device numbers ascending and above all that are here."""
        cdef Py_ssize_t count = len(devices)
        assert len(states) == count
        assert len(clocks) == count
        assert len(attempts) == count
        self._reserve(self.size + count)
        cdef Py_ssize_t at
        cdef uint64_t device
        for i in range(count):
            at = self.size
            device = devices[i]
            assert at == 0 or device > self.devices[at - 1], "device numbers must ascend"
            self.devices[at] = device
            self.states[at] = states[i]
            self.attempts[at] = attempts[i]
            self.deliveries[at] = 0
            self.flags[at] = 0
            self.clocks[at] = clocks[i]
            self.size += 1
            if self.states[at] == TO_BE_PUSHED or self.states[at] == TO_BE_RETRIED:
                self.pushable += 1
            self._note_clock(at)

    cdef int _reserve(self, Py_ssize_t needed) except -1:
        if needed <= self.capacity:
            return 0
        cdef Py_ssize_t capacity = max(needed, self.capacity + self.capacity // 4 + 64)
        cdef void* fresh
        fresh = PyMem_Realloc(self.devices, capacity * sizeof(uint64_t))
        if fresh == NULL:
            raise MemoryError
        self.devices = <uint64_t*>fresh
        fresh = PyMem_Realloc(self.clocks, capacity * sizeof(int64_t))
        if fresh == NULL:
            raise MemoryError
        self.clocks = <int64_t*>fresh
        fresh = PyMem_Realloc(self.states, capacity)
        if fresh == NULL:
            raise MemoryError
        self.states = <uint8_t*>fresh
        fresh = PyMem_Realloc(self.attempts, capacity)
        if fresh == NULL:
            raise MemoryError
        self.attempts = <uint8_t*>fresh
        fresh = PyMem_Realloc(self.deliveries, capacity)
        if fresh == NULL:
            raise MemoryError
        self.deliveries = <uint8_t*>fresh
        fresh = PyMem_Realloc(self.flags, capacity)
        if fresh == NULL:
            raise MemoryError
        self.flags = <uint8_t*>fresh
        self.capacity = capacity
        return 0

    cdef Py_ssize_t _find(self, uint64_t device) noexcept nogil:
        cdef Py_ssize_t low = 0
        cdef Py_ssize_t high = self.size
        cdef Py_ssize_t middle
        while low < high:
            middle = (low + high) >> 1
            if self.devices[middle] < device:
                low = middle + 1
            else:
                high = middle
        if low < self.size and self.devices[low] == device:
            return low
        return -1

    cdef inline void _note_clock(self, Py_ssize_t at) noexcept nogil:
        if self.clocks[at] > 0 and self.clocks[at] < self.due_ms:
            self.due_ms = self.clocks[at]

    def update(self, uint64_t device, uint8_t state, uint8_t attempt, int64_t clock_ms):
        """A decision was made on the member's row. Its deliveries are forgotten when state or attempt moved."""
        cdef Py_ssize_t at = self._find(device)
        if at < 0:
            return
        if self.states[at] != state or self.attempts[at] != attempt:
            self.deliveries[at] = 0
        self.pushable += (state == TO_BE_PUSHED or state == TO_BE_RETRIED)
        self.pushable -= (self.states[at] == TO_BE_PUSHED or self.states[at] == TO_BE_RETRIED)
        self.states[at] = state
        self.attempts[at] = attempt
        self.clocks[at] = clock_ms
        self.flags[at] = 0
        self._note_clock(at)

    def set_clock(self, uint64_t device, int64_t clock_ms):
        """Start (or with 0 stop) the member's clock."""
        cdef Py_ssize_t at = self._find(device)
        if at >= 0:
            self.clocks[at] = clock_ms
            self._note_clock(at)

    def count_delivery(self, uint64_t device):
        """The upgrade message was written to a living session once more; returns how often now."""
        cdef Py_ssize_t at = self._find(device)
        if at < 0:
            return 0
        if self.deliveries[at] < 255:
            self.deliveries[at] += 1
        return self.deliveries[at]

    def get_deliveries(self, uint64_t device):
        """How often the current attempt's message was written and not answered."""
        cdef Py_ssize_t at = self._find(device)
        return self.deliveries[at] if at >= 0 else 0

    def get_state(self, uint64_t device):
        """The member's state number; 0 if it is no member."""
        cdef Py_ssize_t at = self._find(device)
        return self.states[at] if at >= 0 else 0

    def get_attempt(self, uint64_t device):
        """The member's current attempt; 0 if it is no member."""
        cdef Py_ssize_t at = self._find(device)
        return self.attempts[at] if at >= 0 else 0

    def get_clock(self, uint64_t device):
        """The member's clock, UTC ms; 0 if it has none or is no member."""
        cdef Py_ssize_t at = self._find(device)
        return self.clocks[at] if at >= 0 else 0

    def release(self, uint64_t device):
        """Dispatch did not push it after all: it may be taken again."""
        cdef Py_ssize_t at = self._find(device)
        if at >= 0:
            self.flags[at] = 0

    cdef inline bint _is_pushable(self, Py_ssize_t at, int64_t now_ms) noexcept nogil:
        if self.flags[at] & TAKEN:
            return False
        if self.states[at] == TO_BE_PUSHED:
            return True
        return self.states[at] == TO_BE_RETRIED and self.clocks[at] <= now_ms

    def take(self, uint64_t device, int64_t now_ms):
        """True if this member is to be pushed or due; it counts as taken until `update` or `release`."""
        cdef Py_ssize_t at = self._find(device)
        if at < 0 or not self._is_pushable(at, now_ms):
            return False
        self.flags[at] |= TAKEN
        return True

    def take_pushable(self, Presence presence, int64_t now_ms, Py_ssize_t most):
        """Up to `most` members that are online and to be pushed or due, going round from where it last ended."""
        cdef list found = []
        cdef Py_ssize_t at = self.cursor
        if self.pushable == 0 or presence.used == 0 or most <= 0:
            return found
        for _ in range(self.size):
            if at >= self.size:
                at = 0
            if self._is_pushable(at, now_ms) and presence.find(self.devices[at]) != 0:
                self.flags[at] |= TAKEN
                found.append(self.devices[at])
                if len(found) >= most:
                    at += 1
                    break
            at += 1
        self.cursor = at
        return found

    def hold_back(self, int64_t now_ms, int64_t held_ms):
        """Whoever is PUSHED or UPGRADING and whose clock has come by now has until `held_ms`; returns how many."""
        cdef Py_ssize_t count = 0
        if now_ms < self.due_ms:
            return count
        for at in range(self.size):
            if 0 < self.clocks[at] <= now_ms and self.states[at] < TO_BE_RETRIED:
                self.clocks[at] = held_ms
                count += 1
        return count

    def take_overdue(self, int64_t now_ms, Py_ssize_t most):
        """Up to `most` members PUSHED or UPGRADING whose clock has come; their clocks are stopped.

        Whoever takes them decides at once, or sets the clock again.
        """
        cdef list found = []
        if now_ms < self.due_ms:
            return found
        cdef int64_t earliest = INT64_MAX
        for at in range(self.size):
            if self.clocks[at] == 0 or self.states[at] >= SUCCEEDED:
                continue
            if self.clocks[at] <= now_ms:
                if self.states[at] == TO_BE_RETRIED:
                    continue  # dispatch's: it waits for its device, not for a moment
                if len(found) < most:
                    self.clocks[at] = 0
                    found.append(self.devices[at])
                    continue
            if self.clocks[at] < earliest:
                earliest = self.clocks[at]
        self.due_ms = earliest
        return found

    @property
    def next_due_ms(self):
        """No clock comes before this (UTC ms), or None when no clock runs."""
        return None if self.due_ms == INT64_MAX else self.due_ms
