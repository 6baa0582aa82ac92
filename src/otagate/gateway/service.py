"""The facade for operators: everything that admin may ask of the gateway, in the nouns of docs/upgrades.md.

Checks that need no durable state are made here, by upgrade.validation; those that do are made inside the
commit. Every method raises RequestError for what the asker can mend. Answers leave after the commit.
"""

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from otagate import limits
from otagate.errors import Conflict, Invalid, NotFound, RequestError
from otagate.gateway.acts import GATEWAY, Act, Note, noting
from otagate.gateway.events import Subscription, subscribe
from otagate.gateway.metrics import collect
from otagate.gateway.service_operators import OperatorsService
from otagate.gateway.service_operators import number_of_cursor as _number
from otagate.gateway.upgrades import number_of
from otagate.gateway.views import (
    BatchFirmware,
    BatchProduct,
    BatchView,
    CheckView,
    CountsView,
    CreateBatchRequest,
    CreateProductRequest,
    DeviceView,
    DeviceWithSecret,
    ErrorView,
    FirmwareMetadata,
    FirmwareView,
    IneligibleDevice,
    OverviewView,
    Page,
    ProductView,
    RegisterDeviceRequest,
    RegistrationResult,
    RenameDeviceRequest,
    RetriesView,
    TimelineView,
    UpgradeDetails,
    UpgradeView,
)
from otagate.openmetrics import Sample
from otagate.store import interface as records
from otagate.store.operators import AuditNote
from otagate.times import rfc3339
from otagate.upgrade import validation, waiting
from otagate.upgrade.model import BatchStatus, State

if TYPE_CHECKING:
    from otagate.gateway.server import Gateway
    from otagate.store.blobs import Blobs, Upload

T = TypeVar("T")
Label = TypeVar("Label", State, BatchStatus)

SCANS_MAX = 8  # transactions of one listing: a filter that matches little gets a short page with a cursor


