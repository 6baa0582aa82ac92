"""What each read verb of the interface looks up: functions of one snapshot, the same for every engine.

A scan has a budget: so many rows and so many milliseconds, so that no transaction lives long (an old
snapshot keeps pages from being used again) and no reader thread holds the interpreter. When it is spent
the page ends early, and says where to go on.
"""

import time
import unicodedata
from collections.abc import Sequence

from otagate import limits
from otagate.store import records, tables
from otagate.store.interface import (
    Batch,
    BatchPage,
    BatchView,
    Device,
    DevicePage,
    DeviceUpgrade,
    Firmware,
    FirmwarePage,
    Product,
    SliceStates,
    Upgrade,
    UpgradePage,
)
from otagate.store.snapshot import Snapshot
from otagate.store.tables import device_key, pair_key, u32_key, u64_key
from otagate.upgrade.eligibility import Reason, ineligible_reason
from otagate.upgrade.model import BatchStatus, State


class Budget:
    """What one transaction of a scan may spend. `timed=False` leaves the clock alone (simulation)."""

    __slots__ = ("_deadline", "_rows")

    def __init__(self, *, timed: bool) -> None:
        self._rows = limits.scan_rows_max
        self._deadline = time.monotonic() + limits.scan_ms_max / 1000 if timed else None

    def spend(self) -> bool:
        """Take a row; False when there is none left, or no time (asked every 32 rows)."""
        if self._rows == 0:
            return False
        self._rows -= 1
        return bool(self._rows & 31 or self._deadline is None or time.monotonic() < self._deadline)


def _fold(query: str) -> str:
    """A search text as it is compared: names are kept in NFC, whatever form one is typed in."""
    return unicodedata.normalize("NFC", query).casefold()


def _matches(device: Device, folded_query: str) -> bool:
    return folded_query in device.identifier.casefold() or folded_query in device.name.casefold()


# -- single records, or a drain's worth of them -------------------------------------------------------


def lookup_devices(snapshot: Snapshot, names: Sequence[tuple[str, str]]) -> list[Device | None]:
    return [snapshot.device_for_login(product, identifier) for product, identifier in names]


def devices_by_number(snapshot: Snapshot, numbers: Sequence[int]) -> list[Device | None]:
    return [snapshot.device(number) for number in numbers]


def newest_upgrades(snapshot: Snapshot, devices: Sequence[int]) -> list[Upgrade | None]:
    return [snapshot.newest_upgrade(device) for device in devices]


def upgrades(snapshot: Snapshot, pairs: Sequence[tuple[int, int]]) -> list[Upgrade | None]:
    return [snapshot.upgrade(device, batch) for device, batch in pairs]


def get_product(snapshot: Snapshot, key: str) -> Product | None:
    record = snapshot.product(key)
    return None if record is None else record.product


def get_firmware(snapshot: Snapshot, id: str) -> Firmware | None:
    return snapshot.firmware(id)


def get_batch(snapshot: Snapshot, id: str) -> BatchView | None:
    number = tables.number_of_id("b", id)
    batch = None if number is None else snapshot.batch(number)
    if batch is None or batch.status == BatchStatus.CREATING:
        return None
    return snapshot.batch_view(batch)


def get_setting(snapshot: Snapshot, name: str) -> bytes | None:
    return snapshot.view.get(tables.SETTINGS, name.encode())


def image_used(snapshot: Snapshot, sha256: str) -> bool:
    return snapshot.view.get(tables.IMAGES, bytes.fromhex(sha256)) is not None


def newest_time_ms(snapshot: Snapshot) -> int:
    value = snapshot.view.get(tables.META, tables.NEWEST_TIME_KEY)
    return 0 if value is None else int(u64_key.unpack(value)[0])


# -- scans ----------------------------------------------------------------------------------------------


def list_products(snapshot: Snapshot, budget: Budget) -> list[Product]:
    found = [
        records.unpack_product(value).product for _, value in tables.scan(snapshot.view, tables.PRODUCTS, b"")
    ]
    return sorted(found, key=lambda product: product.number)


def count_devices(snapshot: Snapshot, product: str) -> int:
    record = snapshot.product(product)
    return 0 if record is None else record.devices


def scan_devices(
    snapshot: Snapshot, budget: Budget, product: str, after: int, limit: int, query: str
) -> DevicePage:
    record = snapshot.product(product)
    if record is None:
        return DevicePage([], None)
    folded_query = _fold(query)
    found: list[Device] = []
    start = device_key.pack(record.number, after + 1)
    for key, value in tables.scan(snapshot.view, tables.DEVICES, start, u32_key.pack(record.number)):
        if len(found) == limit or not budget.spend():
            return DevicePage(found, after)
        after = device_key.unpack(key)[1]
        device = records.unpack_device(value)
        if not query or _matches(device, folded_query):
            found.append(device)
    return DevicePage(found, None)


def scan_eligible(
    snapshot: Snapshot,
    budget: Budget,
    firmware_id: str,
    after: int,
    limit: int,
    query: str,
    allow_rollback: bool,
) -> DevicePage:
    firmware = snapshot.firmware(firmware_id)
    record = None if firmware is None else snapshot.product(firmware.product)
    if firmware is None or record is None:
        return DevicePage([], None)
    folded_query = _fold(query)
    has_open = snapshot.open_among(after + 1)
    found: list[Device] = []
    start = device_key.pack(record.number, after + 1)
    for key, value in tables.scan(snapshot.view, tables.DEVICES, start, u32_key.pack(record.number)):
        if len(found) == limit or not budget.spend():
            return DevicePage(found, after)
        after = device_key.unpack(key)[1]
        device = records.unpack_device(value)
        if query and not _matches(device, folded_query):
            continue
        if ineligible_reason(device, firmware, has_open(after), allow_rollback) is None:
            found.append(device)
    return DevicePage(found, None)


