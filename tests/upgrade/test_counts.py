import pytest
from hypothesis import given
from hypothesis import strategies as st

from otagate.upgrade.counts import Counts
from otagate.upgrade.model import State

states = st.sampled_from(State)


def test_as_the_api_shows_them() -> None:
    counts = Counts()
    counts.add(State.TO_BE_PUSHED, 5)
    counts.move(State.TO_BE_PUSHED, State.PUSHED, 3)
    counts.move(State.PUSHED, State.SUCCEEDED)
    assert counts.as_dict() == {
        "total": 5,
        "succeeded": 1,
        "failed": 0,
        "to_be_pushed": 2,
        "pushed": 2,
        "to_be_upgraded": 0,
        "upgrading": 0,
        "to_be_retried": 0,
    }
    assert counts.open == 4


def test_settled_counts_every_open_row_as_failed() -> None:
    counts = Counts((1, 2, 3, 4, 5, 6, 7))
    settled = counts.settled()
    assert settled.numbers == (0, 0, 0, 0, 0, 6, 22)
    assert settled.open == 0
    assert counts.numbers == (1, 2, 3, 4, 5, 6, 7)


def test_no_row_moves_that_is_not_there() -> None:
    with pytest.raises(AssertionError):
        Counts().move(State.PUSHED, State.FAILED)


def test_numbers_go_both_ways_and_unequal_is_unequal() -> None:
    counts = Counts((1, 2, 3, 4, 5, 6, 7))
    assert Counts(counts.numbers) == counts
    assert Counts() != counts
    assert counts[State.FAILED] == counts.failed == 7


@given(rows=st.lists(states, min_size=1), moves=st.lists(st.tuples(st.integers(0, 99), states)))
def test_counts_are_those_of_the_rows(rows: list[State], moves: list[tuple[int, State]]) -> None:
    counts = Counts()
    for state in rows:
        counts.add(state)
    for place, new in moves:
        index = place % len(rows)
        counts.move(rows[index], new)
        rows[index] = new
    assert counts.numbers == tuple(rows.count(state) for state in State)
    assert counts.total == len(rows)
    assert counts.settled().total == len(rows)
