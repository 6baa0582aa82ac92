"""The operations that are a question to the service and its answer; bulk.py and images.py have the others.

The fields of a list's query are the keyword arguments of the service's method.
"""

from msgspec.structs import asdict

from otagate.admin import queries
from otagate.admin.faults import NotReady
from otagate.admin.operations import Call
from otagate.gateway import views

NoQuery = queries.NoQuery


async def live(call: Call[NoQuery, None]) -> views.HealthView:
    return _health("live", call.service.live())


async def ready(call: Call[NoQuery, None]) -> views.HealthView:
    return _health("ready", call.service.ready())


def _health(status: str, checks: list[views.CheckView]) -> views.HealthView:
    """503 unless all is well; either way each check is named."""
    bad = [check.message for check in checks if not check.ok]
    if bad:
        raise NotReady(f"The gateway is not {status}: {'; '.join(bad)}.", details=checks)
    return views.HealthView(status, checks)


async def overview(call: Call[NoQuery, None]) -> views.OverviewView:
    return await call.service.overview()


# -- products ---------------------------------------------------------------------------------------


async def create_product(call: Call[NoQuery, views.CreateProductRequest]) -> views.ProductView:
    return await call.service.create_product(call.body, by=call.by)


async def list_products(call: Call[queries.PageQuery, None]) -> views.Page[views.ProductView]:
    return await call.service.list_products(**asdict(call.query))


async def get_product(call: Call[NoQuery, None]) -> views.ProductView:
    return await call.service.get_product(call.path["key"])


async def delete_product(call: Call[NoQuery, None]) -> None:
    await call.service.delete_product(call.path["key"], by=call.by)


async def update_product(call: Call[NoQuery, views.UpdateProductRequest]) -> views.ProductView:
    return await call.service.update_product(call.path["key"], call.body, by=call.by)


async def list_signing_keys(call: Call[queries.PageQuery, None]) -> views.Page[views.SigningKeyView]:
    return await call.service.list_signing_keys(call.path["key"], **asdict(call.query))


async def add_signing_key(call: Call[NoQuery, views.AddSigningKeyRequest]) -> views.SigningKeyView:
    return await call.service.add_signing_key(call.path["key"], call.body, by=call.by)


async def revoke_signing_key(call: Call[NoQuery, None]) -> None:
    await call.service.revoke_signing_key(call.path["key"], call.path["id"], by=call.by)


# -- devices ----------------------------------------------------------------------------------------


async def get_device(call: Call[NoQuery, None]) -> views.DeviceView:
    return await call.service.get_device(call.path["key"], call.path["identifier"])


async def rename_device(call: Call[NoQuery, views.RenameDeviceRequest]) -> views.DeviceView:
    key, identifier = call.path["key"], call.path["identifier"]
    return await call.service.rename_device(key, identifier, call.body, by=call.by)


async def delete_device(call: Call[NoQuery, None]) -> None:
    await call.service.delete_device(call.path["key"], call.path["identifier"], by=call.by)


async def rotate_secret(call: Call[NoQuery, None]) -> views.DeviceWithSecret:
    return await call.service.rotate_secret(call.path["key"], call.path["identifier"], by=call.by)


# -- firmware ---------------------------------------------------------------------------------------


async def list_firmware(call: Call[queries.FirmwareQuery, None]) -> views.Page[views.FirmwareView]:
    return await call.service.list_firmware(**asdict(call.query))


async def get_firmware(call: Call[NoQuery, None]) -> views.FirmwareView:
    return await call.service.get_firmware(call.path["id"])


async def delete_firmware(call: Call[NoQuery, None]) -> None:
    await call.service.delete_firmware(call.path["id"], by=call.by)


# -- batches ----------------------------------------------------------------------------------------


async def create_batch(call: Call[NoQuery, views.CreateBatchRequest]) -> views.BatchView:
    return await call.service.create_batch(call.body, by=call.by)


async def list_batches(call: Call[queries.BatchesQuery, None]) -> views.Page[views.BatchView]:
    return await call.service.list_batches(**asdict(call.query))


async def get_batch(call: Call[NoQuery, None]) -> views.BatchView:
    return await call.service.get_batch(call.path["id"])


async def abort_batch(call: Call[NoQuery, None]) -> views.BatchView:
    return await call.service.abort_batch(call.path["id"], by=call.by)


async def get_upgrade(call: Call[NoQuery, None]) -> views.UpgradeDetails:
    return await call.service.get_upgrade(call.path["id"], call.path["identifier"])
