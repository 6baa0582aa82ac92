"""The canonical manifest of a firmware, and the file that carries it with its signature.

Theory. What is signed must be the same bytes for everybody who builds them: the signer from the image, the
gateway from the upload, the device from the upgrade message. So a manifest is nine lines in a fixed order,
`name=value` and a line feed each, with exactly one spelling of every value; `parse` takes only what
`Manifest.encode` would write, byte for byte. A small device builds the lines with printf and needs no parser.

    otagate-manifest=1
    product=lamp
    name=lamp-2.0
    version=2.0
    size=300000
    sha256=<64 lower-case hex characters>
    md5=<32 of them>
    expires=1830297600
    not_before=1.0 1.1

The first line separates these signatures from any other use of the key. `expires` is in Unix seconds.
Versions are compared byte for byte and have no order of their own, so the signer gives it: `not_before` are
the versions that this firmware does not come before, those that it may replace. On any other one it is a
rollback. Empty, it says nothing. Lists, file form and a test vector: docs/signing.md.
"""

import base64
import binascii
import re
import unicodedata
from typing import Final

from msgspec import Struct

from otagate import limits
from otagate.errors import Invalid

FORMAT: Final = "1"
SIGNATURE_BYTES: Final = 64

_NAMES: Final = (
    *("otagate-manifest", "product", "name", "version", "size"),
    *("sha256", "md5", "expires", "not_before"),
)
_PRODUCT: Final = rf"[0-9A-Za-z_-]{{1,{limits.product_key_chars_max}}}"
_VERSION: Final = rf"[0-9A-Za-z_.-]{{1,{limits.firmware_version_chars_max}}}"
_VALUES: Final = tuple(
    re.compile(pattern)
    for pattern in (
        FORMAT,
        _PRODUCT,
        rf"[^\x00-\x20\x7f-\xa0]{{1,{limits.firmware_name_chars_max}}}",
        _VERSION,
        "[1-9][0-9]{0,8}",
        "[0-9a-f]{64}",
        "[0-9a-f]{32}",
        "[1-9][0-9]{0,10}",
        f"(?:{_VERSION}(?: {_VERSION})*)?",
    )
)
_KEY_ID: Final = re.compile("[0-9a-f]{16}")


class BadSignature(Invalid):
    """A manifest, a signature or a key that cannot be trusted; the message says why, in one sentence."""

    def __init__(self, message: str) -> None:
        super().__init__(message, field="signature")


class Manifest(Struct, frozen=True):
    """What a signature speaks of. `size` in bytes, digests in lower-case hex, `expires` in Unix seconds."""

    product: str
    name: str
    version: str
    size: int
    sha256: str
    md5: str
    expires: int
    not_before: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """The bytes that are signed. BadSignature when a value is none that a manifest can hold."""
        values = (
            FORMAT,
            self.product,
            self.name,
            self.version,
            str(self.size),
            self.sha256,
            self.md5,
            str(self.expires),
            " ".join(self.not_before),
        )
        for name, value, pattern in zip(_NAMES, values, _VALUES, strict=True):
            if not pattern.fullmatch(value):
                raise BadSignature(f"The manifest's {name} is not as a manifest has it.")
        if any(" " in version or not version for version in self.not_before):
            raise BadSignature("The manifest's not_before holds what is no version.")
        if len(set(self.not_before)) != len(self.not_before):
            raise BadSignature("The manifest's not_before names a version twice.")
        if unicodedata.normalize("NFC", self.name) != self.name:
            raise BadSignature("The manifest's name is not in Unicode's normal form NFC.")
        lines = "".join(f"{name}={value}\n" for name, value in zip(_NAMES, values, strict=True))
        encoded = lines.encode()
        if len(encoded) > limits.manifest_bytes_max:
            raise BadSignature(
                f"The manifest has {len(encoded)} bytes and may have {limits.manifest_bytes_max}: "
                "name fewer versions in not_before."
            )
        return encoded

    def is_rollback_on(self, version: str | None) -> bool:
        """Whether it would go back on a device that runs this version."""
        return bool(self.not_before) and version not in self.not_before


def parse(data: bytes) -> Manifest:
    """The manifest of these bytes; BadSignature unless it would write exactly them."""
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError:
        raise BadSignature("The manifest is not UTF-8.") from None
    if len(lines) != len(_NAMES) + 1 or lines.pop():
        raise BadSignature(f"The manifest does not have {len(_NAMES)} lines, each with a line feed.")
    values = []
    for name, line, pattern in zip(_NAMES, lines, _VALUES, strict=True):
        label, found, value = line.partition("=")
        if label != name or not found or not pattern.fullmatch(value):
            raise BadSignature(f"The manifest's line {name}= is not as a manifest has it.")
        values.append(value)
    _, product, label, version, size, sha256, md5, expires, not_before = values
    manifest = Manifest(
        product, label, version, int(size), sha256, md5, int(expires), tuple(not_before.split())
    )
    if manifest.encode() != data:
        raise BadSignature("The manifest is not in its canonical form.")
    return manifest


class SignedManifest(Struct, frozen=True):
    """A manifest, the id of the key that signed it, and the signature in base64 (RFC 4648, padded)."""

    manifest: Manifest
    key: str
    signature: str

    def encode(self) -> bytes:
        """The signature file: the manifest's lines, then `key=` and `signature=`."""
        return self.manifest.encode() + f"key={self.key}\nsignature={self.signature}\n".encode()


def parse_signed(data: bytes) -> SignedManifest:
    """The contents of a signature file; BadSignature. Nothing is checked against a key here."""
    if len(data) > limits.signature_file_bytes_max:
        raise BadSignature(f"A signature file has at most {limits.signature_file_bytes_max} bytes.")
    lines = data.split(b"\n")
    if len(lines) != len(_NAMES) + 3 or lines[-1]:
        raise BadSignature(f"A signature file has {len(_NAMES) + 2} lines, each with a line feed.")
    manifest = parse(b"\n".join(lines[: len(_NAMES)]) + b"\n")
    key_line, signature_line = lines[-3:-1]
    if not key_line.startswith(b"key=") or not signature_line.startswith(b"signature="):
        raise BadSignature("A signature file ends with its lines key= and signature=.")
    key = key_line.removeprefix(b"key=").decode("ascii", "replace")
    signature = signature_line.removeprefix(b"signature=").decode("ascii", "replace")
    if not _KEY_ID.fullmatch(key):
        raise BadSignature("The id of a key is 16 lower-case hex characters.")
    signature_bytes(signature)
    return SignedManifest(manifest, key, signature)


def signature_bytes(text: str) -> bytes:
    """A signature's 64 bytes; BadSignature unless the text is the one spelling of them."""
    try:
        signature = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        signature = b""
    # the last character but the padding has bits to spare: only one spelling is taken
    if len(signature) != SIGNATURE_BYTES or base64.b64encode(signature).decode() != text:
        raise BadSignature(f"A signature is {SIGNATURE_BYTES} bytes in base64.")
    return signature
