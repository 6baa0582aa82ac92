"""TLS under the links: handshakes whole and in parts, resumption, refusals, ends; OpenSSL's own client."""

import hashlib
import json
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from otagate import plane

from .rig import CLOSE, OPENINGS, PREFACE, REQUEST, TEXT, Peer, Rig, both_links, frame
from .tls import Make, Secured, TlsRig, certificates, client_context, count

OPENSSL = shutil.which("openssl") or ""
HELLO_RETRY_REQUEST = hashlib.sha256(b"HelloRetryRequest").digest()  # RFC 8446 section 4.1.3
# A client's key_share extension: X25519; and a group that it knows and the plane does not, secp521r1.
KNOWN_SHARE, UNKNOWN_SHARE = b"\0\x33\0\x26\0\x24\0\x1d\0\x20", b"\0\x33\0\x26\0\x24\0\x19\0\x20"


@pytest.fixture
def rig(make_tls: Make) -> TlsRig:
    return make_tls()


def client_hello(certs: Path, **options: Any) -> bytes:
    """What a client says first."""
    context = client_context(certs)
    for name, value in options.items():
        setattr(context, name, value)
    outgoing = ssl.MemoryBIO()
    secured = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        secured.do_handshake()
    return outgoing.read()


# -- sessions ----------------------------------------------------------------------------------------


@both_links
def test_a_session(rig: TlsRig, link: str) -> None:
    peer = rig.login(link)
    assert peer.certificate == b""
    peer.send(TEXT, b"report")
    assert rig.wait_event(plane.MESSAGE) == (plane.MESSAGE, peer.conn, 7, b"report")
    rig.apply((plane.SEND, peer.conn, b"answer"))
    assert peer.next_frame() == (TEXT, b"answer")
    assert count(rig, "tls_handshakes", "tls_resumptions", "connections_tls") == [1, 0, 1]
    peer.close()
    assert rig.wait_event(plane.CLOSED) == (plane.CLOSED, peer.conn, 7, plane.LOST)
    assert count(rig, "connections", "connections_tls") == [0, 0]


@both_links
def test_plain_and_secured_share_a_listener(rig: TlsRig, link: str) -> None:
    peer = Rig.connect(rig, link)
    peer.send_raw(OPENINGS[link])
    rig.wait_count(f"opened_{link}", 1)
    rig.login(link)
    assert count(rig, "connections", "connections_tls") == [2, 1]


@both_links
def test_everything_at_once(rig: TlsRig, link: str) -> None:
    """The opening and a hello in the flight of the client's Finished."""
    peer = rig.connect_tls(link)
    raw = peer.socket

    def shaken() -> bool:
        raw.pull()  # type: ignore[attr-defined]
        try:
            raw.ssl.do_handshake()  # type: ignore[attr-defined]
        except ssl.SSLWantReadError:
            raw.flush()  # type: ignore[attr-defined]
            return False
        return True

    rig.wait(shaken)
    raw.ssl.write(OPENINGS[link] + frame(link, TEXT, b"hello"))  # type: ignore[attr-defined]
    raw.flush()  # type: ignore[attr-defined]
    assert rig.wait_event(plane.HELLO)[2] == b"hello"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("step", [1, 7, 100])
def test_bytes_come_one_by_one(rig: TlsRig, certs: Path, version: ssl.TLSVersion, step: int) -> None:
    context = client_context(certs)
    context.minimum_version = context.maximum_version = version
    peer = rig.connect_tls("tcp", context)
    secured = peer.socket
    assert isinstance(secured, Secured)
    plain, sent = secured.raw, []

    class Dripping:
        """Sends a few bytes at a time, and lets the plane look at them."""

        def __getattr__(self, name: str) -> Any:
            return getattr(plain, name)

        def send(self, data: bytes) -> int:
            sent.append(plain.send(data[:step]))
            rig.settle()
            return sent[-1]

    secured.raw = Dripping()  # type: ignore[assignment]
    rig.secure(peer)
    peer.send_raw(PREFACE)
    assert json.loads(peer.next_frame()[1])["type"] == "challenge"
    assert len(sent) > 1


def test_every_split_of_a_client_hello(make_tls: Make, certs: Path) -> None:
    rig = make_tls(connections_max=2000)
    hello = client_hello(certs)
    raws = [Rig.connect(rig) for _ in range(1, len(hello))]
    for at, peer in enumerate(raws, start=1):
        peer.send_raw(hello[:at])
    rig.settle()
    assert count(rig, "connections", "bytes_out") == [len(raws), 0]
    for at, peer in enumerate(raws, start=1):
        peer.send_raw(hello[at:])
    rig.wait(lambda: not rig.plane.pending and all(peer.unread or peer.receive() for peer in raws))
    for peer in raws:
        assert peer.unread.startswith(b"\x16\x03\x03")  # ServerHello


