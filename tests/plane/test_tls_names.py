"""Certificates by name: who is shown which, what a name may look like, and what a ticket is good for."""

import random
import re
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tlslite.api import TLSRemoteAlert
from tlslite.constants import AlertDescription

from otagate import plane
from otagate.cli import certs as commands

from .rig import PREFACE, Peer, Rig
from .test_tls import CHALLENGE, client_hello, s_client, session_of
from .test_tls_certificates import both_versions, greet_as, refused, revoked
from .test_tls_witness import only, witness
from .tls import Make, TlsRig, client_context, count

# Of each certificate, its names. That of the rig (localhost) is the first one.
NAMES = {
    "lamp": ["lamp.example", "Ota.Lamp.Example", "*.lamp.example"],
    "pump": ["pump.example", "ota.example", "xn--bcher-kva.example", "p*.example", "a.*.example", "x" * 63],
    "inner": ["b.lamp.example", "*.b.lamp.example"],
}


@pytest.fixture(scope="module")
def more(certs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, bytes]]:
    folder = tmp_path_factory.mktemp("more")
    return {name: make(certs, folder / name, *NAMES[name]) for name in NAMES}


def make(certs: Path, stem: Path, *names: str, common_name: str = "any") -> tuple[bytes, bytes]:
    """A certificate with its key. Names are DNS names, unless they say otherwise."""
    alternatives = ",".join(name if ":" in name else f"DNS:{name}" for name in names)
    extensions = [f"subjectAltName={alternatives}"] if names else []
    certificate = commands._make(stem, common_name, extensions, 2, certs / "ca")
    return certificate.read_bytes(), stem.with_suffix(".key").read_bytes()


@pytest.fixture
def rig(make_tls: Make, more: dict[str, tuple[bytes, bytes]]) -> TlsRig:
    rig = make_tls()
    rig.use(more=more)
    rig.context.check_hostname = False
    return rig


def shown(peer: Peer) -> str:
    """The first DNS name of the certificate that the peer was shown."""
    certificate = peer.socket.ssl.getpeercert()  # type: ignore[attr-defined]
    return str(certificate["subjectAltName"][0][1])


def ask(rig: TlsRig, name: str | None, session: Any = None, context: ssl.SSLContext | None = None) -> Peer:
    return rig.secure(rig.connect_tls("tcp", context, session, name))


def is_reused(peer: Peer) -> bool:
    return bool(peer.socket.ssl.session_reused)  # type: ignore[attr-defined]


# -- who is shown which ------------------------------------------------------------------------------

ASKED = [
    (None, "localhost"),
    ("localhost", "localhost"),
    ("LOCALHOST", "localhost"),
    ("nobody.example", "localhost"),
    ("lamp.example", "lamp.example"),
    ("LAMP.eXample", "lamp.example"),
    ("ota.lamp.example", "lamp.example"),
    ("any.lamp.example", "lamp.example"),
    ("a.any.lamp.example", "localhost"),  # `*` is one label
    ("b.lamp.example", "b.lamp.example"),  # the name itself goes before `*`
    ("c.b.lamp.example", "b.lamp.example"),
    ("ota.example", "pump.example"),
    ("pump.example", "pump.example"),
    ("xn--bcher-kva.example", "pump.example"),
    ("pq.example", "localhost"),  # `*` is a whole label
    ("a.b.example", "localhost"),  # … and the first
    ("x" * 63, "pump.example"),
    ("x" * 62, "localhost"),
    ("example", "localhost"),
    ("any", "localhost"),  # the common name of all of them
]


@both_versions
def test_a_name_has_its_certificate(rig: TlsRig, certs: Path, version: ssl.TLSVersion) -> None:
    context = client_context(certs)
    context.check_hostname = False
    context.minimum_version = context.maximum_version = version
    found = [(name, shown(ask(rig, name, context=context))) for name, _ in ASKED]
    assert found == ASKED


def test_a_session_under_another_name(rig: TlsRig) -> None:
    peer = rig.login("tcp", name="lamp.example")  # type: ignore[arg-type]
    assert shown(peer) == "lamp.example"
    peer.close()
    assert rig.wait_event(plane.CLOSED)[3] == plane.LOST
    assert count(rig, "connections", "connections_tls") == [0, 0]


@pytest.mark.parametrize(
    ("arguments", "subject"),
    [
        (("-servername", "pump.example"), "pump.example"),
        (("-servername", "nobody"), "localhost"),
        (("-noservername",), "localhost"),
        (
            ("-servername", "pump.example", "-groups", "P-521:P-256", "-tls1_3"),
            "pump.example",
        ),  # a second hello
        (("-servername", "pump.example", "-tls1_2"), "pump.example"),
    ],
)
def test_openssl_s_own_client(rig: TlsRig, certs: Path, arguments: tuple[str, ...], subject: str) -> None:
    trust = ("-CAfile", str(certs / "ca.pem"), "-verify_return_error", "-verify_hostname", subject)
    printed = s_client(rig, *trust, *arguments, "-tlsextdebug", talk=[(PREFACE, CHALLENGE)])
    assert "Verify return code: 0 (ok)" in printed
    acknowledged = 'TLS server extension "server name" (id=0), len=0' in printed
    assert acknowledged == (subject == "pump.example")  # RFC 6066 section 3


