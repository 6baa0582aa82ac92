"""Ed25519 keys (RFC 8032): made, read strictly, and used on manifests.

A private key is a PKCS#8 PEM file, a public one a SubjectPublicKeyInfo PEM (RFC 8410): what
`openssl genpkey -algorithm ed25519` and `openssl pkey -pubout` write. Its id is the first 16 hex digits of
the SHA-256 of its 32 bytes; an id only finds the key, it proves nothing.

Strict, because keys come from outside: a public key must be a point of the curve in its only encoding, and
not one of the few of small order, for which a signature can be made without any private key. Checking and
signing are those of `cryptography` (OpenSSL), which take constant time where a secret is involved; that a
signature's scalar is reduced is checked there. The package is imported where it is used: a gateway without
signed firmware does without its 12 MB.
"""

import base64
import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from otagate.signing.manifest import BadSignature, Manifest, SignedManifest, signature_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PUBLIC_KEY_BYTES: Final = 32
PEM_BYTES_MAX: Final = 4096

_FIELD: Final = 2**255 - 19
_CURVE: Final = -121665 * pow(121666, -1, _FIELD) % _FIELD  # d of RFC 8032 section 5.1


class PublicKey:
    """A key that checks. `raw`: its 32 bytes, as RFC 8032 section 5.1.5 encodes them."""

    __slots__ = ("id", "raw")

    def __init__(self, raw: bytes) -> None:
        if len(raw) != PUBLIC_KEY_BYTES or not _is_sound(raw):
            raise BadSignature("This is no sound Ed25519 public key.")
        self.raw = raw
        self.id = hashlib.sha256(raw).hexdigest()[:16]

    @classmethod
    def from_pem(cls, pem: bytes) -> "PublicKey":
        """The key of a PEM file; BadSignature for anything else, a private key too."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        if b"PRIVATE KEY" in pem:
            raise BadSignature("This is a private key, which no one else should have: give its public key.")
        try:
            key = load_pem_public_key(pem[: PEM_BYTES_MAX + 1])
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if len(pem) > PEM_BYTES_MAX or not isinstance(key, Ed25519PublicKey):
            raise BadSignature("A public key is an Ed25519 key in PEM (BEGIN PUBLIC KEY).")
        return cls(key.public_bytes_raw())

    def pem(self) -> str:
        """The key as a PEM file."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        key = Ed25519PublicKey.from_public_bytes(self.raw)
        return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def check(self, signed: SignedManifest) -> None:
        """BadSignature unless this key has signed this manifest."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        data, signature = signed.manifest.encode(), signature_bytes(signed.signature)
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, data)
        except InvalidSignature:
            raise BadSignature(f"The signature is not one of key {self.id} over this manifest.") from None


def _is_sound(raw: bytes) -> bool:
    """Whether 32 bytes are a point of the curve, canonically encoded, whose order is not small."""
    y = int.from_bytes(raw, "little") & (2**255 - 1)
    if y >= _FIELD:
        return False
    squared = y * y % _FIELD
    over, under = squared - 1, _CURVE * squared + 1  # x² = over / under
    on_curve = pow(over * under, (_FIELD - 1) // 2, _FIELD) in (0, 1)
    # of order 1, 2 and 4: y is 1, -1, 0; of order 8: doubled, y is 0
    is_small = y in (0, 1, _FIELD - 1) or (_CURVE * squared * squared + 2 * squared - 1) % _FIELD == 0
    return on_curve and not is_small


class PrivateKey:
    """A key that signs."""

    __slots__ = ("_key", "public")

    def __init__(self, key: "Ed25519PrivateKey") -> None:
        self._key = key
        self.public = PublicKey(key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> "PrivateKey":
        """A new one, of the system's randomness."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, pem: bytes, passphrase: bytes | None = None) -> "PrivateKey":
        """The key of a PKCS#8 PEM file; BadSignature for anything else, or for a wrong passphrase."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(pem[: PEM_BYTES_MAX + 1], passphrase)
        except TypeError:  # as the package says it
            words = "is encrypted: give its passphrase" if passphrase is None else "has no passphrase"
            raise BadSignature(f"The private key {words}.") from None
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if len(pem) > PEM_BYTES_MAX or not isinstance(key, Ed25519PrivateKey):
            raise BadSignature("This is no Ed25519 private key in PEM (PKCS#8), or its passphrase is wrong.")
        return cls(key)

    def pem(self, passphrase: bytes | None = None) -> bytes:
        """The key as a PKCS#8 PEM file, encrypted when there is a passphrase."""
        from cryptography.hazmat.primitives import serialization

        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase:
            encryption = serialization.BestAvailableEncryption(passphrase)
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )

    def sign(self, manifest: Manifest) -> SignedManifest:
        """The manifest with its signature."""
        signature = base64.b64encode(self._key.sign(manifest.encode())).decode()
        return SignedManifest(manifest, self.public.id, signature)


def check_signed(signed: SignedManifest, keys: Iterable[PublicKey], now_s: float) -> None:
    """BadSignature unless one of these keys has signed it and it has not expired.

    The signature comes first: what nobody signed says nothing, not even when it expires.
    """
    by_id = {key.id: key for key in keys}
    key = by_id.get(signed.key)
    if key is None:
        raise BadSignature(f"The signature is of key {signed.key}, which is none of those that are trusted.")
    key.check(signed)
    if now_s >= signed.manifest.expires:
        raise BadSignature("The signed manifest has expired.")
