"""Numbers are on disk and words are in the API: neither may change."""

import pytest

from otagate import limits
from otagate.upgrade import model

MEMBERS = {
    model.State: "to_be_pushed=1 pushed=2 to_be_upgraded=3 upgrading=4 to_be_retried=5 succeeded=6 failed=7",
    model.Remark: (
        "=0 push_failed=1 download_failed=2 verification_failed=3 burn_failed=4 "
        "upgrade_timeout=5 task_aborted=6 other=7"
    ),
    model.Cause: (
        "pushed=1 acknowledged=2 progress=3 chunk=4 reported_version=5 claimed_success=6 reported_failure=7 "
        "ack_timeout=8 upgrade_timeout=9 retry=10 aborted=11 expired=12 returned_unanswered=13"
    ),
    model.Stage: "=0 downloading=1 verifying=2 burning=3",
    model.Outcome: "succeeded=1 failed=2",
    model.Policy: "standard=1 silent=2",
    model.Range: "all=1 directed=2",
    model.BatchStatus: "in_progress=1 completed=2 aborted=3 creating=4",
}


@pytest.mark.parametrize("kind", MEMBERS)
def test_numbers_and_labels(kind: type[model.Labelled]) -> None:
    assert " ".join(f"{member.label}={int(member)}" for member in kind) == MEMBERS[kind]
    for member in kind:
        assert kind.from_label(member.label) is member
        assert kind(int(member)) is member
    with pytest.raises(ValueError, match="'Pushed'"):
        kind.from_label("Pushed")


def test_fresh_rows_are_equal_and_small() -> None:
    assert model.Row() == model.Row()
    assert model.Row().timeline == ()
    assert not model.Row().ended


@pytest.mark.parametrize(("attempt", "retries"), [(0, 0), (1, 0), (2, 1), (6, 5)])
def test_retries(attempt: int, retries: int) -> None:
    assert model.Row(attempt=attempt).retries == retries


def test_a_row_fits_its_bound_on_disk() -> None:
    # state, attempt, remark, stage, progress: 1 each; due, completed: 6 each; a version and its length;
    # 6 bytes for each entry of the timeline.
    packed = 5 + 2 * 6 + 1 + limits.reported_version_chars_max + 6 * limits.timeline_entries_max
    assert packed <= limits.upgrade_row_bytes_max
    assert limits.validity_days_max * limits.DAY_MS < 2**32
