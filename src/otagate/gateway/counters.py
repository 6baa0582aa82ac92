"""What the gateway counts while it works: plain numbers, kept where things happen and read when asked.

They count from the start of the process and never go down. Those that stand in the way of each transition or
message are an index into a list; nothing here takes a lock, makes an object or calls out.
"""

from collections.abc import Iterator

from otagate.openmetrics import Histogram
from otagate.upgrade.model import Cause, State

_CAUSES = 2**5  # a cause fits five bits (upgrade/model.py)


def _powers(first: float, number: int) -> list[float]:
    """Bounds that double."""
    return [first * 2**power for power in range(number)]


class Counters:
    """One per gateway. Times are in seconds."""

    __slots__ = ("_transitions", "commit_changes", "commit_seconds", "lateness_seconds", "turn_seconds")

    def __init__(self) -> None:
        self._transitions = [0] * (_CAUSES * (len(State) + 1))
        self.commit_seconds = Histogram(_powers(0.0005, 14))  # to 4 s
        self.commit_changes = Histogram(_powers(1, 12))
        self.lateness_seconds = Histogram(_powers(0.000125, 14))  # to 1 s
        self.turn_seconds = Histogram(_powers(0.000125, 14))

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
