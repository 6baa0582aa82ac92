"""The contract of batches and device upgrades, for every engine."""

from typing import Any

import pytest
from builders import T0, begin, firmware, fleet, move, one, open_batch, product, row

from otagate import limits
from otagate.errors import Conflict, Invalid, NotFound, RequestError
from otagate.store.engine import Engine
from otagate.store.interface import (
    Change,
    ClaimDevices,
    DeleteDevice,
    DeleteFirmware,
    EndBatch,
    OpenBatch,
    ReportVersion,
    RewriteSlice,
    Stale,
    Transitioned,
    UndoBatch,
)
from otagate.upgrade.model import BatchStatus, Cause, Policy, Remark, Row, State

PUSHED = row(State.PUSHED)
SUCCEEDED = row(State.SUCCEEDED, at_ms=T0 + 8, version="2.0")
FAILED = row(State.FAILED, at_ms=T0 + 9, remark=Remark.BURN_FAILED, detail="page 3 不行")


async def states(store: Engine, batch: int = 1) -> dict[int, State]:
    page = await store.scan_upgrades(batch, limit=1000)
    return {found.upgrade.device: found.upgrade.row.state for found in page.upgrades}


async def counts(store: Engine, id: str = "b1") -> dict[str, int]:
    view = await store.get_batch(id)
    assert view is not None
    return {word: number for word, number in view.counts.as_dict().items() if number}


# -- creation ------------------------------------------------------------------------------------------


async def test_a_batch_begins_as_it_was_asked_for(store: Engine) -> None:
    await fleet(store)
    batch = await one(
        store, begin(policy=Policy.SILENT, selection="directed", retries=0, retry_interval_minutes=None)
    )
    assert (batch.number, batch.id, batch.status) == (1, "b1", BatchStatus.CREATING)
    assert (batch.firmware_id, batch.firmware_name, batch.firmware_version) == ("f1", "spring", "2.0")
    assert (batch.firmware_md5, batch.firmware_sha256, batch.firmware_size) == ("0" * 32, "ab" * 32, 10)
    assert (batch.product, batch.product_name, batch.selection) == ("lamp", "Lamp", "directed")
    assert (batch.policy, batch.retries, batch.retry_interval_minutes) == (Policy.SILENT, 0, None)
    assert (batch.ended_at_ms, batch.ended_by) == (None, None)


async def test_nobody_sees_a_batch_in_creation(store: Engine) -> None:
    await fleet(store)
    await one(store, begin())
    assert await one(store, ClaimDevices(1, [1, 2], T0)) == [1, 2]
    assert await store.get_batch("b1") is None
    assert (await store.list_batches(limit=9)).batches == []
    assert await store.newest_upgrades([1]) == [None]
    assert await store.upgrades([(1, 1)]) == [None]
    assert (await store.scan_upgrades(1, limit=9)).upgrades == []
    assert await one(store, move(1, PUSHED)) == Stale(None)
    (view,) = await store.unfinished_batches()
    assert (view.batch.status, view.counts.total) == (BatchStatus.CREATING, 2)
    # but its devices and its firmware are taken
    assert await store.eligible_numbers("f1") == ([3, 4], None)
    assert type(await one(store, DeleteDevice("lamp", "d1"))) is Conflict
    assert type(await one(store, DeleteFirmware("f1"))) is Conflict


async def test_a_claim_leaves_out_who_is_not_eligible_any_more(store: Engine) -> None:
    await fleet(store, 7)
    await open_batch(store, [2])
    await store.commit([begin(), ReportVersion(4, "2.0", T0), DeleteDevice("lamp", "d5")])
    assert await one(store, ClaimDevices(2, [1, 2, 4, 5, 6, 99], T0)) == [1, 6]
    assert await one(store, ClaimDevices(2, [100, 101], T0)) == []
    view = await one(store, OpenBatch(2, T0))
    assert view.counts.total == 2
    assert await states(store, 2) == {1: State.TO_BE_PUSHED, 6: State.TO_BE_PUSHED}


