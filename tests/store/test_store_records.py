"""Values on disk: there and back, their size, and what may be read without unpacking."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otagate import limits
from otagate.store import records
from otagate.store.interface import Device
from otagate.store.records import ProductRecord
from otagate.upgrade.model import Cause, Remark, Row, Stage, State, TimelineEntry

TIME_MS = st.integers(0, 2**48 - 1)
WIDE_MS = 2**44

gaps = st.one_of(
    st.integers(0, 10), st.integers(0, 2**31 - 1), st.integers(2**31, 2**40).map(lambda ms: ms // 1000 * 1000)
)
entries = st.tuples(
    gaps,
    st.sampled_from(State),
    st.sampled_from(Remark),
    st.sampled_from(Cause),
    st.integers(0, limits.retries_max + 1),
)


@st.composite
def timelines(draw: st.DrawFn) -> tuple[TimelineEntry, ...]:
    at_ms = draw(st.integers(0, WIDE_MS))
    found = []
    for gap_ms, *move in draw(st.lists(entries, max_size=limits.timeline_entries_max)):
        at_ms += gap_ms
        found.append(TimelineEntry(at_ms, *move))
    return tuple(found)


rows = st.builds(
    Row,
    state=st.sampled_from(State),
    attempt=st.integers(0, limits.retries_max + 1),
    due_ms=TIME_MS,
    remark=st.sampled_from(Remark),
    detail=st.text(max_size=limits.detail_chars_max),
    stage=st.sampled_from(Stage),
    progress=st.integers(0, 100),
    version=st.text(max_size=limits.reported_version_chars_max),
    completed_at_ms=TIME_MS,
    timeline=timelines(),
)


@given(rows)
def test_a_row_comes_back_as_it_was(row: Row) -> None:
    value = records.pack_row(row)
    assert records.unpack_row(value) == row
    assert records.state_of(value) is row.state
    assert records.attempt_of(value) == row.attempt
    assert records.due_of(value) == row.due_ms


def test_a_row_without_detail_stays_within_its_bound() -> None:
    timeline = tuple(
        TimelineEntry(2**47 + place * 2**33, State.FAILED, Remark.OTHER, Cause.RETURNED_UNANSWERED, 6)
        for place in range(limits.timeline_entries_max)
    )
    row = Row(
        State.FAILED,
        6,
        2**48 - 1,
        Remark.OTHER,
        "",
        Stage.BURNING,
        100,
        "v" * limits.reported_version_chars_max,
        2**48 - 1,
        timeline,
    )
    assert len(records.pack_row(row)) <= limits.upgrade_row_bytes_max


def test_an_entry_long_after_the_one_before_keeps_its_time_to_the_second() -> None:
    def entry(at_ms: int) -> TimelineEntry:
        return TimelineEntry(at_ms, State.SUCCEEDED, Remark.NONE, Cause.REPORTED_VERSION, 1)

    row = Row(timeline=(entry(5), entry(2**31 + 1234), entry(2**31 + 2000)))
    times = [found.at_ms for found in records.unpack_row(records.pack_row(row)).timeline]
    assert times == [5, (2**31 + 1229) // 1000 * 1000 + 5, 2**31 + 2000]
    assert times == sorted(times)


def test_a_fresh_row_is_small() -> None:
    assert records.unpack_row(records.FRESH_ROW) == Row()
    assert len(records.FRESH_ROW) < 32


@pytest.mark.parametrize("version", [None, "1.0"])
def test_records_come_back_as_they_were(version: str | None) -> None:
    device = Device(2**40, "lamp", "d1", "灯", b"s" * 128, version, version is not None, None, 5)
    assert records.unpack_device(records.pack_device(device)) == device
    product = ProductRecord(3, "lamp", "灯", "both", 5, 1_000_000, 50)
    assert records.unpack_product(records.pack_product(product)) == product
    assert product.product.name == "灯"


def test_a_layout_that_is_not_known_is_not_guessed_at() -> None:
    device = Device(1, "lamp", "d1", "n", b"s" * 16, None, False, None, 5)
    with pytest.raises(AssertionError, match="layout 9"):
        records.unpack_device(b"\x09" + records.pack_device(device)[1:])
    with pytest.raises(AssertionError, match="layout 9"):
        records.unpack_row(b"\x09" + records.FRESH_ROW[1:])


@given(st.lists(st.integers(0, 2**63 - 1)))
def test_numbers_of_a_slice_come_back(numbers: list[int]) -> None:
    assert list(records.unpack_numbers(records.pack_numbers(numbers))) == numbers
