"""Client certificates: what they name, whose are good, and what ends with a revocation."""

import hashlib
import re
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from otagate import plane
from otagate.cli import certs as commands

from .rig import CLOSE, PREFACE, TEXT, Peer, frame
from .tls import Make, TlsRig, client_context, count

TODAY = datetime.now(UTC)
both_versions = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


@pytest.fixture
def rig(make_tls: Make) -> TlsRig:
    return make_tls()


# -- making them -------------------------------------------------------------------------------------


def key_and_certificate(stem: Path) -> tuple[Any, x509.Certificate]:
    """Of `otagate certs dev`."""
    key = serialization.load_pem_private_key(Path(f"{stem}.key").read_bytes(), None)
    return key, x509.load_pem_x509_certificate(Path(f"{stem}.pem").read_bytes())


def made(
    certs: Path,
    folder: Path,
    *,
    issuer: str = "ours",
    days: tuple[float, float] = (-1, 20),
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
    subject: list[x509.NameAttribute] | None = None,
    alternatives: list[x509.GeneralName] | None = None,
) -> ssl.SSLContext:
    """A client with a certificate of lamp/d9. `days` from now: from and until when it holds."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(subject or [x509.NameAttribute(NameOID.COMMON_NAME, "lamp/d9")])
    signing, signer = key_and_certificate(certs / ("devices/lamp/d0" if issuer == "device" else "ca"))
    issued_by = signer.subject
    if issuer in ("other", "namesake"):
        signing = ec.generate_private_key(ec.SECP256R1())
    if issuer == "other":
        issued_by = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "another authority")])
    if issuer == "itself":
        signing, issued_by = key, name
    building = (
        x509.CertificateBuilder(issued_by, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(TODAY + timedelta(days[0]))
        .not_valid_after(TODAY + timedelta(days[1]))
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    )
    if alternatives:
        building = building.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    chain = [building.sign(signing, hashes.SHA256()), *([signer] if issuer == "device" else [])]
    (folder / "client.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in chain)
    )
    context = client_context(certs)
    context.load_cert_chain(folder / "client.pem")
    return context


def revoked(folder: Path, *devices: str, days: float = 20) -> bytes:
    """A list of the folder's authority, PEM, that names the certificates of these. days: it holds for."""
    key, authority = key_and_certificate(folder / "ca")
    building = (
        x509.CertificateRevocationListBuilder(authority.subject)
        .last_update(TODAY - timedelta(2))
        .next_update(TODAY + timedelta(days))
    )
    for device in devices:
        _, certificate = key_and_certificate(folder / "devices" / device)
        building = building.add_revoked_certificate(
            x509.RevokedCertificateBuilder(certificate.serial_number, TODAY - timedelta(1)).build()
        )
    return building.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


# -- whom they name ----------------------------------------------------------------------------------


def authority_digest(certs: Path) -> bytes:
    der = ssl.PEM_cert_to_DER_cert((certs / "ca.pem").read_text())
    return hashlib.sha256(der).hexdigest().encode()


def greet_as(
    rig: TlsRig, context: ssl.SSLContext, session: Any = None, name: str | None = "localhost"
) -> Peer:
    peer = rig.secure(rig.connect_tls("tcp", context, session, name))
    peer.send_raw(PREFACE + frame("tcp", TEXT, b"hello"))
    event = rig.wait_event(plane.HELLO)
    peer.conn, peer.certificate = event[1], event[4]
    peer.next_frame()
    return peer


@both_versions
@pytest.mark.parametrize("asked", ["optional", "required"])
def test_a_certificate_names_its_device(
    rig: TlsRig, certs: Path, version: ssl.TLSVersion, asked: str
) -> None:
    rig.use(client_certificates=asked, authorities=(certs / "ca.pem").read_bytes())
    context = client_context(certs, "lamp/d0")
    context.minimum_version = context.maximum_version = version
    peer = greet_as(rig, context)
    assert peer.certificate == b"lamp/d0\n" + authority_digest(certs)
    # A session that is resumed remembers it, after each of its tickets anew.
    for resumed in (1, 2):
        session = peer.socket.ssl.session  # type: ignore[attr-defined]
        peer = greet_as(rig, context, session)
        assert peer.certificate == b"lamp/d0\n" + authority_digest(certs)
        assert count(rig, "tls_resumptions") == [resumed]
    rig.apply((plane.RETRY_HELLO, peer.conn))
    peer.send(TEXT, b"again")
    assert rig.wait_event(plane.HELLO)[4] == peer.certificate


