"""Buckets: the compiled fleet and the reader agree; percentiles are never too small nor 1.6 % too large."""

from bench.histogram import Histogram, bucket_of, upper_edge
from hypothesis import given
from hypothesis import strategies as st

from otagate.bench.histogram import buckets_of

DURATIONS = st.lists(st.integers(0, 2**40), min_size=1, max_size=200)


@given(DURATIONS)
def test_fleet_and_reader_agree(values: list[int]) -> None:
    assert buckets_of(values) == Histogram.of(values).buckets


@given(st.integers(0, 2**40))
def test_a_bucket_holds_its_values(value: int) -> None:
    bucket = bucket_of(value)
    assert value <= upper_edge(bucket) <= value * (1 + 1 / 64)
    assert bucket == 0 or upper_edge(bucket - 1) < value


@given(DURATIONS, st.floats(0.1, 100))
def test_percentiles(values: list[int], percent: float) -> None:
    told = Histogram.of(values).percentile(percent)
    at_most = sum(value <= told for value in values)
    assert at_most >= len(values) * percent / 100 * (1 - 1e-9)
    assert told <= max(values)


@given(DURATIONS, DURATIONS)
def test_merging_is_adding(some: list[int], others: list[int]) -> None:
    parts = [vars(Histogram.of(values)) for values in (some, others)]
    assert Histogram.merged(parts) == Histogram.of([*some, *others])


def test_nothing_has_no_percentile() -> None:
    assert Histogram().percentile(99) == 0
