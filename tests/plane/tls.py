"""Peers that speak TLS to a plane under test: Python's own ssl between two memory BIOs.

A `Secured` stands in for the socket of a `Peer`, so that everything of the rig works below TLS, too.
"""

import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from otagate import plane

from .rig import Peer, Rig


class Secured:
    """A non-blocking socket below TLS, with the few methods that a peer uses."""

    def __init__(
        self,
        connected: socket.socket,
        context: ssl.SSLContext,
        session: Any = None,
        name: str | None = "localhost",
    ) -> None:
        self.raw = connected
        self.ended = False
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name, session=session)

    def fileno(self) -> int:
        return self.raw.fileno()

    def close(self) -> None:
        self.raw.close()

    def getsockopt(self, *arguments: Any) -> Any:
        return self.raw.getsockopt(*arguments)

    def setsockopt(self, *arguments: Any) -> None:
        self.raw.setsockopt(*arguments)

    def flush(self) -> None:
        """Hands what ssl has made to the kernel; the tests' peers never say more than it takes."""
        data = self.outgoing.read()
        while data:
            data = data[self.raw.send(data) :]

    def pull(self) -> None:
        """What has arrived."""
        try:
            data = self.raw.recv(1 << 20)
        except BlockingIOError:
            return
        if data:
            self.incoming.write(data)
        else:
            self.ended = True
            self.incoming.write_eof()

    def shake(self) -> bool:
        """Goes on with the handshake; True: done. Raises ssl.SSLError."""
        self.pull()
        try:
            self.ssl.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            self.flush()
        return True

    def send(self, data: bytes) -> int:
        sent = self.ssl.write(data)
        self.flush()
        return sent

    def send_changed(self, data: bytes) -> None:
        """A record that somebody has changed on its way."""
        self.ssl.write(data)
        record = bytearray(self.outgoing.read())
        record[50] ^= 1
        self.raw.send(record)

    def recv(self, size: int) -> bytes:
        self.pull()
        try:
            return self.ssl.read(size)
        except ssl.SSLWantReadError:
            raise BlockingIOError from None
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return b""
        finally:
            self.flush()


def certificates(folder: Path) -> dict[str, bytes]:
    """What Plane.tls wants of it."""
    return {
        "certificate": (folder / "server.pem").read_bytes(),
        "key": (folder / "server.key").read_bytes(),
    }


def client_context(folder: Path, device: str = "") -> ssl.SSLContext:
    """Trusts the folder's authority; with a device's certificate."""
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    if device:
        stem = folder / "devices" / device
        context.load_cert_chain(f"{stem}.pem", f"{stem}.key")
    return context


class TlsRig(Rig):
    """A plane whose one listener takes TLS."""

    def __init__(self, folder: Path, *, security: int = plane.TLS_OPTIONAL, **bounds: Any) -> None:
        self.folder = folder
        self.security = security
        self.context = client_context(folder)
        super().__init__(**bounds)
        self.use()

    def _listen(self) -> None:
        self.plane.listen(self.listener.fileno(), self.security)

    def use(self, **given: Any) -> None:
        """Plane.tls with the folder's certificate, and what else is given."""
        self.plane.tls(**certificates(self.folder) | given)

    def connect_tls(
        self,
        link: str = "tcp",
        context: ssl.SSLContext | None = None,
        session: Any = None,
        name: str | None = "localhost",
        **options: int,
    ) -> Peer:
        """A connection that has said nothing, but can say it below TLS. name: whom it asks for."""
        peer = super().connect(link, **options)
        peer.socket = Secured(peer.socket, context or self.context, session, name)  # type: ignore[assignment]
        return peer

    def connect(self, link: str = "tcp", **options: int) -> Peer:
        """Through the TLS handshake."""
        return self.secure(self.connect_tls(link, **options))

    def secure(self, peer: Peer) -> Peer:
        """The handshake."""
        self.wait(peer.socket.shake)  # type: ignore[attr-defined]
        return peer


def count(rig: Rig, *names: str) -> list[int]:
    """Some of the plane's statistics."""
    statistics = rig.plane.statistics()
    return [statistics[name] for name in names]


Make = Callable[..., TlsRig]


@pytest.fixture
def make_tls(certs: Path) -> Iterator[Make]:
    rigs: list[TlsRig] = []

    def make(**options: Any) -> TlsRig:
        rigs.append(TlsRig(certs, **options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()