class Service(OperatorsService):
    """See the module. One per gateway.

    What changes something takes `by`: who asks. It is told to the audit log in the same commit.
    """

    def __init__(self, gateway: "Gateway", blobs: "Blobs") -> None:
        super().__init__(gateway)
        self._blobs = blobs

    # -- the process -----------------------------------------------------------------------------

    def live(self) -> list[CheckView]:
        """Whether the process should go on."""
        return self._gateway.health.live()

    def ready(self) -> list[CheckView]:
        """Whether devices and operators should be sent here."""
        return self._gateway.health.ready()

    async def metrics(self) -> list[Sample]:
        """Everything that the gateway counts."""
        return await collect(self._gateway)

    @property
    def metrics_need_token(self) -> bool:
        """Whether GET /metrics is for those alone who have a token."""
        return self._gateway.configuration.admin.metrics_token

    async def overview(self) -> OverviewView:
        """What the gateway does now."""
        return await self._gateway.overview.view()

    async def subscribe(
        self, *, batch: str | None, product: str | None, cursor: str | None
    ) -> AbstractAsyncContextManager[Subscription]:
        """Events of one batch, or of all (of a product). NotFound; entering it: Busy. See gateway.events."""
        if product is not None:
            await self._product(product)
        view = None if batch is None else await self._batch(batch)
        return subscribe(
            self._gateway.board,
            self._store,
            _batch,
            self._gateway.overview.event,
            batch=None if view is None else view.batch,
            product=product,
            cursor=cursor,
        )

    # -- products --------------------------------------------------------------------------------

    async def create_product(self, request: CreateProductRequest, *, by: Act = GATEWAY) -> ProductView:
        """Invalid names the field; Conflict when the key is taken."""
        change = records.CreateProduct(
            key=validation.check_product_key(request.key),
            name=validation.check_product_name(request.name),
            auth=validation.check_auth(request.auth),
            at_ms=self._now_ms(),
        )
        note = noting(change.key, name=change.name, auth=change.auth)
        return await self._act(by, "product.create", note, change, _product)

    async def list_products(self, *, cursor: str | None, limit: int) -> Page[ProductView]:
        """By key."""
        after = _number(cursor)
        found = sorted(await self._store.list_products(), key=lambda product: product.number)
        found = [product for product in found if product.number > after]
        more = len(found) > limit
        found = found[:limit]
        return Page([_product(product) for product in found], str(found[-1].number) if more else None)

    async def get_product(self, key: str) -> ProductView:
        """NotFound."""
        return _product(await self._product(key))

    async def delete_product(self, key: str, *, by: Act = GATEWAY) -> None:
        """NotFound; Conflict while it has devices or firmware."""
        await self._act(by, "product.delete", noting(key), records.DeleteProduct(key), _as_is)
        self._gateway.sessions.forget_product(key)

    async def _product(self, key: str) -> records.Product:
        return _found(await self._store.get_product(key), f"there is no product {key!r}")

    # -- devices ---------------------------------------------------------------------------------

    async def register_device(
        self, product: str, request: RegisterDeviceRequest, *, by: Act = GATEWAY
    ) -> DeviceWithSecret:
        """The secret is in the answer and nowhere else afterwards."""
        device = _checked_device(request)
        change = records.RegisterDevices(product, [device], self._now_ms())
        note = _noting_registered(f"{product}/{device.identifier}", name=device.name)
        view = await self._act(by, "device.register", note, change, _registered)
        if isinstance(view, RequestError):
            raise view
        return view

    async def register_devices(
        self,
        product: str,
        first_line: int,
        requests: Sequence[RegisterDeviceRequest | ErrorView],
        *,
        by: Act = GATEWAY,
    ) -> list[RegistrationResult]:
        """One slice of a bulk registration: a result for each line. NotFound: there is no such product."""
        results: dict[int, RegistrationResult] = {}
        accepted: list[tuple[int, records.NewDevice]] = []
        for line, request in enumerate(requests, first_line):
            if isinstance(request, ErrorView):
                results[line] = RegistrationResult(line, None, error=request)
                continue
            try:
                accepted.append((line, _checked_device(request)))
            except RequestError as error:
                results[line] = RegistrationResult(line, request.identifier, error=_error(error))
        if accepted:
            change = records.RegisterDevices(product, [device for _, device in accepted], self._now_ms())
            note = _noting_count(product)
            outcomes = await self._act(by, "device.register_many", note, change, _as_is)
            for (line, device), outcome in zip(accepted, outcomes, strict=True):
                if isinstance(outcome, RequestError):
                    results[line] = RegistrationResult(line, device.identifier, error=_error(outcome))
                else:
                    results[line] = RegistrationResult(line, device.identifier, secret=device.secret)
        return [results[line] for line in sorted(results)]

    async def list_devices(
        self,
        product: str,
        *,
        q: str,
        version: str | None,
        active: bool | None,
        connection: str | None,
        eligible_for: str | None,
        cursor: str | None,
        limit: int,
    ) -> Page[DeviceView]:
        """In the order of registration. A page may be short, even empty, and still have a `next`."""
        await self._product(product)
        if connection not in (None, "online", "offline"):
            raise Invalid("connection must be online or offline", field="connection")
        if eligible_for is not None:
            firmware = await self._store.get_firmware(eligible_for)
            if firmware is None or firmware.product != product:
                raise NotFound(f"there is no firmware {eligible_for!r} of this product", field="eligible_for")
        after: int | None = _number(cursor)
        items: list[DeviceView] = []
        for _ in range(SCANS_MAX):
            room = limit - len(items)
            if after is None or room <= 0:
                break
            if eligible_for is not None:
                page = await self._store.scan_eligible(eligible_for, after=after, limit=room, query=q)
            else:
                page = await self._store.scan_devices(product, after=after, limit=room, query=q)
            after = page.next
            for device in page.devices:
                if version is not None and device.version != version:
                    continue
                if active is not None and device.active != active:
                    continue
                if connection is not None and (connection == "online") != self._online(device.number):
                    continue
                items.append(self._device(device))
        return Page(items, None if after is None else str(after))

    async def get_device(self, product: str, identifier: str) -> DeviceView:
        """NotFound."""
        device = (await self._store.lookup_devices([(product, identifier)]))[0]
        return self._device(_found(device, f"there is no device {identifier!r} of product {product!r}"))

    async def rename_device(
        self, product: str, identifier: str, request: RenameDeviceRequest, *, by: Act = GATEWAY
    ) -> DeviceView:
        """NotFound, Invalid."""
        name = validation.check_device_name(request.name)
        change = records.RenameDevice(product, identifier, name)
        note = noting(f"{product}/{identifier}", name=name)
        return self._device(await self._act(by, "device.rename", note, change, _as_is))

    async def delete_device(self, product: str, identifier: str, *, by: Act = GATEWAY) -> None:
        """NotFound; Conflict while it has an upgrade that has not ended. Its session ends."""
        change = records.DeleteDevice(product, identifier)
        note = noting(f"{product}/{identifier}")
        device: records.Device = await self._act(by, "device.delete", note, change, _as_is)
        self._gateway.end_session(device.number, b"deleted")

    async def rotate_secret(self, product: str, identifier: str, *, by: Act = GATEWAY) -> DeviceWithSecret:
        """A new secret; the live session ends."""
        change = records.RotateSecret(product, identifier, secrets.token_urlsafe(24))
        note = noting(f"{product}/{identifier}")
        device: records.Device = await self._act(by, "device.rotate_secret", note, change, _as_is)
        self._gateway.end_session(device.number, b"secret rotated")
        return self._device_with_secret(device)

    # -- firmware --------------------------------------------------------------------------------

    @asynccontextmanager
    async def upload_firmware(
        self, metadata: FirmwareMetadata, *, by: Act = GATEWAY
    ) -> "AsyncIterator[FirmwareUpload]":
        """Check everything that can be known before a byte is read, then take the bytes."""
        checked = FirmwareMetadata(
            product=metadata.product,
            name=validation.check_firmware_name(metadata.name),
            version=validation.check_firmware_version(metadata.version),
            file_name=validation.check_file_name(metadata.file_name),
            description=validation.check_firmware_description(metadata.description),
        )
        await self._product(checked.product)
        await self._check_free(checked)
        async with self._blobs.upload(limits.image_bytes_max) as upload:
            yield FirmwareUpload(self, self._blobs, upload, checked, by)

    async def _check_free(self, metadata: FirmwareMetadata) -> None:
        """As AddFirmware will judge inside its commit; earlier, so that no bytes are sent for nothing."""
        count = 0
        before = 0
        while True:
            page = await self._store.list_firmware(before=before, limit=limits.page_items_max)
            for firmware in page.firmware:
                if firmware.name == metadata.name:
                    raise Conflict(f"the name {metadata.name!r} is taken", field="name")
                if firmware.product == metadata.product:
                    count += 1
                    if firmware.version == metadata.version:
                        text = f"product {metadata.product!r} has version {metadata.version!r} already"
                        raise Conflict(text, field="version")
            if page.next is None:
                break
            before = page.next
        if count >= limits.firmware_per_product_max:
            text = f"product {metadata.product!r} has {limits.firmware_per_product_max} firmware already"
            raise Invalid(text, field="product")

    async def add_firmware(
        self, metadata: FirmwareMetadata, size: int, md5: str, sha256: str, *, by: Act = GATEWAY
    ) -> FirmwareView:
        """The record of bytes that are in the blobs."""
        change = records.AddFirmware(
            product=metadata.product,
            name=metadata.name,
            version=metadata.version,
            file_name=metadata.file_name,
            description=metadata.description,
            size=size,
            md5=md5,
            sha256=sha256,
            at_ms=self._now_ms(),
        )
        return await self._act(by, "firmware.add", _note_firmware, change, _firmware)

    async def list_firmware(
        self, *, product: str | None, q: str, cursor: str | None, limit: int
    ) -> Page[FirmwareView]:
        """Newest first."""
        before = _number(cursor)
        page = await self._store.list_firmware(product=product, query=q, before=before, limit=limit)
        return Page([_firmware(firmware) for firmware in page.firmware], _cursor(page.next))

    async def get_firmware(self, id: str) -> FirmwareView:
        """NotFound."""
        return _firmware(_found(await self._store.get_firmware(id), f"there is no firmware {id!r}"))

    async def firmware_file(self, id: str) -> tuple[FirmwareView, Path]:
        """The record and the image's file."""
        view = await self.get_firmware(id)
        return view, self._blobs.path(view.sha256)

    async def delete_firmware(self, id: str, *, by: Act = GATEWAY) -> None:
        """NotFound; Conflict while a batch in progress uses it."""
        change = records.DeleteFirmware(id)
        deleted: records.DeletedFirmware = await self._act(
            by, "firmware.delete", lambda deleted: _note_firmware(deleted.firmware), change, _as_is
        )
        if deleted.image_unused:
            await self._blobs.unlink_if_unused(deleted.firmware.sha256)

    # -- batches ---------------------------------------------------------------------------------

    async def create_batch(self, request: CreateBatchRequest, *, by: Act = GATEWAY) -> BatchView:
        """Invalid names the field; with `details` when named devices are not eligible."""
        parameters = validation.check_batch(
            range=request.range,
            validity_days=request.validity_days,
            policy=request.policy,
            timeout_minutes=request.timeout_minutes,
            retries=request.retries,
            retry_interval_minutes=request.retry_interval_minutes,
            devices=request.devices,
        )
        firmware = await self._store.get_firmware(request.firmware)
        if firmware is None:
            raise Invalid(f"there is no firmware {request.firmware!r}", field="firmware")
        self._blobs.check_room()

        def wrap(change: records.Change) -> records.Change:
            return by.wrap(change, self._now_ms(), "batch.create", _note_batch, _batch)

        return _batch(await self._gateway.batches.create(firmware, parameters, wrap))

    async def list_batches(
        self,
        *,
        firmware: str | None,
        product: str | None,
        status: str | None,
        cursor: str | None,
        limit: int,
    ) -> Page[BatchView]:
        """Newest first."""
        wanted = None
        if status is not None:
            wanted = _labelled(BatchStatus, status, "status")
        page = await self._store.list_batches(
            firmware=firmware, product=product, status=wanted, before=_number(cursor), limit=limit
        )
        return Page([_batch(view) for view in page.batches], _cursor(page.next))

    async def get_batch(self, id: str) -> BatchView:
        """NotFound."""
        return _batch(await self._batch(id))

    async def abort_batch(self, id: str, *, by: Act = GATEWAY) -> BatchView:
        """NotFound; Conflict when it has already ended."""

        def wrap(change: records.Change) -> records.Change:
            return by.wrap(change, self._now_ms(), "batch.abort", _note_batch, _batch)

        return _batch(await self._gateway.batches.abort(id, number_of(id), wrap))

    async def list_upgrades(
        self, batch: str, *, state: str | None, q: str, cursor: str | None, limit: int
    ) -> Page[UpgradeView]:
        """By device, in the order of registration. A page may be short and still have a `next`."""
        view = await self._batch(batch)
        wanted = None if state is None else _labelled(State, state, "state")
        after: int | None = _number(cursor)
        items: list[UpgradeView] = []
        for _ in range(SCANS_MAX):
            room = limit - len(items)
            if after is None or room <= 0:
                break
            page = await self._store.scan_upgrades(
                view.batch.number, state=wanted, query=q, after=after, limit=room
            )
            after = page.next
            items += [self._upgrade(view.batch, found) for found in page.upgrades]
        return Page(items, None if after is None else str(after))

    async def get_upgrade(self, batch: str, identifier: str) -> UpgradeDetails:
        """NotFound."""
        view = await self._batch(batch)
        device = (await self._store.lookup_devices([(view.batch.product, identifier)]))[0]
        missing = f"there is no device {identifier!r} in batch {batch}"
        number = _found(device, missing).number
        upgrade = _found((await self._store.upgrades([(number, view.batch.number)]))[0], missing)
        assert device is not None
        row = self._upgrade(view.batch, records.DeviceUpgrade(device, upgrade))
        timeline = [
            TimelineView(
                at=rfc3339(entry.at_ms) or "",
                state=entry.state.label,
                cause=entry.cause.label,
                attempt=entry.attempt,
                remark=entry.remark.label or None,
            )
            for entry in upgrade.row.timeline
        ]
        return UpgradeDetails(
            **{name: getattr(row, name) for name in UpgradeView.__struct_fields__}, timeline=timeline
        )

    async def _batch(self, id: str) -> records.BatchView:
        return _found(await self._store.get_batch(id), f"there is no batch {id!r}")

    # -- views -----------------------------------------------------------------------------------

    def _online(self, device: int) -> bool:
        return device in self._gateway.presence

    def _last_seen(self, device: records.Device) -> int | None:
        if self._online(device.number):
            return self._gateway.seen_ms(device.number)
        return self._gateway.sessions.last_seen.get(device.number) or device.last_seen_ms

    def _device(self, device: records.Device) -> DeviceView:
        return DeviceView(
            product=device.product,
            identifier=device.identifier,
            name=device.name,
            version=device.version,
            active=device.active,
            connection="online" if self._online(device.number) else "offline",
            last_seen=rfc3339(self._last_seen(device)),
            created_at=rfc3339(device.created_at_ms) or "",
        )

    def _device_with_secret(self, device: records.Device) -> DeviceWithSecret:
        view = self._device(device)
        return DeviceWithSecret(
            **{name: getattr(view, name) for name in DeviceView.__struct_fields__}, secret=device.secret
        )

    def _upgrade(self, batch: records.Batch, found: records.DeviceUpgrade) -> UpgradeView:
        device, row = found.device, found.upgrade.row
        live = self._gateway.upgrades.rows.get(device.number)
        if live is not None and live.batch == batch.number and live.row.state == row.state:
            row = live.row  # the same state with a newer percentage, which is written coalesced
        online = self._online(device.number)
        queued = self._gateway.transfers.waits_for_slot(device.number)
        return UpgradeView(
            batch=batch.id,
            identifier=device.identifier,
            name=device.name,
            connection="online" if online else "offline",
            state=row.state.label,
            attempt=row.attempt,
            retries=RetriesView(current=row.retries, maximum=batch.retries),
            remark=row.remark.label or None,
            detail=row.detail or None,
            stage=row.stage.label or None,
            progress=row.progress,
            version=row.version or None,
            completed_at=rfc3339(row.completed_at_ms),
            waiting_for=waiting.waiting_for(row, online, self._now_ms(), download_queued=queued),
        )


