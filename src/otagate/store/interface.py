"""The store as the gateway sees it: reads, and one verb that writes.

Theory. Whatever changes durable state is a *change*: one small frozen struct of the closed list below.
`commit` takes a group of them and makes one transaction: the changes are applied in order, each either
whole or not at all, and each has its own outcome. A change that breaks a rule (a name already taken, a
row that has moved on) is refused with an outcome and harms nobody else in the group. When `commit`
returns, everything that it applied is on the disk. When it raises CommitFailed nothing of the group is,
and the process must end: what was decided in memory no longer matches the store.

Invariants, kept by every engine and checked by the contract suite (tests/store):

1. counts of a batch equal its rows, after every commit;
2. a device has at most one device upgrade that has not ended;
3. an attempt never goes back, a row that has ended never changes its state;
4. numbers and ids are never used again;
5. no transaction, cursor or page of the engine leaves it.

A row is always read *effective*: an open row of a batch that was aborted or has expired reads as
failed(task_aborted), although it is rewritten only later, slice by slice (`RewriteSlice`).

Nothing here assumes that this process is the only gateway: a transition is a compare-and-set.

Numbers. A product, device and batch has a `number` (assigned by the store, from 1, ascending), which keys
and memory use; people see keys, identifiers and ids. All times are UTC milliseconds.
"""

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from msgspec import Struct

from otagate.errors import RequestError
from otagate.store.operators import (
    AddToken,
    AddWebhook,
    Audited,
    ClearOutbox,
    DeleteWebhook,
    FinishDeliveries,
    OperatorsStore,
    RevokeToken,
    SweepAnswers,
    TellStalled,
    Token,
    TouchTokens,
    Webhook,
)
from otagate.store.sealing import Sealer
from otagate.store.signed import (
    AddSigningKey,
    FirmwareSignature,
    RequireSignature,
    RevokeSigningKey,
    SigningKey,
)
from otagate.upgrade.counts import Counts
from otagate.upgrade.eligibility import Reason
from otagate.upgrade.model import BatchStatus, Policy, Row, State

# -- records: what is read --------------------------------------------------------------------------


class Product(Struct, frozen=True, gc=False):
    """A kind of device. `auth`: "secret", "certificate" or "both"."""

    number: int
    key: str
    name: str
    auth: str
    created_at_ms: int
    require_signature: bool = False
    keys: tuple[SigningKey, ...] = ()


class Device(Struct, frozen=True, gc=False):
    """A registered device. `version`: last reported, None before a first login; `active`: ever logged in."""

    number: int
    product: str
    identifier: str
    name: str
    sealed: bytes  # its secret (sealing.about_device)
    version: str | None
    active: bool
    last_seen_ms: int | None
    created_at_ms: int


class Firmware(Struct, frozen=True, gc=False):
    """A firmware record; its bytes are the image `sha256` in blobs."""

    id: str
    product: str
    name: str
    version: str
    file_name: str
    description: str
    size: int
    md5: str
    sha256: str
    created_at_ms: int
    signature: FirmwareSignature | None = None

    @property
    def not_before(self) -> tuple[str, ...]:
        """The versions that it may replace, as its signer says; empty: any."""
        return () if self.signature is None else self.signature.not_before


class Batch(Struct, frozen=True):
    """A batch, with what it keeps of its firmware (which may be deleted after it ended).

    `selection` is "all" or "directed" (the API's `range`). `status` is CREATING until OpenBatch.
    `ended_by` is None, "completed", "aborted" or "expired". `total` is fixed by OpenBatch.
    """

    number: int
    id: str
    firmware_id: str
    firmware_name: str
    firmware_version: str
    firmware_md5: str
    firmware_sha256: str
    firmware_size: int
    product: str
    product_name: str
    selection: str
    policy: Policy
    validity_days: int
    timeout_minutes: int
    retries: int
    retry_interval_minutes: int | None
    created_at_ms: int
    expires_at_ms: int
    status: BatchStatus
    ended_at_ms: int | None = None
    ended_by: str | None = None
    signature: FirmwareSignature | None = None
    allow_rollback: bool = False


class BatchView(Struct, frozen=True):
    """A batch and its counters, read in one transaction."""

    batch: Batch
    counts: Counts


