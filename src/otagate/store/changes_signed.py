"""How a product's signing keys change. Rules as in changes_fleet: checked first, written after."""

from msgspec.structs import replace

from otagate.errors import Conflict, Invalid, NotFound, RequestError
from otagate.store.draft import Draft
from otagate.store.interface import Product
from otagate.store.records import ProductRecord
from otagate.store.signed import (
    AddSigningKey,
    RequireSignature,
    RevokeSigningKey,
    SigningKey,
    good_keys,
    room_for_key,
)


def _no_product(key: str) -> NotFound:
    return NotFound(f"there is no product {key}")


def _put(draft: Draft, record: ProductRecord) -> Product:
    draft.put_product(record)
    return record.product


def add_signing_key(draft: Draft, change: AddSigningKey) -> Product | RequestError:
    record = draft.product(change.product)
    if record is None:
        return _no_product(change.product)
    for key in record.keys:
        if key.id == change.id:
            words = "has" if key.revoked_at_ms is None else "has revoked"
            return Conflict(f"the product {record.key} {words} the key {key.id} already", field="public_key")
    keys = room_for_key(record.keys)
    if keys is None:
        return Invalid(f"the product {record.key} has {len(record.keys)} keys, which is the most")
    draft.saw_time(change.at_ms)
    key = SigningKey(change.id, change.name, change.raw, change.at_ms)
    return _put(draft, replace(record, keys=(*keys, key)))


def revoke_signing_key(draft: Draft, change: RevokeSigningKey) -> Product | RequestError:
    record = draft.product(change.product)
    if record is None:
        return _no_product(change.product)
    found = next((key for key in record.keys if key.id == change.id), None)
    if found is None:
        return NotFound(f"the product {record.key} has no key {change.id}")
    if found.revoked_at_ms is not None:
        return Conflict(f"the key {change.id} is revoked already")
    draft.saw_time(change.at_ms)
    revoked = replace(found, revoked_at_ms=change.at_ms)
    return _put(draft, replace(record, keys=tuple(revoked if key is found else key for key in record.keys)))


def require_signature(draft: Draft, change: RequireSignature) -> Product | RequestError:
    record = draft.product(change.product)
    if record is None:
        return _no_product(change.product)
    if change.required and not good_keys(record):
        words = f"the product {record.key} has no signing key"
        return Invalid(f"{words}: add one first, or nothing could be uploaded", field="require_signature")
    return _put(draft, replace(record, require_signature=change.required))
