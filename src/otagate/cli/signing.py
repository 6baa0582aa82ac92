"""`otagate firmware keygen | public-key | sign | verify`: signed firmware, without a gateway.

They are for the machine where releases are made: the private key never comes near the gateway.
"""

import argparse
import getpass
import hashlib
import os
import sys
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from otagate.cli.exits import CommandError, Exit
from otagate.cli.grammar import Actions, quantity, whole_number
from otagate.errors import Invalid

if TYPE_CHECKING:
    from otagate.signing.keys import PrivateKey, PublicKey

EXPIRES_DAYS = 365

T = TypeVar("T")


def register(actions: Actions) -> None:
    """Arguments of the offline verbs of `firmware`."""
    generate = actions.add_offline("keygen", "make a key pair for signing: FILE and FILE.pub", _generate)
    generate.add_argument("file", type=Path)
    generate.add_argument("--passphrase", action="store_true", help="encrypt it; asks for the passphrase")
    public = actions.add_offline("public-key", "print the public key of a private one", _public_key)
    public.add_argument("key", type=Path, metavar="KEY")

    sign = actions.add_offline("sign", "sign a firmware with a private key: writes FILE.sig", _sign)
    sign.add_argument("file", type=Path)
    sign.add_argument("--key", type=Path, required=True, metavar="FILE", help="private key, PKCS#8 in PEM")
    for name in ("product", "name", "version"):
        sign.add_argument(f"--{name}", required=True)
    until = sign.add_mutually_exclusive_group()
    until.add_argument(
        "--expires-days", type=whole_number, default=EXPIRES_DAYS, metavar="N", help="(%(default)s)"
    )
    until.add_argument(
        "--expires",
        type=quantity("a date or a time with its zone", _moment),
        metavar="DATE",
        help="2027-12-31 or 2027-12-31T12:00:00Z",
    )
    sign.add_argument(
        "--not-before",
        action="append",
        default=[],
        metavar="VERSION",
        help="a version that this one may replace (repeat it); on any other it is a rollback (all)",
    )
    sign.add_argument("--output", "-o", type=Path, metavar="FILE", help="(FILE.sig)")

    verify = actions.add_offline("verify", "check a firmware against its signature", _verify)
    verify.add_argument("file", type=Path)
    verify.add_argument("--signature", type=Path, metavar="FILE", help="(FILE.sig)")
    verify.add_argument("--public-key", type=Path, action="append", required=True, metavar="FILE")


def add_signature(query: dict[str, str | None], path: Path) -> None:
    """Add a signature file to the query of an upload; what it signed stands in for what is not given."""
    from otagate.signing.manifest import parse_signed

    data = _read(path)
    manifest = _trying(path, lambda: parse_signed(data)).manifest
    query["signature"] = data.decode()
    for name in ("product", "name", "version"):
        if query[name] is None:
            query[name] = getattr(manifest, name)


def _generate(arguments: argparse.Namespace) -> int:
    """Neither file is ever written over: a lost key cannot be made again."""
    from otagate.cli import output
    from otagate.signing.keys import PrivateKey

    passphrase = _ask("Passphrase: ") if arguments.passphrase else None
    if passphrase is not None and passphrase != _ask("Again: "):
        raise CommandError("the passphrases differ", Exit.USAGE)
    key = PrivateKey.generate()
    public_path = _beside(arguments.file, ".pub")
    _write_new(arguments.file, key.pem(passphrase), 0o600)
    try:
        _write_new(public_path, key.public.pem().encode(), 0o644)
    except CommandError:
        arguments.file.unlink()  # half a pair, which nobody has used: it would be in the way of the next one
        raise
    found = {"key": key.public.id, "private": str(arguments.file), "public": str(public_path)}
    output.write_record(found, as_json=arguments.json)
    return Exit.OK


def _public_key(arguments: argparse.Namespace) -> int:
    from otagate.cli import output

    public = _private_key(arguments.key).public
    if arguments.json:
        output.write_json({"key": public.id, "public_key": public.pem()})
    else:
        sys.stdout.write(public.pem())
    return Exit.OK