class FirmwareUpload:
    """The bytes of one firmware on their way. Nothing remains of it unless `finish` returns."""

    def __init__(
        self, service: Service, blobs: "Blobs", upload: "Upload", metadata: FirmwareMetadata, by: Act
    ) -> None:
        self._service = service
        self._blobs = blobs
        self._upload = upload
        self._metadata = metadata
        self._by = by

    async def write(self, data: bytes) -> None:
        """Further bytes. TooLarge, NoRoom."""
        await self._upload.write(data)

    async def finish(self, md5: str | None = None, sha256: str | None = None) -> FirmwareView:
        """All bytes are here. `md5`, `sha256`: what the client says they are, lower-case hex."""
        image = await self._upload.finish(md5=md5, sha256=sha256)
        if self._by.repeatable is not None:
            self._by.repeatable.content = image.sha256
        try:
            return await self._service.add_firmware(
                self._metadata, image.size, image.md5, image.sha256, by=self._by
            )
        finally:
            await self._blobs.release(image.sha256)


def _checked_device(request: RegisterDeviceRequest) -> records.NewDevice:
    identifier = validation.check_identifier(request.identifier)
    name = identifier if request.name is None else validation.check_device_name(request.name)
    if request.secret is None:
        return records.NewDevice(identifier, name, secrets.token_urlsafe(24))
    return records.NewDevice(identifier, name, validation.check_secret(request.secret))


