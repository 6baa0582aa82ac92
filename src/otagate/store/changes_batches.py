"""How batches and device upgrades change: creation in slices, transitions, ends, and their clearing up.

Rules as in changes_fleet: checked first, written after. A batch lives through

    BeginBatch → ClaimDevices … → OpenBatch → Transition … → completed
                       │                          └→ EndBatch → RewriteSlice …
                       └→ UndoBatch … → gone

and stands in the table `unfinished` from its begin until nobody has to work on it any more: completed,
undone, or ended with all slices rewritten. In the table `firmware_uses` it stands while it keeps its
firmware from being deleted: until it is completed, ended or undone.
"""

from msgspec.structs import replace

from otagate import limits
from otagate.errors import Conflict, Invalid, NotFound, RequestError
from otagate.store import records, signed, tables, telling
from otagate.store.draft import Draft
from otagate.store.interface import (
    Batch,
    BatchView,
    BeginBatch,
    ClaimDevices,
    EndBatch,
    OpenBatch,
    RewriteSlice,
    Stale,
    Transition,
    Transitioned,
    UndoBatch,
)
from otagate.store.sweep import Sweep
from otagate.store.tables import device_key, pair_key, slice_key, u64_key
from otagate.upgrade.eligibility import ineligible_reason
from otagate.upgrade.model import BatchStatus, State

BATCH_NUMBERS = b"batch"
ENDINGS = ("aborted", "expired")
TRANSITIONED = Transitioned()


def _no_batch(number: int) -> NotFound:
    return NotFound(f"there is no batch {tables.id_of_number('b', number)}")


def _not_creating(batch: Batch) -> Conflict:
    return Conflict(f"the batch {batch.id} is not in creation")


def _use_key(batch: Batch) -> bytes:
    """The key of a batch in firmware_uses and firmware_batches."""
    firmware = tables.number_of_id("f", batch.firmware_id)
    assert firmware is not None
    return pair_key.pack(firmware, batch.number)


# -- creation -------------------------------------------------------------------------------------------


def begin_batch(draft: Draft, change: BeginBatch) -> Batch | RequestError:
    firmware = draft.firmware(change.firmware)
    if firmware is None:
        return NotFound(f"there is no firmware {change.firmware}", field="firmware")
    product = draft.product(firmware.product)
    assert product is not None, "a product with firmware cannot be deleted"
    refused = signed.refuse(product, firmware.signature, change.at_ms + change.wall_step_ms, "firmware")
    if refused is not None:
        return refused
    draft.saw_time(change.at_ms)
    number = draft.number(BATCH_NUMBERS)
    batch = Batch(
        number=number,
        id=tables.id_of_number("b", number),
        firmware_id=firmware.id,
        firmware_name=firmware.name,
        firmware_version=firmware.version,
        firmware_md5=firmware.md5,
        firmware_sha256=firmware.sha256,
        firmware_size=firmware.size,
        product=firmware.product,
        product_name=product.name,
        selection=change.selection,
        policy=change.policy,
        validity_days=change.validity_days,
        timeout_minutes=change.timeout_minutes,
        retries=change.retries,
        retry_interval_minutes=change.retry_interval_minutes,
        created_at_ms=change.at_ms,
        expires_at_ms=change.at_ms + change.validity_days * limits.DAY_MS,
        status=BatchStatus.CREATING,
        signature=firmware.signature,
        allow_rollback=change.allow_rollback,
    )
    draft.put_batch(batch)
    draft.put_progress(number, 0, 0)
    draft.transaction.put(tables.FIRMWARE_USES, _use_key(batch), b"")
    draft.transaction.put(tables.FIRMWARE_BATCHES, _use_key(batch), b"")
    return batch


def claim_devices(draft: Draft, change: ClaimDevices) -> list[int] | RequestError:
    batch = draft.batch(change.batch)
    if batch is None:
        return _no_batch(change.batch)
    if batch.status != BatchStatus.CREATING:
        return _not_creating(batch)
    firmware = draft.firmware(batch.firmware_id)
    product = draft.product(batch.product)
    assert firmware is not None, "firmware in use cannot be deleted"
    assert product is not None, "a product with firmware cannot be deleted"
    progress = draft.progress(batch.number)
    assert progress is not None
    slices = progress[0]
    above = 0
    if slices:
        last_slice = draft.slice_numbers(batch.number, slices - 1)
        assert last_slice is not None
        above = last_slice[-1]
    start = above + 1
    devices = Sweep(draft.view, tables.DEVICES, device_key.pack(product.number, start))
    has_open = draft.open_among(start)
    claimed: list[int] = []
    for number in change.devices:
        assert number > above, "devices ascend, also from slice to slice"
        above = number
        value = devices.get(device_key.pack(product.number, number))
        if value is None:
            continue
        device = records.unpack_device(value)
        if ineligible_reason(device, firmware, has_open(number), batch.allow_rollback) is None:
            claimed.append(number)
    draft.saw_time(change.at_ms)
    if claimed:
        rows = [(pair_key.pack(number, batch.number), records.FRESH_ROW) for number in claimed]
        draft.transaction.put_many(tables.UPGRADES, rows)
        members = records.pack_numbers(claimed)
        draft.transaction.put(tables.MEMBERS, slice_key.pack(batch.number, slices), members)
        draft.put_progress(batch.number, slices + 1, 0)
        draft.changing_counts(batch.number).add(State.TO_BE_PUSHED, len(claimed))
    return claimed


