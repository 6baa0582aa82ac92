"""What the admin surface asks of the gateway: `gateway.service.Service`, as a protocol.

Every method may raise an `errors.RequestError`; the surface turns it into the error body with its status.
Cursors are opaque texts that the service makes and reads (Malformed on a bad one). Limits arrive checked:
1 to `limits.page_items_max`. Path parameters arrive as the operator typed them: of any length and content.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from otagate.gateway import views
from otagate.gateway import views_operators as operators
from otagate.gateway.access import Access, Session
from otagate.gateway.acts import Act, Repeats
from otagate.openmetrics import Sample

if TYPE_CHECKING:
    from otagate.gateway.service import Service as Gateway


class FirmwareUpload(Protocol):
    """An image while its bytes arrive; leaving its context without `finish` keeps nothing."""

    async def write(self, data: bytes) -> None:
        """Take the next bytes; TooLarge as soon as they are too many, NoRoom when the disk is full."""

    async def finish(self, md5: str | None, sha256: str | None) -> views.FirmwareView:
        """Commit. The digests are those that the client expects, lower-case hex; Invalid when they differ."""


class Notice(Protocol):
    """One event: its name, what it says, and the cursor to go on from."""

    @property
    def event(self) -> str: ...
    @property
    def cursor(self) -> str: ...
    @property
    def data(self) -> object: ...


class EventStream(Protocol):
    """What one subscriber is told."""

    async def next(self) -> Notice | None:
        """The next event, when its time has come; None when the gateway stops. May be cancelled."""


class Service(Protocol):
    """The gateway as operators see it."""

    access: Access
    repeats: Repeats

    def session(self, session: Session) -> operators.SessionView:
        """A console session as its browser sees it."""

    async def list_tokens(self, *, cursor: str | None, limit: int) -> views.Page[operators.TokenView]: ...
    async def create_token(
        self, request: operators.CreateTokenRequest, *, by: Act
    ) -> operators.TokenWithSecret: ...
    async def revoke_token(self, id: str, *, by: Act) -> None: ...

    async def list_audit(
        self, *, cursor: str | None, limit: int, actor: str | None, action: str | None
    ) -> views.Page[operators.AuditView]: ...
    def export_audit(self) -> AsyncIterator[list[operators.AuditView]]:
        """All of it, oldest first, in pieces."""

    async def verify_audit(self) -> operators.AuditVerification: ...

    async def list_webhooks(self, *, cursor: str | None, limit: int) -> views.Page[operators.WebhookView]: ...
    async def create_webhook(
        self, request: operators.CreateWebhookRequest, *, by: Act
    ) -> operators.WebhookWithSecret: ...
    async def delete_webhook(self, id: str, *, by: Act) -> None: ...
    async def test_webhook(self, id: str) -> operators.WebhookTest: ...

    def live(self) -> list[views.CheckView]:
        """Whether the process should go on."""

    def ready(self) -> list[views.CheckView]:
        """Whether devices and operators should be sent here."""

    async def metrics(self) -> list[Sample]: ...

    @property
    def metrics_need_token(self) -> bool: ...
    @property
    def host_names(self) -> frozenset[str]: ...

    async def overview(self) -> views.OverviewView: ...
    async def subscribe(
        self, *, batch: str | None, product: str | None, cursor: str | None, by: Act
    ) -> AbstractAsyncContextManager[EventStream]:
        """`cursor`: of the last event that the client has seen. Entering it may raise Busy."""

    async def create_product(self, request: views.CreateProductRequest, *, by: Act) -> views.ProductView: ...
    async def list_products(self, *, cursor: str | None, limit: int) -> views.Page[views.ProductView]: ...
    async def get_product(self, key: str) -> views.ProductView: ...
    async def delete_product(self, key: str, *, by: Act) -> None: ...
    async def update_product(
        self, key: str, request: views.UpdateProductRequest, *, by: Act
    ) -> views.ProductView: ...

    async def list_signing_keys(
        self, product: str, *, cursor: str | None, limit: int
    ) -> views.Page[views.SigningKeyView]: ...
    async def add_signing_key(
        self, product: str, request: views.AddSigningKeyRequest, *, by: Act
    ) -> views.SigningKeyView: ...
    async def revoke_signing_key(self, product: str, id: str, *, by: Act) -> None: ...

    def check_room(self) -> None:
        """NoRoom on a disk or in a store that is about to be full."""

    async def register_device(
        self, product: str, request: views.RegisterDeviceRequest, *, by: Act
    ) -> views.DeviceWithSecret: ...
    async def register_devices(
        self,
        product: str,
        first_line: int,
        requests: Sequence[views.RegisterDeviceRequest | views.ErrorView],
        *,
        by: Act,
    ) -> list[views.RegistrationResult]:
        """One slice of a bulk, lines `first_line` and following; an ErrorView is an unreadable line."""

    async def list_devices(
        self,
        product: str,
        *,
        q: str,
        version: str | None,
        active: bool | None,
        connection: str | None,
        eligible_for: str | None,
        allow_rollback: bool,
        cursor: str | None,
        limit: int,
    ) -> views.Page[views.DeviceView]: ...
    async def get_device(self, product: str, identifier: str) -> views.DeviceView: ...
    async def rename_device(
        self, product: str, identifier: str, request: views.RenameDeviceRequest, *, by: Act
    ) -> views.DeviceView: ...
    async def delete_device(self, product: str, identifier: str, *, by: Act) -> None: ...
    async def rotate_secret(self, product: str, identifier: str, *, by: Act) -> views.DeviceWithSecret: ...

    def upload_firmware(
        self, metadata: views.FirmwareMetadata, *, by: Act
    ) -> AbstractAsyncContextManager[FirmwareUpload]:
        """Entering checks every rule of the metadata, before a byte is read."""

    async def list_firmware(
        self, *, product: str | None, q: str, cursor: str | None, limit: int
    ) -> views.Page[views.FirmwareView]: ...
    async def get_firmware(self, id: str) -> views.FirmwareView: ...
    async def firmware_file(self, id: str) -> tuple[views.FirmwareView, Path]: ...
    async def delete_firmware(self, id: str, *, by: Act) -> None: ...

    async def create_batch(self, request: views.CreateBatchRequest, *, by: Act) -> views.BatchView: ...
    async def list_batches(
        self,
        *,
        firmware: str | None,
        product: str | None,
        status: str | None,
        cursor: str | None,
        limit: int,
    ) -> views.Page[views.BatchView]: ...
    async def get_batch(self, id: str) -> views.BatchView: ...
    async def abort_batch(self, id: str, *, by: Act) -> views.BatchView: ...
    async def list_upgrades(
        self, batch: str, *, state: str | None, q: str, cursor: str | None, limit: int
    ) -> views.Page[views.UpgradeView]: ...
    async def get_upgrade(self, batch: str, identifier: str) -> views.UpgradeDetails: ...


if TYPE_CHECKING:

    def _is(service: Gateway) -> Service:
        """The type checker's word that the two agree."""
        return service