def test_other_authorities_void_the_tickets(rig: TlsRig, certs: Path) -> None:
    """What a ticket says was verified under rules that may hold no more."""
    authority = (certs / "ca.pem").read_bytes()
    rig.use(client_certificates="optional", authorities=authority)
    context = client_context(certs, "lamp/d0")
    peer = greet_as(rig, context)
    rig.use(client_certificates="required", authorities=authority)
    greet_as(rig, context, peer.socket.ssl.session)  # type: ignore[attr-defined]
    assert count(rig, "tls_handshakes", "tls_resumptions") == [2, 0]


@both_versions
def test_no_ticket_outlives_its_certificate(
    rig: TlsRig, certs: Path, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """Each resumption brings a new ticket, and could go on for ever."""
    rig.use(client_certificates="required", authorities=(certs / "ca.pem").read_bytes())
    end = datetime.now(UTC) + timedelta(seconds=3)
    context = made(certs, tmp_path, days=(-1, (end - TODAY) / timedelta(1)))
    context.minimum_version = context.maximum_version = version
    first = greet_as(rig, context)
    again = greet_as(rig, context, first.socket.ssl.session)  # type: ignore[attr-defined]
    assert count(rig, "tls_resumptions") == [1]
    for peer in (first, again):
        rig.apply((plane.CLOSE, peer.conn, 0, b""))
        peer.close()
    rig.wait(lambda: datetime.now(UTC) > end)
    assert "expired" in refused(rig, context, again.socket.ssl.session)  # type: ignore[attr-defined]


def test_optional_means_optional(rig: TlsRig, certs: Path) -> None:
    rig.use(client_certificates="optional", authorities=(certs / "ca.pem").read_bytes())
    assert greet_as(rig, client_context(certs)).certificate == b""


# -- refusals and revocations ----------------------------------------------------------------------------


def refused(rig: TlsRig, context: ssl.SSLContext, session: Any = None, name: str | None = "localhost") -> str:
    """The alert that the client was told; the plane has closed by then."""
    peer = rig.connect_tls("tcp", context, session, name)
    told = ""

    def over() -> bool:
        nonlocal told
        try:
            if peer.socket.shake():  # type: ignore[attr-defined]
                peer.socket.recv(1)
        except BlockingIOError:
            pass
        except ssl.SSLError as error:
            told = str(error)
        return bool(told)

    rig.wait(over)
    peer.close()
    rig.wait_count("connections", 0)
    return told


def test_a_certificate_may_be_required(rig: TlsRig, certs: Path) -> None:
    rig.use(client_certificates="required", authorities=(certs / "ca.pem").read_bytes())
    assert "certificate required" in refused(rig, client_context(certs)).lower()
    assert count(rig, "ended_tls", "tls_handshakes") == [1, 0]


BAD = {
    "expired": ({"days": (-20, -1)}, "certificate expired"),
    "of tomorrow": ({"days": (1, 20)}, "bad certificate"),
    "of another authority": ({"issuer": "other"}, "unknown ca"),
    "of an authority of that name": ({"issuer": "namesake"}, "unknown ca|decrypt error|bad certificate"),
    "of itself": ({"issuer": "itself"}, "unknown ca"),
    "of a device": ({"issuer": "device"}, "unknown ca|unsupported certificate|bad certificate"),
    "of a server": ({"usage": ExtendedKeyUsageOID.SERVER_AUTH}, "unsupported certificate|bad certificate"),
}


@pytest.mark.parametrize(("change", "alert"), BAD.values(), ids=BAD)
def test_a_bad_certificate(
    rig: TlsRig, certs: Path, tmp_path: Path, change: dict[str, Any], alert: str
) -> None:
    rig.use(client_certificates="optional", authorities=(certs / "ca.pem").read_bytes())
    assert re.search(alert, refused(rig, made(certs, tmp_path, **change)).lower())
    assert count(rig, "ended_tls", "tls_handshakes") == [1, 0]


def test_the_good_one_of_these(rig: TlsRig, certs: Path, tmp_path: Path) -> None:
    rig.use(client_certificates="optional", authorities=(certs / "ca.pem").read_bytes())
    assert greet_as(rig, made(certs, tmp_path)).certificate.startswith(b"lamp/d9\n")


def test_a_list_that_its_authority_did_not_sign(rig: TlsRig, certs: Path, tmp_path: Path) -> None:
    """Nobody knows whether it was revoked."""
    assert list(commands.make(tmp_path))
    authorities = (certs / "ca.pem").read_bytes()
    rig.use(client_certificates="required", authorities=authorities, revocations=revoked(tmp_path))
    assert "decrypt error" in refused(rig, client_context(certs, "lamp/d0")).lower()


def test_a_list_that_has_expired(rig: TlsRig, certs: Path) -> None:
    """Nobody knows what a newer one would say."""
    authorities = (certs / "ca.pem").read_bytes()
    rig.use(client_certificates="required", authorities=authorities, revocations=revoked(certs, days=-1))
    assert "certificate expired" in refused(rig, client_context(certs, "lamp/d0")).lower()


def test_a_revoked_certificate_is_refused(rig: TlsRig, certs: Path) -> None:
    given = {"client_certificates": "required", "authorities": (certs / "ca.pem").read_bytes()}
    context = client_context(certs, "lamp/d1")
    rig.use(**given)
    before = greet_as(rig, context)
    rig.use(**given, revocations=revoked(certs, "lamp/d1"))
    assert greet_as(rig, client_context(certs, "lamp/d0")).certificate.startswith(b"lamp/d0\n")
    for peer in rig.peers[:]:
        rig.apply((plane.CLOSE, peer.conn, 0, b""))
        peer.close()
    for session in (None, before.socket.ssl.session):  # type: ignore[attr-defined]
        assert "revoked" in refused(rig, context, session).lower()


def test_a_revocation_ends_who_is_in(rig: TlsRig, certs: Path) -> None:
    """Whatever it is doing; and nobody else."""
    given = {"client_certificates": "optional", "authorities": (certs / "ca.pem").read_bytes()}
    rig.use(**given)
    revoked_one, other = client_context(certs, "lamp/d1"), client_context(certs, "lamp/d0")
    session = greet_as(rig, revoked_one)
    resumed = greet_as(rig, revoked_one, session.socket.ssl.session)  # type: ignore[attr-defined]
    waiting = greet_as(rig, revoked_one)
    silent = rig.secure(rig.connect_tls("tcp", revoked_one))
    rig.wait_count("tls_handshakes", 4)
    shaking = rig.connect_tls("tcp", other)  # judged by what was there when it began: it has to come again
    assert not shaking.socket.shake()  # type: ignore[attr-defined]
    rig.settle()
    others = [greet_as(rig, other), rig.greet("tcp")]
    admitted = [session, resumed, *others]
    for device, peer in enumerate(admitted, start=1):
        rig.apply((plane.ADMIT, peer.conn, device))
    rig.use(**given, revocations=revoked(certs, "lamp/d1"))
    for device, peer in ((1, session), (2, resumed)):
        assert rig.wait_event(plane.CLOSED) == (plane.CLOSED, peer.conn, device, 4001)
    for peer in (session, resumed, waiting):
        assert peer.wait_end() == [(CLOSE, b"\x0f\xa1certificate revoked")]
    for peer in (silent, shaking):
        with pytest.raises(AssertionError, match=r"the connection ended \(reset\)"):
            peer.next_frame()
    for peer in others:
        peer.send(TEXT, b"here")
        assert rig.wait_event(plane.MESSAGE)[1] == peer.conn
    rig.apply((plane.ADMIT, waiting.conn, 9))  # Python had not heard of it yet
    assert rig.wait_event(plane.CLOSED) == (plane.CLOSED, waiting.conn, 9, plane.LOST)
    for peer in (session, resumed, waiting, silent, shaking):
        peer.close()
    rig.wait_count("ended_revoked", 5)
    assert count(rig, "connections", "connections_tls") == [2, 2]
    assert rig.events == []


CN, OTHER_CN = (x509.NameAttribute(NameOID.COMMON_NAME, f"lamp/d{number}") for number in (7, 8))
URI, OTHER_URI = (x509.UniformResourceIdentifier(f"otagate:lamp/d{number}") for number in (7, 8))
DNS = x509.DNSName("d7.lamp")
NAMES = [
    ("cn", [CN], [], b"lamp/d7"),
    ("cn", [CN, OTHER_CN], [], b""),
    ("cn", [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "none")], [], b""),
    ("cn", [x509.NameAttribute(NameOID.COMMON_NAME, "lamp d7")], [], b""),
    ("uri", [CN], [URI, DNS], b"otagate:lamp/d7"),
    ("uri", [CN], [URI, OTHER_URI], b""),
    ("dns", [CN], [URI, DNS], b"d7.lamp"),
    ("dns", [x509.NameAttribute(NameOID.COMMON_NAME, "d7.lamp")], [], b""),
]


@pytest.mark.parametrize(("kind", "subject", "alternatives", "name"), NAMES)
def test_where_the_name_stands(
    rig: TlsRig,
    certs: Path,
    tmp_path: Path,
    kind: str,
    subject: list[x509.NameAttribute],
    alternatives: list[x509.GeneralName],
    name: bytes,
) -> None:
    authorities = (certs / "ca.pem").read_bytes()
    rig.use(client_certificates="required", authorities=authorities, certificate_name=kind)
    context = made(certs, tmp_path, subject=subject, alternatives=alternatives)
    assert greet_as(rig, context).certificate == name + b"\n" + authority_digest(certs)
