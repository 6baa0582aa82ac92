"""One transaction seen through the domain's nouns: what reads and changes look things up with.

A snapshot lives as long as its transaction and no longer. It remembers the batches, products and counts
that it has unpacked, because a drain or a commit asks for the same few again and again.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

from otagate.store import records, tables
from otagate.store.interface import Batch, BatchView, Device, Firmware, Upgrade
from otagate.store.records import ProductRecord
from otagate.store.sweep import Sweep
from otagate.store.tables import Cursor, View, device_key, pair_key, u64_key
from otagate.upgrade.counts import Counts
from otagate.upgrade.model import BatchStatus, Cause, Row, State
from otagate.upgrade.states import effective

# What a look-up finds that finds nothing; the store's numbers begin at 1.
_NO_PRODUCT = records.pack_product(ProductRecord(0, "none", "None", "secret", 1))
_NO_DEVICE = records.pack_device(Device(0, "none", "none", "None", bytes(61), "1.0.0", True, 1, 1))


class Snapshot:
    """Look-ups over one transaction; all numbers are the store's."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._products: dict[str, ProductRecord | None] = {}
        self._batches: dict[int, Batch | None] = {}
        self._counts: dict[int, Counts] = {}

    @cached_property
    def _rows(self) -> Cursor:
        """One cursor for all look-ups of newest rows; it stands nowhere in particular between them."""
        return self.view.cursor(tables.UPGRADES)

    # -- products, devices, firmware

    def product(self, key: str) -> ProductRecord | None:
        """A product by its key."""
        if key not in self._products:
            value = self.view.get(tables.PRODUCTS, key.encode())
            self._products[key] = None if value is None else records.unpack_product(value)
        return self._products[key]

    def device_number(self, product: int, identifier: str) -> int | None:
        """The number of a product's device."""
        value = self.view.get(tables.NAMES, tables.u32_key.pack(product) + identifier.encode())
        return None if value is None else int(u64_key.unpack(value)[0])

    def device_of(self, product: int, number: int) -> Device | None:
        """A product's device by its number; None when it is gone."""
        value = self.view.get(tables.DEVICES, device_key.pack(product, number))
        return None if value is None else records.unpack_device(value)

    def device_named(self, product_key: str, identifier: str) -> Device | None:
        """A device by what people call it."""
        product = self.product(product_key)
        if product is None:
            return None
        number = self.device_number(product.number, identifier)
        return None if number is None else self.device_of(product.number, number)

    def device_for_login(self, product_key: str, identifier: str) -> Device | None:
        """As `device_named`, at one cost whether there is one or not: strangers ask, with a clock."""
        product = self.product(product_key) or records.unpack_product(_NO_PRODUCT)
        number = self.device_number(product.number, identifier) or 0
        value = self.view.get(tables.DEVICES, device_key.pack(product.number, number))
        device = records.unpack_device(value or _NO_DEVICE)
        return None if value is None else device

    def device(self, number: int) -> Device | None:
        """A device by its number; None when it is gone."""
        owner = self.view.get(tables.OWNERS, u64_key.pack(number))
        if owner is None or len(owner) != tables.u32_key.size:
            return None
        return self.device_of(tables.u32_key.unpack(owner)[0], number)

    def device_even_deleted(self, number: int) -> Device:
        """A device that has an upgrade: as it is, or as it was when it was deleted."""
        owner = self.view.get(tables.OWNERS, u64_key.pack(number))
        assert owner is not None, f"device {number} has an upgrade and was never registered"
        if len(owner) != tables.u32_key.size:
            return records.unpack_device(owner)
        device = self.device_of(tables.u32_key.unpack(owner)[0], number)
        assert device is not None, f"device {number} has an owner and no record"
        return device

    def firmware(self, id: str) -> Firmware | None:
        """A firmware record by its id."""
        number = tables.number_of_id("f", id)
        if number is None:
            return None
        value = self.view.get(tables.FIRMWARE, u64_key.pack(number))
        return None if value is None else records.unpack_firmware(value)

    # -- batches and their rows

    def batch(self, number: int) -> Batch | None:
        """A batch, in creation or not."""
        if number not in self._batches:
            value = self.view.get(tables.BATCHES, u64_key.pack(number))
            self._batches[number] = None if value is None else records.unpack_batch(value)
        return self._batches[number]

    def counts(self, batch: int) -> Counts:
        """The counters of a batch; the snapshot's own, not to be changed by a reader."""
        counts = self._counts.get(batch)
        if counts is None:
            value = self.view.get(tables.COUNTS, u64_key.pack(batch))
            counts = Counts() if value is None else Counts(tables.counts_value.unpack(value))
            self._counts[batch] = counts
        return counts

    def batch_view(self, batch: Batch) -> BatchView:
        """A batch with counters that are the reader's to keep."""
        return BatchView(batch, Counts(self.counts(batch.number).numbers))

    def progress(self, batch: int) -> tuple[int, int] | None:
        """How many slices an unfinished batch has, and how many of them are rewritten."""
        value = self.view.get(tables.UNFINISHED, u64_key.pack(batch))
        return None if value is None else tables.progress_value.unpack(value)

    def slice_numbers(self, batch: int, slice: int) -> Sequence[int] | None:
        """The devices of one slice, ascending; None behind the last one."""
        value = self.view.get(tables.MEMBERS, tables.slice_key.pack(batch, slice))
        return None if value is None else records.unpack_numbers(value)

    def effective_row(self, batch: Batch, value: bytes) -> Row:
        """The row of a packed value, as it counts."""
        row = records.unpack_row(value)
        if batch.status != BatchStatus.ABORTED or row.ended:
            return row
        assert batch.ended_at_ms is not None
        cause = Cause.EXPIRED if batch.ended_by == "expired" else Cause.ABORTED
        return effective(row, batch.status, batch.ended_at_ms, cause)

    def is_open(self, batch: int, value: bytes) -> bool:
        """Whether a packed row of that batch has not ended, effectively."""
        if value[1] >= State.SUCCEEDED:
            return False
        found = self.batch(batch)
        assert found is not None, f"batch {batch} has rows and no record"
        return found.status != BatchStatus.ABORTED

    def upgrade(self, device: int, batch: int) -> Upgrade | None:
        """One device upgrade; None also while its batch is in creation."""
        found = self.batch(batch)
        if found is None or found.status == BatchStatus.CREATING:
            return None
        value = self.view.get(tables.UPGRADES, pair_key.pack(device, batch))
        return None if value is None else Upgrade(device, batch, self.effective_row(found, value))

    def newest_upgrade(self, device: int) -> Upgrade | None:
        """A device's upgrade in its newest batch that is not in creation."""
        cursor = self._rows
        found = cursor.prev() if cursor.set_range(pair_key.pack(device + 1, 0)) else cursor.last()
        while found:
            owner, number = pair_key.unpack(cursor.key())
            if owner != device:
                break
            batch = self.batch(number)
            assert batch is not None, f"batch {number} has rows and no record"
            if batch.status != BatchStatus.CREATING:
                return Upgrade(device, number, self.effective_row(batch, cursor.value()))
            found = cursor.prev()
        return None

    def has_open_upgrade(self, device: int) -> bool:
        """Whether a device has an upgrade that has not ended; one of a batch in creation counts.

        The newest row tells, because nobody is claimed anew before the upgrade before has ended.
        """
        cursor = self._rows
        if not (cursor.prev() if cursor.set_range(pair_key.pack(device + 1, 0)) else cursor.last()):
            return False
        number, batch = pair_key.unpack(cursor.key())
        return bool(number == device and self.is_open(batch, cursor.value()))

    def open_among(self, start: int) -> Callable[[int], bool]:
        """`has_open_upgrade` for numbers that ascend from call to call, from `start`, in one sweep."""
        sweep = Sweep(self.view, tables.UPGRADES, pair_key.pack(start, 0))

        def has_open(device: int) -> bool:
            sweep.advance(pair_key.pack(device + 1, 0))
            newest = sweep.before
            if newest is None:
                return False
            number, batch = pair_key.unpack(newest[0])
            return bool(number == device and self.is_open(batch, newest[1]))

        return has_open

    def members_after(self, batch: int, after: int) -> Iterator[int]:
        """Devices of a batch with numbers above `after`, ascending: the slice is found by halving."""
        low, high = 0, self._slices(batch)
        while low < high:
            middle = (low + high) // 2
            numbers = self.slice_numbers(batch, middle)
            assert numbers
            low, high = (middle + 1, high) if numbers[-1] <= after else (low, middle)
        while (numbers := self.slice_numbers(batch, low)) is not None:
            for number in numbers:
                if number > after:
                    yield number
            low += 1

    def _slices(self, batch: int) -> int:
        before = tables.slice_key.pack(batch + 1, 0)
        for key, _ in tables.scan_back(self.view, tables.MEMBERS, before, u64_key.pack(batch)):
            return int(tables.slice_key.unpack(key)[1]) + 1
        return 0
