"""What all engines share: each read verb of the interface, over transactions that the engine opens.

An engine says how a read transaction is opened (`view`) and where a scan runs (`_scan`): the rest of a
verb is in `reads`. A list verb asks for pages until one is full; a scan verb hands back what one
transaction's budget bought.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from otagate.store import reads
from otagate.store.engine_operators import OperatorsReads
from otagate.store.interface import (
    BatchPage,
    BatchView,
    Change,
    Device,
    DevicePage,
    Firmware,
    FirmwarePage,
    Outcome,
    Product,
    Sizes,
    SliceStates,
    Upgrade,
    UpgradePage,
)
from otagate.store.reads import Budget
from otagate.store.sealing import Sealer
from otagate.store.snapshot import Snapshot
from otagate.upgrade.eligibility import Reason
from otagate.upgrade.model import BatchStatus, State

T = TypeVar("T")


class Engine(OperatorsReads):
    """The reads of `interface.Store`; their contracts stand there."""

    timed_scans = True
    sealer: Sealer

    async def commit(self, changes: Sequence[Change]) -> list[Outcome]:
        """Apply a group in one transaction (interface.Store.commit)."""
        raise NotImplementedError

    def sizes(self) -> Sizes:
        """How full it is."""
        raise NotImplementedError

    async def close(self) -> None:
        """Let go of everything."""
        raise NotImplementedError

    async def _scan(self, read: Callable[[Snapshot, Budget], T]) -> T:
        return self._read(read)

    def _read(self, read: Callable[[Snapshot, Budget], T]) -> T:
        with self.view() as view:
            return read(Snapshot(view), Budget(timed=self.timed_scans))

    # -- one record, or a drain's worth of them

    async def lookup_devices(self, names: Sequence[tuple[str, str]]) -> list[Device | None]:
        """Devices by (product key, identifier)."""
        with self.view() as view:
            return reads.lookup_devices(Snapshot(view), names)

    async def devices_by_number(self, numbers: Sequence[int]) -> list[Device | None]:
        """Devices by number."""
        with self.view() as view:
            return reads.devices_by_number(Snapshot(view), numbers)

    async def newest_upgrades(self, devices: Sequence[int]) -> list[Upgrade | None]:
        """For each device its upgrade in the newest batch that is not in creation."""
        with self.view() as view:
            return reads.newest_upgrades(Snapshot(view), devices)

    async def upgrades(self, pairs: Sequence[tuple[int, int]]) -> list[Upgrade | None]:
        """Device upgrades by (device number, batch number)."""
        with self.view() as view:
            return reads.upgrades(Snapshot(view), pairs)

    async def get_product(self, key: str) -> Product | None:
        """A product by key."""
        with self.view() as view:
            return reads.get_product(Snapshot(view), key)

    async def get_firmware(self, id: str) -> Firmware | None:
        """A firmware record by id."""
        with self.view() as view:
            return reads.get_firmware(Snapshot(view), id)

    async def get_batch(self, id: str) -> BatchView | None:
        """A batch by id; None also while it is in creation."""
        with self.view() as view:
            return reads.get_batch(Snapshot(view), id)

    async def get_setting(self, name: str) -> bytes | None:
        """A small named value."""
        with self.view() as view:
            return reads.get_setting(Snapshot(view), name)

    async def newest_time_ms(self) -> int:
        """The newest time that any commit wrote."""
        with self.view() as view:
            return reads.newest_time_ms(Snapshot(view))

    async def image_used(self, sha256: str) -> bool:
        """Whether a firmware record names these bytes."""
        with self.view() as view:
            return reads.image_used(Snapshot(view), sha256)

    async def count_devices(self, product: str) -> int:
        """How many devices a product has."""
        with self.view() as view:
            return reads.count_devices(Snapshot(view), product)

    # -- scans

    async def list_products(self) -> list[Product]:
        """All products, oldest first."""
        return await self._scan(reads.list_products)

    async def scan_devices(self, product: str, *, after: int = 0, limit: int, query: str = "") -> DevicePage:
        """Devices of a product in registration order."""
        return await self._scan(
            partial(reads.scan_devices, product=product, after=after, limit=limit, query=query)
        )

    async def scan_eligible(
        self, firmware: str, *, after: int = 0, limit: int, query: str = "", allow_rollback: bool = False
    ) -> DevicePage:
        """Devices eligible for a firmware."""
        scan = partial(reads.scan_eligible, firmware_id=firmware, after=after, limit=limit, query=query)
        return await self._scan(partial(scan, allow_rollback=allow_rollback))

    async def eligible_numbers(
        self, firmware: str, *, after: int = 0, allow_rollback: bool = False
    ) -> tuple[list[int], int | None]:
        """Numbers of devices eligible for a firmware, one transaction's worth."""
        scan = partial(reads.eligible_numbers, firmware_id=firmware, after=after)
        return await self._scan(partial(scan, allow_rollback=allow_rollback))

    async def ineligible_reasons(
        self, firmware: str, identifiers: Sequence[str], *, allow_rollback: bool = False
    ) -> list[tuple[int, Reason | None]]:
        """For each identifier its device's number (0: unknown) and why it is not eligible, if it is not."""
        scan = partial(reads.ineligible_reasons, firmware_id=firmware, identifiers=identifiers)
        return await self._scan(partial(scan, allow_rollback=allow_rollback))

    async def list_firmware(
        self, *, product: str | None = None, query: str = "", before: int = 0, limit: int
    ) -> FirmwarePage:
        """Firmware, newest first."""
        found: list[Firmware] = []
        while True:
            page = await self._scan(
                partial(
                    reads.list_firmware, product=product, query=query, before=before, limit=limit - len(found)
                )
            )
            found += page.firmware
            if page.next is None or len(found) == limit:
                return FirmwarePage(found, page.next)
            before = page.next

    async def list_batches(
        self,
        *,
        firmware: str | None = None,
        product: str | None = None,
        status: BatchStatus | None = None,
        before: int = 0,
        limit: int,
    ) -> BatchPage:
        """Batches, newest first."""
        found: list[BatchView] = []
        while True:
            page = await self._scan(
                partial(
                    reads.list_batches,
                    firmware=firmware,
                    product=product,
                    status=status,
                    before=before,
                    limit=limit - len(found),
                )
            )
            found += page.batches
            if page.next is None or len(found) == limit:
                return BatchPage(found, page.next)
            before = page.next

    async def scan_upgrades(
        self, batch: int, *, state: State | None = None, query: str = "", after: int = 0, limit: int
    ) -> UpgradePage:
        """Device upgrades of a batch by device number."""
        return await self._scan(
            partial(reads.scan_upgrades, number=batch, state=state, query=query, after=after, limit=limit)
        )

    # -- at a start

    async def unfinished_batches(self) -> list[BatchView]:
        """Batches that somebody still has to work on."""
        return await self._scan(reads.unfinished_batches)

    async def slice_states(self, batch: int, slice: int) -> SliceStates | None:
        """What memory keeps of one slice's members."""
        return await self._scan(partial(reads.slice_states, number=batch, slice=slice))

    async def images(self) -> set[str]:
        """SHA-256 of every image that a firmware record names."""
        return await self._scan(reads.images)