def in_records(message: bytes, size: int) -> bytes:
    """A handshake message in records of so many bytes."""
    parts = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)


def longer(hello: bytes, extensions: bytes) -> bytes:
    """The message of a ClientHello in one record, with these behind its own extensions."""
    body = hello[9:]
    at = 35 + body[34]  # version, random, session
    at += 2 + int.from_bytes(body[at : at + 2], "big")  # ciphers
    at += 1 + body[at]  # compression
    size = int.from_bytes(body[at : at + 2], "big") + len(extensions)
    body = body[:at] + size.to_bytes(2, "big") + body[at + 2 :] + extensions
    return b"\x01" + len(body).to_bytes(3, "big") + body


@pytest.mark.parametrize("record", [1, 3, 100, 16_384])
@pytest.mark.parametrize("padding", [0, 5_000, 15_500])
def test_a_client_hello_of_any_size_in_records_of_any_size(
    rig: TlsRig, certs: Path, record: int, padding: int
) -> None:
    more = b"\xff\x77" + padding.to_bytes(2, "big") + bytes(padding) if padding else b""
    peer = Rig.connect(rig)
    data = in_records(longer(client_hello(certs), more), record)
    while data:
        data = data[peer.socket.send(data) :]
        rig.settle()
    while not peer.unread:
        peer.wait_bytes()
    assert peer.unread.startswith(b"\x16\x03\x03")  # ServerHello


@pytest.mark.parametrize("record", [1, 3, 100])
@pytest.mark.parametrize("size", [16_385, 131_000, 0xFFFFFF])
def test_a_client_hello_that_would_be_too_long(rig: TlsRig, size: int, record: int) -> None:
    peer = Rig.connect(rig)
    peer.send_raw(in_records(b"\x01" + size.to_bytes(3, "big") + bytes(96), record))
    assert peer.wait_end() == []
    rig.wait_count("ended_tls", 1)


@pytest.mark.parametrize("rest", [b"", bytes(5_000)], ids=["its head", "a part of it"])
def test_a_second_client_hello_that_would_be_too_long(rig: TlsRig, certs: Path, rest: bytes) -> None:
    """Asked for another key share, the client says hello once more (RFC 8446 section 4.1.4)."""
    peer = Rig.connect(rig)
    hello = client_hello(certs)
    assert hello.count(KNOWN_SHARE) == 1
    peer.send_raw(hello.replace(KNOWN_SHARE, UNKNOWN_SHARE))
    peer.wait_bytes()
    assert peer.unread[11:43] == HELLO_RETRY_REQUEST
    peer.send_raw(b"\x14\x03\x03\x00\x01\x01")  # as clients do for middleboxes (appendix D.4)
    peer.send_raw(in_records(b"\x01\x01\xff\xb8" + rest, 100))
    rig.wait_count("ended_tls", 1)


def test_a_reader_of_single_bytes(rig: TlsRig) -> None:
    """The kernel takes what it takes: flights, messages and close_notify wait in order."""
    rig.plane.limit_writes(1)
    peer = rig.login("tcp")
    rig.apply(*((plane.SEND, peer.conn, b"%d" % i) for i in range(20)), (plane.CLOSE, peer.conn, 1000, b""))
    assert peer.wait_end() == [(TEXT, b"%d" % i) for i in range(20)] + [(CLOSE, b"\x03\xe8")]


# -- tickets -----------------------------------------------------------------------------------------


def session_of(rig: TlsRig, peer: Peer) -> Any:
    """The ticket that came behind the handshake."""
    peer.send_raw(PREFACE)
    peer.next_frame()
    return peer.socket.ssl.session  # type: ignore[attr-defined]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_returning_device_resumes(rig: TlsRig, certs: Path, version: ssl.TLSVersion) -> None:
    context = client_context(certs)
    context.minimum_version = context.maximum_version = version
    session = session_of(rig, rig.secure(rig.connect_tls("tcp", context)))
    rig.use()  # a renewed certificate changes nothing
    peer = rig.secure(rig.connect_tls("tcp", context, session))
    assert peer.socket.ssl.session_reused  # type: ignore[attr-defined]
    rig.wait_count("tls_handshakes", 2)
    assert count(rig, "tls_resumptions") == [1]