@pytest.fixture
def asking(rig: TlsRig, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Peer]:
    """tlslite-ng asks for whatever it is told to."""
    monkeypatch.setattr("tlslite.tlsconnection.is_valid_hostname", lambda name: True)

    def asking(name: str, version: str) -> Peer:
        return witness(rig, asks_for=name, **only(version))

    return asking


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize(
    "name",
    [" ", ".", "*", ".lamp.example", "lamp.example.", "\xff" * 127, "a." * 127 + "a", "*" * 9, "127.0.0.1"],
)
def test_odd_names_are_nobody_s(
    rig: TlsRig, asking: Callable[[str, str], Peer], name: str, version: str
) -> None:
    peer = rig.secure(asking(name, version))
    chain = peer.socket.tls.session.serverCertChain  # type: ignore[attr-defined]
    der = ssl.PEM_cert_to_DER_cert((rig.folder / "server.pem").read_text())
    assert bytes(chain.x509List[0].bytes) == der


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("name", ["x" * 256, "x" * 5000, "lamp.example\0.evil"])
def test_names_that_cannot_be(
    rig: TlsRig, asking: Callable[[str, str], Peer], name: str, version: str
) -> None:
    peer = asking(name, version)
    with pytest.raises(TLSRemoteAlert) as alert:
        rig.secure(peer)
    assert alert.value.description == AlertDescription.unrecognized_name
    peer.close()
    rig.wait_count("ended_tls", 1)
    ask(rig, "lamp.example")


def test_damaged_lists_of_names(rig: TlsRig, certs: Path) -> None:
    """Whatever stands in the extension: a ServerHello or an alert, and the next one is served."""
    hello = client_hello(certs)
    chance = random.Random(7)
    start = hello.index(b"localhost") - 7  # behind the type: sizes of extension, list and name, type of name
    for _ in range(300):
        damaged = bytearray(hello)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(start, start + 16)] = chance.choice([0, 1, 0xFF, chance.randrange(256)])
        peer = Rig.connect(rig)
        peer.send_raw(bytes(damaged))
        peer.wait_bytes()
        assert peer.unread[:1] in (b"\x16", b"\x15")
        peer.reset()
    assert shown(ask(rig, "lamp.example")) == "lamp.example"


# -- tickets -----------------------------------------------------------------------------------------


@both_versions
def test_a_ticket_is_for_its_name(rig: TlsRig, certs: Path, version: ssl.TLSVersion) -> None:
    """RFC 6066 section 3: under another name there is a full handshake, with that name's certificate."""
    context = client_context(certs)
    context.check_hostname = False
    context.minimum_version = context.maximum_version = version
    names = ["lamp.example", "any.lamp.example", "pump.example", "localhost", "nobody.example", None]
    for name in names:
        session = session_of(rig, ask(rig, name, context=context))
        for other in names:
            again = ask(rig, other, session, context)
            session_of(rig, again)
            assert is_reused(again) == (other == name), (name, other)
            if not is_reused(again):
                assert shown(again) == dict(ASKED)[other]
    renewed = session_of(rig, ask(rig, "LAMP.example", context=context))
    assert is_reused(ask(rig, "lamp.EXAMPLE", renewed, context))


def test_a_ticket_outlives_the_certificate(rig: TlsRig, certs: Path, tmp_path: Path) -> None:
    session = session_of(rig, ask(rig, "lamp.example"))
    rig.use(more={"new": make(certs, tmp_path / "new", "other.example", "lamp.example")})
    again = ask(rig, "lamp.example", session)
    session_of(rig, again)
    assert is_reused(again)


# -- client certificates hold under every name --------------------------------------------------------


@both_versions
@pytest.mark.parametrize("name", ["localhost", "lamp.example", "nobody.example", None])
def test_client_certificates(
    rig: TlsRig,
    certs: Path,
    more: dict[str, tuple[bytes, bytes]],
    name: str | None,
    version: ssl.TLSVersion,
) -> None:
    rules = {"client_certificates": "required", "authorities": (certs / "ca.pem").read_bytes(), "more": more}
    rig.use(**rules, revocations=revoked(certs, "lamp/d1"))
    for device, alert in (("", "certificate required|handshake failure"), ("lamp/d1", "revoked")):
        context = client_context(certs, device)
        context.check_hostname = False
        context.minimum_version = context.maximum_version = version
        assert re.search(alert, refused(rig, context, name=name).lower())
    context = client_context(certs, "lamp/d0")
    context.check_hostname = False
    context.minimum_version = context.maximum_version = version
    peer = greet_as(rig, context, name=name)
    assert peer.certificate.startswith(b"lamp/d0\n")
    again = greet_as(rig, context, peer.socket.ssl.session, name)  # type: ignore[attr-defined]
    assert is_reused(again)
    assert again.certificate == peer.certificate


