"""Short ways to a store with something in it."""

from collections.abc import Sequence
from typing import Any

from otagate.errors import RequestError
from otagate.store.engine import Engine
from otagate.store.interface import (
    AddFirmware,
    Batch,
    BeginBatch,
    Change,
    ClaimDevices,
    CreateProduct,
    Device,
    NewDevice,
    OpenBatch,
    RegisterDevices,
    ReportVersion,
    Transition,
)
from otagate.upgrade.model import Cause, Policy, Remark, Row, State, TimelineEntry

T0 = 1_700_000_000_000
SECRET = b"s" * 16
IMAGE = "ab" * 32


async def one(store: Engine, change: Change) -> Any:
    """Commit one change; its outcome."""
    (outcome,) = await store.commit([change])
    return outcome


def product(key: str = "lamp", **fields: Any) -> CreateProduct:
    return CreateProduct(key, **({"name": "Lamp", "auth": "secret", "at_ms": T0} | fields))


def register(*identifiers: str, product: str = "lamp", at_ms: int = T0) -> RegisterDevices:
    return RegisterDevices(
        product, [NewDevice(name, f"Name of {name}", SECRET) for name in identifiers], at_ms
    )


def firmware(name: str = "spring", version: str = "2.0", **fields: Any) -> AddFirmware:
    defaults = {
        "product": "lamp",
        "name": name,
        "version": version,
        "file_name": "image.bin",
        "description": "",
        "size": 10,
        "md5": "0" * 32,
        "sha256": IMAGE,
        "at_ms": T0,
    }
    return AddFirmware(**(defaults | fields))


def begin(firmware: str = "f1", **fields: Any) -> BeginBatch:
    defaults = {
        "firmware": firmware,
        "selection": "all",
        "policy": Policy.STANDARD,
        "validity_days": 3,
        "timeout_minutes": 10,
        "retries": 1,
        "retry_interval_minutes": 5,
        "at_ms": T0,
    }
    return BeginBatch(**(defaults | fields))


def row(state: State, attempt: int = 1, at_ms: int = T0, **fields: Any) -> Row:
    """A row as the rules make it, with one timeline entry."""
    remark = fields.get("remark", Remark.NONE)
    entry = TimelineEntry(at_ms, state, remark, Cause.PUSHED, attempt)
    if state >= State.SUCCEEDED:
        fields.setdefault("completed_at_ms", at_ms)
    return Row(state=state, attempt=attempt, timeline=(entry,), **fields)


def move(
    device: int, to: Row, frm: State = State.TO_BE_PUSHED, attempt: int = 0, batch: int = 1
) -> Transition:
    return Transition(device, batch, frm, attempt, to)


async def fleet(store: Engine, number: int = 4, *, version: str = "1.0") -> list[Device]:
    """Product "lamp" with active devices d1 … and firmware f1 of version 2.0."""
    outcomes: Sequence[Any] = await store.commit(
        [product(), register(*(f"d{place}" for place in range(1, number + 1))), firmware()]
    )
    assert not any(isinstance(outcome, RequestError) for outcome in outcomes)
    return list(await store.commit([ReportVersion(device, version, T0) for device in range(1, number + 1)]))


async def open_batch(store: Engine, *slices: Sequence[int], firmware: str = "f1", at_ms: int = T0) -> Batch:
    """A batch in progress, each slice claimed by a change of its own."""
    batch: Batch = await one(store, begin(firmware, at_ms=at_ms))
    claims = [ClaimDevices(batch.number, numbers, at_ms) for numbers in slices]
    assert await store.commit(claims) == [list(numbers) for numbers in slices]
    view = await one(store, OpenBatch(batch.number, at_ms))
    opened: Batch = view.batch
    return opened