def _as_is(outcome: Any) -> Any:
    """The view of what is no answer yet."""
    return outcome


def _registered(outcomes: list[records.Device | RequestError]) -> DeviceWithSecret | RequestError:
    """The answer to the registration of one device, which cannot have been online yet."""
    device = outcomes[0]
    if isinstance(device, RequestError):
        return device
    return DeviceWithSecret(
        product=device.product,
        identifier=device.identifier,
        name=device.name,
        version=None,
        active=False,
        connection="offline",
        last_seen=None,
        created_at=rfc3339(device.created_at_ms) or "",
        secret=device.secret,
    )


def _noting_registered(target: str, **details: Any) -> Note:
    note = AuditNote(target, details)
    return lambda outcomes: None if isinstance(outcomes[0], RequestError) else note


def _noting_count(product: str) -> Note:
    """One entry for a slice of a bulk registration: how many, not who."""

    def note(outcomes: list[records.Device | RequestError]) -> AuditNote | None:
        refused = sum(isinstance(outcome, RequestError) for outcome in outcomes)
        registered = len(outcomes) - refused
        return AuditNote(product, {"registered": registered, "refused": refused}) if registered else None

    return note


def _note_firmware(firmware: records.Firmware) -> AuditNote:
    details = {"product": firmware.product, "name": firmware.name, "version": firmware.version}
    return AuditNote(firmware.id, details | {"sha256": firmware.sha256})