def open_batch(draft: Draft, change: OpenBatch) -> BatchView | RequestError:
    batch = draft.batch(change.batch)
    if batch is None:
        return _no_batch(change.batch)
    if batch.status != BatchStatus.CREATING:
        return _not_creating(batch)
    if not draft.counts(batch.number).total:
        return Invalid("no device is eligible", field="devices")
    draft.saw_time(change.at_ms)
    batch = replace(
        batch,
        status=BatchStatus.IN_PROGRESS,
        created_at_ms=change.at_ms,
        expires_at_ms=change.at_ms + change.wall_step_ms + batch.validity_days * limits.DAY_MS,
    )
    draft.put_batch(batch)
    return draft.batch_view(batch)


def undo_batch(draft: Draft, change: UndoBatch) -> bool | RequestError:
    batch = draft.batch(change.batch)
    if batch is None:
        return _no_batch(change.batch)
    if batch.status != BatchStatus.CREATING:
        return _not_creating(batch)
    progress = draft.progress(batch.number)
    assert progress is not None
    slices = progress[0]
    delete = draft.transaction.delete
    if slices:
        slices -= 1
        numbers = draft.slice_numbers(batch.number, slices)
        assert numbers is not None
        for number in numbers:
            delete(tables.UPGRADES, pair_key.pack(number, batch.number))
        delete(tables.MEMBERS, slice_key.pack(batch.number, slices))
        draft.changing_counts(batch.number).add(State.TO_BE_PUSHED, -len(numbers))
    if slices:
        draft.put_progress(batch.number, slices, 0)
        return False
    delete(tables.UNFINISHED, u64_key.pack(batch.number))
    delete(tables.FIRMWARE_USES, _use_key(batch))
    delete(tables.FIRMWARE_BATCHES, _use_key(batch))
    draft.delete_batch(batch.number)
    return True


# -- ends -----------------------------------------------------------------------------------------------


def end_batch(draft: Draft, change: EndBatch) -> BatchView | RequestError:
    assert change.by in ENDINGS
    batch = draft.batch(change.batch)
    if batch is None:
        return _no_batch(change.batch)
    if batch.status == BatchStatus.CREATING:
        return Conflict(f"the batch {batch.id} is still in creation")
    if batch.status != BatchStatus.IN_PROGRESS:
        return Conflict(f"the batch {batch.id} has already ended")
    draft.saw_time(change.at_ms)
    batch = replace(batch, status=BatchStatus.ABORTED, ended_at_ms=change.at_ms, ended_by=change.by)
    draft.put_batch(batch)
    draft.transaction.delete(tables.FIRMWARE_USES, _use_key(batch))
    counts = draft.changing_counts(batch.number)
    for state in State:
        if state < State.SUCCEEDED:
            counts.move(state, State.FAILED, counts[state])
    if draft.webhooks:
        telling.batch_ended(draft, batch)
    return draft.batch_view(batch)


def rewrite_slice(draft: Draft, change: RewriteSlice) -> bool | RequestError:
    batch = draft.batch(change.batch)
    if batch is None:
        return _no_batch(change.batch)
    if batch.status in (BatchStatus.CREATING, BatchStatus.IN_PROGRESS):
        return Conflict(f"the batch {batch.id} has not ended")
    progress = draft.progress(batch.number)
    if progress is None:
        return False  # completed, or all its slices are rewritten
    slices, rewritten = progress
    rows = []
    for number in draft.slice_numbers(batch.number, change.slice) or ():
        key = pair_key.pack(number, batch.number)
        value = draft.view.get(tables.UPGRADES, key)
        assert value is not None
        if value[1] < State.SUCCEEDED:
            rows.append((key, records.pack_row(draft.effective_row(batch, value))))
    draft.transaction.put_many(tables.UPGRADES, rows)
    if change.slice == rewritten:
        # Slices are rewritten in their order; one that is rewritten out of turn will be looked at again.
        rewritten += 1
        if rewritten >= slices:
            draft.transaction.delete(tables.UNFINISHED, u64_key.pack(batch.number))
        else:
            draft.put_progress(batch.number, slices, rewritten)
    return change.slice + 1 < slices


# -- the hot path ---------------------------------------------------------------------------------------


def transition(draft: Draft, change: Transition) -> Transitioned | Stale:
    number = change.batch
    batch = draft.batch(number)
    if batch is None or batch.status == BatchStatus.CREATING:
        return Stale(None)
    key = pair_key.pack(change.device, number)
    value = draft.view.get(tables.UPGRADES, key)
    if value is None:
        return Stale(None)
    state = records.state_of(value)
    if state < State.SUCCEEDED and batch.status == BatchStatus.ABORTED:
        fresh = draft.effective_row(batch, value)
        if change.expected_state != fresh.state or change.expected_attempt != fresh.attempt:
            return Stale(fresh)
        state = fresh.state
    elif change.expected_state != state or change.expected_attempt != value[2]:
        return Stale(records.unpack_row(value))
    row = change.row
    assert row.attempt >= change.expected_attempt, "an attempt never goes back"
    assert state < State.SUCCEEDED or row.state == state, "a row that has ended never changes its state"
    draft.transaction.put(tables.UPGRADES, key, records.pack_row(row))
    if row.timeline:
        draft.saw_time(row.timeline[-1].at_ms)
    if row.state == state:
        return TRANSITIONED
    counts = draft.changing_counts(number)
    counts.move(state, row.state)
    if row.state == State.FAILED and draft.webhooks:
        telling.device_failed(draft, batch, change.device, row)
    if row.state < State.SUCCEEDED or counts.open:
        return TRANSITIONED
    completed = replace(
        batch, status=BatchStatus.COMPLETED, ended_at_ms=row.completed_at_ms, ended_by="completed"
    )
    draft.put_batch(completed)
    draft.transaction.delete(tables.FIRMWARE_USES, _use_key(batch))
    draft.transaction.delete(tables.UNFINISHED, u64_key.pack(number))
    if draft.webhooks:
        telling.batch_ended(draft, completed)
    return Transitioned(completed)
