"""How many device upgrades of a batch stand in each state. Their sum is the batch's total, always."""

from collections.abc import Iterable
from typing import Self

from otagate.upgrade.model import OPEN_STATES, State


class Counts:
    """Mutable numbers, one per state; changed in the same commit as the rows they count."""

    __slots__ = ("_numbers",)

    def __init__(self, numbers: Iterable[int] = (0,) * len(State)) -> None:
        """`numbers` in the order of `State`, as `numbers` gives them."""
        self._numbers = [0, *numbers]  # indexed by the number of the state
        assert len(self._numbers) == len(State) + 1
        assert min(self._numbers) >= 0

    @property
    def numbers(self) -> tuple[int, ...]:
        """One per state, in the order of `State`."""
        return tuple(self._numbers[1:])

    @property
    def total(self) -> int:
        """The size of the batch."""
        return sum(self._numbers)

    @property
    def succeeded(self) -> int:
        """Device upgrades that succeeded."""
        return self._numbers[State.SUCCEEDED]

    @property
    def failed(self) -> int:
        """Device upgrades that failed for good."""
        return self._numbers[State.FAILED]

    @property
    def open(self) -> int:
        """Device upgrades that have not ended; 0 completes the batch."""
        return self.total - self.succeeded - self.failed

    def __getitem__(self, state: State) -> int:
        return self._numbers[state]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Counts) and self._numbers == other._numbers

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"Counts({self.as_dict()})"

    def add(self, state: State, number: int = 1) -> None:
        """Rows that are new to the batch."""
        self._numbers[state] += number
        assert self._numbers[state] >= 0

    def move(self, old: State, new: State, number: int = 1) -> None:
        """Rows that went from one state to another."""
        assert self._numbers[old] >= number, f"no {number} rows left in {old.label}"
        self._numbers[old] -= number
        self._numbers[new] += number

    def settled(self) -> Self:
        """As the counts of an aborted batch show from its abort on: every open row counts as failed."""
        settled = type(self)(self.numbers)
        for state in OPEN_STATES:
            settled.move(state, State.FAILED, settled[state])
        return settled

    def as_dict(self) -> dict[str, int]:
        """The API's `counts`: total, succeeded, failed, and one per state."""
        by_state = {state.label: self._numbers[state] for state in State}
        return {"total": self.total, "succeeded": self.succeeded, "failed": self.failed} | by_state
