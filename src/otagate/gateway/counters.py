"""What the gateway counts while it works: plain numbers, kept where things happen and read when asked.

They count from the start of the process and never go down. Those that stand in the way of each transition or
message are an index into a list; nothing here takes a lock, makes an object or calls out.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from otagate.upgrade.model import Cause, State

_CAUSES = 2**5  # a cause fits five bits (upgrade/model.py)


class Histogram:
    """How many values were at most each of `bounds` (ascending), and their sum."""

    __slots__ = ("_counts", "bounds", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.sum = 0.0
        self._counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """One more value."""
        self._counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self._counts)

    def cumulated(self) -> list[int]:
        """For each bound the number of values not above it; the last is of all values."""
        total = 0
        return [total := total + count for count in self._counts]


class Counters:
    """One per gateway. Times are in seconds."""

    __slots__ = (
        "_transitions",
        "commit_changes",
        "commit_seconds",
        "loop_lateness_seconds",
        "turn_seconds",
    )

    def __init__(self) -> None:
        self._transitions = [0] * (_CAUSES * (len(State) + 1))
        self.commit_seconds = Histogram(
            (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 4.0)
        )
        self.commit_changes = Histogram((1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048))
        self.loop_lateness_seconds = Histogram(
            (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 4.0)
        )
        self.turn_seconds = Histogram(
            (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 1.0)
        )

    def count_transition(self, state: State, cause: Cause) -> None:
        """A transition into a state was committed."""
        self._transitions[state * _CAUSES + cause] += 1

    def transitions(self) -> Iterator[tuple[State, Cause, int]]:
        """Those that happened, by the state that they led to and why."""
        for state in State:
            for cause in Cause:
                count = self._transitions[state * _CAUSES + cause]
                if count:
                    yield state, cause, count

    @property
    def transitions_total(self) -> int:
        """All transitions."""
        return sum(self._transitions)

    @property
    def pushes(self) -> int:
        """Attempts that were begun: transitions to pushed."""
        return sum(self._transitions[State.PUSHED * _CAUSES : (State.PUSHED + 1) * _CAUSES])


assert max(Cause) < _CAUSES