def test_tickets_outlive_the_plane_with_their_keys(make_tls: Make) -> None:
    old, new = b"o" * 80, b"n" * 80
    first = make_tls()
    first.plane.ticket_keys(old)
    session = session_of(first, first.connect())
    for keys, resumes in ((old, True), (new + old, True), (new, False)):
        second = make_tls()
        second.plane.ticket_keys(keys)
        second.context = first.context
        second.secure(second.connect_tls("tcp", first.context, session))
        second.wait_count("tls_handshakes", 1)
        assert count(second, "tls_resumptions") == [int(resumes)]


# -- refusals ------------------------------------------------------------------------------------------


def test_tls_may_be_required(make_tls: Make) -> None:
    rig = make_tls(security=plane.TLS_REQUIRED)
    for opening in (PREFACE, REQUEST):
        peer = Rig.connect(rig)
        peer.send_raw(opening)
        assert peer.wait_end() == []
    assert count(rig, "ended_refused_plain", "connections") == [2, 0]
    rig.login("tcp")


def test_tls_without_a_certificate_of_ours(make_tls: Make, certs: Path) -> None:
    rig = make_tls(security=plane.TLS_OFF)
    peer = Rig.connect(rig)
    peer.send_raw(client_hello(certs))
    peer.wait_end()
    assert count(rig, "ended_refused_tls") == [1]


def test_tls_inside_of_tls(rig: TlsRig, certs: Path) -> None:
    peer = rig.connect()
    peer.send_raw(client_hello(certs))
    peer.wait_end()
    assert count(rig, "ended_refused_byte") == [1]


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x00\x05hello",
        b"\x16\x03\x01\xff\xff" + bytes(70),
        b"\x16\x02\x00" + bytes(50),
        b"\x16" * 100,
        b"\x16\x03\x01\x00\x00" * 40,
    ],
)
def test_what_is_no_client_hello(rig: TlsRig, data: bytes) -> None:
    peer = Rig.connect(rig)
    peer.send_raw(data)
    rig.wait(lambda: peer.ended is not None or peer.receive() is not None)
    assert peer.unread[:1] in (b"", b"\x15")  # an alert, if anything
    peer.close()
    rig.wait_count("ended_tls", 1)
    assert count(rig, "connections", "connections_tls") == [0, 0]


def test_a_half_handshake_ends_in_time(make_tls: Make, certs: Path) -> None:
    rig = make_tls(handshake_timeout_ms=10_000)
    hello = client_hello(certs)
    for part in (hello[:1], hello[:100], hello):
        Rig.connect(rig).send_raw(part)
    rig.connect()  # a whole one, and then nothing
    rig.wait(lambda: count(rig, "tls_handshakes", "connections") == [1, 4] and not rig.plane.pending)
    rig.plane.advance_clock(10_500)
    rig.wait_count("ended_handshake_timeout", 4)
    assert count(rig, "connections", "connections_tls") == [0, 0]


def test_the_handshake_s_time_is_its_own(make_tls: Make) -> None:
    rig = make_tls(handshake_timeout_ms=10_000)
    peer = rig.connect_tls()
    rig.plane.advance_clock(8_000)
    rig.secure(peer)
    rig.plane.advance_clock(8_000)
    rig.settle()
    peer.send_raw(PREFACE)
    assert json.loads(peer.next_frame()[1])["type"] == "challenge"


def test_a_truncated_record_ends_with_the_connection(rig: TlsRig) -> None:
    peer = rig.login("tcp")
    secured = peer.socket
    assert isinstance(secured, Secured)
    secured.ssl.write(frame("tcp", TEXT, b"x" * 100))
    secured.raw.send(secured.outgoing.read()[:60])
    secured.raw.shutdown(socket.SHUT_WR)
    assert rig.wait_event(plane.CLOSED)[3] == plane.LOST
    assert rig.events == []


def test_a_changed_record_ends_the_connection(rig: TlsRig) -> None:
    peer = rig.login("tcp")
    assert isinstance(peer.socket, Secured)
    peer.socket.send_changed(frame("tcp", TEXT, b"x" * 100))
    assert rig.wait_event(plane.CLOSED)[3] == plane.LOST
    assert rig.events == []


# -- ends ------------------------------------------------------------------------------------------------


