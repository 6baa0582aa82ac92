"""The data plane: every device socket of a process behind one epoll descriptor.

The seam is a batch of events out (`Plane.drain`) and a batch of commands in (`Plane.apply`), both lists of
tuples of plain ints and bytes whose first item is the kind. A connection is a number: positive, below 2**52,
never used twice. A stale number is harmless everywhere: the command is passed over.

Events

    (HELLO, conn, payload, nonce, certificate)
        A text message of a connection not yet admitted; `nonce` is the 32 hex characters of its challenge.
        Nothing more is read from it until ADMIT, RETRY_HELLO or CLOSE. `certificate` is empty without a
        client certificate; of a verified one it holds its name (empty if there is not exactly one of the
        kind, of 1 to 255 printable ASCII characters), then for each authority of its chain a line feed and
        the SHA-256 of that authority's certificate in lower-case hex, the issuer first.
    (MESSAGE, conn, device, payload)
        A text message of an admitted one; `device` is what ADMIT said.
    (BINARY, conn, device, payload)
        Only in echo mode.
    (CLOSED, conn, device, code)
        An admitted connection is over, once. `code`: of the close frame sent or received (1005: it had none,
        or CLOSE said 0), LOST, STALLED, OVERFLOWED or IMAGE_UNREADABLE. After CLOSE it comes when the
        socket is gone; else at once, though the socket may linger.
    (STARTED, conn, device, transfer)
        The first byte of the transfer was given to the kernel.
    (ENDED, conn, device, transfer, reason)
        DONE (all bytes given to the kernel), STOPPED, REPLACED or FAILED. Not told if the connection closes.

Commands

    (SEND, conn, payload)
        A text message.
    (SEND_BINARY, conn, payload)
        A binary one (echo mode).
    (ADMIT, conn, device)
        Logged in as `device`, 0 <= device < 2**63. Who admits hears of the end: for a connection that is
        gone by now, CLOSED follows.
    (RETRY_HELLO, conn)
        The next message is a HELLO again; its deadline runs on.
    (IMAGE, image, path, size)
        Opens a file under a number. If it cannot be, or is shorter than `size`, transfers on it end FAILED.
    (DIGESTS, image, chunk_size, table)
        xxh32 of its chunks, u32 big-endian each; the last chunk may be short. Passed over if it was dropped.
    (DROP_IMAGE, image)
        No new transfers; closed after the last one.
    (STREAM, conn, transfer, image, offset, end, chunk_size, head_xxh32, tail_xxh32)
        Streams bytes `offset` to `end` in chunks cut at absolute multiples of chunk_size (a power of two,
        256 B to 256 KiB). A first chunk that is not one of the table's carries head_xxh32, a last one
        tail_xxh32. Replaces the connection's transfer. Without image or digests, or outside of the image:
        ENDED with FAILED, and what ran is stopped.
    (STOP, conn, transfer)
        Ends it at a chunk boundary; -1: whichever there is.
    (CLOSE, conn, code, reason)
        What is queued, a close frame, our FIN; then the peer's is awaited. code 0: no close frame. A running
        transfer is cut at a chunk boundary.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal

HELLO: Final[int]
MESSAGE: Final[int]
BINARY: Final[int]
CLOSED: Final[int]
STARTED: Final[int]
ENDED: Final[int]

SEND: Final[int]
SEND_BINARY: Final[int]
ADMIT: Final[int]
RETRY_HELLO: Final[int]
IMAGE: Final[int]
DIGESTS: Final[int]
DROP_IMAGE: Final[int]
STREAM: Final[int]
STOP: Final[int]
CLOSE: Final[int]

# Reasons in ENDED.
DONE: Final[int]
STOPPED: Final[int]
REPLACED: Final[int]
FAILED: Final[int]

# What a listener asks (Plane.listen).
TLS_OFF: Final[int]
TLS_OPTIONAL: Final[int]
TLS_REQUIRED: Final[int]

# Links in Plane.connection_info (0: not known yet).
WEBSOCKET: Final[int]
TCP: Final[int]

# Codes in CLOSED that no peer sent.
LOST: Final[int]  # 1006: the TCP connection ended
SILENT: Final[int]  # 4003: no frame for heartbeat_timeout_ms
STALLED: Final[int]  # it did not read for write_stall_timeout_ms
OVERFLOWED: Final[int]  # more was queued than connection_output_bytes_max
IMAGE_UNREADABLE: Final[int]  # the file under its transfer: truncated, or an error of the disk

CONNECTION_BYTES: Final[int]  # memory of an idle connection

class Plane:
    """Owns the sockets of all devices. Not for several threads at once.

    Wait until `fileno()` is readable, `drain()`, handle the events, `apply()` commands; while `pending`,
    drain again (after letting others run) instead of waiting. Shortest whole example: otagate.plane.echo.

    Bounds not given come from otagate.limits. heartbeat_timeout_ms 0: silence ends nothing. echo: connections
    are admitted (as device 0) as soon as they are open, with any path; binary messages are events too.
    Raises OSError if the kernel gives no descriptor or memory.
    """

    def __init__(
        self,
        *,
        connections_max: int,
        transfers_max: int,
        heartbeat_timeout_ms: int,
        handshake_timeout_ms: int = ...,
        hello_timeout_ms: int = ...,
        write_stall_timeout_ms: int = ...,
        close_timeout_ms: int = ...,
        http_head_bytes_max: int = ...,
        hello_bytes_max: int = ...,
        message_bytes_max: int | None = None,
        connection_output_bytes_max: int | None = None,
        connection_sndbuf_bytes: int = ...,
        streaming_sndbuf_bytes: int = ...,
        turn_messages_max: int = ...,
        turn_sendfile_bytes_max: int = ...,
        drain_events_max: int = ...,
        strangers_per_address_max: int = ...,
        drain_handshakes_max: int = ...,
        drain_stream_ns: int = ...,
        echo: bool = False,
    ) -> None: ...
    def listen(self, fd: int, security: int = ...) -> None:
        """Accepts from a listening TCP socket, of which it keeps a descriptor of its own. Up to 8.

        Makes the socket non-blocking and sets TCP_NODELAY, for both of its descriptors. TLS_OPTIONAL and
        TLS_REQUIRED take effect with the first `tls`. Raises OSError.
        """

    def tls(
        self,
        certificate: bytes,
        key: bytes,
        *,
        more: dict[str, tuple[bytes, bytes]] = ...,
        authorities: bytes = b"",
        revocations: bytes = b"",
        client_certificates: Literal["off", "optional", "required"] = "off",
        certificate_name: Literal["cn", "uri", "dns"] = "cn",
    ) -> None:
        """What new connections shake hands with; those that are there keep what they have, but whose
        certificate `revocations` name ends (CLOSED with 4001). All is PEM.

        certificate: the gateway's, then those between it and the root. more: up to 64 others with their keys,
        each for who asks for a DNS name in it; by what they are called in errors. Who asks for none, or for
        one that nobody has, is shown the first. authorities: who may sign client certificates; each is an end
        of the chain. revocations: CRLs, of each authority that signs devices.
        certificate_name: where the device's name stands: common name, or the one URI or DNS name.
        Raises ValueError that names the part that cannot be used; then all is as before.
        """

    def ticket_keys(self, keys: bytes) -> None:
        """One to three keys of 80 random bytes: the first seals session tickets, all open them.

        Without it, `tls` draws one. Raises ValueError.
        """

    def trust_proxies(self, networks: Sequence[str]) -> None:
        """Who may send a PROXY header (version 2): networks, as "10.0.0.0/8" or "::1". Up to 64.

        Their connections count as strangers of the address that the header names. Raises ValueError.
        """

    def unlisten(self) -> None:
        """Accepts no more; connections live on."""

    def fileno(self) -> int:
        """The descriptor that is readable when there is something to drain."""

    def drain(self, budget_ns: int = ...) -> list[tuple[Any, ...]]:
        """Works for at most about `budget_ns`, and returns events in order: at most drain_events_max."""

    @property
    def pending(self) -> bool:
        """Work was left over that `fileno()` need not tell of: drain again."""

    def apply(self, commands: list[tuple[Any, ...]]) -> None:
        """Carries out commands in order, then writes: at most one send for each connection.

        Raises ValueError, TypeError or OverflowError at a malformed command; those before it are carried out.
        """

    def statistics(self) -> dict[str, int]:
        """Counters since the start, and what is there now (connections, connections_websocket,
        connections_tcp, connections_tls, resting, transfers_running, transfers_waiting). ended_*: connections
        by cause; refused_strangers: turned away since too many of their address had not logged in."""

    def last_seen_ms(self, conn: int) -> int:
        """Milliseconds since the last frame of a connection; -1: it is gone."""

    def connection_info(self, conn: int) -> tuple[int, str] | None:
        """Its link, and the peer's address as HOST:PORT (a proxy's word, if it sent one).

        None: it is gone.
        """

    def wake_after(self, ms: int) -> None:
        """Makes `fileno` readable in so many milliseconds, 1 or more; replaces the former time."""

    def advance_clock(self, ms: int) -> None:
        """A test's: moves the clock of the deadlines ahead. They are met in the next drain."""

    def limit_writes(self, bytes_max: int) -> None:
        """A test's: no write moves more than so many bytes; 0: no limit."""

    def close(self) -> None:
        """Closes every descriptor. Everything else then raises ValueError."""