async def test_two_batches_in_creation_share_nobody(store: Engine) -> None:
    await fleet(store)
    claims: list[Change] = [begin(), begin(), ClaimDevices(1, [1, 3], T0), ClaimDevices(2, [1, 2, 3, 4], T0)]
    assert (await store.commit(claims))[2:] == [[1, 3], [2, 4]]


async def test_opening_fixes_total_and_times(store: Engine) -> None:
    await fleet(store)
    batch = await open_batch(store, [1], [2, 4], at_ms=T0 + 5)
    assert (batch.status, batch.created_at_ms) == (BatchStatus.IN_PROGRESS, T0 + 5)
    assert batch.expires_at_ms == T0 + 5 + 3 * limits.DAY_MS
    view = await store.get_batch("b1")
    assert view is not None
    assert view.batch == batch
    assert await counts(store) == {"total": 3, "to_be_pushed": 3}
    assert await store.newest_upgrades([1, 3]) == [(await store.upgrades([(1, 1)]))[0], None]


async def test_a_batch_of_nobody_is_not_opened(store: Engine) -> None:
    await fleet(store)
    outcomes = await store.commit([begin(), OpenBatch(1, T0), UndoBatch(1)])
    assert type(outcomes[1]) is Invalid
    assert outcomes[2] is True


async def test_undoing_takes_slice_after_slice(store: Engine) -> None:
    await fleet(store)
    await store.commit([begin(), ClaimDevices(1, [1], T0), ClaimDevices(1, [2, 3], T0)])
    assert await one(store, UndoBatch(1)) is False
    assert await store.eligible_numbers("f1") == ([2, 3, 4], None)
    assert await one(store, UndoBatch(1)) is True
    assert await store.eligible_numbers("f1") == ([1, 2, 3, 4], None)
    assert await store.unfinished_batches() == []
    assert (await one(store, begin())).id == "b2"
    assert await one(store, UndoBatch(2)) is True
    assert type(await one(store, DeleteFirmware("f1"))) is not Conflict


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (ClaimDevices(9, [1], T0), NotFound),
        (ClaimDevices(1, [3], T0), Conflict),
        (OpenBatch(9, T0), NotFound),
        (OpenBatch(1, T0), Conflict),
        (UndoBatch(9), NotFound),
        (UndoBatch(1), Conflict),
        (EndBatch(9, "aborted", T0), NotFound),
        (EndBatch(2, "aborted", T0), Conflict),
        (RewriteSlice(9, 0), NotFound),
        (RewriteSlice(1, 0), Conflict),
        (RewriteSlice(2, 0), Conflict),
    ],
)
async def test_refused_in_that_state_of_the_batch(
    store: Engine, change: Change, error: type[RequestError]
) -> None:
    await fleet(store)
    await open_batch(store, [1, 2])
    await one(store, begin())
    assert type(await one(store, change)) is error
    assert await states(store) == {1: State.TO_BE_PUSHED, 2: State.TO_BE_PUSHED}


# -- transitions ---------------------------------------------------------------------------------------


async def test_a_transition_puts_the_row_and_moves_the_counts(store: Engine) -> None:
    await fleet(store)
    await open_batch(store, [1, 2])
    assert await one(store, move(1, PUSHED)) == Transitioned()
    assert (await store.upgrades([(1, 1)]))[0].row == PUSHED  # type: ignore[union-attr]
    assert await counts(store) == {"total": 2, "to_be_pushed": 1, "pushed": 1}


@pytest.mark.parametrize(
    ("change", "fresh"),
    [
        (move(1, PUSHED), PUSHED),
        (move(1, PUSHED, State.PUSHED, 2), PUSHED),
        (move(2, PUSHED, State.PUSHED, 0), Row()),
        (move(3, PUSHED), None),
        (move(1, PUSHED, batch=9), None),
    ],
)
async def test_a_transition_that_expected_another_row_is_stale(
    store: Engine, change: Change, fresh: Row | None
) -> None:
    await fleet(store)
    await open_batch(store, [1, 2])
    await one(store, move(1, PUSHED))
    assert await one(store, change) == Stale(fresh)
    assert await counts(store) == {"total": 2, "to_be_pushed": 1, "pushed": 1}


