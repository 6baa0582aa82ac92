"""The gateway's clock: UTC milliseconds that no step of the wall clock moves.

    now = wall clock at the start + time elapsed since (CLOCK_BOOTTIME: goes on while the machine sleeps)

CLOCK_BOOTTIME minus CLOCK_MONOTONIC is for how long the machine has slept since it was booted: after a sleep
time-outs are held back as after a restart (gateway/deadlines.py).

Acknowledgements, retries and time-outs are judged by `now_ms`. Validity is a promise in calendar time, so
it is judged by `validity_now_ms`, which follows the wall clock as soon as it is seen to have stepped by
more than two seconds. At a start the clock never begins before the newest time in the store (`floor_ms`):
a machine that boots with a dead clock battery must not write rows older than those it has.
"""

import time
from collections.abc import Callable

STEP_MS = 2_000  # NTP slews below this; above it somebody set the clock
SLEEP_MS = 1_000  # shorter ones pass for a slow turn of the loop


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _elapsed_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def _asleep_ms() -> int:
    """For how long the machine has slept since it was booted."""
    running_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    return (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - running_ns) // 1_000_000


class Clock:
    """`wall_ms`, `elapsed_ms` and `asleep_ms` are the sources; tests hand in virtual ones."""

    def __init__(
        self,
        floor_ms: int = 0,
        *,
        wall_ms: Callable[[], int] = _wall_ms,
        elapsed_ms: Callable[[], int] = _elapsed_ms,
        asleep_ms: Callable[[], int] = _asleep_ms,
    ) -> None:
        self._wall_ms = wall_ms
        self._elapsed_ms = elapsed_ms
        self._asleep_ms = asleep_ms
        self._seen_asleep_ms = asleep_ms()
        self._base_ms = max(wall_ms(), floor_ms) - elapsed_ms()
        self.step_ms = 0  # by how much the wall clock has stepped, as far as observe_step has seen

    def now_ms(self) -> int:
        """UTC milliseconds; never goes back, never jumps."""
        return self._base_ms + self._elapsed_ms()

    def validity_now_ms(self) -> int:
        """As `now_ms`, moved by the steps of the wall clock that `observe_step` has seen."""
        return self.now_ms() + self.step_ms

    def observe_step(self) -> int:
        """Milliseconds by which the wall clock has stepped since the last look; 0 if it has not."""
        step = self._wall_ms() - self.validity_now_ms()
        if abs(step) <= STEP_MS:
            return 0
        self.step_ms += step
        return step

    def observe_sleep(self) -> int:
        """Milliseconds for which the machine has slept since the last look; 0 if it has not."""
        slept_ms = self._asleep_ms() - self._seen_asleep_ms
        if slept_ms <= SLEEP_MS:
            return 0
        self._seen_asleep_ms += slept_ms
        return slept_ms
