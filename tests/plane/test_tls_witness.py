"""A client that is not OpenSSL: tlslite-ng, TLS in Python, shakes hands, logs in, resumes, and misbehaves."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from tlslite.api import (
    HandshakeSettings,
    TLSConnection,
    TLSLocalAlert,
    TLSRemoteAlert,
    X509CertChain,
    parsePEMKey,
)
from tlslite.constants import AlertDescription, KeyUpdateMessageType
from tlslite.messages import ApplicationData, ClientHello

from otagate import plane

from .rig import CLOSE, PREFACE, TEXT, Peer, Rig, both_links, frame
from .test_transfers import CONTENT, chunks_until, load, stream
from .tls import Make, TlsRig, count

VERSIONS = {"1.1": (3, 2), "1.2": (3, 3), "1.3": (3, 4)}
both_versions = pytest.mark.parametrize("version", ["1.2", "1.3"])


class Witness:
    """Stands in for a peer's socket, as `Secured` does. session: one to resume. shown: whose certificate."""

    def __init__(
        self,
        connected: Any,
        folder: Path,
        shown: str,
        session: Any,
        asks_for: str = "localhost",
        **settings: Any,
    ) -> None:
        self.raw = connected
        self.tls = TLSConnection(connected)
        self.tls.closeSocket = False
        chain = key = None
        if shown:
            stem = folder / "devices" / shown
            chain = X509CertChain()
            chain.parsePemList(Path(f"{stem}.pem").read_text())
            key = parsePEMKey(Path(f"{stem}.key").read_text(), private=True)
        asked = HandshakeSettings()
        asked.certificate_compression_send = []  # or it sends some to whoever did not ask for it
        for name, value in settings.items():
            setattr(asked, name, value)
        self._shaking = self.tls.handshakeClientCert(
            chain, key, session=session, settings=asked, serverName=asks_for,
            alpn=[bytearray(b"otagate.v1")], async_=True,
        )  # fmt: skip
        self._reading: Iterator[Any] | None = None

    def fileno(self) -> int:
        return int(self.raw.fileno())

    def close(self) -> None:
        self.raw.close()

    def shake(self) -> bool:
        """Goes on with the handshake; True: done. Raises TLSLocalAlert, TLSRemoteAlert."""
        return next(self._shaking, None) is None

    def send(self, data: bytes) -> int:
        """A record, or several; the tests' peers never say more than the kernel takes."""
        assert list(self.tls.writeAsync(data)) == []
        return len(data)

    def recv(self, size: int) -> bytes:
        if self._reading is None:
            self._reading = self.tls.readAsync(size)
        found = next(self._reading)
        if found in (0, 1):
            raise BlockingIOError
        self._reading = None
        return bytes(found)


def witness(rig: TlsRig, shown: str = "", session: Any = None, link: str = "tcp", **settings: Any) -> Peer:
    """Who has said nothing yet."""
    peer = Rig.connect(rig, link)
    peer.socket = Witness(peer.socket, rig.folder, shown, session, **settings)  # type: ignore[assignment]
    return peer


def tls_of(peer: Peer) -> Any:
    assert isinstance(peer.socket, Witness)
    return peer.socket.tls


def between(peer: Peer, change: Callable[[bytes], bytes]) -> None:
    """From now on somebody changes what it sends."""
    tls = tls_of(peer)

    class Between:
        def __init__(self, raw: socket.socket) -> None:
            self.recv = raw.recv
            self._send = raw.send

        def send(self, data: bytes) -> int:
            self._send(change(bytes(data)))
            return len(data)

        sendall = send

    tls.sock.socket = Between(tls.sock.socket)


def only(version: str) -> dict[str, Any]:
    return {"minVersion": VERSIONS[version], "maxVersion": VERSIONS[version]}


