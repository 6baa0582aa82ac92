"""The table of operations. Routing (app.py) and the API document (openapi.py) are both made of it."""

from otagate import limits
from otagate.admin import bulk, console, events, exports, handlers, images, queries
from otagate.admin.operations import BYTES, CSV, EVENTS, NDJSON, Operation, Reply
from otagate.admin.routes_operators import OPERATORS
from otagate.gateway import views
from otagate.gateway.access import Role

API = "/api/v1"
PRODUCT = f"{API}/products/{{key}}"
DEVICE = f"{PRODUCT}/devices/{{identifier}}"
FIRMWARE = f"{API}/firmware/{{id}}"
BATCH = f"{API}/batches/{{id}}"

GONE = Reply(204, "Deleted.")
SAME = Reply(304, "It is what If-None-Match says.")
IF_MATCH = (("If-Match", "The ETag of what is to be changed: 412 when it is not that any more."),)

WITHOUT_TOKEN = (
    Operation(
        method="GET",
        path="/",
        handler=console.front_page,
        summary="The web console",
        replies=(Reply(200, "A page.", str, "text/html"), Reply(304, "The client has it.")),
        public=True,
    ),
    Operation(
        method="GET",
        path="/livez",
        handler=handlers.live,
        summary="Whether the process does its work",
        replies=(Reply(200, "It does.", views.HealthView),),
        errors=(503,),
        public=True,
    ),
    Operation(
        method="GET",
        path="/readyz",
        handler=handlers.ready,
        summary="Whether devices and operators should be sent here",
        replies=(Reply(200, "They should.", views.HealthView),),
        errors=(503,),
        public=True,
    ),
)

PRODUCTS = (
    Operation(
        method="POST",
        path=f"{API}/products",
        handler=handlers.create_product,
        role=Role.ADMIN,
        repeatable=True,
        summary="Create a product",
        body=views.CreateProductRequest,
        replies=(Reply(201, "Created.", views.ProductView),),
        errors=(409,),
    ),
    Operation(
        method="GET",
        path=f"{API}/products",
        handler=handlers.list_products,
        summary="List products",
        query=queries.PageQuery,
        replies=(Reply(200, "A page of products.", views.Page[views.ProductView]),),
    ),
    Operation(
        method="GET",
        path=PRODUCT,
        handler=handlers.get_product,
        summary="Show a product",
        replies=(Reply(200, "The product.", views.ProductView), SAME),
        errors=(404,),
    ),
    Operation(
        method="DELETE",
        path=PRODUCT,
        handler=handlers.delete_product,
        role=Role.ADMIN,
        summary="Delete a product that has neither devices nor firmware",
        replies=(GONE,),
        headers=IF_MATCH,
        errors=(404, 409, 412),
    ),
    Operation(
        method="PATCH",
        path=PRODUCT,
        handler=handlers.update_product,
        role=Role.ADMIN,
        summary="Say whether a product requires signed firmware",
        body=views.UpdateProductRequest,
        replies=(Reply(200, "The product, changed.", views.ProductView),),
        headers=IF_MATCH,
        errors=(404, 412),
    ),
    Operation(
        method="GET",
        path=f"{PRODUCT}/signing-keys",
        handler=handlers.list_signing_keys,
        summary="List the keys that a product's firmware may be signed with",
        query=queries.PageQuery,
        replies=(Reply(200, "A page of keys.", views.Page[views.SigningKeyView]),),
        errors=(404,),
    ),
    Operation(
        method="POST",
        path=f"{PRODUCT}/signing-keys",
        handler=handlers.add_signing_key,
        role=Role.ADMIN,
        repeatable=True,
        summary="Add a public key that a product's firmware may be signed with",
        body=views.AddSigningKeyRequest,
        replies=(Reply(201, "Added.", views.SigningKeyView),),
        errors=(404, 409),
    ),
    Operation(
        method="DELETE",
        path=f"{PRODUCT}/signing-keys/{{id}}",
        handler=handlers.revoke_signing_key,
        role=Role.ADMIN,
        summary="Revoke a signing key",
        replies=(Reply(204, "Revoked."),),
        errors=(404, 409),
    ),
)

DEVICES = (
    Operation(
        method="POST",
        path=f"{PRODUCT}/devices",
        handler=bulk.register,
        role=Role.OPERATOR,
        repeatable=True,
        summary="Register one device, or many",
        body=views.RegisterDeviceRequest,
        streams=(NDJSON, CSV),
        replies=(
            Reply(201, "One device is registered; its secret is shown this once.", views.DeviceWithSecret),
            Reply(200, "Many were tried: a result a line.", views.RegistrationResult, NDJSON),
        ),
        errors=(404, 409, 507),
    ),
    Operation(
        method="GET",
        path=f"{PRODUCT}/devices",
        handler=exports.list_devices,
        summary="List and search the devices of a product",
        query=queries.DevicesQuery,
        replies=(
            Reply(200, "A page of devices.", views.Page[views.DeviceView]),
            Reply(200, "All of them, a line each.", views.DeviceView, NDJSON),
            Reply(200, "All of them, with a header.", media=CSV),
        ),
        errors=(404,),
    ),
    Operation(
        method="GET",
        path=DEVICE,
        handler=handlers.get_device,
        summary="Show a device",
        replies=(Reply(200, "The device.", views.DeviceView), SAME),
        errors=(404,),
    ),
    Operation(
        method="PATCH",
        path=DEVICE,
        handler=handlers.rename_device,
        role=Role.OPERATOR,
        summary="Rename a device",
        body=views.RenameDeviceRequest,
        replies=(Reply(200, "The device, renamed.", views.DeviceView),),
        headers=IF_MATCH,
        errors=(404, 412),
    ),
    Operation(
        method="DELETE",
        path=DEVICE,
        handler=handlers.delete_device,
        role=Role.OPERATOR,
        summary="Delete a device that has no upgrade in progress",
        replies=(GONE,),
        headers=IF_MATCH,
        errors=(404, 409, 412),
    ),
    Operation(
        method="POST",
        path=f"{DEVICE}/secret",
        handler=handlers.rotate_secret,
        role=Role.OPERATOR,
        summary="Give a device a new secret and end its session",
        replies=(Reply(200, "The device with its new secret, shown this once.", views.DeviceWithSecret),),
        errors=(404,),
    ),
)