@both_links
def test_a_close_is_answered_and_notified(rig: TlsRig, link: str) -> None:
    peer = rig.login(link)
    peer.send(CLOSE, b"\x03\xe8")
    assert peer.wait_end() == [(CLOSE, b"\x03\xe8")]
    assert rig.wait_event(plane.CLOSED)[3] == 1000
    peer.close()
    rig.wait_count("ended_peer", 1)


def test_our_close_ends_with_close_notify(rig: TlsRig) -> None:
    peer = rig.login("tcp")
    rig.apply((plane.CLOSE, peer.conn, 4002, b""))
    secured = peer.socket
    assert isinstance(secured, Secured)
    rig.wait(lambda: secured.pull() or secured.ended)
    assert secured.ssl.read(100) == b"\x08\x00\x00\x02\x0f\xa2"
    assert secured.ssl.read(1) == b""  # ssl says so of close_notify; without one it raises SSLEOFError


def test_close_notify_is_an_end(rig: TlsRig) -> None:
    peer = rig.login("tcp")
    secured = peer.socket
    assert isinstance(secured, Secured)
    peer.send(TEXT, b"last")
    with pytest.raises(ssl.SSLWantReadError):
        secured.ssl.unwrap()
    secured.flush()
    assert rig.wait_event(plane.MESSAGE)[3] == b"last"
    assert rig.wait_event(plane.CLOSED)[3] == plane.LOST