async def test_transitions_of_one_device_apply_in_order_in_one_group(store: Engine) -> None:
    await fleet(store)
    await open_batch(store, [1, 2])
    outcomes = await store.commit(
        [move(1, PUSHED), move(1, PUSHED), move(1, SUCCEEDED, State.PUSHED, 1), move(2, PUSHED)]
    )
    assert outcomes == [Transitioned(), Stale(PUSHED), Transitioned(), Transitioned()]
    assert await counts(store) == {"total": 2, "succeeded": 1, "pushed": 1}


async def test_the_last_open_row_completes_the_batch(store: Engine) -> None:
    await fleet(store)
    batch = await open_batch(store, [1, 2])
    first, second = await store.commit([move(1, FAILED), move(2, SUCCEEDED)])
    assert first == Transitioned()
    assert type(second) is Transitioned
    assert second.completed is not None
    assert second.completed.status == BatchStatus.COMPLETED
    assert (second.completed.ended_at_ms, second.completed.ended_by) == (T0 + 8, "completed")
    view = await store.get_batch(batch.id)
    assert view is not None
    assert view.batch == second.completed
    assert (view.counts.succeeded, view.counts.failed, view.counts.open) == (1, 1, 0)
    assert await store.unfinished_batches() == []
    assert type(await one(store, EndBatch(1, "aborted", T0))) is Conflict
    assert await one(store, RewriteSlice(1, 0)) is False
    assert await store.eligible_numbers("f1") == ([1, 2, 3, 4], None)
    assert type(await one(store, DeleteFirmware("f1"))) is not Conflict


async def test_an_ended_row_keeps_its_state_but_may_get_a_longer_timeline(store: Engine) -> None:
    await fleet(store)
    await open_batch(store, [1, 2])
    longer = row(State.SUCCEEDED, at_ms=T0 + 90, completed_at_ms=T0 + 8, version="2.0")
    outcomes = await store.commit([move(1, SUCCEEDED), move(1, longer, State.SUCCEEDED, 1)])
    assert outcomes == [Transitioned(), Transitioned()]
    assert await counts(store) == {"total": 2, "succeeded": 1, "to_be_pushed": 1}
    assert await store.newest_time_ms() == T0 + 90


@pytest.mark.parametrize("to", [row(State.PUSHED, attempt=0), row(State.PUSHED, attempt=1)])
async def test_what_the_rules_never_do_is_a_programmer_error(store: Engine, to: Row) -> None:
    await fleet(store)
    await open_batch(store, [1, 2])
    await one(store, move(1, SUCCEEDED))
    with pytest.raises(AssertionError, match="never"):
        await one(store, move(1, to, State.SUCCEEDED, 1))


# -- ends ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("by", "cause"), [("aborted", Cause.ABORTED), ("expired", Cause.EXPIRED)])
async def test_an_ended_batch_reads_as_ended_before_its_rows_are_rewritten(
    store: Engine, by: str, cause: Cause
) -> None:
    await fleet(store, 5)
    await open_batch(store, [1, 2], [3, 4])
    await store.commit([move(1, SUCCEEDED), move(2, PUSHED)])
    view = await one(store, EndBatch(1, by, T0 + 50))
    assert (view.batch.status, view.batch.ended_at_ms, view.batch.ended_by) == (
        BatchStatus.ABORTED,
        T0 + 50,
        by,
    )
    assert await counts(store) == {"total": 4, "succeeded": 1, "failed": 3}
    read = await everything_of(store)
    assert [found.row.state for found in read[0]] == [State.SUCCEEDED, State.FAILED, State.FAILED]
    aborted = read[0][1].row
    assert (aborted.remark, aborted.completed_at_ms, aborted.attempt) == (Remark.TASK_ABORTED, T0 + 50, 1)
    assert aborted.timeline[-1].cause == cause
    # its devices and its firmware are free
    assert await store.eligible_numbers("f1") == ([1, 2, 3, 4, 5], None)
    # the rows follow, and nothing reads differently
    assert [found.batch.id for found in await store.unfinished_batches()] == ["b1"]
    assert await one(store, RewriteSlice(1, 0)) is True
    assert await one(store, RewriteSlice(1, 0)) is True
    assert [found.batch.id for found in await store.unfinished_batches()] == ["b1"]
    assert await one(store, RewriteSlice(1, 1)) is False
    assert await store.unfinished_batches() == []
    assert await everything_of(store) == read
    assert await one(store, RewriteSlice(1, 0)) is False


