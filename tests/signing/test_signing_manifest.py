"""The canonical manifest: one spelling, and nothing else is taken."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from otagate import limits
from otagate.signing.keys import PrivateKey, PublicKey, check_signed
from otagate.signing.manifest import BadSignature, Manifest, parse, parse_signed, signature_bytes

VECTOR: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "vectors" / "signing.json").read_text("utf-8")
)
KEY = PrivateKey.from_pem(VECTOR["private_key"].encode())
MANIFEST = Manifest(**VECTOR["fields"] | {"not_before": tuple(VECTOR["fields"]["not_before"])})
VERSIONS = st.text("019aZ_.-", min_size=1, max_size=8)


def manifests() -> st.SearchStrategy[Manifest]:
    digits = "0123456789abcdef"
    return st.builds(
        Manifest,
        product=st.text("aZ09_-", min_size=1, max_size=64),
        name=st.text("灯a9().（）𠀀-_", min_size=1, max_size=20),
        version=VERSIONS,
        size=st.integers(1, limits.image_bytes_max),
        sha256=st.text(digits, min_size=64, max_size=64),
        md5=st.text(digits, min_size=32, max_size=32),
        expires=st.integers(1, 10**11 - 1),
        not_before=st.lists(VERSIONS, max_size=6, unique=True).map(tuple),
    )


def test_the_vector() -> None:
    assert MANIFEST.encode().decode() == VECTOR["manifest"]
    assert parse(VECTOR["manifest"].encode()) == MANIFEST
    signed = KEY.sign(MANIFEST)
    assert (signed.key, signed.signature) == (VECTOR["key"], VECTOR["signature"])
    assert signed.encode().decode() == VECTOR["file"]
    assert parse_signed(VECTOR["file"].encode()) == signed
    assert PublicKey.from_pem(VECTOR["public_key"].encode()).id == VECTOR["key"]


def test_the_page_shows_the_vector() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "signing.md").read_text("utf-8")
    for name in ("private_key", "public_key", "file"):
        assert VECTOR[name] in page


@given(manifests())
def test_what_is_written_is_read(manifest: Manifest) -> None:
    assert parse(manifest.encode()) == manifest
    signed = KEY.sign(manifest)
    assert parse_signed(signed.encode()) == signed


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_bytes_are_a_manifest_or_refused(data: bytes) -> None:
    with suppress(BadSignature):
        assert parse(data).encode() == data


@given(st.data())
def test_a_flipped_bit_is_refused(data: st.DataObject) -> None:
    """Anywhere in the file: the manifest, the id of the key, the signature."""
    signed = KEY.sign(data.draw(manifests()))
    whole = bytearray(signed.encode())
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(BadSignature):
        check_signed(parse_signed(bytes(whole)), [KEY.public], 0)


def test_every_flipped_bit_of_the_vector_is_refused() -> None:
    whole = VECTOR["file"].encode()
    for place in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            with pytest.raises(BadSignature):
                check_signed(parse_signed(bytes(flipped)), [KEY.public], 0)


@pytest.mark.parametrize(
    "changed",
    [
        {"product": "la mp"},
        {"product": "lamp\n"},
        {"name": ""},
        {"name": "a\nversion=9"},
        {"name": "e\u0301"},
        {"name": "x" * 51},
        {"version": ""},
        {"version": "1 0"},
        {"size": 0},
        {"size": -1},
        {"sha256": "A" * 64},
        {"sha256": "0" * 63},
        {"md5": "0" * 33},
        {"expires": 0},
        {"expires": 10**11},
        {"not_before": ("1.0", "1.0")},
        {"not_before": ("1.0 1.1",)},
        {"not_before": ("",)},
        {"not_before": ("1,0",)},
        {"not_before": tuple(f"{number:08}" for number in range(99))},
    ],
)
def test_no_manifest_holds_such_a_value(changed: dict[str, Any]) -> None:
    with pytest.raises(BadSignature):
        replace(MANIFEST, **changed).encode()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("otagate-manifest=1", "otagate-manifest=2"),
        ("size=300000", "size=0300000"),
        ("size=300000", "size=300_000"),
        ("size=300000", "size=٣00000"),
        ("product=lamp", "product = lamp"),
        ("product=lamp\nname=lamp-2.0", "name=lamp-2.0\nproduct=lamp"),
        ("not_before=1.0 1.1", "not_before=1.0  1.1"),
        ("not_before=1.0 1.1", "not_before=1.0 1.1 "),
        ("not_before=1.0 1.1", "not_before=1.0 1.0"),
        ("not_before=1.0 1.1\n", "not_before=1.0 1.1"),
        ("not_before=1.0 1.1\n", "not_before=1.0 1.1\r\n"),
        ("not_before=1.0 1.1\n", "not_before=1.0 1.1\nmore=1\n"),
        ("name=lamp-2.0", "name=e\u0301"),
    ],
)
def test_there_is_one_spelling(old: str, new: str) -> None:
    text: str = VECTOR["manifest"]
    assert old in text
    with pytest.raises(BadSignature):
        parse(text.replace(old, new).encode())


def test_a_signature_has_one_spelling() -> None:
    text: str = VECTOR["signature"]
    assert len(signature_bytes(text)) == 64
    spare = chr(ord(text[-3]) + 1)  # the same 64 bytes to a lax decoder
    for bad in ("", text[:-2], text + "=", text[:-3] + spare + "==", " " + text, text.replace("/", "_"), "é"):
        with pytest.raises(BadSignature):
            signature_bytes(bad)


@pytest.mark.parametrize("bad", [b"", b"\n" * 12, b"\xff", b"x" * 2000])
def test_what_is_no_signature_file(bad: bytes) -> None:
    with pytest.raises(BadSignature):
        parse_signed(bad)


def test_rollback_is_what_the_signer_says() -> None:
    assert not MANIFEST.is_rollback_on("1.0")
    assert MANIFEST.is_rollback_on("3.0")
    assert MANIFEST.is_rollback_on(None)
    assert not replace(MANIFEST, not_before=()).is_rollback_on("3.0")
    assert asdict(MANIFEST)["not_before"] == ("1.0", "1.1")
