"""Keys: read strictly, and a signature that fits one key, one manifest, and a time."""

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from msgspec.structs import replace

from otagate.signing.keys import PrivateKey, PublicKey, check_signed
from otagate.signing.manifest import BadSignature, Manifest, signature_bytes

MANIFEST = Manifest("lamp", "lamp-2.0", "2.0", 5, "0" * 64, "1" * 32, 1000)
FIELD = 2**255 - 19
# Of small order, or with a y that is not reduced (as libsodium's list of them).
UNSOUND = [
    0,
    1,
    FIELD - 1,
    FIELD,
    FIELD + 1,
    0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
    0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
]


@pytest.mark.parametrize("sign", [0, 1])
@pytest.mark.parametrize("y", UNSOUND)
def test_a_key_of_small_order_is_none(y: int, sign: int) -> None:
    with pytest.raises(BadSignature, match="no sound"):
        PublicKey((y | sign << 255).to_bytes(32, "little"))


def test_a_key_beside_the_curve_is_none() -> None:
    refused = 0
    for y in range(2, 42):
        try:
            PublicKey(y.to_bytes(32, "little"))
        except BadSignature:
            refused += 1
    assert 10 < refused < 30  # about half of all y are on no point


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_has_32_bytes(length: int) -> None:
    with pytest.raises(BadSignature):
        PublicKey(bytes(length))


def test_pem_there_and_back() -> None:
    key = PrivateKey.generate()
    assert PublicKey.from_pem(key.public.pem().encode()).raw == key.public.raw
    assert PrivateKey.from_pem(key.pem()).public.raw == key.public.raw
    assert PrivateKey.from_pem(key.pem(b"open"), b"open").public.raw == key.public.raw


def test_what_is_no_private_key() -> None:
    key = PrivateKey.generate()
    other = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for pem, passphrase in (
        (b"", None),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", None),
        (key.public.pem().encode(), None),
        (other, None),
        (key.pem() + b"#" * 5000, None),
        (key.pem(b"open"), None),
        (key.pem(b"open"), b"closed"),
        (key.pem(), b"open"),
    ):
        with pytest.raises(BadSignature):
            PrivateKey.from_pem(pem, passphrase)


def test_what_is_no_public_key() -> None:
    key = PrivateKey.generate()
    other = (
        Ed448PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    for pem in (
        b"",
        b"\xff",
        other,
        key.public.pem().encode() + b"#" * 5000,
        key.public.pem()[:-40].encode(),
    ):
        with pytest.raises(BadSignature):
            PublicKey.from_pem(pem)
    with pytest.raises(BadSignature, match="no one else should have"):
        PublicKey.from_pem(key.pem())


def test_a_signature_fits_one_key_one_manifest_and_a_time() -> None:
    key, other = PrivateKey.generate(), PrivateKey.generate()
    signed = key.sign(MANIFEST)
    check_signed(signed, [other.public, key.public], 999)
    with pytest.raises(BadSignature, match="has expired"):
        check_signed(signed, [key.public], 1000)
    with pytest.raises(BadSignature, match="none of those that are trusted"):
        check_signed(signed, [other.public], 0)
    with pytest.raises(BadSignature, match="none of those that are trusted"):
        check_signed(signed, [], 0)
    with pytest.raises(BadSignature, match="not one of key"):
        check_signed(replace(signed, key=other.public.id), [other.public], 0)
    for changed in ({"product": "lump"}, {"version": "3.0"}, {"size": 6}, {"expires": 9999}):
        forged = replace(signed, manifest=replace(MANIFEST, **changed))
        with pytest.raises(BadSignature, match="not one of key"):
            check_signed(forged, [key.public], 0)


def test_a_scalar_that_is_not_reduced_is_refused() -> None:
    """The same signature in another guise (RFC 8032 section 8.4)."""
    import base64

    key = PrivateKey.generate()
    signed = key.sign(MANIFEST)
    raw = signature_bytes(signed.signature)
    scalar = int.from_bytes(raw[32:], "little") + 2**252 + 27742317777372353535851937790883648493
    forged = base64.b64encode(raw[:32] + scalar.to_bytes(32, "little")).decode()
    with pytest.raises(BadSignature, match="not one of key"):
        key.public.check(replace(signed, signature=forged))


def test_openssl_agrees(tmp_path: Path) -> None:
    """An independent witness makes the key, reads the public one, and checks the signature."""
    (private, public, manifest, signature) = (str(tmp_path / name) for name in "kpms")
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    key = PrivateKey.from_pem(Path(private).read_bytes())
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    assert Path(public).read_text() == key.public.pem()
    Path(manifest).write_bytes(MANIFEST.encode())
    Path(signature).write_bytes(signature_bytes(key.sign(MANIFEST).signature))
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin"]
    command += ["-in", manifest, "-sigfile", signature]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
