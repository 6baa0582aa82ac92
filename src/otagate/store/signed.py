"""What the store keeps of signed firmware: a product's keys, whether it requires signatures, a signature.

A signature is checked before it comes here (`otagate.signing`); what the store sees to, inside the commit, is
that its key is still one of the product's, that it has not expired, and that a product which requires
signatures gets no firmware and no batch without one.
"""

from typing import TYPE_CHECKING

from msgspec import Struct

from otagate import limits
from otagate.errors import Invalid

if TYPE_CHECKING:
    from otagate.store.interface import Product
    from otagate.store.records import ProductRecord


class SigningKey(Struct, frozen=True, gc=False, array_like=True):
    """A public key of a product: its id, 32 bytes of Ed25519, and when it was revoked, if it was."""

    id: str
    name: str
    raw: bytes
    created_at_ms: int
    revoked_at_ms: int | None = None


class FirmwareSignature(Struct, frozen=True, gc=False, array_like=True):
    """The signature of a firmware: the key's id, the signature in base64, and what the manifest says besides
    the firmware's own fields. `expires` in Unix seconds."""

    key: str
    value: str
    expires: int
    not_before: tuple[str, ...] = ()


class AddSigningKey(Struct, frozen=True):
    """→ Product. NotFound; Conflict when it has the key, or had it until it was revoked; Invalid when it has
    signing_keys_per_product_max good ones. One that was revoked makes room."""

    product: str
    id: str
    name: str
    raw: bytes
    at_ms: int


class RevokeSigningKey(Struct, frozen=True):
    """→ Product. NotFound; Conflict when it is revoked already."""

    product: str
    id: str
    at_ms: int


class RequireSignature(Struct, frozen=True):
    """→ Product. NotFound; Invalid when it is to require signatures and has no key to check them with."""

    product: str
    required: bool


def good_keys(product: "Product | ProductRecord") -> list[SigningKey]:
    """The keys of a product that were not revoked."""
    return [key for key in product.keys if key.revoked_at_ms is None]


def refuse(
    product: "Product | ProductRecord", signature: FirmwareSignature | None, wall_ms: int, field: str
) -> Invalid | None:
    """Why firmware with this signature, or none, may not be added or upgraded to; None: it may."""
    if signature is None:
        if not product.require_signature:
            return None
        words = f"the product {product.key} requires signed firmware (require_signature)"
        return Invalid(f"{words}, and this one has no signature", field=field)
    if all(key.id != signature.key for key in good_keys(product)):
        words = f"the signature is of key {signature.key}"
        return Invalid(f"{words}, which is no good key of product {product.key}", field=field)
    if wall_ms >= signature.expires * 1000:
        return Invalid("the signature of this firmware has expired", field=field)
    return None


def room_for_key(keys: tuple[SigningKey, ...]) -> tuple[SigningKey, ...] | None:
    """The keys without the oldest revoked one, when there is no more room; None when all are good."""
    if len(keys) < limits.signing_keys_per_product_max:
        return keys
    for key in keys:
        if key.revoked_at_ms is not None:
            return tuple(other for other in keys if other is not key)
    return None
