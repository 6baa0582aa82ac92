"""The facade for operators: everything that admin may ask of the gateway, in the nouns of docs/upgrades.md.

Checks that need no durable state are made here, by upgrade.validation; those that do are made inside the
commit. Every method raises RequestError for what the asker can mend. Answers leave after the commit.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from otagate import limits
from otagate.errors import Conflict, Invalid
from otagate.gateway.acts import GATEWAY, Act
from otagate.gateway.events import Subscription, subscribe
from otagate.gateway.metrics import collect
from otagate.gateway.service_fleet import SCANS_MAX, as_is, the
from otagate.gateway.service_operators import number_of_cursor as _number
from otagate.gateway.service_signed import SignedService, signature_of
from otagate.gateway.upgrades import number_of
from otagate.gateway.views import (
    BatchFirmware,
    BatchProduct,
    BatchView,
    CheckView,
    CountsView,
    CreateBatchRequest,
    FirmwareMetadata,
    FirmwareView,
    OverviewView,
    Page,
    RetriesView,
    SignatureView,
    TimelineView,
    UpgradeDetails,
    UpgradeView,
)
from otagate.openmetrics import Sample
from otagate.signing.manifest import SignedManifest
from otagate.store import interface as records
from otagate.store.operators import AuditNote
from otagate.store.signed import FirmwareSignature
from otagate.times import rfc3339
from otagate.upgrade import validation, waiting
from otagate.upgrade.model import BatchStatus, State

if TYPE_CHECKING:
    from otagate.store.blobs import Blobs, Upload

Label = TypeVar("Label", State, BatchStatus)


class Service(SignedService):
    """See the module. One per gateway.

    What changes something takes `by`: who asks. It is told to the audit log in the same commit.
    """

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

    @property
    def host_names(self) -> frozenset[str]:
        """Names under which operators may reach the gateway, besides those that always do."""
        return self._gateway.configuration.admin.hosts.names

    async def overview(self) -> OverviewView:
        """What the gateway does now."""
        return await self._gateway.overview.view()

    async def subscribe(
        self, *, batch: str | None, product: str | None, cursor: str | None, by: Act = GATEWAY
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
            token=by.identity.token,
        )

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
            signature=metadata.signature,
        )
        signed = await self._check_signature(checked)
        await self._check_free(checked)
        self.check_room()
        async with self._blobs.upload(limits.image_bytes_max) as upload:
            yield FirmwareUpload(self, self._blobs, upload, checked, signed, by)

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
        self,
        metadata: FirmwareMetadata,
        size: int,
        md5: str,
        sha256: str,
        *,
        signed: SignedManifest | None = None,
        by: Act = GATEWAY,
    ) -> FirmwareView:
        """The record of bytes that are in the blobs. `signed`: checked, all but whether it fits the bytes."""
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
            signature=None if signed is None else signature_of(signed, size, md5, sha256),
            wall_step_ms=self._gateway.clock.step_ms,
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
        return _firmware(the(await self._store.get_firmware(id), f"there is no firmware {id!r}"))

    async def firmware_file(self, id: str) -> tuple[FirmwareView, Path]:
        """The record and the image's file."""
        view = await self.get_firmware(id)
        return view, self._blobs.path(view.sha256)

    async def delete_firmware(self, id: str, *, by: Act = GATEWAY) -> None:
        """NotFound; Conflict while a batch in progress uses it."""
        change = records.DeleteFirmware(id)
        deleted: records.DeletedFirmware = await self._act(
            by, "firmware.delete", lambda deleted: _note_firmware(deleted.firmware), change, as_is
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
            allow_rollback=request.allow_rollback,
        )
        firmware = await self._store.get_firmware(request.firmware)
        if firmware is None:
            raise Invalid(f"there is no firmware {request.firmware!r}", field="firmware")
        self.check_room()

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
        if wanted is not None and not view.counts[wanted]:
            after = None  # nobody is in this state: no need to look at everybody
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
        found = the(
            await self._member(view.batch, identifier), f"there is no device {identifier!r} in batch {batch}"
        )
        upgrade = found.upgrade
        row = self._upgrade(view.batch, found)
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

    async def _member(self, batch: records.Batch, identifier: str) -> records.DeviceUpgrade | None:
        device = (await self._store.lookup_devices([(batch.product, identifier)]))[0]
        if device is not None:
            upgrade = (await self._store.upgrades([(device.number, batch.number)]))[0]
            if upgrade is not None:
                return records.DeviceUpgrade(device, upgrade)
        # it may have been deleted since (and even registered again): then only the batch knows it
        after: int | None = 0
        while after is not None:
            page = await self._store.scan_upgrades(
                batch.number, query=identifier, after=after, limit=limits.page_items_max
            )
            for found in page.upgrades:
                if found.device.identifier == identifier:
                    return found
            after = page.next
        return None

    async def _batch(self, id: str) -> records.BatchView:
        return the(await self._store.get_batch(id), f"there is no batch {id!r}")

    # -- views -----------------------------------------------------------------------------------

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
        self,
        service: Service,
        blobs: "Blobs",
        upload: "Upload",
        metadata: FirmwareMetadata,
        signed: SignedManifest | None,
        by: Act,
    ) -> None:
        self._service = service
        self._blobs = blobs
        self._upload = upload
        self._metadata = metadata
        self._signed = signed
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
                self._metadata, image.size, image.md5, image.sha256, signed=self._signed, by=self._by
            )
        finally:
            await self._blobs.release(image.sha256)


def _note_firmware(firmware: records.Firmware) -> AuditNote:
    details = {"product": firmware.product, "name": firmware.name, "version": firmware.version}
    details["sha256"] = firmware.sha256
    if firmware.signature is not None:
        details["key"] = firmware.signature.key
    return AuditNote(firmware.id, details)


def _note_batch(view: records.BatchView) -> AuditNote:
    batch = view.batch
    details = {"product": batch.product, "firmware": batch.firmware_id, "devices": view.counts.total}
    if batch.allow_rollback:
        details["allow_rollback"] = True
    return AuditNote(batch.id, details)


def _cursor(number: int | None) -> str | None:
    return None if number is None else str(number)


def _labelled(kind: type[Label], label: str, field: str) -> Label:
    shown = [member for member in kind if member is not BatchStatus.CREATING]
    for member in shown:
        if member.label == label:
            return member
    raise Invalid(f"{field} must be one of: {', '.join(member.label for member in shown)}", field=field)


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
        signature=_signature(firmware.signature),
    )


def _signature(signature: FirmwareSignature | None) -> SignatureView | None:
    if signature is None:
        return None
    return SignatureView(
        key=signature.key,
        expires_at=rfc3339(signature.expires * 1000) or "",
        not_before=list(signature.not_before),
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
        allow_rollback=batch.allow_rollback,
    )
