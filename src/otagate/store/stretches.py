"""How the writer thread gets along with a busy loop: the interpreter's lock, and who waits for it.

py-lmdb lets go of the interpreter's lock and takes it back around every get and put, about a microsecond
each. Alone that costs nothing. Beside a loop that computes, the loop may take the lock in each of those
gaps, and the writer then has to ask for it: it waits a whole switch interval, and waits anew whenever the
loop itself lets go for a moment (each poll, each look-up) and is quicker to take it back. So a commit of
300 transitions needs up to 600 intervals, and at the interpreter's 5 ms it was seen to starve for 10 s.

Two remedies, both needed. `tune` makes the interval shorter than the time between the loop's own gaps. And
when a commit finds that it is kept waiting, it asks the loop's thread to stand still for a stretch of a
millisecond: what the writer needs of the interpreter it needs anyway, and without a rival it takes a third
of the time. On a loop that never pauses, commits of 300 transitions on 2 cores (ms; alone: 3.8):

    switch interval                5 ms        1 ms      0.1 ms     0.05 ms     0.02 ms
    median, p99             9, 10,200       8, 12      8, 115      19, 30      16, 26
    with stretches             8, 558    85, 2,000     6, 190       5, 28       6, 27

The interpreter's own bookkeeping of a switch costs the loop about 10 µs, so 0.05 ms it is.
"""

import sys
import threading
import time
from contextlib import suppress

import trio

from otagate.store.changes import Application

SWITCH_INTERVAL_S = 0.00005
STRETCH_NS = 1_000_000  # of the writer's work while the loop stands still
STEP_CHANGES = 8  # applied between two looks at the clocks: about 40 µs of transitions
KEPT_WAITING_NS = 300_000  # not computing for so long in a step or stretch: somebody else is
CROWDED_NS = 200_000_000  # stretches for so long after that, then it is tried again without
STANDSTILL_S_MAX = 0.002  # one change that takes longer finishes beside the loop
ARRIVAL_S_MAX = 0.02  # a loop that is not there by then is no rival


def tune() -> None:
    """Make the interpreter hand its lock over quickly; for the process that holds a store."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)


class Stretches:
    """Applies groups on the writer thread, a stretch at a time."""

    def __init__(self) -> None:
        self._crowded_until_ns = 0

    def apply(self, application: Application, token: trio.lowlevel.TrioToken) -> None:
        """Apply the whole group. Raises what a change raises."""
        more = True
        while more:
            if time.monotonic_ns() < self._crowded_until_ns:
                with _Standstill(token):
                    more = self._stretch(application)
            else:
                more = self._stretch(application)

    def _stretch(self, application: Application) -> bool:
        """Apply changes until the time is over or a rival shows; False after the last one."""
        began_ns = time.monotonic_ns()
        idle_ns = began_ns - time.thread_time_ns()
        while True:
            more = application.go_on(STEP_CHANGES)
            now_ns = time.monotonic_ns()
            if now_ns - time.thread_time_ns() - idle_ns > KEPT_WAITING_NS:
                self._crowded_until_ns = now_ns + CROWDED_NS
                return more
            if not more or now_ns - began_ns > STRETCH_NS:
                return more


class _Standstill:
    """While it is entered the loop's thread waits, without the interpreter's lock."""

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self._token = token
        self._arrived = threading.Lock()
        self._over = threading.Lock()
        self._arrived.acquire()
        self._over.acquire()

    def __enter__(self) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._stand)
            self._arrived.acquire(timeout=ARRIVAL_S_MAX)

    def _stand(self) -> None:
        self._arrived.release()
        self._over.acquire(timeout=STANDSTILL_S_MAX)

    def __exit__(self, *exc: object) -> None:
        self._over.release()