def _sign(arguments: argparse.Namespace) -> int:
    """Names and versions are checked here as the gateway will, so that no signature is made in vain."""
    from otagate.cli import output
    from otagate.signing.manifest import Manifest
    from otagate.upgrade import validation

    now_s = int(datetime.now(UTC).timestamp())
    expires = arguments.expires
    if expires is None:
        expires = now_s + arguments.expires_days * 86_400
    if expires <= now_s:
        raise CommandError("nobody would take the signature: it expires in the past", Exit.USAGE)
    key = _private_key(arguments.key)
    size, sha256, md5 = _digests(arguments.file)

    def manifest() -> Manifest:
        return Manifest(
            product=validation.check_product_key(arguments.product, "product"),
            name=validation.check_firmware_name(unicodedata.normalize("NFC", arguments.name)),
            version=validation.check_firmware_version(arguments.version),
            size=validation.check_size(size),
            sha256=sha256,
            md5=md5,
            expires=expires,
            not_before=tuple(arguments.not_before),
        )

    signed = _trying(arguments.file, lambda: key.sign(manifest()))
    target = arguments.output or _beside(arguments.file, ".sig")
    try:
        target.write_bytes(signed.encode())
    except OSError as error:
        raise CommandError(f"cannot write {target}: {error.strerror}") from error
    found = {
        "signature": str(target),
        "key": signed.key,
        "expires": datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    output.write_record(found, as_json=arguments.json)
    return Exit.OK


def _verify(arguments: argparse.Namespace) -> int:
    from otagate.cli import output
    from otagate.signing.keys import check_signed
    from otagate.signing.manifest import parse_signed

    path = arguments.signature or _beside(arguments.file, ".sig")
    data = _read(path)
    keys = [read_public_key(file) for file in arguments.public_key]
    signed = _trying(path, lambda: parse_signed(data))
    _trying(path, lambda: check_signed(signed, keys, datetime.now(UTC).timestamp()), Exit.FAILED)
    manifest = signed.manifest
    if _digests(arguments.file) != (manifest.size, manifest.sha256, manifest.md5):
        raise CommandError(f"{arguments.file} is not the firmware that was signed")
    found = {"product": manifest.product, "name": manifest.name, "version": manifest.version}
    output.write_record(found | {"key": signed.key}, as_json=arguments.json)
    return Exit.OK


# -- files, and what is wrong with them --------------------------------------------------------------


def _trying(path: Path, action: Callable[[], T], code: Exit = Exit.USAGE) -> T:
    """The outcome; a refusal becomes one line that names the file."""
    try:
        return action()
    except Invalid as error:
        raise CommandError(f"{path}: {error.message}", code) from error


def _private_key(path: Path) -> "PrivateKey":
    from otagate.signing.keys import PrivateKey

    pem = _read(path)
    passphrase = _ask(f"Passphrase of {path}: ") if b"ENCRYPTED" in pem else None
    return _trying(path, lambda: PrivateKey.from_pem(pem, passphrase))


def read_public_key(path: Path) -> "PublicKey":
    """The public key of a PEM file."""
    from otagate.signing.keys import PublicKey

    pem = _read(path)
    return _trying(path, lambda: PublicKey.from_pem(pem))


def _ask(prompt: str) -> bytes:
    """A passphrase, from the terminal; from stdin where there is none."""
    if sys.stdin.isatty():
        return getpass.getpass(prompt).encode()
    return sys.stdin.readline().rstrip("\n").encode()


def _digests(path: Path) -> tuple[int, str, str]:
    """Size, SHA-256 and MD5 of a file."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    size = 0
    try:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                size += len(piece)
                sha256.update(piece)
                md5.update(piece)
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}", Exit.USAGE) from error
    return size, sha256.hexdigest(), md5.hexdigest()


def _read(path: Path) -> bytes:
    """A small file: a key or a signature."""
    try:
        with path.open("rb") as file:
            return file.read(64 * 1024)
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}", Exit.USAGE) from error


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(descriptor, "wb") as file:
            file.write(data)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}", Exit.USAGE) from error


def _beside(path: Path, suffix: str) -> Path:
    return Path(f"{path}{suffix}")


def _moment(text: str) -> int:
    """Unix seconds of a date (its end, UTC) or a time (RFC 3339)."""
    if len(text) == len("2027-12-31"):
        text += "T23:59:59Z"
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(text)
    return int(moment.timestamp())
