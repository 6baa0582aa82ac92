"""`otagate firmware keygen | public-key | sign | verify` and the signature of `firmware add`."""

import io
import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from otagate.signing.keys import PrivateKey
from otagate.signing.manifest import parse_signed

from .conftest import Gateway, Outcome

Run = Callable[..., Outcome]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lamp.bin").write_bytes(b"firmware" * 1000)
    return tmp_path


def sign(otagate: Run, *more: str) -> Outcome:
    named = ("--product", "lamp", "--name", "灯-2", "--version", "2.0")
    return otagate("firmware", "sign", "lamp.bin", "--key", "key", *named, *more)


def test_a_firmware_is_signed_without_a_gateway(folder: Path, otagate: Run) -> None:
    made = json.loads(otagate("firmware", "keygen", "key", "--json").out)
    assert stat.S_IMODE((folder / "key").stat().st_mode) == 0o600
    assert otagate("firmware", "public-key", "key").out == (folder / "key.pub").read_text()
    assert json.loads(otagate("firmware", "public-key", "key", "--json").out)["key"] == made["key"]
    outcome = sign(otagate, "--not-before", "1.0", "--not-before", "1.1", "--expires", "2040-01-01")
    assert outcome.code == 0
    text = (folder / "lamp.bin.sig").read_text("utf-8")
    assert "\nexpires=2209075199\nnot_before=1.0 1.1\n" in text
    assert f"key={made['key']}" in text
    assert otagate("firmware", "verify", "lamp.bin", "--public-key", "key.pub").code == 0


def test_what_was_signed_is_what_verifies(folder: Path, otagate: Run) -> None:
    for name in ("key", "other"):
        assert otagate("firmware", "keygen", name).code == 0
    assert sign(otagate, "-o", "s").code == 0
    verify = ("firmware", "verify", "lamp.bin", "--signature", "s", "--public-key")
    assert otagate(*verify, "key.pub").code == 0
    outcome = otagate(*verify, "other.pub")
    assert (outcome.code, "none of those that are trusted" in outcome.err) == (1, True)
    (folder / "lamp.bin").write_bytes(b"forged")
    outcome = otagate(*verify, "key.pub")
    assert (outcome.code, "is not the firmware that was signed" in outcome.err) == (1, True)
    (folder / "lamp.bin").write_bytes(b"firmware" * 1000)
    manifest = msgspec.structs.replace(
        parse_signed((folder / "s").read_bytes()).manifest, expires=1_577_923_199
    )
    expired = PrivateKey.from_pem((folder / "key").read_bytes()).sign(manifest)
    (folder / "s").write_bytes(expired.encode())
    outcome = otagate(*verify, "key.pub")
    assert (outcome.code, "has expired" in outcome.err) == (1, True)


def test_a_key_is_never_written_over(folder: Path, otagate: Run) -> None:
    assert otagate("firmware", "keygen", "key").code == 0
    before = (folder / "key").read_bytes()
    outcome = otagate("firmware", "keygen", "key")
    assert (outcome.code, outcome.err) == (2, "otagate: cannot write key: File exists\n")
    assert (folder / "key").read_bytes() == before


@pytest.mark.parametrize("name", [".", "other", "missing/key"])
def test_no_half_of_a_pair_is_left(folder: Path, otagate: Run, name: str) -> None:
    (folder / "other.pub").write_text("of somebody else")
    outcome = otagate("firmware", "keygen", name)
    assert (outcome.code, outcome.err.startswith("otagate: cannot write ")) == (2, True)
    assert sorted(path.name for path in folder.iterdir()) == ["lamp.bin", "other.pub"]
    assert (folder / "other.pub").read_text() == "of somebody else"


def test_an_encrypted_key(folder: Path, otagate: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def typed(*lines: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))

    typed("open", "opne")
    assert otagate("firmware", "keygen", "key", "--passphrase").code == 2
    typed("open", "open")
    assert otagate("firmware", "keygen", "key", "--passphrase").code == 0
    assert b"ENCRYPTED" in (folder / "key").read_bytes()
    typed("open")
    assert sign(otagate).code == 0
    typed("closed")
    outcome = sign(otagate)
    assert (outcome.code, "passphrase is wrong" in outcome.err) == (2, True)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--name", "x-"), "A firmware name is"),
        (("--version", "2 0"), "A firmware version is"),
        (("--product", "l a"), "A product key is"),
        (("--not-before", "1 0"), "not_before holds what is no version"),
        (("--expires", "soon"), "'soon' is not a date"),
        (("--expires", "2020-01-01"), "it expires in the past"),
        (("--expires-days", "0"), "it expires in the past"),
        (("--expires-days", "99999999"), "expires is not as a manifest has it"),
        (("--key", "key.pub"), "no Ed25519 private key"),
        (("--key", "missing"), "cannot read missing"),
    ],
)
def test_what_cannot_be_signed(folder: Path, otagate: Run, more: tuple[str, ...], words: str) -> None:
    otagate("firmware", "keygen", "key")
    outcome = sign(otagate, *more)
    assert (outcome.code, words in outcome.err) == (2, True), outcome.err
    assert not (folder / "lamp.bin.sig").exists()


def test_an_upload_takes_its_names_from_the_signature(folder: Path, otagate: Run, gateway: Gateway) -> None:
    otagate("firmware", "keygen", "key")
    sign(otagate)
    gateway.answers["POST /api/v1/firmware"] = {"id": "f1"}
    add = ("firmware", "add", "lamp.bin", "--signature", "lamp.bin.sig")
    assert otagate(*add).code == 0
    query = gateway.requests[0].query
    assert query["signature"] == (folder / "lamp.bin.sig").read_text("utf-8")
    assert (query["product"], query["name"], query["version"]) == ("lamp", "灯-2", "2.0")
    assert otagate(*add, "--version", "3.0").code == 0
    assert gateway.requests[1].query["version"] == "3.0"  # the gateway says what does not fit


def test_an_upload_needs_its_names_or_a_signature(folder: Path, otagate: Run, gateway: Gateway) -> None:
    outcome = otagate("firmware", "add", "lamp.bin", "--product", "lamp")
    assert (outcome.code, "missing --name, --version" in outcome.err) == (2, True)
    (folder / "bad").write_text("no signature\n")
    outcome = otagate("firmware", "add", "lamp.bin", "--signature", "bad")
    assert (outcome.code, outcome.err[:13]) == (2, "otagate: bad:")
    assert not gateway.requests


def test_a_key_of_a_product_is_one_file(folder: Path, otagate: Run, gateway: Gateway) -> None:
    otagate("firmware", "keygen", "key")
    pem = (folder / "key.pub").read_text()
    gateway.answers["POST /api/v1/products/lamp/signing-keys"] = {"id": "0123", "public_key": pem}
    add = ("product", "add-key", "lamp", "key.pub")
    assert [line.split(maxsplit=1)[-1] for line in otagate(*add).out.splitlines()][1].startswith("-----BEGIN")
    assert json.loads(gateway.requests[0].body) == {"public_key": pem, "name": ""}
    assert json.loads(otagate(*add, "--json").out)["public_key"] == pem
    outcome = otagate("product", "add-key", "lamp", "key")
    assert (outcome.code, "This is a private key" in outcome.err) == (2, True)
    assert len(gateway.requests) == 2, "it never left"
