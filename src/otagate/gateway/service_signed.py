"""The facade's part about signed firmware: a product's keys, and the signature of an upload; see service."""

from otagate.gateway.acts import GATEWAY, Act, Note, noting
from otagate.gateway.service_fleet import FleetService, as_is, the
from otagate.gateway.service_fleet import view_of_product as _product
from otagate.gateway.service_operators import number_of_cursor as _number
from otagate.gateway.views import (
    AddSigningKeyRequest,
    FirmwareMetadata,
    Page,
    ProductView,
    SigningKeyView,
    UpdateProductRequest,
)
from otagate.signing.keys import PublicKey, check_signed
from otagate.signing.manifest import BadSignature, SignedManifest, parse_signed
from otagate.store.signed import (
    AddSigningKey,
    FirmwareSignature,
    RequireSignature,
    RevokeSigningKey,
    SigningKey,
    good_keys,
)
from otagate.times import rfc3339
from otagate.upgrade import validation


class SignedService(FleetService):
    """See the module; a base of service.Service."""

    async def update_product(
        self, key: str, request: UpdateProductRequest, *, by: Act = GATEWAY
    ) -> ProductView:
        """NotFound; Invalid when signatures are to be required and there is no key."""
        change = RequireSignature(key, request.require_signature)
        note = noting(key, require_signature=request.require_signature)
        return await self._act(by, "product.update", note, change, _product)

    async def list_signing_keys(
        self, product: str, *, cursor: str | None, limit: int
    ) -> Page[SigningKeyView]:
        """In the order in which they were added, the revoked ones too. NotFound."""
        after = _number(cursor)
        keys = (await self._product(product)).keys
        page = [_key(key) for key in keys[after : after + limit]]
        return Page(page, str(after + limit) if after + limit < len(keys) else None)

    async def add_signing_key(
        self, product: str, request: AddSigningKeyRequest, *, by: Act = GATEWAY
    ) -> SigningKeyView:
        """NotFound; Invalid names the field; Conflict when it has the key already, or had it."""
        name = validation.check_key_name(request.name)
        try:
            public = PublicKey.from_pem(request.public_key.encode())
        except BadSignature as error:
            error.field = "public_key"
            raise
        change = AddSigningKey(product, public.id, name, public.raw, self._now_ms())
        return await self._act(
            by,
            "signing_key.add",
            _noting_key(product, public.id, name),
            change,
            lambda changed: _key(next(key for key in changed.keys if key.id == public.id)),
        )

    async def revoke_signing_key(self, product: str, id: str, *, by: Act = GATEWAY) -> None:
        """From now on no upload and no batch with a signature of it. NotFound; Conflict: revoked already."""
        change = RevokeSigningKey(product, id, self._now_ms())
        await self._act(by, "signing_key.revoke", _noting_key(product, id), change, as_is)

    async def _check_signature(self, metadata: FirmwareMetadata) -> SignedManifest | None:
        """The signed manifest of an upload, before its bytes: everything but size and digests is checked."""
        product = the(
            await self._store.get_product(metadata.product), f"there is no product {metadata.product!r}"
        )
        if not metadata.signature:
            if product.require_signature:
                words = f"product {product.key!r} requires signed firmware (require_signature)"
                raise BadSignature(
                    f"{words}: send the signature file, as `signature` or with --signature FILE"
                )
            return None
        signed = parse_signed(metadata.signature.encode())
        keys = [PublicKey(key.raw) for key in good_keys(product)]
        check_signed(signed, keys, self._gateway.clock.validity_now_ms() / 1000)
        for field in ("product", "name", "version"):
            if getattr(signed.manifest, field) != getattr(metadata, field):
                said = getattr(signed.manifest, field)
                raise BadSignature(f"What was signed has {field} {said!r}, not the {field} of this upload.")
        return signed


def signature_of(signed: SignedManifest, size: int, md5: str, sha256: str) -> FirmwareSignature:
    """What is kept of a signature; BadSignature unless it was made for these bytes."""
    manifest = signed.manifest
    if (manifest.size, manifest.md5, manifest.sha256) != (size, md5, sha256):
        raise BadSignature("The bytes are not those that were signed: size, MD5 and SHA-256 must all fit.")
    return FirmwareSignature(signed.key, signed.signature, manifest.expires, manifest.not_before)


def _noting_key(product: str, id: str, name: str | None = None) -> Note:
    details = {"key": id} if name is None else {"key": id, "name": name}
    return noting(product, **details)


def _key(key: SigningKey) -> SigningKeyView:
    return SigningKeyView(
        id=key.id,
        name=key.name,
        public_key=PublicKey(key.raw).pem(),
        created_at=rfc3339(key.created_at_ms) or "",
        revoked_at=rfc3339(key.revoked_at_ms),
    )
