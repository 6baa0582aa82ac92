"""Does a store keep its promises? Every invariant that one moment can show, over any engine.

    python -m otagate.store.check DATA      prints what it finds; exit code 1 if there is anything

The checker looks at tables, not at the rules that wrote them: it counts rows again, looks each index up
from both sides, follows every number to its record, and the audit log along its chain. Invariant 3 (an
attempt never goes back, what has ended stays) is about two moments: `moments` of both, and `check_progress`
between them.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from otagate.store import check_operators, records, tables
from otagate.store.changes_batches import BATCH_NUMBERS
from otagate.store.changes_fleet import DEVICE_NUMBERS, FIRMWARE_NUMBERS, PRODUCT_NUMBERS
from otagate.store.engine import Engine
from otagate.store.interface import Batch, Firmware
from otagate.store.snapshot import Snapshot
from otagate.store.tables import View, device_key, pair_key, slice_key, u32_key, u64_key
from otagate.upgrade.model import BatchStatus, State

Moments = dict[tuple[int, int], tuple[State, int]]


def check_invariants(store: Engine) -> list[str]:
    """What is wrong with an open store, one sentence each; empty when all is well."""
    with store.view() as view:
        return check(view)


def check(view: View) -> list[str]:
    """What is wrong in one transaction, one sentence each."""
    snapshot = Snapshot(view)
    return [
        *_check_numbers(view),
        *_check_devices(view),
        *_check_firmware(view),
        *_check_batches(snapshot),
        *_check_rows(snapshot),
        *check_operators.check(snapshot),
    ]


def moments(view: View) -> Moments:
    """State and attempt of each device upgrade, by (device, batch), as they count."""
    snapshot = Snapshot(view)
    found: Moments = {}
    for key, value in tables.scan(view, tables.UPGRADES, b""):
        device, number = pair_key.unpack(key)
        batch = snapshot.batch(number)
        assert batch is not None
        row = snapshot.effective_row(batch, value)
        found[device, number] = row.state, row.attempt
    return found


def check_progress(before: Moments, after: Moments) -> list[str]:
    """What went back between two moments of one store. Rows may go only with a batch that was undone."""
    found = []
    for pair, (state, attempt) in before.items():
        now = after.get(pair)
        if now is None:
            if state != State.TO_BE_PUSHED or attempt:
                found.append(f"the upgrade of device {pair[0]} in batch {pair[1]} is gone")
        elif now[1] < attempt:
            found.append(f"device {pair[0]} in batch {pair[1]} went back to attempt {now[1]} from {attempt}")
        elif state >= State.SUCCEEDED and now[0] != state:
            found.append(f"device {pair[0]} in batch {pair[1]} had ended {state.label}, is {now[0].label}")
    return found


def _all(view: View, table: str) -> Iterator[tuple[bytes, bytes]]:
    return tables.scan(view, table, b"")


def _check_numbers(view: View) -> Iterator[str]:
    """No number is above the last one given: it would be given again."""
    numbers: dict[bytes, list[int]] = {
        PRODUCT_NUMBERS: [records.unpack_product(value).number for _, value in _all(view, tables.PRODUCTS)],
        DEVICE_NUMBERS: [u64_key.unpack(key)[0] for key, _ in _all(view, tables.OWNERS)],
        FIRMWARE_NUMBERS: [u64_key.unpack(key)[0] for key, _ in _all(view, tables.FIRMWARE)],
        BATCH_NUMBERS: [u64_key.unpack(key)[0] for key, _ in _all(view, tables.BATCHES)],
    } | check_operators.given_numbers(view)
    for kind, given in numbers.items():
        value = view.get(tables.META, kind)
        last = 0 if value is None else u64_key.unpack(value)[0]
        if max(given, default=0) > last:
            yield f"{kind.decode()} {max(given)} exists and the last number given is {last}"
        if len(set(given)) != len(given):
            yield f"a number of a {kind.decode()} stands twice"


def _check_devices(view: View) -> Iterator[str]:
    devices: Counter[int] = Counter()
    for key, value in _all(view, tables.DEVICES):
        product, number = device_key.unpack(key)
        device = records.unpack_device(value)
        devices[product] += 1
        if device.number != number:
            yield f"device {number} says that it is number {device.number}"
        if view.get(tables.OWNERS, u64_key.pack(number)) != u32_key.pack(product):
            yield f"device {number} of product {product} is not among the owners"
        if view.get(tables.NAMES, u32_key.pack(product) + device.identifier.encode()) != u64_key.pack(number):
            yield f"device {number} is not found by its identifier {device.identifier}"
    names: Counter[int] = Counter(u32_key.unpack(key[:4])[0] for key, _ in _all(view, tables.NAMES))
    owners: Counter[int] = Counter(
        u32_key.unpack(value)[0] for _, value in _all(view, tables.OWNERS) if len(value) == u32_key.size
    )
    if names != devices or owners != devices:
        yield f"devices per product are {devices}, identifiers {names}, owners {owners}"
    products = [records.unpack_product(value) for _, value in _all(view, tables.PRODUCTS)]
    if set(devices) - {product.number for product in products}:
        yield "there are devices without a product"
    for product in products:
        if product.devices != devices[product.number]:
            yield f"product {product.key} counts {product.devices} devices and has {devices[product.number]}"


def _check_firmware(view: View) -> Iterator[str]:
    products = {
        product.key: product
        for product in (records.unpack_product(value) for _, value in _all(view, tables.PRODUCTS))
    }
    firmware: dict[bytes, Firmware] = {
        key: records.unpack_firmware(value) for key, value in _all(view, tables.FIRMWARE)
    }
    names = {record.name.encode(): key for key, record in firmware.items()}
    if names != dict(_all(view, tables.FIRMWARE_NAMES)) or len(names) != len(firmware):
        yield "the names of firmware differ from its records"
    versions = {
        u32_key.pack(products[record.product].number) + record.version.encode(): key
        for key, record in firmware.items()
        if record.product in products
    }
    if versions != dict(_all(view, tables.FIRMWARE_VERSIONS)) or len(versions) != len(firmware):
        yield "the versions of firmware differ from its records"
    counted = Counter(record.product for record in firmware.values())
    for product in products.values():
        if product.firmware != counted[product.key]:
            yield f"product {product.key} counts {product.firmware} firmware and has {counted[product.key]}"
    images = Counter(bytes.fromhex(record.sha256) for record in firmware.values())
    if images != {key: u32_key.unpack(value)[0] for key, value in _all(view, tables.IMAGES)}:
        yield "the counts of images differ from the firmware records"


def _check_batches(snapshot: Snapshot) -> Iterator[str]:
    view = snapshot.view
    batches = [records.unpack_batch(value) for _, value in _all(view, tables.BATCHES)]
    numbers = {batch.number for batch in batches}
    for table in (tables.COUNTS, tables.UNFINISHED, tables.MEMBERS):
        for key, _ in _all(view, table):
            if u64_key.unpack(key[:8])[0] not in numbers:
                yield f"{table} speaks of batch {u64_key.unpack(key[:8])[0]}, which there is not"
    for batch in batches:
        yield from _check_batch(snapshot, batch)
    using = {_use_key(batch) for batch in batches if _is_working(batch)}
    if using != {key for key, _ in _all(view, tables.FIRMWARE_USES)}:
        yield "the uses of firmware differ from the batches that have not ended"
    if {_use_key(batch) for batch in batches} != {key for key, _ in _all(view, tables.FIRMWARE_BATCHES)}:
        yield "the batches of firmware differ from the batches"
    for key in using:
        if view.get(tables.FIRMWARE, key[:8]) is None:
            yield f"firmware {u64_key.unpack(key[:8])[0]} is gone and a batch that has not ended uses it"


def _use_key(batch: Batch) -> bytes:
    return pair_key.pack(tables.number_of_id("f", batch.firmware_id), batch.number)


def _is_working(batch: Batch) -> bool:
    return batch.status in (BatchStatus.CREATING, BatchStatus.IN_PROGRESS)


def _check_batch(snapshot: Snapshot, batch: Batch) -> Iterator[str]:
    """Its counts are those of its rows, its members ascend, its status fits, its slices are accounted for."""
    states: Counter[State] = Counter()
    unwritten = slices = last = 0
    prefix = u64_key.pack(batch.number)
    for key, value in tables.scan(snapshot.view, tables.MEMBERS, prefix, prefix):
        if slice_key.unpack(key)[1] != slices:
            yield f"slice {slices} of {batch.id} is missing"
        slices += 1
        for device in records.unpack_numbers(value):
            if device <= last:
                yield f"members of {batch.id} do not ascend at device {device}"
            last = device
            packed = snapshot.view.get(tables.UPGRADES, pair_key.pack(device, batch.number))
            if packed is None:
                yield f"device {device} is a member of {batch.id} and has no row"
                continue
            row = snapshot.effective_row(batch, packed)
            states[row.state] += 1
            unwritten += row.state != records.state_of(packed)
    counts = snapshot.counts(batch.number)
    if {state: counts[state] for state in State if counts[state]} != dict(states):
        yield f"counts of {batch.id} are {counts} and its rows are {dict(states)}"
    open_rows = sum(number for state, number in states.items() if state < State.SUCCEEDED)
    if (batch.status == BatchStatus.IN_PROGRESS) != bool(open_rows) and batch.status != BatchStatus.CREATING:
        yield f"{batch.id} is {batch.status.label} with {open_rows} open rows"
    if (batch.ended_at_ms is None) != _is_working(batch) or (batch.ended_by is None) != _is_working(batch):
        yield f"{batch.id} is {batch.status.label} and ended {batch.ended_by} at {batch.ended_at_ms}"
    progress = snapshot.progress(batch.number)
    if progress is None:
        if _is_working(batch) or unwritten:
            yield f"{batch.id} is not unfinished, with {unwritten} rows to rewrite"
    elif progress[0] != slices or batch.status == BatchStatus.COMPLETED:
        yield f"{batch.id} ({batch.status.label}) is unfinished with {progress[0]} slices and has {slices}"


def _check_rows(snapshot: Snapshot) -> Iterator[str]:
    """No device has two rows that are open, no row lacks a batch that counts it."""
    rows: Counter[int] = Counter()
    open_batches: Counter[int] = Counter()
    for key, value in _all(snapshot.view, tables.UPGRADES):
        device, number = pair_key.unpack(key)
        rows[number] += 1
        if snapshot.batch(number) is None:
            yield f"device {device} has a row of batch {number}, which there is not"
            continue
        if snapshot.view.get(tables.OWNERS, u64_key.pack(device)) is None:
            yield f"a row names device {device}, which was never registered"
        if snapshot.is_open(number, value):
            open_batches[device] += 1
            if snapshot.device(device) is None:
                yield f"device {device} was deleted with an open upgrade in batch {number}"
    for device, number in open_batches.items():
        if number > 1:
            yield f"device {device} has {number} open upgrades"
    for number, found in rows.items():
        if snapshot.counts(number).total != found:
            yield f"batch {number} counts {snapshot.counts(number).total} rows and has {found}"


def main(arguments: list[str]) -> int:
    """Check the store of a data folder, also beside a running gateway."""
    from otagate.errors import StoreError
    from otagate.store.lmdb import view_folder

    if len(arguments) != 1:
        sys.stderr.write("usage: python -m otagate.store.check DATA\n")
        return 2
    try:
        with view_folder(Path(arguments[0])) as view:
            found = check(view)
    except StoreError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.writelines(f"{finding}\n" for finding in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