async def everything_of(store: Engine) -> Any:
    """Each way to read rows of batch 1."""
    return [
        await store.upgrades([(1, 1), (2, 1), (4, 1)]),
        await store.newest_upgrades([1, 2, 4]),
        await store.scan_upgrades(1, limit=9),
        await store.scan_upgrades(1, limit=9, state=State.FAILED),
        await store.scan_upgrades(1, limit=9, state=State.TO_BE_PUSHED),
        await store.slice_states(1, 0),
        await store.slice_states(1, 1),
        await counts(store),
    ]


async def test_a_transition_after_the_end_is_stale_with_the_row_as_it_reads(store: Engine) -> None:
    await fleet(store)
    await open_batch(store, [1, 2])
    await store.commit([move(1, PUSHED), EndBatch(1, "aborted", T0 + 50)])
    stale = await one(store, move(1, row(State.TO_BE_UPGRADED), State.PUSHED, 1))
    assert type(stale) is Stale
    assert stale.row is not None
    assert (stale.row.state, stale.row.remark) == (State.FAILED, Remark.TASK_ABORTED)
    # what was decided on the fresh row is applied, before its slice is rewritten
    later = row(State.FAILED, at_ms=T0 + 70, remark=Remark.TASK_ABORTED)
    assert await one(store, move(1, later, State.FAILED, 1)) == Transitioned()
    assert await one(store, RewriteSlice(1, 0)) is False
    assert (await store.upgrades([(1, 1)]))[0].row == later  # type: ignore[union-attr]


async def test_slices_rewritten_out_of_turn_are_looked_at_again(store: Engine) -> None:
    await fleet(store)
    await open_batch(store, [1], [2])
    await one(store, EndBatch(1, "aborted", T0))
    assert await one(store, RewriteSlice(1, 1)) is False
    assert len(await store.unfinished_batches()) == 1
    assert await one(store, RewriteSlice(1, 0)) is True
    assert len(await store.unfinished_batches()) == 1
    assert await one(store, RewriteSlice(1, 1)) is False
    assert await store.unfinished_batches() == []


async def test_a_device_that_is_free_again_is_claimed_by_the_next_batch(store: Engine) -> None:
    await fleet(store)
    await open_batch(store, [1, 2])
    await one(store, move(1, FAILED))
    await open_batch(store, [1, 3])
    found = await store.newest_upgrades([1, 2, 3, 4])
    assert [upgrade and upgrade.batch for upgrade in found] == [2, 1, 2, None]
    # one in creation is passed over
    await store.commit(
        [begin(), ClaimDevices(3, [4], T0), EndBatch(2, "aborted", T0), ClaimDevices(3, [5], T0)]
    )
    assert (await store.newest_upgrades([4])) == [None]


async def test_batches_in_progress_keep_their_firmware(store: Engine) -> None:
    await fleet(store)
    await one(store, firmware("autumn", "3.0"))
    await open_batch(store, [1], firmware="f2")
    assert type(await one(store, DeleteFirmware("f2"))) is Conflict
    await one(store, EndBatch(1, "aborted", T0))
    await one(store, DeleteFirmware("f2"))
    view = await store.get_batch("b1")
    assert view is not None
    assert (view.batch.firmware_id, view.batch.firmware_name) == ("f2", "autumn")


# -- lists ---------------------------------------------------------------------------------------------