class Upgrade(Struct, frozen=True, gc=False):
    """One device upgrade as stored (and read effective): row of `device` in `batch`."""

    device: int
    batch: int
    row: Row


class DeviceUpgrade(Struct, frozen=True):
    """A device upgrade together with its device, for lists."""

    device: Device
    upgrade: Upgrade


class DevicePage(Struct, frozen=True):
    """One page of devices in registration order; `next` is the number to go on after, or None at the end."""

    devices: list[Device]
    next: int | None


class UpgradePage(Struct, frozen=True):
    """One page of a batch's device upgrades in device-number order."""

    upgrades: list[DeviceUpgrade]
    next: int | None


class FirmwarePage(Struct, frozen=True):
    """One page of firmware, newest first."""

    firmware: list[Firmware]
    next: int | None


class BatchPage(Struct, frozen=True):
    """One page of batches (never one in creation), newest first."""

    batches: list[BatchView]
    next: int | None


class Sizes(Struct, frozen=True):
    """How much a store holds, in bytes; `used_bytes` with pages that were freed and wait to be used again."""

    map_bytes: int
    used_bytes: int


class SliceStates(Struct, frozen=True):
    """One slice of a batch's members with what memory keeps of them: parallel, ascending by device number.

    `states`: one State per device, `dues`: UTC ms or 0 (Row.due_ms), `attempts`: one per device.
    """

    devices: list[int]
    states: bytes
    dues: list[int]
    attempts: bytes


# -- changes: what is written -------------------------------------------------------------------------


class CreateProduct(Struct, frozen=True):
    """→ Product. Conflict when the key is taken."""

    key: str
    name: str
    auth: str
    at_ms: int


class DeleteProduct(Struct, frozen=True):
    """→ None. NotFound; Conflict while it has devices or firmware."""

    key: str


class NewDevice(Struct, frozen=True, gc=False):
    """What registration needs of one device; already validated."""

    identifier: str
    name: str
    sealed: bytes


class RegisterDevices(Struct, frozen=True):
    """→ list[Device | Conflict], one for each entry. NotFound when there is no such product.

    Entries that repeat an identifier of the same change conflict with its first one.
    """

    product: str
    devices: Sequence[NewDevice]
    at_ms: int


class RenameDevice(Struct, frozen=True):
    """→ Device. NotFound."""

    product: str
    identifier: str
    name: str


class RotateSecret(Struct, frozen=True):
    """→ Device with the new secret. NotFound."""

    product: str
    identifier: str
    sealed: bytes


class DeleteDevice(Struct, frozen=True):
    """→ Device, as it was. NotFound; Conflict while it has an upgrade that has not ended.

    Its rows in ended batches stay (they count), shown by identifier and name as last known.
    """

    product: str
    identifier: str


class ReportVersion(Struct, frozen=True, gc=False):
    """→ Device. The device logged in or reported: active, `version`, last_seen. NotFound when it is gone."""

    device: int
    version: str
    at_ms: int
    epoch: int = 0


class TouchDevices(Struct, frozen=True):
    """→ None. Coalesced last_seen: pairs (device number, ms). Unknown numbers are passed over."""

    seen: Sequence[tuple[int, int]]


class AddFirmware(Struct, frozen=True):
    """→ Firmware. The image must be in blobs already.

    NotFound (product); Conflict field "name" (unique) or "version" (unique in the product);
    Invalid when the product has firmware_per_product_max already, or for the signature (signed.refuse).
    `wall_step_ms` as in OpenBatch: a signature expires by the wall clock.
    """

    product: str
    name: str
    version: str
    file_name: str
    description: str
    size: int
    md5: str
    sha256: str
    at_ms: int
    signature: FirmwareSignature | None = None
    wall_step_ms: int = 0


class DeletedFirmware(Struct, frozen=True):
    """Outcome of DeleteFirmware; `image_unused`: no record names these bytes any more."""

    firmware: Firmware
    image_unused: bool


class DeleteFirmware(Struct, frozen=True):
    """→ DeletedFirmware. NotFound; Conflict while a batch that has not ended (or is in creation) uses it."""

    id: str