@pytest.fixture
def rig(make_tls: Make, monkeypatch: pytest.MonkeyPatch) -> TlsRig:
    """Whose peers are witnesses."""
    rig = make_tls()

    def connect(link: str = "tcp", **options: Any) -> Peer:
        return rig.secure(witness(rig, link=link, **options))

    monkeypatch.setattr(rig, "connect", connect)
    return rig


# -- what goes well --------------------------------------------------------------------------------


@both_links
@both_versions
def test_a_login(rig: TlsRig, version: str, link: str) -> None:
    peer = rig.login(link, **only(version))
    peer.send(TEXT, b"report")
    assert rig.wait_event(plane.MESSAGE)[2:] == (7, b"report")
    rig.apply((plane.SEND, peer.conn, b"answer"), (plane.CLOSE, peer.conn, 1000, b""))
    assert peer.next_frame() == (TEXT, b"answer")
    assert peer.wait_end() == [(CLOSE, b"\x03\xe8")]  # and close_notify: without one, TLSAbruptCloseError
    session = tls_of(peer).session
    assert session.appProto == b"otagate.v1"
    pem = (rig.folder / "server.pem").read_text()
    leaf = x509.load_pem_x509_certificate(pem.encode()).public_bytes(serialization.Encoding.DER)
    assert bytes(session.serverCertChain.x509List[0].bytes) == leaf


@pytest.mark.parametrize("cipher", ["aes128gcm", "aes256gcm", "chacha20-poly1305"])
@both_versions
def test_a_download_in_each_cipher(rig: TlsRig, tmp_path: Path, version: str, cipher: str) -> None:
    """More than a record of each, which another hand opens."""
    content, chunk = CONTENT[:20_000], 65_536
    load(rig, tmp_path, content, (chunk,))
    peer = rig.login("tcp", cipherNames=[cipher], **only(version))
    assert tls_of(peer).getCipherName() == cipher
    rig.apply(stream(peer.conn, 3, 0, len(content), chunk, content))
    assert chunks_until(rig, peer, len(content)) == [(3, 0, content)]


@both_versions
def test_a_ticket_resumes(rig: TlsRig, version: str) -> None:
    first = rig.login("tcp", **only(version))
    second = rig.login("tcp", 8, session=tls_of(first).session, **only(version))
    assert tls_of(second).resumed
    assert count(rig, "tls_handshakes", "tls_resumptions") == [2, 1]


def test_a_changed_ticket_does_not(rig: TlsRig) -> None:
    session = tls_of(rig.login("tcp", **only("1.3"))).session
    session.tickets[0].ticket[40] ^= 1
    second = rig.login("tcp", 8, session=session, **only("1.3"))
    assert not tls_of(second).resumed
    assert count(rig, "tls_handshakes", "tls_resumptions") == [2, 0]


@both_versions
def test_a_client_certificate_and_its_ticket(rig: TlsRig, version: str) -> None:
    rig.use(client_certificates="required", authorities=(rig.folder / "ca.pem").read_bytes())
    first = rig.login("tcp", shown="lamp/d0", **only(version))
    second = rig.login("tcp", 8, shown="lamp/d0", session=tls_of(first).session, **only(version))
    assert tls_of(second).resumed
    assert first.certificate.startswith(b"lamp/d0\n")
    assert second.certificate == first.certificate


# -- what does not ---------------------------------------------------------------------------------


def alert_of(rig: TlsRig, peer: Peer) -> int:
    """How the plane refuses a handshake."""
    with pytest.raises(TLSRemoteAlert) as refused:
        rig.secure(peer)
    peer.close()
    rig.wait_count("ended_tls", 1)
    assert count(rig, "connections", "connections_tls") == [0, 0]
    return int(refused.value.description)


