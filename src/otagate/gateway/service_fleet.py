"""The facade's part about products and their devices; see service."""

import secrets
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from otagate.errors import Invalid, NoRoom, NotFound, RequestError
from otagate.gateway.acts import GATEWAY, Act, Note, noting
from otagate.gateway.service_operators import OperatorsService
from otagate.gateway.service_operators import number_of_cursor as _number
from otagate.gateway.views import (
    CreateProductRequest,
    DeviceView,
    DeviceWithSecret,
    ErrorView,
    Page,
    ProductView,
    RegisterDeviceRequest,
    RegistrationResult,
    RenameDeviceRequest,
)
from otagate.store import interface as records
from otagate.store.operators import AuditNote
from otagate.store.sealing import about_device
from otagate.times import rfc3339
from otagate.upgrade import validation

if TYPE_CHECKING:
    from otagate.gateway.server import Gateway
    from otagate.store.blobs import Blobs

T = TypeVar("T")

SCANS_MAX = 8  # transactions of one listing: a filter that matches little gets a short page with a cursor


class FleetService(OperatorsService):
    """See the module; the base of service.Service."""

    def __init__(self, gateway: "Gateway", blobs: "Blobs") -> None:
        super().__init__(gateway)
        self._blobs = blobs

    def check_room(self) -> None:
        """Before what takes much: NoRoom on a disk or in a map that is about to be full."""
        self._blobs.check_room()
        map_check = self._gateway.health.map_left()
        if not map_check.ok:
            raise NoRoom(map_check.message)

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
        return await self._act(by, "product.create", note, change, view_of_product)

    async def list_products(self, *, cursor: str | None, limit: int) -> Page[ProductView]:
        """In the order of creation."""
        after = _number(cursor)
        found = sorted(await self._store.list_products(), key=lambda product: product.number)
        found = [product for product in found if product.number > after]
        more = len(found) > limit
        found = found[:limit]
        return Page([view_of_product(product) for product in found], str(found[-1].number) if more else None)

    async def get_product(self, key: str) -> ProductView:
        """NotFound."""
        return view_of_product(await self._product(key))

    async def delete_product(self, key: str, *, by: Act = GATEWAY) -> None:
        """NotFound; Conflict while it has devices or firmware."""
        await self._act(by, "product.delete", noting(key), records.DeleteProduct(key), as_is)
        self._gateway.sessions.forget_product(key)

    async def _product(self, key: str) -> records.Product:
        return the(await self._store.get_product(key), f"there is no product {key!r}")

    # -- devices ---------------------------------------------------------------------------------

    async def register_device(
        self, product: str, request: RegisterDeviceRequest, *, by: Act = GATEWAY
    ) -> DeviceWithSecret:
        """The secret is in the answer and nowhere else afterwards."""
        device, secret = self._checked_device(product, request)
        change = records.RegisterDevices(product, [device], self._now_ms())
        note = _noting_registered(f"{product}/{device.identifier}", name=device.name)
        view = await self._act(by, "device.register", note, change, partial(_registered, secret))
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
        """One slice of a bulk registration: a result for each line. NotFound: no such product. NoRoom."""
        self.check_room()
        results: dict[int, RegistrationResult] = {}
        accepted: list[tuple[int, records.NewDevice, str]] = []
        for line, request in enumerate(requests, first_line):
            if isinstance(request, ErrorView):
                results[line] = RegistrationResult(line, None, error=request)
                continue
            try:
                accepted.append((line, *self._checked_device(product, request)))
            except RequestError as error:
                results[line] = RegistrationResult(line, request.identifier, error=_error(error))
        if accepted:
            change = records.RegisterDevices(product, [device for _, device, _ in accepted], self._now_ms())
            note = _noting_count(product)
            outcomes = await self._act(by, "device.register_many", note, change, as_is)
            for (line, device, secret), outcome in zip(accepted, outcomes, strict=True):
                if isinstance(outcome, RequestError):
                    results[line] = RegistrationResult(line, device.identifier, error=_error(outcome))
                else:
                    results[line] = RegistrationResult(line, device.identifier, secret=secret)
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
        allow_rollback: bool = False,
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
                page = await self._store.scan_eligible(
                    eligible_for, after=after, limit=room, query=q, allow_rollback=allow_rollback
                )
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
        return self._device(the(device, f"there is no device {identifier!r} of product {product!r}"))

    async def rename_device(
        self, product: str, identifier: str, request: RenameDeviceRequest, *, by: Act = GATEWAY
    ) -> DeviceView:
        """NotFound, Invalid."""
        name = validation.check_device_name(request.name)
        change = records.RenameDevice(product, identifier, name)
        note = noting(f"{product}/{identifier}", name=name)
        return self._device(await self._act(by, "device.rename", note, change, as_is))

    async def delete_device(self, product: str, identifier: str, *, by: Act = GATEWAY) -> None:
        """NotFound; Conflict while it has an upgrade that has not ended. Its session ends."""
        change = records.DeleteDevice(product, identifier)
        note = noting(f"{product}/{identifier}")
        device: records.Device = await self._act(by, "device.delete", note, change, as_is)
        self._gateway.end_session(device.number, b"deleted")

    async def rotate_secret(self, product: str, identifier: str, *, by: Act = GATEWAY) -> DeviceWithSecret:
        """A new secret; the live session ends."""
        secret = _new_secret()
        change = records.RotateSecret(product, identifier, self._seal(product, identifier, secret))
        note = noting(f"{product}/{identifier}")
        device: records.Device = await self._act(by, "device.rotate_secret", note, change, as_is)
        self._gateway.end_session(device.number, b"secret rotated")
        return self._device_with_secret(device, secret)

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

    def _device_with_secret(self, device: records.Device, secret: str) -> DeviceWithSecret:
        view = self._device(device)
        return DeviceWithSecret(
            **{name: getattr(view, name) for name in DeviceView.__struct_fields__}, secret=secret
        )

    def _checked_device(self, product: str, request: RegisterDeviceRequest) -> tuple[records.NewDevice, str]:
        """The device with its secret sealed, and the secret."""
        identifier = validation.check_identifier(request.identifier)
        name = identifier if request.name is None else validation.check_device_name(request.name)
        secret = _new_secret() if request.secret is None else validation.check_secret(request.secret)
        return records.NewDevice(identifier, name, self._seal(product, identifier, secret)), secret

    def _seal(self, product: str, identifier: str, secret: str) -> bytes:
        return self._store.sealer.seal(secret, about_device(product, identifier))


def _new_secret() -> str:
    """192 random bits that begin with a letter or digit, as neither a formula nor an option does."""
    while not (secret := secrets.token_urlsafe(24))[0].isalnum():
        pass
    return secret


def as_is(outcome: Any) -> Any:
    """The view of what is no answer yet."""
    return outcome


def the(value: T | None, message: str) -> T:
    """The value, which has to be there; else NotFound."""
    if value is None:
        raise NotFound(message)
    return value


def _registered(
    secret: str, outcomes: list[records.Device | RequestError]
) -> DeviceWithSecret | RequestError:
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
        secret=secret,
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


def _error(error: RequestError) -> ErrorView:
    return ErrorView(code=error.code, message=error.message, field=error.field)


def view_of_product(product: records.Product) -> ProductView:
    """A product as operators see it."""
    return ProductView(
        key=product.key,
        name=product.name,
        auth=product.auth,
        created_at=rfc3339(product.created_at_ms) or "",
        require_signature=product.require_signature,
    )
