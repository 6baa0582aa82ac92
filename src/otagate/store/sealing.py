"""Secrets at rest: sealed under a key that is not in the store.

Theory. A login is an HMAC under the device's secret, so the secret cannot be kept as a hash; it is kept
sealed (AES-256-GCM, a random nonce of 96 bits each, which one key bears for 2³² seals). A seal is bound to
what it belongs to (`about_device`, `about_webhook`): moved to another device's record, it does not open.

The key stands in a file of its own (64 hexadecimal characters, 0600), made at the first start. The store
knows the key's id alone, so a start with another key is told at once and not by a fleet that cannot log in.

Invariant: a key file is made only for a store that has nothing sealed; a lost one is never made anew.
"""

import hmac
import os
import re
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from otagate import logs
from otagate.errors import StoreError

log = logs.get("store")

KEY_FILE = "secret-key"  # in the data folder, unless configured
KEY_BYTES = 32
KEY_ID_BYTES = 16
_NONCE_BYTES = 12
_LAYOUT = b"\x01"


class SealError(Exception):
    """What is sealed was changed, belongs to something else, or was sealed under another key."""


class Sealer:
    """Seals and opens under one key of KEY_BYTES."""

    def __init__(self, key: bytes) -> None:
        assert len(key) == KEY_BYTES
        self.key_id = hmac.digest(key, b"otagate key id", "sha256")[:KEY_ID_BYTES]
        self._cipher = AESGCM(key)

    def seal(self, secret: str, about: str) -> bytes:
        """The secret as it is stored: 29 bytes longer. `about`: what it belongs to."""
        nonce = os.urandom(_NONCE_BYTES)
        return _LAYOUT + nonce + self._cipher.encrypt(nonce, secret.encode(), about.encode())

    def open(self, sealed: bytes, about: str) -> str:
        """The secret. SealError."""
        if sealed[:1] != _LAYOUT:
            raise SealError
        try:
            nonce = sealed[1 : 1 + _NONCE_BYTES]
            return self._cipher.decrypt(nonce, sealed[1 + _NONCE_BYTES :], about.encode()).decode()
        except (InvalidTag, ValueError):  # ValueError: hardly anything is left of it
            raise SealError from None


def about_device(product: str, identifier: str) -> str:
    """What the secret of a device is bound to."""
    return f"device {product}/{identifier}"


def about_webhook(url: str) -> str:
    """What the secret of a webhook is bound to."""
    return f"webhook {url}"


def load_sealer(path: Path, key_id: bytes | None) -> Sealer:
    """The sealer of a store; `key_id` is what the store knows of its key, None before anything was sealed.

    StoreError: the file is missing, is no key, is another key, or cannot be read or made.
    """
    try:
        text = path.read_text("ascii")
    except FileNotFoundError:
        if key_id is not None:
            raise StoreError(
                f"the key file {path} is missing: the secrets in the store are sealed under the key "
                f"{key_id.hex()[:8]}. Put the file back from where you keep it, or name it (data.key_file)"
            ) from None
        return _make(path)
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"cannot read the key file {path}: {error}") from error
    if not re.fullmatch(r"[0-9a-f]{64}\n?", text):
        raise StoreError(f"{path} is no key file: one holds 64 characters of 0-9 and a-f")
    if path.stat().st_mode & 0o077:
        log.warning("key_file_open_to_others", path=str(path))
    sealer = Sealer(bytes.fromhex(text))
    if key_id is not None and sealer.key_id != key_id:
        raise StoreError(
            f"the key file {path} holds the key {sealer.key_id.hex()[:8]}, and the secrets in the store are "
            f"sealed under the key {key_id.hex()[:8]}: put that one there, or name it (data.key_file)"
        )
    return sealer


def _make(path: Path) -> Sealer:
    """A new key, durable before anything is sealed under it."""
    key = secrets.token_bytes(KEY_BYTES)
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(key.hex() + "\n")
            file.flush()
            os.fsync(descriptor)
        partial.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise StoreError(f"cannot make the key file {path}: {error.strerror}") from error
    sealer = Sealer(key)
    log.info("key_file_made", path=str(path), key=sealer.key_id.hex()[:8])
    return sealer


def sync_folder(path: Path) -> None:
    """What was made or renamed in this folder is on the disk. OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