@pytest.mark.parametrize(
    ("settings", "alert"),
    [
        ({"minVersion": (3, 1), "maxVersion": (3, 2)}, AlertDescription.protocol_version),
        ({"maxVersion": (3, 3), "sendFallbackSCSV": True}, AlertDescription.inappropriate_fallback),
        ({"maxVersion": (3, 3), "cipherNames": ["aes128", "aes256"]}, AlertDescription.handshake_failure),
        ({"maxVersion": (3, 3), "keyExchangeNames": ["rsa"]}, AlertDescription.handshake_failure),
        ({"eccCurves": ["secp521r1"], "keyShares": ["secp521r1"]}, AlertDescription.handshake_failure),
    ],
    ids=["TLS 1.1", "fallback", "no AEAD", "no forward secrecy", "another curve"],
)
def test_refused(rig: TlsRig, settings: dict[str, Any], alert: int) -> None:
    assert alert_of(rig, witness(rig, **settings)) == alert


def test_no_certificate_where_one_is_required(rig: TlsRig) -> None:
    rig.use(client_certificates="required", authorities=(rig.folder / "ca.pem").read_bytes())
    assert alert_of(rig, witness(rig, **only("1.2"))) == AlertDescription.handshake_failure


def test_a_downgrade_on_the_way_is_noticed(rig: TlsRig) -> None:
    """Somebody between takes TLS 1.3 out of the offer; the server's random tells (RFC 8446 section 4.1.3)."""
    peer = witness(rig)
    versions = b"\x00\x2b\x00\x09\x08\x03\x04"  # the extension: type, size; size of the list, TLS 1.3, …
    between(peer, lambda data: data.replace(versions, b"\xfa\xfa" + versions[2:]))
    with pytest.raises(TLSLocalAlert, match="downgrade"):
        rig.secure(peer)
    peer.close()
    rig.wait_count("ended_tls", 1)


def test_renegotiation_is_refused(rig: TlsRig) -> None:
    peer = rig.login("tcp", **only("1.2"))
    hello = ClientHello().create((3, 3), bytearray(32), bytearray(), [0xC02B, 0x00FF])
    assert list(tls_of(peer)._sendMsg(hello)) == []
    with pytest.raises(TLSRemoteAlert) as refused:
        peer.wait_end()
    assert refused.value.description == AlertDescription.no_renegotiation