class BeginBatch(Struct, frozen=True):
    """→ Batch, CREATING, numbered. NotFound when the firmware is gone; Invalid for its signature.

    Its firmware is in use from now on. `allow_rollback`: also on versions that it comes before.
    """

    firmware: str
    selection: str
    policy: Policy
    validity_days: int
    timeout_minutes: int
    retries: int
    retry_interval_minutes: int | None
    at_ms: int
    allow_rollback: bool = False
    wall_step_ms: int = 0


class ClaimDevices(Struct, frozen=True):
    """→ list[int]: the device numbers that were claimed, ascending; a slice of a batch in creation.

    `devices` ascend, also from slice to slice. Each gets a row TO_BE_PUSHED, unless the device is gone
    or no longer eligible (upgrade.eligibility, judged inside the transaction); such a one is left out.
    """

    batch: int
    devices: Sequence[int]
    at_ms: int


class OpenBatch(Struct, frozen=True):
    """→ BatchView, IN_PROGRESS: fixes `total`, created_at (`at_ms`) and expires_at.

    `wall_step_ms`: how far the wall clock, which a validity goes by, has stepped away from `at_ms`.
    NotFound; Conflict if not CREATING; Invalid when it has no device (undo it then).
    """

    batch: int
    at_ms: int
    wall_step_ms: int = 0


class UndoBatch(Struct, frozen=True):
    """→ bool: whether it is undone wholly. Removes one slice of a batch in CREATING, with the last the batch.

    NotFound; Conflict if not CREATING.
    """

    batch: int


class EndBatch(Struct, frozen=True):
    """→ BatchView. Status and counts first; its rows follow by RewriteSlice.

    `by`: "aborted" (by an operator) or "expired"; `at_ms` becomes ended_at.
    NotFound; Conflict when it has already ended (or is still in creation).
    """

    batch: int
    by: str
    at_ms: int


class RewriteSlice(Struct, frozen=True):
    """→ bool: whether there are more slices. Writes the open rows of a slice of an ended batch as they read.

    Slices are counted from 0 and rewritten in order. NotFound; Conflict when the batch has not ended.
    """

    batch: int
    slice: int


class Transition(Struct, frozen=True, gc=False):
    """→ Transitioned, or Stale. One put: the row of (device, batch), if it is (state, attempt) as expected.

    Also moves the batch's counters, and completes the batch with its last open row (at `row`'s completion).
    `epoch`: of the session that caused it, 0 for clocks and operators.
    """

    device: int
    batch: int
    expected_state: State
    expected_attempt: int
    row: Row
    epoch: int = 0


class Transitioned(Struct, frozen=True, gc=False):
    """A transition was applied; `completed` is the batch when this was its last open row."""

    completed: Batch | None = None


class Stale(Struct, frozen=True, gc=False):
    """A transition met another row than it expected: `row` is the fresh one, None when there is none."""

    row: Row | None


class PutSetting(Struct, frozen=True):
    """→ None. A small named value of the gateway's own."""

    name: str
    value: bytes


Change: TypeAlias = (
    CreateProduct
    | DeleteProduct
    | RegisterDevices
    | RenameDevice
    | RotateSecret
    | DeleteDevice
    | ReportVersion
    | TouchDevices
    | AddFirmware
    | DeleteFirmware
    | BeginBatch
    | ClaimDevices
    | OpenBatch
    | UndoBatch
    | EndBatch
    | RewriteSlice
    | Transition
    | PutSetting
    | AddSigningKey
    | RevokeSigningKey
    | RequireSignature
    | AddToken
    | RevokeToken
    | TouchTokens
    | Audited
    | SweepAnswers
    | AddWebhook
    | DeleteWebhook
    | ClearOutbox
    | FinishDeliveries
    | TellStalled
)

Outcome: TypeAlias = (
    bool
    | Product
    | Device
    | list[Device | RequestError]
    | list[int]
    | Firmware
    | DeletedFirmware
    | Batch
    | BatchView
    | Transitioned
    | Stale
    | Token
    | Webhook
    | RequestError  # refused; returned, never raised
    | None
)