def test_a_handshake_ends_under_the_rules_it_began_under(rig: TlsRig, certs: Path) -> None:
    """Half a ClientHello is here when other rules come: its ticket must be none of theirs."""
    peer = rig.connect_tls("tcp", name="lamp.example")
    secured: Any = peer.socket
    with pytest.raises(ssl.SSLWantReadError):
        secured.ssl.do_handshake()
    hello = secured.outgoing.read()
    secured.raw.send(hello[:100])
    rig.settle()
    rules = {"client_certificates": "required", "authorities": (certs / "ca.pem").read_bytes()}
    rig.use(**rules, more={"lamp": make(certs, rig.folder / "lamp-new", "lamp.example")})
    secured.raw.send(hello[100:])
    session = session_of(rig, rig.secure(peer))
    assert "certificate required" in refused(rig, rig.context, session, "lamp.example").lower()


# -- certificates that change, and that cannot be used ------------------------------------------------


def test_all_are_read_anew(rig: TlsRig, certs: Path, tmp_path: Path) -> None:
    before = ask(rig, "lamp.example")
    rig.use(more={"new": make(certs, tmp_path / "new", "new.example", "lamp.example")})
    assert [shown(ask(rig, name)) for name in ("lamp.example", "pump.example")] == [
        "new.example",
        "localhost",
    ]
    before.send_raw(PREFACE)
    assert b"challenge" in before.next_frame()[1]
    rig.use()
    assert shown(ask(rig, "lamp.example")) == "localhost"


BAD = [
    (["DNS:other.example"], {"certificate": b"nothing"}, r"the certificate of bad cannot be used"),
    (["DNS:other.example"], {"key": b"nothing"}, r"the key of bad cannot be used"),
    (["DNS:other.example"], {"key": None}, r"the key of bad cannot be used: key values mismatch"),
    ([], {}, r"the certificate of bad has no DNS name"),
    (["IP:127.0.0.1", "email:a@example"], {}, r"the certificate of bad has no DNS name"),
    (["DNS:p*.example"], {}, r"the certificate of bad has no DNS name"),
    (["LAMP.example"], {}, r"the certificate of lamp and that of bad both have the name lamp\.example"),
    (
        ["*.b.lamp.example"],
        {},
        r"the certificate of inner and that of bad both have the name \*\.b\.lamp\.example",
    ),
    (["localhost"], {}, r"the first certificate and that of bad both have the name localhost"),
]


@pytest.mark.parametrize(("names", "change", "words"), BAD)
def test_what_cannot_be_used_changes_nothing(
    rig: TlsRig,
    certs: Path,
    tmp_path: Path,
    more: dict[str, tuple[bytes, bytes]],
    names: list[str],
    change: dict[str, bytes | None],
    words: str,
) -> None:
    certificate, key = make(certs, tmp_path / "bad", *names)
    if "key" in change:
        key = change["key"] or (certs / "ca.key").read_bytes()
    new = make(certs, tmp_path / "new", "new.example")
    given = {"new": new, **more, "bad": (change.get("certificate") or certificate, key)}
    with pytest.raises(ValueError, match=f"^{words}"):
        rig.use(more=given)
    assert [shown(ask(rig, name)) for name in ("lamp.example", "new.example")] == [
        "lamp.example",
        "localhost",
    ]


def test_one_certificate_may_say_a_name_twice(rig: TlsRig, certs: Path, tmp_path: Path) -> None:
    rig.use(more={"twice": make(certs, tmp_path / "twice", "twice.example", "TWICE.example")})
    assert shown(ask(rig, "twice.example")) == "twice.example"


def test_there_is_room_for_64(rig: TlsRig, more: dict[str, tuple[bytes, bytes]]) -> None:
    with pytest.raises(ValueError, match="at most 64 more"):
        rig.use(more={str(number): more["lamp"] for number in range(65)})


def test_what_may_be_used_needs_no_name(rig: TlsRig, certs: Path, tmp_path: Path) -> None:
    """The first one: it is for whoever asks for no name."""
    certificate, key = make(certs, tmp_path / "nameless")
    rig.use(certificate=certificate, key=key)
    peer = ask(rig, None)
    der = ssl.PEM_cert_to_DER_cert(certificate.decode())
    assert peer.socket.ssl.getpeercert(True) == der  # type: ignore[attr-defined]