def _note_batch(view: records.BatchView) -> AuditNote:
    batch = view.batch
    details = {"product": batch.product, "firmware": batch.firmware_id, "devices": view.counts.total}
    return AuditNote(batch.id, details)


def _error(error: RequestError) -> ErrorView:
    return ErrorView(code=error.code, message=error.message, field=error.field)


def _found(value: T | None, message: str) -> T:
    if value is None:
        raise NotFound(message)
    return value


def _cursor(number: int | None) -> str | None:
    return None if number is None else str(number)


def _labelled(kind: type[Label], label: str, field: str) -> Label:
    shown = [member for member in kind if member is not BatchStatus.CREATING]
    for member in shown:
        if member.label == label:
            return member
    raise Invalid(f"{field} must be one of: {', '.join(member.label for member in shown)}", field=field)


def _product(product: records.Product) -> ProductView:
    created_at = rfc3339(product.created_at_ms) or ""
    return ProductView(key=product.key, name=product.name, auth=product.auth, created_at=created_at)


def _firmware(firmware: records.Firmware) -> FirmwareView:
    return FirmwareView(
        id=firmware.id,
        product=firmware.product,
        name=firmware.name,
        version=firmware.version,
        file_name=firmware.file_name,
        description=firmware.description,
        size=firmware.size,
        md5=firmware.md5,
        sha256=firmware.sha256,
        created_at=rfc3339(firmware.created_at_ms) or "",
    )