class Store(OperatorsStore, Protocol):
    """What an engine offers. Reads may finish without yielding; scans run in reader threads."""

    sealer: Sealer  # of the secrets that it keeps; the key is not in it

    async def commit(self, changes: Sequence[Change]) -> list[Outcome]:
        """Apply a group in one transaction, in order: an outcome each. No overlap. CommitFailed."""
        ...

    # one record, or a drain's worth of them; from memory or mapped pages, on the loop
    async def lookup_devices(self, names: Sequence[tuple[str, str]]) -> list[Device | None]:
        """Devices by (product key, identifier): one lookup for all logins of a drain."""
        ...

    async def devices_by_number(self, numbers: Sequence[int]) -> list[Device | None]:
        """Devices by number, in the order asked."""
        ...

    async def newest_upgrades(self, devices: Sequence[int]) -> list[Upgrade | None]:
        """For each device its upgrade in the newest batch that is not in creation; None if there is none."""
        ...

    async def upgrades(self, pairs: Sequence[tuple[int, int]]) -> list[Upgrade | None]:
        """Device upgrades by (device number, batch number)."""
        ...

    async def get_product(self, key: str) -> Product | None: ...

    async def get_firmware(self, id: str) -> Firmware | None: ...

    async def get_batch(self, id: str) -> BatchView | None:
        """A batch by id; None also while it is in creation."""
        ...

    async def get_setting(self, name: str) -> bytes | None: ...

    async def image_used(self, sha256: str) -> bool:
        """Whether a firmware record names these bytes: asked by blobs before it unlinks them."""
        ...

    # scans
    async def list_products(self) -> list[Product]: ...

    async def count_devices(self, product: str) -> int: ...

    async def scan_devices(self, product: str, *, after: int = 0, limit: int, query: str = "") -> DevicePage:
        """Devices of a product in registration order; `query`: a substring of identifier or name, any case.

        A page may come back shorter than `limit` (even empty) with `next` set: the scan's own bounds
        (scan_rows_max rows, scan_ms_max) were reached; go on from `next`.
        """
        ...

    async def scan_eligible(
        self, firmware: str, *, after: int = 0, limit: int, query: str = "", allow_rollback: bool = False
    ) -> DevicePage:
        """Devices eligible for a firmware (upgrade.eligibility). Pages as in scan_devices."""
        ...

    async def eligible_numbers(
        self, firmware: str, *, after: int = 0, allow_rollback: bool = False
    ) -> tuple[list[int], int | None]:
        """As scan_eligible, numbers only, for a batch over all; one transaction's worth a call."""
        ...

    async def ineligible_reasons(
        self, firmware: str, identifiers: Sequence[str], *, allow_rollback: bool = False
    ) -> list[tuple[int, Reason | None]]:
        """For each identifier: its device's number (0: unknown), and why it is not eligible, if it is not.

        For a directed batch. A device claimed by a batch in creation is not eligible. Ask for at most
        scan_rows_max at a time: it is one transaction.
        """
        ...

    async def list_firmware(
        self, *, product: str | None = None, query: str = "", before: int = 0, limit: int
    ) -> FirmwarePage: ...

    async def list_batches(
        self,
        *,
        firmware: str | None = None,
        product: str | None = None,
        status: BatchStatus | None = None,
        before: int = 0,
        limit: int,
    ) -> BatchPage: ...

    async def scan_upgrades(
        self, batch: int, *, state: State | None = None, query: str = "", after: int = 0, limit: int
    ) -> UpgradePage:
        """Device upgrades of a batch by device number; filters and short pages as in scan_devices."""
        ...

    # at a start
    async def unfinished_batches(self) -> list[BatchView]:
        """Batches in CREATING or IN_PROGRESS, and ended ones whose rows are not all rewritten yet."""
        ...

    async def slice_states(self, batch: int, slice: int) -> SliceStates | None:
        """Members of slice `slice` (from 0) of a batch; None behind the last one."""
        ...

    async def newest_time_ms(self) -> int:
        """The newest time that any commit wrote: the gateway's clock never starts before it."""
        ...

    async def images(self) -> set[str]:
        """SHA-256 of every image that a firmware record names: all others are orphans."""
        ...

    def sizes(self) -> Sizes:
        """How full it is; costs a few microseconds."""
        ...

    async def close(self) -> None: ...
