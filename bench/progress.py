"""What a run is doing, while it does it: a line of words and a bar, and below it how far the whole table is.

On a terminal the bars move; elsewhere nothing is shown but what is printed at the end.
"""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

console = Console(stderr=True)
LOOK_S = 0.1


class Progress:
    """Bars on stderr while the block runs; before and after it everything here does nothing."""

    def __init__(self) -> None:
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._whole: TaskID | None = None
        self._now = self._bars.add_task("starting", total=None)

    def __enter__(self) -> "Progress":
        if console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        """What begins now; its bar begins anew, without a goal."""
        self._bars.reset(self._now, description=text, total=None)

    def show(self, done: float, goal: float) -> None:
        """How far it is."""
        self._bars.update(self._now, completed=int(done), total=int(goal))

    def whole(self, steps: int) -> None:
        """How many steps there will be in all: so many calls of `step`."""
        self._whole = self._bars.add_task("the whole table", total=steps)

    def step(self) -> None:
        """One of them is done."""
        if self._whole is not None:
            self._bars.advance(self._whole)

    def pass_time(self, seconds: float) -> None:
        """Sleep, with a bar."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.show((seconds - left) * 1000, seconds * 1000)
            time.sleep(min(LOOK_S, left))