# -- the face ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"certificate": b""}, "the certificate"),
        ({"certificate": b"-----BEGIN CERTIFICATE-----\n"}, "the certificate"),
        ({"key": b"nothing"}, "the key"),
        ({"authorities": b"nothing"}, "the authorities"),
        ({"revocations": b"nothing"}, "the revocations"),
        ({"client_certificates": "perhaps"}, "client certificates"),
    ],
)
def test_what_cannot_be_used_changes_nothing(rig: TlsRig, given: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        rig.use(**given)
    rig.login("tcp")


@pytest.mark.parametrize("part", ["certificate", "authorities"])
@pytest.mark.parametrize("damage", [(b"MI", b"!!"), (b"\n-----END CERTIFICATE-----\n", b"")])
def test_half_a_file_is_none(rig: TlsRig, certs: Path, part: str, damage: tuple[bytes, bytes]) -> None:
    """The first certificate in it is whole; but what stands behind it would be missed."""
    whole = (certs / "server.pem").read_bytes() if part == "certificate" else (certs / "ca.pem").read_bytes()
    with pytest.raises(ValueError, match=f"the {part} cannot be used: .*(base64|end line|too short)"):
        rig.use(**{part: whole + (certs / "ca.pem").read_bytes().replace(*damage)})
    rig.login("tcp")


def test_a_key_of_another_certificate(rig: TlsRig, certs: Path) -> None:
    with pytest.raises(ValueError, match="the key cannot be used"):
        rig.use(key=(certs / "ca.key").read_bytes())


@pytest.mark.parametrize("size", [0, 79, 81, 320])
def test_ticket_keys_have_80_bytes(rig: TlsRig, size: int) -> None:
    with pytest.raises(ValueError, match="80 bytes"):
        rig.plane.ticket_keys(bytes(size))


def test_a_new_certificate_is_for_new_connections(rig: TlsRig, certs: Path, tmp_path: Path) -> None:
    from otagate.cli import certs as commands

    before = rig.login("tcp")
    assert list(commands.make(tmp_path, hosts=["localhost"]))
    rig.plane.tls(**certificates(tmp_path))
    rig.context = client_context(tmp_path)
    after = rig.login("tcp", device=8)
    for peer in (before, after):
        peer.send(TEXT, b"here")
        assert rig.wait_event(plane.MESSAGE)[1] == peer.conn


# -- fairness -----------------------------------------------------------------------------------------------


def test_a_drain_shakes_few_hands_and_messages_go_first(make_tls: Make, certs: Path) -> None:
    rig = make_tls(drain_handshakes_max=3, connections_max=100)
    honest = rig.login("tcp")
    hello = client_hello(certs)
    strangers = [Rig.connect(rig) for _ in range(30)]
    rig.settle()
    for stranger in strangers:
        stranger.send_raw(hello)
    honest.send(TEXT, b"report")
    events = rig.plane.drain(10**9)
    assert [event[0] for event in events] == [plane.MESSAGE]
    done = 0
    while done < 30:
        before, done = done, 0
        for stranger in strangers:
            stranger.receive()
            done += bool(stranger.unread)
        assert done - before <= 3
        assert rig.plane.pending or done == 30
        rig.plane.drain(10**9)


@both_links
def test_a_flood_of_messages_shuts_no_handshake_out(make_tls: Make, certs: Path, link: str) -> None:
    """Each drain is full of messages before it comes to those who shake hands."""
    rig = make_tls(drain_events_max=4, turn_messages_max=4)
    greedy = [Rig.login(rig, link, device=device) for device in range(1, 5)]
    stranger = Rig.connect(rig)
    rig.settle()
    for peer in greedy:
        peer.send_raw(frame(link, TEXT, b"again") * 100)
    stranger.send_raw(client_hello(certs))
    for _ in range(20):
        assert len(rig.plane.drain(10**9)) == 4
    stranger.receive()
    assert stranger.unread[:1] == b"\x16", "it is still waiting for the gateway's hello"


# -- openssl s_client ------------------------------------------------------------------------------


def s_client(rig: TlsRig, *arguments: str, talk: Sequence[tuple[bytes, bytes]]) -> str:
    """Runs OpenSSL's own client: says each first, until it has printed the second, or has ended."""
    host, port = rig.address
    process = subprocess.Popen(
        [OPENSSL, "s_client", "-connect", f"{host}:{port}", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    printed = b""

    def seen(until: bytes) -> bool:
        nonlocal printed
        printed += process.stdout.read() or b""  # type: ignore[union-attr]
        return until in printed or process.poll() is not None

    try:
        for said, until in talk:
            process.stdin.write(said)
            process.stdin.flush()
            rig.wait(partial(seen, until))
    finally:
        process.stdin.close()
        process.kill()
        process.wait()
        printed += process.stdout.read() or b""
        process.stdout.close()
    return printed.decode(errors="replace")


CHALLENGE = b'"protocol":[1]}'


def test_openssl_s_own_client(rig: TlsRig, certs: Path) -> None:
    trust = ("-CAfile", str(certs / "ca.pem"), "-verify_return_error")
    offer = ("-alpn", "h2,otagate.v1", "-servername", "x")
    printed = s_client(rig, *trust, *offer, talk=[(PREFACE, CHALLENGE)])
    assert "Verify return code: 0 (ok)" in printed
    assert "ALPN protocol: otagate.v1" in printed
    assert "Compression: NONE" in printed


def test_no_ticket_is_good_for_early_data(rig: TlsRig, tmp_path: Path) -> None:
    """A replayed login would be a login."""
    s_client(rig, "-tls1_3", "-sess_out", str(tmp_path / "session"), talk=[(PREFACE, CHALLENGE)])
    command = [OPENSSL, "sess_id", "-in", str(tmp_path / "session"), "-noout", "-text"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "TLS session ticket:" in shown
    assert "Max Early Data: 0" in shown


def test_key_updates_are_answered(rig: TlsRig) -> None:
    """`K` on a line of its own: s_client updates its keys and asks for ours. All are good for more."""
    printed = s_client(rig, "-tls1_3", talk=[(b"K\n", b"KEYUPDATE"), (PREFACE, CHALLENGE)])
    assert CHALLENGE.decode() in printed


def test_renegotiation_is_refused(rig: TlsRig) -> None:
    printed = s_client(rig, "-tls1_2", talk=[(b"R\n", b"no renegotiation")])
    assert "no renegotiation" in printed


@pytest.mark.parametrize(
    ("arguments", "alert"),
    [
        (("-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"), "alert protocol version"),
        (("-tls1_2", "-fallback_scsv"), "alert inappropriate fallback"),  # RFC 7507
        (("-tls1_2", "-cipher", "AES128-SHA:AES256-GCM-SHA384"), "alert handshake failure"),
        (("-groups", "P-521"), "alert handshake failure"),
        (("-alpn", "h2"), "alert no application protocol"),
    ],
)
def test_no_connection(rig: TlsRig, arguments: tuple[str, ...], alert: str) -> None:
    assert alert in s_client(rig, *arguments, talk=[(b"", b"alert")])
    rig.wait_count("ended_tls", 1)


def test_a_downgrade_shows(rig: TlsRig, certs: Path) -> None:
    """Whoever could speak TLS 1.3, and made TLS 1.2 of it, cannot hide that (RFC 8446 section 4.1.3)."""
    peer = Rig.connect(rig)
    peer.send_raw(client_hello(certs, maximum_version=ssl.TLSVersion.TLSv1_2))
    while len(peer.unread) < 43:
        peer.wait_bytes()
    assert peer.unread[5:6] == b"\x02"  # ServerHello: type, size 3, version 2, random 32
    assert peer.unread[35:43] == b"DOWNGRD\x01"
