"""Virtual time that costs little: Trio's MockClock, with the world's own next moment beside Trio's deadlines.

MockClock leaps to the next deadline when nothing can run. Here the world's task is woken by the leap itself,
without a cancel scope and a deadline of its own, and the time is a plain number. While the machine sleeps
Trio's clock stands still, and that of the world goes on.
"""

from typing import Any

import trio
from trio._core._run import GLOBAL_RUN_CONTEXT
from trio.testing import MockClock

FOREVER_S = float(2**40)


class VirtualClock:
    """`mock` is for trio.run. One task at a time may `sleep_until`.

    `now_s`: Trio's time; `now_ms`: the world's, which is ahead by `asleep_ms`.
    """

    def __init__(self) -> None:
        self.now_s = 0.0
        self.now_ms = 0
        self.asleep_ms = 0
        self._sleeper: trio.lowlevel.Task | None = None
        self._wake_s = FOREVER_S
        self.mock = MockClock()
        replaced: dict[str, Any] = {
            "current_time": lambda: self.now_s,
            "deadline_to_sleep_time": lambda deadline: 0 if deadline <= self.now_s else FOREVER_S,
            "_autojump": self._leap,
        }
        for name, value in replaced.items():
            setattr(self.mock, name, value)
        self.mock.autojump_threshold = 0

    def set(self, now_ms: int) -> None:
        """Go ahead to a time."""
        assert now_ms >= self.now_ms
        self.now_ms = now_ms
        self.now_s = (now_ms - self.asleep_ms) / 1000

    def pass_asleep(self, now_ms: int) -> None:
        """Go ahead to a time, and the machine sleeps."""
        assert now_ms >= self.now_ms
        self.asleep_ms += now_ms - self.now_ms
        self.now_ms = now_ms

    def _leap(self) -> None:
        next_s = GLOBAL_RUN_CONTEXT.runner.deadlines.next_deadline()
        if next_s < self._wake_s:
            self.now_s = next_s
        else:
            self.now_s = self._wake_s
            sleeper, self._sleeper = self._sleeper, None
            self._wake_s = FOREVER_S
            assert sleeper is not None
            trio.lowlevel.reschedule(sleeper)
        self.now_ms = round(self.now_s * 1000) + self.asleep_ms

    def wake(self) -> None:
        """Wake the sleeper now."""
        if self._sleeper is not None:
            sleeper, self._sleeper = self._sleeper, None
            self._wake_s = FOREVER_S
            trio.lowlevel.reschedule(sleeper)

    async def sleep_until(self, at_ms: int) -> None:
        """Sleep until a time, or until woken."""
        if at_ms <= self.now_ms:
            await trio.lowlevel.checkpoint()
            return
        self._sleeper = trio.lowlevel.current_task()
        self._wake_s = (at_ms - self.asleep_ms) / 1000

        def abort(_: Any) -> trio.lowlevel.Abort:
            self._sleeper = None
            self._wake_s = FOREVER_S
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
