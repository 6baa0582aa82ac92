"""What each commit did, for those who look on: the counters, and the board of changes.

It reads the changes of a group and their outcomes after they are durable, and moves nothing. Its cost stands
in the way of every transition: about 0.3 µs each.
"""

from collections.abc import Sequence

from otagate.errors import RequestError
from otagate.gateway.board import Board
from otagate.gateway.counters import Counters
from otagate.store.interface import Change, EndBatch, OpenBatch, Outcome, Transition, Transitioned
from otagate.store.operators import Audited


class Observer:
    """Looks at each group once it is committed."""

    def __init__(self, counters: Counters, board: Board) -> None:
        self._counters = counters
        self._board = board

    def committed(self, changes: Sequence[Change], outcomes: Sequence[Outcome], seconds: float) -> None:
        """A group is durable; its commit took so long."""
        counters, board = self._counters, self._board
        counters.commit_seconds.observe(seconds)
        counters.commit_changes.observe(len(changes))
        for change, outcome in zip(changes, outcomes, strict=True):
            if type(change) is Audited:
                change = change.change
            if type(change) is Transition:
                row = change.row
                if type(outcome) is not Transitioned:
                    pass
                elif row.state != change.expected_state:
                    counters.count_transition(row.state, row.timeline[-1].cause)
                    board.mark(change.batch, change.device)
                elif row.ended:  # another version; a percentage was told when it came
                    board.mark_row(change.batch, change.device)
            elif isinstance(change, OpenBatch | EndBatch) and not isinstance(outcome, RequestError):
                board.mark_batch(change.batch)