async def test_lists_of_batches(store: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    await fleet(store, 5)
    await one(store, firmware("autumn", "3.0"))
    for device, id in ((1, "f1"), (2, "f2"), (3, "f1"), (4, "f1")):
        await open_batch(store, [device], firmware=id)
    await store.commit([EndBatch(3, "aborted", T0), begin()])

    async def ids(**arguments: Any) -> tuple[list[str], int | None]:
        page = await store.list_batches(**({"limit": 9} | arguments))
        return [found.batch.id for found in page.batches], page.next

    assert await ids() == (["b4", "b3", "b2", "b1"], None)
    assert await ids(limit=2) == (["b4", "b3"], 3)
    assert await ids(before=3) == (["b2", "b1"], None)
    assert await ids(firmware="f1") == (["b4", "b3", "b1"], None)
    assert await ids(firmware="f1", before=4, limit=1) == (["b3"], 3)
    assert await ids(firmware="none") == ([], None)
    assert await ids(product="none") == ([], None)
    assert await ids(product="lamp", status=BatchStatus.ABORTED) == (["b3"], None)
    monkeypatch.setattr(limits, "scan_rows_max", 1)
    assert await ids(status=BatchStatus.IN_PROGRESS) == (["b4", "b2", "b1"], None)
    (view, *_) = (await store.list_batches(limit=1)).batches
    assert view.counts.total == 1


@pytest.mark.parametrize("rows_max", [1000, 2])
async def test_pages_of_upgrades(store: Engine, monkeypatch: pytest.MonkeyPatch, rows_max: int) -> None:
    await fleet(store, 12)
    await open_batch(store, [2, 3, 5], [7], [8, 11, 12])
    await store.commit([move(3, PUSHED), move(11, PUSHED)])
    monkeypatch.setattr(limits, "scan_rows_max", rows_max)

    async def walk(**arguments: Any) -> list[int]:
        """All pages, however short."""
        found, after = [], 0
        while True:
            page = await store.scan_upgrades(1, **({"limit": 3, "after": after} | arguments))
            assert len(page.upgrades) <= 3
            found += [upgrade.device.number for upgrade in page.upgrades]
            if page.next is None:
                return found
            assert page.next > after
            after = page.next

    assert await walk() == [2, 3, 5, 7, 8, 11, 12]
    assert await walk(state=State.PUSHED) == [3, 11]
    assert await walk(query="D1") == [11, 12]
    assert await walk(state=State.PUSHED, query="of d3") == [3]
    for after in range(13):
        page = await store.scan_upgrades(1, after=after, limit=1)
        above = [number for number in (2, 3, 5, 7, 8, 11, 12) if number > after]
        assert [found.device.number for found in page.upgrades] == above[:1]
    assert (await store.scan_upgrades(9, limit=9)).upgrades == []


# -- at a start ----------------------------------------------------------------------------------------


async def test_slices_say_what_memory_keeps(store: Engine) -> None:
    await fleet(store)
    await open_batch(store, [1, 2], [4])
    retried = row(State.TO_BE_RETRIED, attempt=2, due_ms=T0 + 60_000, remark=Remark.DOWNLOAD_FAILED)
    await store.commit([move(2, PUSHED), move(2, retried, State.PUSHED, 1)])
    found = await store.slice_states(1, 0)
    assert found is not None
    assert (found.devices, found.dues) == ([1, 2], [0, T0 + 60_000])
    assert (found.states, found.attempts) == (bytes([State.TO_BE_PUSHED, State.TO_BE_RETRIED]), b"\x00\x02")
    last = await store.slice_states(1, 1)
    assert last is not None
    assert last.devices == [4]
    assert await store.slice_states(1, 2) is None
    assert await store.slice_states(9, 0) is None


async def test_two_products_do_not_meet(store: Engine) -> None:
    await fleet(store)
    await store.commit([product("fan"), firmware("winter", "2.0", product="fan")])
    await one(store, begin("f2"))
    assert await one(store, ClaimDevices(1, [1, 2], T0)) == []
