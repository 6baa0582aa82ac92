"""OpenSSL's error queue is the thread's: what the plane left in it, Python's ssl would take for its own."""

import re
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from otagate import plane

from .rig import TEXT, frame
from .test_tls_certificates import greet_as, refused, revoked
from .tls import Make, Secured, TlsRig, client_context


@pytest.fixture
def rig(make_tls: Make) -> TlsRig:
    return make_tls()


Check = Callable[[], None]


@pytest.fixture
def unharmed(rig: TlsRig, certs: Path) -> Check:
    """Asks a connection of Python's own in this thread, after its handshake: that clears the queue itself."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certs / "server.pem", certs / "server.key")
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = rig.context.wrap_bio(back, there, server_hostname="localhost")
    server = serving.wrap_bio(there, back, server_side=True)
    for end in (client, server, client):
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
    server.do_handshake()

    def check() -> None:
        with pytest.raises(ssl.SSLWantReadError):  # an error in the queue would be raised instead
            server.read(1)

    return check


def damaged(path: Path) -> bytes:
    return path.read_bytes().replace(b"MI", b"!!")


REFUSED: dict[str, Callable[[Path], dict[str, bytes | dict[str, tuple[bytes, bytes]]]]] = {
    "the certificate": lambda certs: {"certificate": damaged(certs / "server.pem")},
    "the key": lambda certs: {"key": damaged(certs / "server.key")},
    "the key that is another's": lambda certs: {"key": (certs / "ca.key").read_bytes()},
    "the authorities": lambda certs: {"authorities": damaged(certs / "ca.pem")},
    "the revocations": lambda certs: {"revocations": revoked(certs, "lamp/d1").replace(b"MI", b"!!")},
    "no DNS name": lambda certs: {
        "more": {"other": ((certs / "ca.pem").read_bytes(), (certs / "ca.key").read_bytes())}
    },
}


@pytest.mark.parametrize("named", REFUSED)
def test_after_what_cannot_be_used(rig: TlsRig, certs: Path, unharmed: Check, named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named.removesuffix(" that is another's"))):
        rig.use(**REFUSED[named](certs))
    unharmed()


def test_after_what_is_used(rig: TlsRig, certs: Path, unharmed: Check) -> None:
    given = {"client_certificates": "optional", "authorities": (certs / "ca.pem").read_bytes()}
    rig.use(**given)
    unharmed()
    greet_as(rig, client_context(certs, "lamp/d1"))
    rig.use(**given, revocations=revoked(certs, "lamp/d1"))
    unharmed()
    assert "revoked" in refused(rig, client_context(certs, "lamp/d1")).lower()
    unharmed()


def test_after_a_record_that_was_changed(rig: TlsRig, unharmed: Check) -> None:
    peer = rig.login("tcp")
    assert isinstance(peer.socket, Secured)
    peer.socket.send_changed(frame("tcp", TEXT, b"x" * 100))
    rig.wait_event(plane.CLOSED)
    unharmed()


def test_after_what_is_no_client_hello(rig: TlsRig, unharmed: Check) -> None:
    peer = rig.connect_tls()
    peer.socket.raw.send(b"\x16\x03\x01\x00\x04\x01\x00\x00\x00")  # type: ignore[attr-defined]
    rig.wait_count("ended_tls", 1)
    unharmed()
