"""A batch as it goes: a bar on a terminal, a line every two seconds elsewhere. On stderr."""

import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

STATES = ("to_be_pushed", "pushed", "to_be_upgraded", "upgrading", "to_be_retried", "succeeded", "failed")
LINE_INTERVAL_S = 2.0


def summary(counts: dict[str, int]) -> str:
    """The states that are not empty, in their order."""
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]) or "no devices"


class BatchProgress:
    """Shows a batch; `update` may be called as often as one likes."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._progress = Progress(
            TextColumn("ended"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[states]}"),
            console=Console(stderr=True),
            disable=not self._is_terminal,
        )
        self._task = self._progress.add_task("ended", total=None, states="")
        self._line_at = -LINE_INTERVAL_S
        self._line = ""

    def __enter__(self) -> "BatchProgress":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, batch: dict[str, Any], *, note: str = "", last: bool = False) -> None:
        """Show these counts; `last` ones are shown in any case. A note that changes makes each line new."""
        counts = batch["counts"]
        ended = counts["succeeded"] + counts["failed"]
        states = summary(counts)
        self._progress.update(self._task, completed=ended, total=counts["total"], states=states)
        line = f"{batch['id']} {batch['status']}: {ended}/{counts['total']} ended; {states}"
        self.say(f"{line} ({note})" if note else line, last=last)

    def announce(self, line: str) -> None:
        """A line of its own, above the bar."""
        self._progress.console.print(line, highlight=False, markup=False)

    def say(self, line: str, *, last: bool = False) -> None:
        """A line off a terminal, if the last one is old enough."""
        now = time.monotonic()
        if not self._is_terminal and line != self._line and (last or now >= self._line_at + LINE_INTERVAL_S):
            self._line_at, self._line = now, line
            print(line, file=sys.stderr, flush=True)
