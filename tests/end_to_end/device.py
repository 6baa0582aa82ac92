"""A device of the tests' own making: both links of docs/protocol.md, with nothing of the SDK or the codec.

WebSocket frames are masked, as they must be, with a mask of zero: so that what is on the wire can be read in
a trace of system calls. Everything that arrives is put where the test looks for it: messages into `inbox`,
chunks into `chunks`, the close code into `closed` (1006: the connection ended without one).
"""

import hashlib
import hmac
import json
import os
import socket
import struct
from base64 import b64encode
from collections import deque
from typing import Any, NamedTuple

import trio
import xxhash

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
ABNORMAL = 1006
WITHIN_S = 20.0  # of the test's clock: what has not come by then never will
SECRET = "a secret of the tests: sixteen or more"
CHUNK_HEADER = struct.Struct(">IIQ")
LINGER_NOTHING = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

Message = dict[str, Any]


def mac(secret: str, nonce: str, product: str, identifier: str) -> str:
    """`hello.mac`, from the words of docs/protocol.md."""
    return hmac_hex(secret, f"{nonce}:{product}:{identifier}")


def hmac_hex(secret: str, text: str) -> str:
    """HMAC-SHA256 of a text in lower-case hex."""
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


class Chunk(NamedTuple):
    """A binary message of the gateway."""

    transfer: int
    digest: int
    offset: int
    data: bytes

    @classmethod
    def parse(cls, payload: bytes) -> "Chunk":
        """Split and check one."""
        transfer, digest, offset = CHUNK_HEADER.unpack_from(payload)
        data = payload[CHUNK_HEADER.size :]
        assert xxhash.xxh32_intdigest(data) == digest, f"chunk at {offset} is damaged"
        return cls(transfer, digest, offset, data)


def websocket_frame(opcode: int, payload: bytes, *, final: bool = True, mask: bool = True) -> bytes:
    """A frame of a client (RFC 6455 section 5.2), masked with zeros."""
    first = bytes([(0x80 if final else 0) | opcode])
    bit = 0x80 if mask else 0
    if len(payload) < 126:
        head = first + bytes([bit | len(payload)])
    elif len(payload) < 2**16:
        head = first + struct.pack(">BH", bit | 126, len(payload))
    else:
        head = first + struct.pack(">BQ", bit | 127, len(payload))
    return head + (bytes(4) if mask else b"") + payload


def tcp_frame(opcode: int, payload: bytes) -> bytes:
    """A frame of the raw link."""
    return bytes([opcode]) + len(payload).to_bytes(3, "big") + payload


class Ended(Exception):  # noqa: N818 - what happened
    """The connection is over, and what was waited for has not come."""


