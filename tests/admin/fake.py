"""A service that remembers in dicts: just enough of the rules for each status to be had."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from msgspec.structs import asdict

from otagate import limits
from otagate.errors import Busy, Conflict, Invalid, Malformed, NoRoom, NotFound, TooLarge
from otagate.gateway import views
from otagate.gateway import views_operators as operators
from otagate.gateway.access import Access, Session, hash_of
from otagate.gateway.acts import Act, Repeats
from otagate.openmetrics import Family, Sample
from otagate.store.operators import Token

TOKEN = "a-token-for-tests"
TOKENS = {"admin": TOKEN, "operator": "a-token-to-operate", "viewer": "a-token-to-look"}
NOW = "2026-01-31T12:00:00.000Z"
NOW_MS = 1_769_860_800_000
SECRET = "s" * 32
AUDIT = operators.AuditView(
    1, NOW, "admin", "admin", "127.0.0.1", "product.create", "lamp", {}, "0" * 64, "a" * 64
)


class FakeUpload:
    """Writes what it is given to one file."""

    def __init__(self, service: "FakeService", metadata: views.FirmwareMetadata) -> None:
        self.service = service
        self.metadata = metadata
        self.md5 = hashlib.md5()
        self.sha256 = hashlib.sha256()
        self.size = 0
        self.file = service.partial.open("wb")

    async def write(self, data: bytes) -> None:
        self.size += len(data)
        if self.size > limits.image_bytes_max:
            raise TooLarge("The image is too large.")
        if self.service.disk_full:
            raise NoRoom("The disk is full.")
        if self.service.broken:
            raise RuntimeError("broken on purpose")
        self.service.largest_write = max(self.service.largest_write, len(data))
        self.md5.update(data)
        self.sha256.update(data)
        self.file.write(data)
        await trio.lowlevel.checkpoint()
        self.service.first_write.set()

    async def finish(self, md5: str | None, sha256: str | None) -> views.FirmwareView:
        for expected, found, field in (
            (md5, self.md5, "md5"),
            (sha256, self.sha256, "sha256"),
        ):
            if expected not in (None, found.hexdigest()):
                raise Invalid("The digest differs.", field=field)
        if not self.size:
            raise Invalid("The image is empty.")
        self.file.flush()
        id = f"f{len(self.service.firmware) + 1}"
        self.service.partial.rename(self.service.folder / id)
        self.service.firmware[id] = views.FirmwareView(
            id=id,
            **asdict(self.metadata),
            size=self.size,
            md5=self.md5.hexdigest(),
            sha256=self.sha256.hexdigest(),
            created_at=NOW,
        )
        return self.service.firmware[id]


class FakeEvents:
    """What a test puts is told; None ends it."""

    def __init__(self) -> None:
        self.put, self._told = trio.open_memory_channel[Any](1000)
        self.left = trio.Event()

    async def next(self) -> Any:
        return await self._told.receive()


class FakeService:
    """See otagate.admin.facade.Service."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.access = Access(lambda: NOW_MS)
        self.access.load(
            Token(number, name, name, hash_of(token), NOW_MS)
            for number, (name, token) in enumerate(TOKENS.items(), 1)
        )
        self.repeats = Repeats(self._nothing_kept, lambda: NOW_MS)
        self.partial = folder / "partial"
        self.webhooks: dict[str, operators.WebhookView] = {}
        self.tokens: dict[str, operators.TokenView] = {}
        self.products: dict[str, views.ProductView] = {}
        self.keys: list[views.SigningKeyView] = []
        self.devices: dict[tuple[str, str], views.DeviceView] = {}
        self.firmware: dict[str, views.FirmwareView] = {}
        self.batches: dict[str, views.BatchView] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []  # of lists, with their filters
        self.slices: list[tuple[int, int]] = []  # first line, length
        self.reasons: list[str] = []
        self.broken = False
        self.disk_full = False
        self.largest_write = 0
        self.first_write = trio.Event()
        self.upload_ended = trio.Event()
        self.events = FakeEvents()
        self.subscribed = trio.Event()
        self.busy = False
        self.metrics_need_token = False
        self.host_names = frozenset({"test", "x"})

    def session(self, session: Session) -> operators.SessionView:
        return operators.SessionView(session.token.name, session.token.role, session.csrf, NOW)

    async def _nothing_kept(self, key: bytes) -> None:
        return None

    def live(self) -> list[views.CheckView]:
        return [views.CheckView("pump", True, "")]

    def ready(self) -> list[views.CheckView]:
        bad = [views.CheckView("listeners", False, reason) for reason in self.reasons]
        return bad or [views.CheckView("listeners", True, "")]

    async def metrics(self) -> list[Sample]:
        return [Sample(Family("otagate_made_up", "gauge", "Nothing."), 1)]

    def _page(self, call: str, found: list[Any], **filters: Any) -> views.Page[Any]:
        if self.broken:
            raise RuntimeError("broken on purpose")
        self.calls.append((call, filters))
        if filters["cursor"] not in (None, "c1"):
            raise Malformed("No such cursor.", field="cursor")
        start = 1 if filters["cursor"] else 0
        page = found[start : start + filters["limit"]]
        return views.Page(page, "c1" if len(found) > start + filters["limit"] else None)

    # -- what goes on

    async def overview(self) -> views.OverviewView:
        history = views.OverviewHistory(5, NOW, [1, 2], [3, 4], [0, 1])
        return views.OverviewView(1, 2, 1, 7, 1, 4, 1000, 1, "0.1.0", NOW, history)

    async def subscribe(self, *, by: Act, **query: str | None) -> Any:
        if query["batch"] not in (None, *self.batches):
            raise NotFound("No such batch.")

        @asynccontextmanager
        async def subscription() -> AsyncIterator[FakeEvents]:
            if self.busy:
                raise Busy("Too many.")
            self.calls.append(("subscribe", query))
            events = self.events
            self.subscribed.set()
            try:
                yield events
            finally:
                events.left.set()

        return subscription()

    # -- products

    async def create_product(
        self, request: views.CreateProductRequest, *, by: Any = None
    ) -> views.ProductView:
        if not request.key.isascii() or not 1 <= len(request.key) <= 64:
            raise Invalid("A key has 1 to 64 characters.", field="key")
        if request.key in self.products:
            raise Conflict("This key is taken.", field="key")
        self.products[request.key] = views.ProductView(request.key, request.name, request.auth, NOW)
        return self.products[request.key]

    async def list_products(self, *, cursor: str | None, limit: int) -> views.Page[views.ProductView]:
        return self._page("list_products", list(self.products.values()), cursor=cursor, limit=limit)

    async def get_product(self, key: str) -> views.ProductView:
        if key not in self.products:
            raise NotFound("No such product.", field="key")
        return self.products[key]

    async def delete_product(self, key: str, *, by: Any = None) -> None:
        await self.get_product(key)
        if any(product == key for product, _ in self.devices):
            raise Conflict("The product has devices.")
        del self.products[key]

    async def update_product(
        self, key: str, request: views.UpdateProductRequest, *, by: Any = None
    ) -> views.ProductView:
        old = asdict(await self.get_product(key))
        self.products[key] = views.ProductView(**old | {"require_signature": request.require_signature})
        return self.products[key]

    async def list_signing_keys(self, product: str, **filters: Any) -> views.Page[views.SigningKeyView]:
        await self.get_product(product)
        return self._page("list_signing_keys", self.keys, **filters)

    async def add_signing_key(
        self, product: str, request: views.AddSigningKeyRequest, *, by: Any = None
    ) -> views.SigningKeyView:
        await self.get_product(product)
        if any(key.public_key == request.public_key for key in self.keys):
            raise Conflict("The product has this key.", field="public_key")
        self.keys.append(
            views.SigningKeyView(f"{len(self.keys):016}", request.name, request.public_key, NOW, None)
        )
        return self.keys[-1]

    async def revoke_signing_key(self, product: str, id: str, *, by: Any = None) -> None:
        await self.get_product(product)
        if all(key.id != id for key in self.keys):
            raise NotFound("No such key.")

    # -- devices

    async def register_device(
        self, product: str, request: views.RegisterDeviceRequest, *, by: Any = None
    ) -> views.DeviceWithSecret:
        await self.get_product(product)
        if not request.identifier.isascii() or " " in request.identifier:
            raise Invalid("This is no identifier.", field="identifier")
        if (product, request.identifier) in self.devices:
            raise Conflict("This identifier is taken.", field="identifier")
        name = request.name or request.identifier
        view = views.DeviceView(product, request.identifier, name, None, False, "offline", None, NOW)
        self.devices[product, request.identifier] = view
        return views.DeviceWithSecret(**asdict(view), secret=request.secret or SECRET)

    def check_room(self) -> None:
        pass

    async def register_devices(
        self,
        product: str,
        first_line: int,
        requests: Sequence[views.RegisterDeviceRequest | views.ErrorView],
        *,
        by: Any = None,
    ) -> list[views.RegistrationResult]:
        self.slices.append((first_line, len(requests)))
        if self.disk_full:
            raise NoRoom("The disk is full.")
        results = []
        for line, request in enumerate(requests, first_line):
            if isinstance(request, views.ErrorView):
                results.append(views.RegistrationResult(line, None, error=request))
                continue
            try:
                made = await self.register_device(product, request)
            except (Invalid, Conflict) as error:
                view = views.ErrorView(error.code, error.message, error.field)
                results.append(views.RegistrationResult(line, request.identifier, error=view))
            else:
                results.append(views.RegistrationResult(line, made.identifier, made.secret))
        return results

    async def list_devices(self, product: str, **filters: Any) -> views.Page[views.DeviceView]:
        await self.get_product(product)
        found = [view for (key, _), view in self.devices.items() if key == product]
        return self._page("list_devices", found, **filters)

    async def get_device(self, product: str, identifier: str) -> views.DeviceView:
        if (product, identifier) not in self.devices:
            raise NotFound("No such device.", field="identifier")
        return self.devices[product, identifier]

    async def rename_device(
        self, product: str, identifier: str, request: views.RenameDeviceRequest, *, by: Any = None
    ) -> views.DeviceView:
        old = asdict(await self.get_device(product, identifier))
        self.devices[product, identifier] = views.DeviceView(**old | {"name": request.name})
        return self.devices[product, identifier]

    async def delete_device(self, product: str, identifier: str, *, by: Any = None) -> None:
        await self.get_device(product, identifier)
        if identifier == "busy":
            raise Conflict("The device is being upgraded.")
        del self.devices[product, identifier]

    async def rotate_secret(self, product: str, identifier: str, *, by: Any = None) -> views.DeviceWithSecret:
        view = await self.get_device(product, identifier)
        return views.DeviceWithSecret(**asdict(view), secret=SECRET)

    # -- firmware

    @asynccontextmanager
    async def upload_firmware(
        self, metadata: views.FirmwareMetadata, *, by: Any = None
    ) -> AsyncIterator[FakeUpload]:
        await self.get_product(metadata.product)
        if any(view.version == metadata.version for view in self.firmware.values()):
            raise Conflict("This version is taken.", field="version")
        if not metadata.file_name.endswith(".bin"):
            raise Invalid("This is no file name.", field="file_name")
        upload = FakeUpload(self, metadata)
        try:
            yield upload
        finally:
            upload.file.close()
            self.partial.unlink(missing_ok=True)
            self.upload_ended.set()

    async def list_firmware(self, **filters: Any) -> views.Page[views.FirmwareView]:
        return self._page("list_firmware", list(self.firmware.values()), **filters)

    async def get_firmware(self, id: str) -> views.FirmwareView:
        if id not in self.firmware:
            raise NotFound("No such firmware.", field="id")
        return self.firmware[id]

    async def firmware_file(self, id: str) -> tuple[views.FirmwareView, Path]:
        return await self.get_firmware(id), self.folder / id

    async def delete_firmware(self, id: str, *, by: Any = None) -> None:
        await self.get_firmware(id)
        if any(batch.firmware.id == id and batch.status == "in_progress" for batch in self.batches.values()):
            raise Conflict("A batch in progress uses this firmware.")
        del self.firmware[id]

    # -- batches

    async def create_batch(self, request: views.CreateBatchRequest, *, by: Any = None) -> views.BatchView:
        firmware = await self.get_firmware(request.firmware)
        if not 1 <= request.validity_days <= 7:
            raise Invalid("A batch is valid for 1 to 7 days.", field="validity_days")
        reasons = [
            asdict(views.IneligibleDevice(identifier, "not_found", "No such device."))
            for identifier in request.devices or ()
            if (firmware.product, identifier) not in self.devices
        ]
        if reasons:
            raise Invalid("Some devices cannot be upgraded.", field="devices", details=reasons)
        if self.disk_full:
            raise NoRoom("The disk is full.")
        id = f"b{len(self.batches) + 1}"
        self.batches[id] = views.BatchView(
            id=id,
            firmware=views.BatchFirmware(firmware.id, firmware.name, firmware.version, firmware.md5),
            product=views.BatchProduct(firmware.product, firmware.product),
            range=request.range,
            validity_days=request.validity_days,
            policy=request.policy,
            timeout_minutes=request.timeout_minutes,
            retries=request.retries,
            retry_interval_minutes=request.retry_interval_minutes,
            created_at=NOW,
            expires_at=NOW,
            ended_at=None,
            status="in_progress",
            counts=views.CountsView(1, 1, 0, 0, 0, 0, 0, 0),
        )
        return self.batches[id]

    async def list_batches(self, **filters: Any) -> views.Page[views.BatchView]:
        return self._page("list_batches", list(self.batches.values()), **filters)

    async def get_batch(self, id: str) -> views.BatchView:
        if id not in self.batches:
            raise NotFound("No such batch.", field="id")
        return self.batches[id]

    async def abort_batch(self, id: str, *, by: Any = None) -> views.BatchView:
        batch = await self.get_batch(id)
        if batch.status != "in_progress":
            raise Conflict("This batch has ended.")
        self.batches[id] = views.BatchView(
            **{name: getattr(batch, name) for name in batch.__struct_fields__} | {"status": "aborted"}
        )
        return self.batches[id]

    async def list_upgrades(self, batch: str, **filters: Any) -> views.Page[views.UpgradeView]:
        await self.get_batch(batch)
        return self._page("list_upgrades", [], **filters)

    async def get_upgrade(self, batch: str, identifier: str) -> views.UpgradeDetails:
        await self.get_batch(batch)
        if identifier != "d1":
            raise NotFound("No such device in this batch.", field="identifier")
        return views.UpgradeDetails(
            batch=batch,
            identifier=identifier,
            name="lamp in the hall",
            connection="online",
            state="pushed",
            attempt=1,
            retries=views.RetriesView(0, 2),
            remark=None,
            detail=None,
            stage=None,
            progress=0,
            version=None,
            completed_at=None,
            waiting_for="the device to start",
            timeline=[views.TimelineView(NOW, "pushed", "pushed", 1, None)],
        )

    # -- operators

    async def list_tokens(self, **filters: Any) -> views.Page[operators.TokenView]:
        return self._page("list_tokens", list(self.tokens.values()), **filters)

    async def create_token(
        self, request: operators.CreateTokenRequest, *, by: Any = None
    ) -> operators.TokenWithSecret:
        if any(view.name == request.name for view in self.tokens.values()):
            raise Conflict("This name is taken.", field="name")
        view = operators.TokenView(
            f"t{len(self.tokens) + 1}", request.name, request.role, NOW, None, None, None
        )
        self.tokens[view.id] = view
        return operators.TokenWithSecret(**asdict(view), token=SECRET)

    async def revoke_token(self, id: str, *, by: Any = None) -> None:
        if id not in self.tokens:
            raise NotFound("No such token.", field="id")

    async def list_audit(self, **filters: Any) -> views.Page[operators.AuditView]:
        return self._page("list_audit", [AUDIT], **filters)

    async def export_audit(self) -> AsyncIterator[list[operators.AuditView]]:
        yield [AUDIT]
        yield []

    async def verify_audit(self) -> operators.AuditVerification:
        return operators.AuditVerification(1, True, None)

    async def list_webhooks(self, **filters: Any) -> views.Page[operators.WebhookView]:
        return self._page("list_webhooks", list(self.webhooks.values()), **filters)

    async def create_webhook(
        self, request: operators.CreateWebhookRequest, *, by: Any = None
    ) -> operators.WebhookWithSecret:
        view = operators.WebhookView(f"w{len(self.webhooks) + 1}", request.url, [*request.events], NOW, 0, 0)
        self.webhooks[view.id] = view
        return operators.WebhookWithSecret(**asdict(view), secret=SECRET)

    async def delete_webhook(self, id: str, *, by: Any = None) -> None:
        if self.webhooks.pop(id, None) is None:
            raise NotFound("No such webhook.", field="id")

    async def test_webhook(self, id: str) -> operators.WebhookTest:
        if id not in self.webhooks:
            raise NotFound("No such webhook.", field="id")
        return operators.WebhookTest(True, 204, None)