def eligible_numbers(
    snapshot: Snapshot, budget: Budget, firmware_id: str, after: int, allow_rollback: bool
) -> tuple[list[int], int | None]:
    page = scan_eligible(snapshot, budget, firmware_id, after, limits.scan_rows_max, "", allow_rollback)
    return [device.number for device in page.devices], page.next


def ineligible_reasons(
    snapshot: Snapshot, budget: Budget, firmware_id: str, identifiers: Sequence[str], allow_rollback: bool
) -> list[tuple[int, Reason | None]]:
    firmware = snapshot.firmware(firmware_id)
    if firmware is None:
        return [(0, Reason.UNKNOWN_DEVICE)] * len(identifiers)
    found = []
    for identifier in identifiers:
        device = snapshot.device_named(firmware.product, identifier)
        number = 0 if device is None else device.number
        has_open = device is not None and snapshot.has_open_upgrade(number)
        found.append((number, ineligible_reason(device, firmware, has_open, allow_rollback)))
    return found


def list_firmware(
    snapshot: Snapshot, budget: Budget, product: str | None, query: str, before: int, limit: int
) -> FirmwarePage:
    folded_query = _fold(query)
    before = before or tables.NUMBER_MAX
    found: list[Firmware] = []
    for key, value in tables.scan_back(snapshot.view, tables.FIRMWARE, u64_key.pack(before)):
        if len(found) == limit or not budget.spend():
            return FirmwarePage(found, before)
        before = u64_key.unpack(key)[0]
        firmware = records.unpack_firmware(value)
        if product is not None and firmware.product != product:
            continue
        if folded_query in firmware.name.casefold() or folded_query in firmware.version.casefold():
            found.append(firmware)
    return FirmwarePage(found, None)


def list_batches(
    snapshot: Snapshot,
    budget: Budget,
    firmware: str | None,
    product: str | None,
    status: BatchStatus | None,
    before: int,
    limit: int,
) -> BatchPage:
    before = before or tables.NUMBER_MAX
    if firmware is None:
        items = tables.scan_back(snapshot.view, tables.BATCHES, u64_key.pack(before))
    else:
        used = tables.number_of_id("f", firmware)
        if used is None:
            return BatchPage([], None)
        start = pair_key.pack(used, before)
        items = tables.scan_back(snapshot.view, tables.FIRMWARE_BATCHES, start, u64_key.pack(used))
    found: list[BatchView] = []
    for key, _ in items:
        if len(found) == limit or not budget.spend():
            return BatchPage(found, before)
        before = u64_key.unpack(key[-u64_key.size :])[0]
        batch = snapshot.batch(before)
        assert batch is not None
        if batch.status == BatchStatus.CREATING:
            continue
        if (product is None or batch.product == product) and (status is None or batch.status == status):
            found.append(snapshot.batch_view(batch))
    return BatchPage(found, None)


def scan_upgrades(
    snapshot: Snapshot, budget: Budget, number: int, state: State | None, query: str, after: int, limit: int
) -> UpgradePage:
    batch = snapshot.batch(number)
    if batch is None or batch.status == BatchStatus.CREATING:
        return UpgradePage([], None)
    folded_query = _fold(query)
    found: list[DeviceUpgrade] = []
    for member in snapshot.members_after(number, after):
        if len(found) == limit or not budget.spend():
            return UpgradePage(found, after)
        after = member
        value = _row_of(snapshot, member, number)
        if state is not None and _effective_state(batch, value) != state:
            continue
        device = snapshot.device_even_deleted(member)
        if not query or _matches(device, folded_query):
            upgrade = Upgrade(member, number, snapshot.effective_row(batch, value))
            found.append(DeviceUpgrade(device, upgrade))
    return UpgradePage(found, None)


def _row_of(snapshot: Snapshot, device: int, batch: int) -> bytes:
    value = snapshot.view.get(tables.UPGRADES, pair_key.pack(device, batch))
    assert value is not None, f"device {device} is a member of batch {batch} and has no row"
    return value


def _effective_state(batch: Batch, value: bytes) -> State:
    state = records.state_of(value)
    if batch.status == BatchStatus.ABORTED and state < State.SUCCEEDED:
        return State.FAILED
    return state


# -- at a start -----------------------------------------------------------------------------------------


def unfinished_batches(snapshot: Snapshot, budget: Budget) -> list[BatchView]:
    found = []
    for key, _ in tables.scan(snapshot.view, tables.UNFINISHED, b""):
        batch = snapshot.batch(u64_key.unpack(key)[0])
        assert batch is not None
        found.append(snapshot.batch_view(batch))
    return found


def slice_states(snapshot: Snapshot, budget: Budget, number: int, slice: int) -> SliceStates | None:
    batch = snapshot.batch(number)
    members = snapshot.slice_numbers(number, slice)
    if batch is None or members is None:
        return None
    states, dues, attempts = bytearray(), [], bytearray()
    for member in members:
        value = _row_of(snapshot, member, number)
        state = _effective_state(batch, value)
        states.append(state)
        dues.append(0 if state >= State.SUCCEEDED else records.due_of(value))
        attempts.append(records.attempt_of(value))
    return SliceStates(list(members), bytes(states), dues, bytes(attempts))


def images(snapshot: Snapshot, budget: Budget) -> set[str]:
    return {key.hex() for key, _ in tables.scan(snapshot.view, tables.IMAGES, b"")}
