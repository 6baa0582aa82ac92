"""TLS: its files, what a client certificate proves, the keys of session tickets; and operators' TLS.

For devices the plane shakes hands and verifies; here is what it needs for that, and what its verdict means
for a login. Files are read at the start and at SIGHUP. At the start what cannot be used is a
ConfigurationError, at SIGHUP a line in the log, and all stays as it was.

A certificate proves a device if its name is what the template makes of product and identifier of the hello,
so nothing is ever taken apart, and if an authority of the product stands in its chain.

Ticket keys live in the data folder, so that a fleet resumes after a restart of the gateway. Whoever has them
can read what was resumed with them under TLS 1.2: they are drawn anew twice a day, and two of the past are
kept.
"""

import contextlib
import hashlib
import os
import re
import ssl
import time
from pathlib import Path

import trio

from otagate import limits, logs, plane
from otagate.config import Configuration
from otagate.errors import ConfigurationError

log = logs.get("tls")

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; those of TLS 1.3 are all good
TICKET_KEYS_FILE = "ticket-keys"
TICKET_KEY_BYTES = 80
TICKET_KEYS = 3
CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)

SECURITY = {"off": plane.TLS_OFF, "optional": plane.TLS_OPTIONAL, "required": plane.TLS_REQUIRED}


class Certificates:
    """What a client certificate must say to name a device. Made without files, none names any."""

    def __init__(
        self,
        template: str = "{product}/{device}",
        authorities: frozenset[str] = frozenset(),
        of_products: dict[str, frozenset[str]] | None = None,
    ) -> None:
        self._template = template
        self._authorities = authorities
        self._of_products = of_products or {}

    def name(self, certificate: bytes, product: str, device: str) -> bool:
        """Does the plane's description of a certificate (HELLO) name this device of this product?"""
        name, *chain = certificate.decode().split("\n")
        expected = self._template.replace("{product}", product).replace("{device}", device)
        trusted = self._of_products.get(product, self._authorities)
        return name == expected and not trusted.isdisjoint(chain)


def security_of(configuration: Configuration) -> int:
    """The plane's number for `device.tls`."""
    return SECURITY[configuration.device.tls]


def secure(configuration: Configuration, device_plane: "plane.Plane") -> Certificates:
    """Read the files and have new connections use them. Raises ConfigurationError; then all is as before."""
    tls = configuration.tls
    if configuration.device.tls == "off":
        return Certificates()
    common = _read("tls.client_ca", tls.client_ca)
    of_products = {product: _read("tls.product_ca", path) for product, path in tls.product_ca.files.items()}
    certificates = Certificates(
        tls.certificate_template,
        _digests("tls.client_ca", common),
        {product: _digests("tls.product_ca", pem) for product, pem in of_products.items()},
    )
    more = {
        f"{certificate} (tls.more_certificates)": (
            _read("tls.more_certificates", certificate),
            _read("tls.more_certificates", key),
        )
        for certificate, key in tls.more_certificates.files
    }
    try:
        device_plane.tls(
            _read("tls.certificate", tls.certificate),
            _read("tls.key", tls.key),
            more=more,
            authorities=b"\n".join([common, *of_products.values()]).strip(),
            revocations=_read("tls.client_crl", tls.client_crl),
            client_certificates=tls.client_certificates,
            certificate_name=tls.certificate_name,
        )
    except ValueError as error:
        raise ConfigurationError(f"tls: {error}") from error
    return certificates


def check(configuration: Configuration) -> None:
    """Would these files be taken at a start or a SIGHUP? Raises ConfigurationError."""
    operators_context(configuration)
    trial = plane.Plane(connections_max=1, transfers_max=1, heartbeat_timeout_ms=0)
    with contextlib.closing(trial):
        secure(configuration, trial)


def operators_context(configuration: Configuration) -> ssl.SSLContext | None:
    """For new connections of operators; None: they speak clear text. Raises ConfigurationError."""
    admin, common = configuration.admin, configuration.tls
    if not admin.tls:
        return None
    section, given = ("admin", admin) if admin.certificate else ("tls", common)
    _read(f"{section}.certificate", given.certificate)  # it tells better than OpenSSL what cannot be read
    _read(f"{section}.key", given.key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(given.certificate, given.key, password=str)  # none, instead of asking for it
    except ssl.SSLError as error:
        words = f"{section}.certificate and {section}.key cannot be used: {error.reason or error}"
        raise ConfigurationError(words) from error
    return context


def _read(key: str, path: str) -> bytes:
    if not path:
        return b""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read {key} = {path}: {error.strerror}") from error


def _digests(key: str, pem: bytes) -> frozenset[str]:
    """SHA-256 of each certificate, in hex."""
    try:
        ders = [ssl.PEM_cert_to_DER_cert(found.decode()) for found in CERTIFICATE.findall(pem)]
    except ValueError as error:
        raise ConfigurationError(f"{key} is not PEM") from error
    return frozenset(hashlib.sha256(der).hexdigest() for der in ders)


# -- ticket keys -------------------------------------------------------------------------------------


async def keep_tickets_fresh(device_plane: "plane.Plane", path: Path) -> None:
    """Give the plane the keys of `path`, and change them from time to time. Never returns."""
    while True:
        keys, age_s = _load(path)
        if age_s >= limits.tls_ticket_key_s:
            keys, age_s = _renew(path, keys), 0.0
        device_plane.ticket_keys(keys)
        await trio.sleep(limits.tls_ticket_key_s - age_s)


def _load(path: Path) -> tuple[bytes, float]:
    """The keys, and the age of the first one in seconds: infinite without any."""
    try:
        with path.open("rb") as file:
            keys = file.read(TICKET_KEYS * TICKET_KEY_BYTES + 1)
            status = os.fstat(file.fileno())
    except OSError:
        return b"", float("inf")
    if not keys or len(keys) % TICKET_KEY_BYTES or len(keys) > TICKET_KEYS * TICKET_KEY_BYTES:
        return b"", float("inf")
    if status.st_mode & 0o077:
        log.warning("ticket_keys_were_readable", file=str(path))
        return b"", float("inf")
    return keys, max(time.time() - status.st_mtime, 0.0)


def _renew(path: Path, keys: bytes) -> bytes:
    """A new first key, written before it is used; a folder that cannot be written costs resumption only."""
    keys = (os.urandom(TICKET_KEY_BYTES) + keys)[: TICKET_KEYS * TICKET_KEY_BYTES]
    draft = path.with_suffix(".new")
    try:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(keys)
        draft.replace(path)
    except OSError as error:
        log.warning("ticket_keys_not_kept", file=str(path), error=error.strerror)
    return keys