@both_versions
def test_a_changed_record(rig: TlsRig, version: str) -> None:
    peer = rig.login("tcp", **only(version))
    between(peer, lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    peer.send(TEXT, b"report")
    with pytest.raises(TLSRemoteAlert) as refused:
        peer.wait_end()
    assert refused.value.description == AlertDescription.bad_record_mac
    assert rig.wait_event(plane.CLOSED)[3] == plane.LOST
    assert rig.events == []


@both_versions
def test_a_truncated_record(rig: TlsRig, version: str) -> None:
    """Half of a record, then the end: nothing of it is ever a message."""
    peer = rig.login("tcp", **only(version))
    between(peer, lambda data: data[: len(data) // 2])
    peer.send(TEXT, b"report")
    assert isinstance(peer.socket, Witness)
    peer.socket.raw.shutdown(socket.SHUT_WR)
    assert rig.wait_event(plane.CLOSED)[3] == plane.LOST
    assert rig.events == []


# -- what is odd -----------------------------------------------------------------------------------


@both_versions
def test_records_of_one_byte(rig: TlsRig, version: str) -> None:
    peer = rig.connect(**only(version))
    tls_of(peer).recordSize = 1
    peer.send_raw(PREFACE + frame("tcp", TEXT, b"hello"))
    assert rig.wait_event(plane.HELLO)[2] == b"hello"


def test_new_keys(rig: TlsRig) -> None:
    """The client changes its keys and asks for the server's to be changed (RFC 8446 section 4.6.3)."""
    peer = rig.login("tcp", **only("1.3"))
    for text in (b"one", b"two"):
        assert list(tls_of(peer).send_keyupdate_request(KeyUpdateMessageType.update_requested)) == []
        peer.send(TEXT, text)
        assert rig.wait_event(plane.MESSAGE)[3] == text
        rig.apply((plane.SEND, peer.conn, text))
        assert peer.next_frame() == (TEXT, text)


# -- floods --------------------------------------------------------------------------------------------


def recorded(peer: Peer, say: Callable[[Any], None]) -> bytes:
    """What it would send."""
    tls = tls_of(peer)
    kept = tls.sock.socket
    found = bytearray()

    class Recorder:
        recv = kept.recv

        def send(self, data: bytes) -> int:
            found.extend(data)
            return len(data)

        sendall = send

    tls.sock.socket = Recorder()
    say(tls)
    tls.sock.socket = kept
    return bytes(found)


def turn(rig: TlsRig) -> int:
    """Bytes received in one."""
    before = count(rig, "bytes_in")[0]
    rig.events += rig.plane.drain(1)
    return count(rig, "bytes_in")[0] - before


@pytest.mark.parametrize("size", [0, 1])
@both_versions
def test_small_records_take_turns(rig: TlsRig, version: str, size: int) -> None:
    """They are opened one by one, so what counts is how much was received for what is in them."""
    peer = rig.login("tcp", **only(version))
    rig.settle()
    text = b"x" * (2_500 if size else 100)

    def say(tls: Any) -> None:
        tls.recordSize = 1
        for byte in frame("tcp", TEXT, text):
            for _ in range(0 if size else 20):  # 32 in a row would be an error
                assert (
                    list(tls._sendMsg(ApplicationData().create(bytearray()), randomizeFirstBlock=False)) == []
                )
            assert list(tls.writeAsync(bytes([byte]))) == []

    data = recorded(peer, say)
    assert isinstance(peer.socket, Witness)
    assert peer.socket.raw.send(data) == len(data)
    received = []
    while not any(event[0] == plane.MESSAGE for event in rig.events):
        received.append(turn(rig))
    assert max(received) <= 16_384 + 4_096
    assert sum(received) == len(data)
    assert rig.wait_event(plane.MESSAGE)[3] == text


@pytest.mark.parametrize(
    "asked", [KeyUpdateMessageType.update_requested, KeyUpdateMessageType.update_not_requested]
)
def test_a_flood_of_new_keys(rig: TlsRig, asked: int) -> None:
    """Each is a record of 27 bytes, and costs as much as ten: after some of them nothing more is read."""
    peer = rig.login("tcp", **only("1.3"))
    rig.settle()
    before = count(rig, "bytes_in", "bytes_out")

    def say(tls: Any) -> None:
        for _ in range(1_000):
            assert list(tls.send_keyupdate_request(asked)) == []

    data = recorded(peer, say)
    assert isinstance(peer.socket, Witness)
    assert peer.socket.raw.send(data) == len(data)
    assert rig.wait_event(plane.CLOSED)[3] == plane.LOST
    received, sent = (
        now - then for now, then in zip(count(rig, "bytes_in", "bytes_out"), before, strict=True)
    )
    assert received <= 16_384 + 4_096
    assert sent <= 17 * 27


def test_a_flood_of_renegotiations(rig: TlsRig) -> None:
    peer = rig.login("tcp", **only("1.2"))
    rig.settle()
    before = count(rig, "bytes_out")[0]
    hello = ClientHello().create((3, 3), bytearray(32), bytearray(), [0xC02B, 0x00FF])

    def say(tls: Any) -> None:
        for _ in range(200):
            assert list(tls._sendMsg(hello)) == []

    data = recorded(peer, say)
    assert isinstance(peer.socket, Witness)
    assert peer.socket.raw.send(data) == len(data)
    assert rig.wait_event(plane.CLOSED)[3] == plane.LOST
    assert count(rig, "bytes_out")[0] - before <= 17 * 31


def test_some_new_keys_are_no_flood(rig: TlsRig) -> None:
    peer = rig.login("tcp", **only("1.3"))
    for _ in range(16):
        assert list(tls_of(peer).send_keyupdate_request(KeyUpdateMessageType.update_requested)) == []
    peer.send(TEXT, b"report")
    assert rig.wait_event(plane.MESSAGE)[3] == b"report"
