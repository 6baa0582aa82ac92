"""How changes of products, devices, firmware and settings are applied: checked first, written after.

Each function takes the draft of a commit and one change, and returns its outcome. A refusal is returned,
not raised, and nothing was written before it: that is what makes a change whole or nothing.
"""

from msgspec.structs import replace

from otagate import limits
from otagate.errors import Conflict, Invalid, NotFound, RequestError
from otagate.store import records, signed, tables
from otagate.store.draft import Draft
from otagate.store.interface import (
    AddFirmware,
    CreateProduct,
    DeleteDevice,
    DeletedFirmware,
    DeleteFirmware,
    DeleteProduct,
    Device,
    Firmware,
    Product,
    PutSetting,
    RegisterDevices,
    RenameDevice,
    ReportVersion,
    RotateSecret,
    TouchDevices,
)
from otagate.store.records import ProductRecord
from otagate.store.tables import device_key, pair_key, u32_key, u64_key

PRODUCT_NUMBERS = b"product"
DEVICE_NUMBERS = b"device"
FIRMWARE_NUMBERS = b"firmware"


def _no_product(key: str) -> NotFound:
    return NotFound(f"there is no product {key}", field="product")


def _no_device(product: str, identifier: str) -> NotFound:
    return NotFound(f"there is no device {identifier} in product {product}")


# -- products -------------------------------------------------------------------------------------------


def create_product(draft: Draft, change: CreateProduct) -> Product | RequestError:
    if draft.product(change.key) is not None:
        return Conflict(f"the product key {change.key} is already taken", field="key")
    draft.saw_time(change.at_ms)
    number = draft.number(PRODUCT_NUMBERS)
    record = ProductRecord(number, change.key, change.name, change.auth, change.at_ms)
    draft.put_product(record)
    return record.product


def delete_product(draft: Draft, change: DeleteProduct) -> RequestError | None:
    record = draft.product(change.key)
    if record is None:
        return _no_product(change.key)
    if record.devices or record.firmware:
        has = f"{record.devices} devices and {record.firmware} firmware"
        return Conflict(f"the product {change.key} still has {has}")
    draft.delete_product(record)
    return None


# -- devices --------------------------------------------------------------------------------------------


def register_devices(draft: Draft, change: RegisterDevices) -> list[Device | RequestError] | RequestError:
    record = draft.product(change.product)
    if record is None:
        return _no_product(change.product)
    draft.saw_time(change.at_ms)
    get = draft.view.get
    prefix = u32_key.pack(record.number)
    outcomes: list[Device | RequestError] = []
    taken: set[str] = set()
    devices: list[tuple[bytes, bytes]] = []
    owners: list[tuple[bytes, bytes]] = []
    names: list[tuple[bytes, bytes]] = []
    for new in change.devices:
        identifier = new.identifier
        name_key = prefix + identifier.encode()
        if identifier in taken or get(tables.NAMES, name_key) is not None:
            outcomes.append(Conflict(f"the identifier {identifier} is already taken", field="identifier"))
            continue
        taken.add(identifier)
        number = draft.number(DEVICE_NUMBERS)
        packed_number = u64_key.pack(number)
        device = Device(number, record.key, identifier, new.name, new.sealed, None, False, None, change.at_ms)
        devices.append((prefix + packed_number, records.pack_device(device)))
        owners.append((packed_number, prefix))
        names.append((name_key, packed_number))
        outcomes.append(device)
    draft.transaction.put_many(tables.DEVICES, devices)
    draft.transaction.put_many(tables.OWNERS, owners)
    draft.transaction.put_many(tables.NAMES, names)
    draft.put_product(replace(record, devices=record.devices + len(devices)))
    return outcomes


def _put_device(draft: Draft, product: int, device: Device) -> Device:
    draft.transaction.put(
        tables.DEVICES, device_key.pack(product, device.number), records.pack_device(device)
    )
    return device


def _found(draft: Draft, product_key: str, identifier: str) -> tuple[ProductRecord, Device] | None:
    record = draft.product(product_key)
    device = draft.device_named(product_key, identifier)
    return None if record is None or device is None else (record, device)


def rename_device(draft: Draft, change: RenameDevice) -> Device | RequestError:
    found = _found(draft, change.product, change.identifier)
    if found is None:
        return _no_device(change.product, change.identifier)
    record, device = found
    return _put_device(draft, record.number, replace(device, name=change.name))


def rotate_secret(draft: Draft, change: RotateSecret) -> Device | RequestError:
    found = _found(draft, change.product, change.identifier)
    if found is None:
        return _no_device(change.product, change.identifier)
    record, device = found
    return _put_device(draft, record.number, replace(device, sealed=change.sealed))


def delete_device(draft: Draft, change: DeleteDevice) -> Device | RequestError:
    found = _found(draft, change.product, change.identifier)
    if found is None:
        return _no_device(change.product, change.identifier)
    record, device = found
    if draft.has_open_upgrade(device.number):
        return Conflict(f"the device {change.identifier} has an upgrade that has not ended")
    transaction = draft.transaction
    key = device_key.pack(record.number, device.number)
    transaction.delete(tables.DEVICES, key)
    transaction.delete(tables.NAMES, u32_key.pack(record.number) + device.identifier.encode())
    if tables.has_prefix(draft.view, tables.UPGRADES, u64_key.pack(device.number)):
        tombstone = records.pack_device(replace(device, sealed=b""))
        transaction.put(tables.OWNERS, u64_key.pack(device.number), tombstone)
    else:
        transaction.delete(tables.OWNERS, u64_key.pack(device.number))
    draft.put_product(replace(record, devices=record.devices - 1))
    return device