FIRMWARES = (
    Operation(
        method="POST",
        path=f"{API}/firmware",
        handler=images.upload,
        role=Role.OPERATOR,
        repeatable=True,
        summary="Add a firmware: its bytes are the body, as they are",
        query=views.FirmwareMetadata,
        streams=("*/*",),
        headers=(
            ("Content-MD5", "MD5 that the bytes must have, in base64 (RFC 1864) or hex."),
            ("X-Checksum-Sha256", "SHA-256 that the bytes must have, in hex."),
        ),
        replies=(Reply(201, "Added.", views.FirmwareView),),
        errors=(404, 409, 507),
    ),
    Operation(
        method="GET",
        path=f"{API}/firmware",
        handler=handlers.list_firmware,
        summary="List and search firmware",
        query=queries.FirmwareQuery,
        replies=(Reply(200, "A page of firmware.", views.Page[views.FirmwareView]),),
        errors=(404,),
    ),
    Operation(
        method="GET",
        path=FIRMWARE,
        handler=handlers.get_firmware,
        summary="Show a firmware",
        replies=(Reply(200, "The firmware.", views.FirmwareView), SAME),
        errors=(404,),
    ),
    Operation(
        method="GET",
        path=f"{FIRMWARE}/content",
        handler=images.download,
        summary="Download the image of a firmware",
        headers=(
            ("Range", "One range of bytes (RFC 9110 section 14.2)."),
            ("If-Range", "The ETag that the range is of; with another the whole is sent."),
            ("If-None-Match", "ETags that the client has."),
        ),
        replies=(
            Reply(200, "The image.", media=BYTES),
            Reply(206, "The range asked for.", media=BYTES),
            Reply(304, "The client has it."),
        ),
        errors=(404, 416),
    ),
    Operation(
        method="DELETE",
        path=FIRMWARE,
        handler=handlers.delete_firmware,
        role=Role.OPERATOR,
        summary="Delete a firmware that no batch in progress uses",
        replies=(GONE,),
        headers=IF_MATCH,
        errors=(404, 409, 412),
    ),
)

BATCHES = (
    Operation(
        method="POST",
        path=f"{API}/batches",
        handler=handlers.create_batch,
        role=Role.OPERATOR,
        repeatable=True,
        summary="Start a batch upgrade",
        body=views.CreateBatchRequest,
        body_bytes_max=limits.batch_body_bytes_max,
        replies=(Reply(201, "Started.", views.BatchView),),
        errors=(404, 409, 503, 507),
    ),
    Operation(
        method="GET",
        path=f"{API}/batches",
        handler=handlers.list_batches,
        summary="List batches, newest first",
        query=queries.BatchesQuery,
        replies=(Reply(200, "A page of batches.", views.Page[views.BatchView]),),
        errors=(404,),
    ),
    Operation(
        method="GET",
        path=BATCH,
        handler=handlers.get_batch,
        summary="Show a batch",
        replies=(Reply(200, "The batch.", views.BatchView), SAME),
        errors=(404,),
    ),
    Operation(
        method="POST",
        path=f"{BATCH}/abort",
        handler=handlers.abort_batch,
        role=Role.OPERATOR,
        summary="Abort a batch in progress",
        replies=(Reply(200, "The batch, aborted.", views.BatchView),),
        errors=(404, 409),
    ),
    Operation(
        method="GET",
        path=f"{BATCH}/devices",
        handler=exports.list_upgrades,
        summary="List the device upgrades of a batch",
        query=queries.UpgradesQuery,
        replies=(
            Reply(200, "A page of device upgrades.", views.Page[views.UpgradeView]),
            Reply(200, "All of them, a line each.", views.UpgradeView, NDJSON),
            Reply(200, "All of them, with a header.", media=CSV),
        ),
        errors=(404,),
    ),
    Operation(
        method="GET",
        path=f"{BATCH}/devices/{{identifier}}",
        handler=handlers.get_upgrade,
        summary="Show a device upgrade with its timeline",
        replies=(Reply(200, "The device upgrade.", views.UpgradeDetails), SAME),
        errors=(404,),
    ),
)

NOW = (
    Operation(
        method="GET",
        path=f"{API}/overview",
        handler=handlers.overview,
        summary="Show what the gateway does now",
        replies=(Reply(200, "The numbers of this moment, and ten minutes of them.", views.OverviewView),),
    ),
    Operation(
        method="GET",
        path=f"{API}/events",
        handler=events.stream,
        summary="Follow what changes, as server-sent events",
        query=queries.EventsQuery,
        headers=(("Last-Event-ID", "The id of the last event seen: what changed since is sent first."),),
        replies=(Reply(200, "Events: batch, overview, upgrades.", media=EVENTS),),
        errors=(404, 503),
    ),
)

OPERATIONS = WITHOUT_TOKEN + PRODUCTS + DEVICES + FIRMWARES + BATCHES + NOW + OPERATORS