class Device:
    """One connection of a device: `await Device.connect(...)`, then `log_in`."""

    def __init__(self, stream: trio.SocketStream, link: str, product: str, identifier: str) -> None:
        self.stream = stream
        self.link = link
        self.product = product
        self.identifier = identifier
        self.secret = SECRET
        self.nonce = ""
        self.inbox: deque[Message] = deque()
        self.chunks: deque[Chunk] = deque()
        self.pongs: deque[bytes] = deque()
        self.closed: int | None = None
        self._buffer = bytearray()
        self._next_id = 0

    @classmethod
    async def connect(
        cls, address: tuple[str, int], link: str, identifier: str, product: str = "lamp"
    ) -> "Device":
        """Open a connection, and read the challenge."""
        device = await cls.open(address, link, identifier, product)
        challenge = await device.receive("challenge")
        assert challenge["protocol"] == [1]
        device.nonce = challenge["nonce"]
        return device

    @classmethod
    async def open(
        cls, address: tuple[str, int], link: str, identifier: str, product: str = "lamp"
    ) -> "Device":
        """Open a connection as far as the first frame."""
        device = cls(await trio.open_tcp_stream(*address), link, product, identifier)
        if link == "tcp":
            await device.stream.send_all(b"OTG\x01")
        else:
            await device._upgrade()
        return device

    async def _upgrade(self) -> None:
        key = b64encode(os.urandom(16)).decode()
        await self.stream.send_all(
            f"GET /device HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Protocol: otagate.v1\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self._buffer:
            await self._fill()
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        self._buffer = bytearray(rest)
        accept = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
        lines = head.decode().split("\r\n")
        assert lines[0].startswith("HTTP/1.1 101 "), lines[0]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        assert headers["sec-websocket-accept"] == b64encode(accept).decode()
        assert headers["sec-websocket-protocol"] == "otagate.v1"
        assert "sec-websocket-extensions" not in headers

    # -- out -------------------------------------------------------------------------------------

    def frame(self, opcode: int, payload: bytes) -> bytes:
        """The bytes of a frame on this link."""
        return tcp_frame(opcode, payload) if self.link == "tcp" else websocket_frame(opcode, payload)

    async def send_bytes(self, data: bytes) -> None:
        """Bytes as they are."""
        await self.stream.send_all(data)

    async def send_frame(self, opcode: int, payload: bytes) -> None:
        """One frame."""
        await self.send_bytes(self.frame(opcode, payload))

    async def send(self, type: str, **fields: Any) -> None:
        """One message."""
        await self.send_frame(TEXT, encode(type, **fields))

    async def send_together(self, *messages: Message) -> None:
        """Several messages in one segment, so that one drain of the gateway reads them all."""
        await self.send_bytes(b"".join(self.frame(TEXT, encode(**message)) for message in messages))

    # -- in --------------------------------------------------------------------------------------

    async def _fill(self) -> None:
        if self.closed is not None:
            raise Ended(self.closed)
        try:
            data = await self.stream.receive_some(1 << 18)
        except trio.BrokenResourceError:
            data = b""
        if not data:
            self.closed = ABNORMAL
            raise Ended(self.closed)
        self._buffer += data

    async def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            await self._fill()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def _frame(self) -> tuple[int, bytes]:
        if self.link == "tcp":
            head = await self._take(4)
            return head[0], await self._take(int.from_bytes(head[1:], "big"))
        first, second = await self._take(2)
        assert first & 0x80, "the gateway fragments nothing"
        assert first & 0x70 == 0
        assert second & 0x80 == 0, "a server masks nothing"
        size = second
        if second == 126:
            size = int.from_bytes(await self._take(2), "big")
        elif second == 127:
            size = int.from_bytes(await self._take(8), "big")
        return first & 0x0F, await self._take(size)

    async def read(self) -> None:
        """Read one frame, and put it where it belongs. Ended."""
        opcode, payload = await self._frame()
        if opcode == TEXT:
            assert len(payload) <= 1000
            self.inbox.append(json.loads(payload))
        elif opcode == BINARY:
            self.chunks.append(Chunk.parse(payload))
        elif opcode == PING:
            await self.send_frame(PONG, payload)
        elif opcode == PONG:
            self.pongs.append(payload)
        else:
            assert opcode == CLOSE
            self.closed = int.from_bytes(payload[:2], "big") if payload else 1005

    async def receive(self, type: str | None = None) -> Message:
        """The next message, which must be of this type."""
        with trio.fail_after(WITHIN_S):
            while not self.inbox:
                await self.read()
        message = self.inbox.popleft()
        assert type is None or message["type"] == type, message
        return message

    async def chunk(self) -> Chunk:
        """The next chunk."""
        with trio.fail_after(WITHIN_S):
            while not self.chunks:
                await self.read()
        return self.chunks.popleft()

    async def wait_closed(self) -> int:
        """Read to the end; the close code."""
        with trio.fail_after(WITHIN_S):
            while self.closed is None:
                try:
                    await self.read()
                except Ended:
                    break
        assert self.closed is not None
        return self.closed

    async def ping(self, payload: bytes = b"are you there") -> None:
        """Ping, and wait for the pong: what the gateway had sent before is in the inbox then."""
        await self.send_frame(PING, payload)
        with trio.fail_after(WITHIN_S):
            while not self.pongs:
                await self.read()
        assert self.pongs.popleft() == payload

    async def quiet(self) -> None:
        """Nothing has come that the test has not taken."""
        await self.ping()
        assert not self.inbox, list(self.inbox)
        assert not self.chunks

    # -- conversations ---------------------------------------------------------------------------

    def hello(self, version: str, **fields: Any) -> Message:
        """The hello that this connection's challenge wants."""
        return {
            "type": "hello",
            "product": self.product,
            "device": self.identifier,
            "version": version,
            "mac": mac(self.secret, self.nonce, self.product, self.identifier),
            **fields,
        }

    async def log_in(self, version: str, **fields: Any) -> Message:
        """Say hello; the welcome."""
        await self.send(**self.hello(version, **fields))
        return await self.receive("welcome")

    async def ask(self, type: str, **fields: Any) -> Message:
        """Send a message with an id, and wait for its answer; what comes before it stays in the inbox."""
        self._next_id += 1
        name = f"q{self._next_id}"
        await self.send(type, id=name, **fields)
        return await self.answer(name)

    async def answer(self, name: str) -> Message:
        """The message that carries this id."""
        looked_at = 0
        with trio.fail_after(WITHIN_S):
            while True:
                while looked_at < len(self.inbox):
                    if self.inbox[looked_at].get("id") == name:
                        found = self.inbox[looked_at]
                        del self.inbox[looked_at]
                        return found
                    looked_at += 1
                await self.read()

    async def download(self, transfer: int, firmware: str, offset: int, end: int, chunk_size: int) -> bytes:
        """Fetch [offset, end), checking that each chunk is where it belongs and cut where it must be."""
        await self.send(
            "fetch",
            transfer=transfer,
            firmware=firmware,
            offset=offset,
            length=end - offset,
            chunk_size=chunk_size,
        )
        data = bytearray()
        at = offset
        while at < end:
            chunk = await self.chunk()
            if chunk.transfer != transfer:
                continue  # of the one that this replaced
            assert chunk.offset == at
            assert len(chunk.data) == min(end, (at // chunk_size + 1) * chunk_size) - at
            data += chunk.data
            at += len(chunk.data)
        return bytes(data)

    async def lose(self) -> None:
        """The network is gone: reset, not closed."""
        self.stream.setsockopt(*LINGER_NOTHING)
        await trio.aclose_forcefully(self.stream)
        self.closed = ABNORMAL

    async def aclose(self) -> None:
        """End of the connection."""
        await trio.aclose_forcefully(self.stream)


def encode(type: str, **fields: Any) -> bytes:
    """The JSON of a message."""
    return json.dumps({"type": type, **fields}, separators=(",", ":"), ensure_ascii=False).encode()