def _owner(draft: Draft, number: int) -> int | None:
    """The product of a device that was not deleted."""
    value = draft.view.get(tables.OWNERS, u64_key.pack(number))
    if value is None or len(value) != u32_key.size:
        return None
    return int(u32_key.unpack(value)[0])


def report_version(draft: Draft, change: ReportVersion) -> Device | RequestError:
    product = _owner(draft, change.device)
    device = None if product is None else draft.device_of(product, change.device)
    if product is None or device is None:
        return NotFound(f"there is no device number {change.device} any more")
    draft.saw_time(change.at_ms)
    seen_ms = max(device.last_seen_ms or 0, change.at_ms)
    return _put_device(
        draft, product, replace(device, version=change.version, active=True, last_seen_ms=seen_ms)
    )


def touch_devices(draft: Draft, change: TouchDevices) -> None:
    for number, seen_ms in change.seen:
        product = _owner(draft, number)
        device = None if product is None else draft.device_of(product, number)
        if product is not None and device is not None and seen_ms > (device.last_seen_ms or 0):
            draft.saw_time(seen_ms)
            _put_device(draft, product, replace(device, last_seen_ms=seen_ms))


# -- firmware -------------------------------------------------------------------------------------------


def _refuse_firmware(
    draft: Draft, change: AddFirmware, record: ProductRecord, name_key: bytes, version_key: bytes
) -> RequestError | None:
    if draft.view.get(tables.FIRMWARE_NAMES, name_key) is not None:
        return Conflict(f"the firmware name {change.name} is already taken", field="name")
    if draft.view.get(tables.FIRMWARE_VERSIONS, version_key) is not None:
        return Conflict(
            f"the product {change.product} already has firmware of version {change.version}", field="version"
        )
    if record.firmware >= limits.firmware_per_product_max:
        return Invalid(
            f"the product {change.product} already has {record.firmware} firmware, which is the most",
            field="product",
        )
    return signed.refuse(record, change.signature, change.at_ms + change.wall_step_ms, "signature")


def add_firmware(draft: Draft, change: AddFirmware) -> Firmware | RequestError:
    record = draft.product(change.product)
    if record is None:
        return _no_product(change.product)
    name_key = change.name.encode()
    version_key = u32_key.pack(record.number) + change.version.encode()
    refused = _refuse_firmware(draft, change, record, name_key, version_key)
    if refused is not None:
        return refused
    draft.saw_time(change.at_ms)
    number = draft.number(FIRMWARE_NUMBERS)
    packed_number = u64_key.pack(number)
    firmware = Firmware(
        id=tables.id_of_number("f", number),
        product=change.product,
        name=change.name,
        version=change.version,
        file_name=change.file_name,
        description=change.description,
        size=change.size,
        md5=change.md5,
        sha256=change.sha256,
        created_at_ms=change.at_ms,
        signature=change.signature,
    )
    draft.transaction.put(tables.FIRMWARE, packed_number, records.pack_firmware(firmware))
    draft.transaction.put(tables.FIRMWARE_NAMES, name_key, packed_number)
    draft.transaction.put(tables.FIRMWARE_VERSIONS, version_key, packed_number)
    draft.put_product(replace(record, firmware=record.firmware + 1))
    _count_image(draft, change.sha256, 1)
    return firmware


def _count_image(draft: Draft, sha256: str, step: int) -> int:
    """How many records name these bytes, after one more or one less."""
    key = bytes.fromhex(sha256)
    value = draft.view.get(tables.IMAGES, key)
    uses = (0 if value is None else int(u32_key.unpack(value)[0])) + step
    assert uses >= 0
    if uses:
        draft.transaction.put(tables.IMAGES, key, u32_key.pack(uses))
    else:
        draft.transaction.delete(tables.IMAGES, key)
    return uses


def delete_firmware(draft: Draft, change: DeleteFirmware) -> DeletedFirmware | RequestError:
    firmware = draft.firmware(change.id)
    if firmware is None:
        return NotFound(f"there is no firmware {change.id}")
    number = tables.number_of_id("f", change.id)
    assert number is not None
    uses = tables.scan(draft.view, tables.FIRMWARE_USES, u64_key.pack(number), u64_key.pack(number))
    for key, _ in uses:
        batch = tables.id_of_number("b", pair_key.unpack(key)[1])
        return Conflict(f"the firmware {firmware.name} is in use by batch {batch}")
    record = draft.product(firmware.product)
    assert record is not None, "a product with firmware cannot be deleted"
    draft.transaction.delete(tables.FIRMWARE, u64_key.pack(number))
    draft.transaction.delete(tables.FIRMWARE_NAMES, firmware.name.encode())
    draft.transaction.delete(
        tables.FIRMWARE_VERSIONS, u32_key.pack(record.number) + firmware.version.encode()
    )
    draft.put_product(replace(record, firmware=record.firmware - 1))
    return DeletedFirmware(firmware, _count_image(draft, firmware.sha256, -1) == 0)


# -- settings -------------------------------------------------------------------------------------------


def put_setting(draft: Draft, change: PutSetting) -> None:
    draft.transaction.put(tables.SETTINGS, change.name.encode(), change.value)