def _batch(view: records.BatchView) -> BatchView:
    batch = view.batch
    return BatchView(
        id=batch.id,
        firmware=BatchFirmware(
            id=batch.firmware_id,
            name=batch.firmware_name,
            version=batch.firmware_version,
            md5=batch.firmware_md5,
        ),
        product=BatchProduct(key=batch.product, name=batch.product_name),
        range=batch.selection,
        validity_days=batch.validity_days,
        policy=batch.policy.label,
        timeout_minutes=batch.timeout_minutes,
        retries=batch.retries,
        retry_interval_minutes=batch.retry_interval_minutes,
        created_at=rfc3339(batch.created_at_ms) or "",
        expires_at=rfc3339(batch.expires_at_ms) or "",
        ended_at=rfc3339(batch.ended_at_ms),
        status=batch.status.label,
        counts=CountsView(**view.counts.as_dict()),
    )


__all__ = [
    "CreateBatchRequest",
    "CreateProductRequest",
    "DeviceView",
    "DeviceWithSecret",
    "ErrorView",
    "FirmwareMetadata",
    "FirmwareUpload",
    "FirmwareView",
    "IneligibleDevice",
    "Page",
    "ProductView",
    "RegisterDeviceRequest",
    "RegistrationResult",
    "RenameDeviceRequest",
    "Service",
    "UpgradeDetails",
    "UpgradeView",
]
