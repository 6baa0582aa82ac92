"""What operators are shown: the nouns of docs/upgrades.md as JSON-able structs, field for field.

Times are RFC 3339 UTC strings with milliseconds ("2026-01-31T12:00:00.000Z"). A view is made from store
records at the moment of asking; it is never stored.
"""

from typing import Generic, TypeVar

from msgspec import Struct

Item = TypeVar("Item")


class Page(Struct, Generic[Item], frozen=True):
    """One page of a list; `next` is the cursor of the following page, null at the end."""

    items: list[Item]
    next: str | None


class ProductView(Struct, frozen=True):
    """A product. `auth`: "secret", "certificate" or "both"."""

    key: str
    name: str
    auth: str
    created_at: str
    require_signature: bool = False


class SigningKeyView(Struct, frozen=True):
    """A key that a product's firmware may be signed with; `public_key` in PEM. See docs/signing.md."""

    id: str
    name: str
    public_key: str
    created_at: str
    revoked_at: str | None


class DeviceView(Struct, frozen=True):
    """A device. `connection`: "online" or "offline"; `version` is null before the first login."""

    product: str
    identifier: str
    name: str
    version: str | None
    active: bool
    connection: str
    last_seen: str | None
    created_at: str


class DeviceWithSecret(DeviceView, frozen=True):
    """A device with its secret, which is shown once: at registration and when it is rotated."""

    secret: str


class RegistrationResult(Struct, frozen=True, omit_defaults=True):
    """The outcome of one line of a bulk registration: `secret` when registered, else `error`."""

    line: int
    identifier: str | None
    secret: str | None = None
    error: "ErrorView | None" = None


class ErrorView(Struct, frozen=True, omit_defaults=True):
    """An error as the API shows it."""

    code: str
    message: str
    field: str | None = None


class SignatureView(Struct, frozen=True):
    """The signature of a firmware: by which key, and what its manifest says. See docs/signing.md."""

    key: str
    expires_at: str
    not_before: list[str]


class FirmwareView(Struct, frozen=True):
    """A firmware record. `size` in bytes, digests in lower-case hex."""

    id: str
    product: str
    name: str
    version: str
    file_name: str
    description: str
    size: int
    md5: str
    sha256: str
    created_at: str
    signature: SignatureView | None = None


class BatchFirmware(Struct, frozen=True):
    """What a batch keeps of its firmware, also after that was deleted."""

    id: str
    name: str
    version: str
    md5: str


class BatchProduct(Struct, frozen=True):
    """The product of a batch."""

    key: str
    name: str


class CountsView(Struct, frozen=True):
    """Devices of a batch by state; the seven states add up to `total`."""

    total: int
    to_be_pushed: int
    pushed: int
    to_be_upgraded: int
    upgrading: int
    to_be_retried: int
    succeeded: int
    failed: int


class BatchView(Struct, frozen=True):
    """A batch. `range`: "all" or "directed"; `status`: "in_progress", "completed" or "aborted"."""

    id: str
    firmware: BatchFirmware
    product: BatchProduct
    range: str
    validity_days: int
    policy: str
    timeout_minutes: int
    retries: int
    retry_interval_minutes: int | None
    created_at: str
    expires_at: str
    ended_at: str | None
    status: str
    counts: CountsView
    allow_rollback: bool = False


class RetriesView(Struct, frozen=True):
    """`current` is attempt - 1, and 0 before the first push."""

    current: int
    maximum: int


class TimelineView(Struct, frozen=True):
    """One transition: when, to which state, why, in which attempt."""

    at: str
    state: str
    cause: str
    attempt: int
    remark: str | None


class UpgradeView(Struct, frozen=True):
    """One device upgrade, as a row of the batch details."""

    batch: str
    identifier: str
    name: str
    connection: str
    state: str
    attempt: int
    retries: RetriesView
    remark: str | None
    detail: str | None
    stage: str | None
    progress: int
    version: str | None
    completed_at: str | None
    waiting_for: str | None


class UpgradeDetails(UpgradeView, frozen=True):
    """One device upgrade with its timeline, oldest first (the last 32 transitions)."""

    timeline: list[TimelineView]


class IneligibleDevice(Struct, frozen=True):
    """Why a device that a directed batch names cannot be in it."""

    identifier: str
    reason: str
    message: str


# -- health ----------------------------------------------------------------------------------------


class CheckView(Struct, frozen=True):
    """One look at one thing; `message` says what is wrong, empty when `ok`."""

    name: str
    ok: bool
    message: str


class HealthView(Struct, frozen=True):
    """GET /livez, GET /readyz: "live" or "ready", and what was looked at."""

    status: str
    checks: list[CheckView]


# -- what goes on now --------------------------------------------------------------------------------


class OverviewHistory(Struct, frozen=True):
    """The last ten minutes, one item for each `interval_s`, the newest last; `at` is when that one was taken.

    `devices_online` as it was then; `logins` and `pushes`: how many there were in the interval.
    """

    interval_s: int
    at: str
    devices_online: list[int]
    logins: list[int]
    pushes: list[int]


class OverviewView(Struct, frozen=True):
    """What the gateway does now. Totals count from `started_at`."""

    devices_online: int
    devices_total: int
    batches_in_progress: int
    logins_total: int
    pushes_total: int
    transitions_total: int
    bytes_streamed_total: int
    transfers_running: int
    version: str
    started_at: str
    history: OverviewHistory


class OverviewEvent(Struct, frozen=True):
    """GET /events, event `overview`. Totals count from the start of the process."""

    at: str
    devices_online: int
    logins_total: int
    pushes_total: int
    transitions_total: int
    bytes_streamed_total: int
    transfers_running: int
    commits_total: int


class ChangedUpgrades(Struct, frozen=True):
    """GET /events, event `upgrades`: devices whose upgrade looks different now; `more`: others too."""

    changed: list[str]
    more: bool


# -- requests: what operators send ------------------------------------------------------------------


class CreateProductRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """POST /products. `auth` defaults to "secret"."""

    key: str
    name: str
    auth: str = "secret"


class UpdateProductRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """PATCH /products/{key}. `require_signature`: no firmware and no batch without a good signature."""

    require_signature: bool


class AddSigningKeyRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """POST /products/{key}/signing-keys. `public_key`: Ed25519 in PEM."""

    public_key: str
    name: str = ""


class RegisterDeviceRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """POST /products/{key}/devices. `name` defaults to the identifier, `secret` is generated when absent."""

    identifier: str
    name: str | None = None
    secret: str | None = None


class RenameDeviceRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """PATCH /products/{key}/devices/{identifier}."""

    name: str


class CreateBatchRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """POST /batches. `devices` (identifiers) only with range "directed"."""

    firmware: str
    range: str
    validity_days: int
    policy: str
    timeout_minutes: int
    retries: int
    devices: list[str] | None = None
    retry_interval_minutes: int | None = None
    allow_rollback: bool = False


class FirmwareMetadata(Struct, frozen=True):
    """The query of POST /firmware. `signature`: the text of a signature file."""

    product: str
    name: str
    version: str
    file_name: str
    description: str = ""
    signature: str = ""
