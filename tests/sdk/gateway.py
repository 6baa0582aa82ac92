"""A scripted gateway for tests of the client: the test says what happens on each connection."""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio
import xxhash
from trio.testing import memory_stream_pair
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from otagate.wire import codec, decoder, messages
from otagate.wire.constants import SUBPROTOCOL

SECRET = "s000000000000000000000000000001"
NONCE = "00112233445566778899aabbccddeeff"
IMAGE = bytes(range(250)) * 400  # 100,000 bytes
URLS = ("ws://gateway:7700/device", "tcp://gateway:7700")


def upgrade(
    version: str = "2.0",
    *,
    image: bytes = IMAGE,
    policy: Any = "standard",
    attempt: int = 1,
    chunk_size: int = 4096,
) -> Any:
    return messages.Upgrade(
        batch="b1",
        attempt=attempt,
        policy=policy,
        firmware=messages.FirmwareOffer(
            id="f1",
            version=version,
            size=len(image),
            md5=hashlib.md5(image).hexdigest(),
            sha256=hashlib.sha256(image).hexdigest(),
            chunk_size=chunk_size,
        ),
        timeout_s=60,
        expires_at=2**31,
    )


class Peer:
    """The gateway's end of one connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.pings = 0
        self.close_code: int | None = None
        self.answers_pings = True

    async def receive(self) -> Any:
        """The next message of the device, pings answered; None at the end."""
        while True:
            event = await self.next_event()
            if event is None:
                return None
            kind, payload = event
            if kind == "text":
                return messages.decode_device_message(payload)
            if kind == "ping":
                self.pings += 1
                if self.answers_pings:
                    await self.send_frame(Opcode.PONG, payload)
            if kind == "close":
                self.close_code = int.from_bytes(payload[:2], "big")
                return None

    async def expect(self, kind: type[Any]) -> Any:
        """The next message, progress of the download aside."""
        while True:
            message = await self.receive()
            if isinstance(message, messages.Progress) and message.stage == "downloading":
                continue
            assert isinstance(message, kind), message
            return message

    async def send(self, message: messages.GatewayMessage) -> None:
        await self.send_frame(Opcode.TEXT, messages.encode(message))

    async def login(self, heartbeat_s: int = 60) -> messages.Hello:
        await self.send(messages.Challenge(nonce=NONCE, protocol=[1]))
        hello: messages.Hello = await self.expect(messages.Hello)
        assert hello.mac == messages.login_mac(SECRET, NONCE, hello.product, hello.device)
        mac = None if hello.nonce is None else messages.gateway_mac(SECRET, hello.nonce, NONCE)
        await self.send(messages.Welcome(server_time=1, heartbeat_s=heartbeat_s, mac=mac, id=hello.id))
        return hello

    async def stream_image(self, fetch: messages.Fetch, image: bytes = IMAGE, end: int | None = None) -> None:
        offset = fetch.offset
        end = len(image) if end is None else end
        while offset < end:
            data = image[offset : min((offset // fetch.chunk_size + 1) * fetch.chunk_size, end)]
            await self.send_chunk(fetch.transfer, offset, data)
            offset += len(data)

    async def send_chunk(self, transfer: int, offset: int, data: bytes, digest: int | None = None) -> None:
        digest = xxhash.xxh32_intdigest(data) if digest is None else digest
        await self.send_frame(Opcode.BINARY, codec.encode_chunk_header(transfer, digest, offset) + data)

    async def close(self, code: int) -> None:
        await self.send_frame(Opcode.CLOSE, code.to_bytes(2, "big"))

    async def next_event(self) -> tuple[str, bytes] | None:
        raise NotImplementedError

    async def send_frame(self, opcode: Opcode, payload: bytes) -> None:
        raise NotImplementedError

    async def open(self) -> None:
        raise NotImplementedError


class TcpPeer(Peer):
    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__(stream)
        self._decoder = decoder.Decoder(decoder.Link.TCP, from_client=True)
        self._events: list[Any] = []

    async def open(self) -> None:
        pass

    async def next_event(self) -> tuple[str, bytes] | None:
        while not self._events:
            try:
                data = await self.stream.receive_some(65536)
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            self._events += self._decoder.receive_data(data)
        event = self._events.pop(0)
        if isinstance(event, decoder.Close):
            return "close", event.code.to_bytes(2, "big")
        return type(event).__name__.lower(), event.payload

    async def send_frame(self, opcode: Opcode, payload: bytes) -> None:
        await self.stream.send_all(codec.encode_tcp_frame(opcode, payload))


class WebSocketPeer(Peer):
    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__(stream)
        self._protocol = ServerProtocol(subprotocols=[SUBPROTOCOL])
        self._events: list[Any] = []

    async def open(self) -> None:
        request = await self._event()
        assert isinstance(request, Request)
        self._protocol.send_response(self._protocol.accept(request))
        await self._flush()
        assert self._protocol.subprotocol == SUBPROTOCOL
        assert not self._protocol.extensions

    async def _event(self) -> Any:
        while not self._events:
            try:
                data = await self.stream.receive_some(65536)
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            self._protocol.receive_data(data)
            self._events += self._protocol.events_received()
        return self._events.pop(0)

    async def next_event(self) -> tuple[str, bytes] | None:
        frame = await self._event()
        if frame is None:
            return None
        if frame.opcode is Opcode.CLOSE:
            await self._flush()  # the library's close frame answers the device's
        return frame.opcode.name.lower(), bytes(frame.data)

    async def send_frame(self, opcode: Opcode, payload: bytes) -> None:
        self._protocol.data_to_send()  # answers that the library would give by itself: the script gives them
        await self.stream.send_all(Frame(opcode, payload).serialize(mask=False))

    async def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                await self.stream.send_all(data)


Script = Callable[[Peer], Awaitable[None]]


class Gateway:
    """One script for each connection, in order; further ones are refused. `dialled` are their times."""

    def __init__(self, nursery: trio.Nursery, scripts: Sequence[Script], url: str) -> None:
        self._nursery = nursery
        self._scripts = list(scripts)
        self._websocket = url.startswith("ws")
        self.dialled: list[float] = []
        self.done = trio.Event()

    async def dial(self, host: str, port: int) -> trio.abc.Stream:
        assert (host, port) == ("gateway", 7700)
        self.dialled.append(trio.current_time())
        if not self._scripts:
            self.done.set()
            raise ConnectionRefusedError(111, "Connection refused")
        ours, theirs = memory_stream_pair()
        self._nursery.start_soon(self._play, self._scripts.pop(0), theirs)
        return ours

    async def _play(self, script: Script, stream: trio.abc.Stream) -> None:
        peer: Peer = WebSocketPeer(stream) if self._websocket else TcpPeer(stream)
        await peer.open()
        await script(peer)
        await trio.aclose_forcefully(stream)
