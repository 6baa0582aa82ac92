"""URLs, and both links over real sockets against independent servers."""

import pytest
import trio
from websockets.trio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from otagate.sdk.links import LinkLost, open_link, parse_url
from otagate.wire import codec
from otagate.wire.constants import TCP_PREFACE, Opcode


@pytest.mark.parametrize(
    "url", ["ws://h", "ws://h:1/device?x=1", "wss://h/", "tcp://h:1", "tls://h:1/", "tcp://[::1]:7"]
)
def test_urls(url: str) -> None:
    assert parse_url(url).hostname in ("h", "::1")


@pytest.mark.parametrize("url", ["", "h:1", "http://h", "ws://", "tcp://h", "tcp://h:1/path", "tcp://:7700"])
def test_no_urls(url: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|port"):
        parse_url(url)


async def test_websocket_against_the_library(nursery: trio.Nursery) -> None:
    async def handle(connection: ServerConnection) -> None:
        assert connection.subprotocol == "otagate.v1"
        assert connection.request is not None
        assert connection.request.path == "/device"
        async for message in connection:
            assert message == '{"a":1}'
            await connection.send("text ü")
            await connection.send(b"\0chunk")
            await connection.aclose(4002, "superseded")

    server = await nursery.start(
        lambda task_status: serve(
            handle, 0, host="127.0.0.1", subprotocols=[Subprotocol("otagate.v1")], task_status=task_status
        )
    )
    port = server.listeners[0].socket.getsockname()[1]
    async with open_link(f"ws://127.0.0.1:{port}") as link:
        await link.ping()
        await link.send(b'{"a":1}')
        assert await link.receive() == "text ü"
        assert await link.receive() == b"\0chunk"
        with pytest.raises(LinkLost) as lost:
            await link.receive()
        assert (lost.value.code, lost.value.reason) == (4002, "superseded")
        assert link.heard_at <= trio.current_time()
    nursery.cancel_scope.cancel()


async def test_tcp_by_hand(nursery: trio.Nursery) -> None:
    async def handle(stream: trio.SocketStream) -> None:
        received = b""
        expected = TCP_PREFACE + codec.encode_tcp_frame(Opcode.TEXT, b'{"a":1}')
        while len(received) < len(expected):
            received += await stream.receive_some(100)
        assert received == expected
        answer = codec.encode_tcp_frame(Opcode.PING, b"p") + codec.encode_tcp_frame(Opcode.TEXT, b"text")
        answer += codec.encode_tcp_frame(Opcode.BINARY, b"\0chunk")
        for byte in answer:  # however it is cut
            await stream.send_all(bytes([byte]))
        assert await stream.receive_some(100) == codec.encode_tcp_frame(Opcode.PONG, b"p")
        await stream.send_all(codec.encode_tcp_frame(Opcode.CLOSE, b"\x0f\xa3silent"))

    listeners = await nursery.start(trio.serve_tcp, handle, 0)
    port = listeners[0].socket.getsockname()[1]
    async with open_link(f"tcp://127.0.0.1:{port}") as link:
        await link.send(b'{"a":1}')
        assert await link.receive() == "text"
        assert await link.receive() == b"\0chunk"
        with pytest.raises(LinkLost) as lost:
            await link.receive()
        assert (lost.value.code, lost.value.reason) == (4003, "silent")
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("scheme", ["ws", "tcp"])
async def test_nobody_there(scheme: str) -> None:
    with trio.socket.socket() as unused:
        await unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(LinkLost, match=r"cannot reach 127.0.0.1"):
            async with open_link(f"{scheme}://127.0.0.1:{port}"):
                pass


async def test_no_websocket_there(nursery: trio.Nursery) -> None:
    async def handle(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    listeners = await nursery.start(trio.serve_tcp, handle, 0)
    port = listeners[0].socket.getsockname()[1]
    with pytest.raises(LinkLost, match=r"no WebSocket at .*404"):
        async with open_link(f"ws://127.0.0.1:{port}"):
            pass
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("cut", [0, 1, 5])
async def test_tcp_cancelled_receive_loses_nothing(nursery: trio.Nursery, cut: int) -> None:
    frame = codec.encode_tcp_frame(Opcode.TEXT, b"text")
    rest = trio.Event()

    async def handle(stream: trio.SocketStream) -> None:
        await stream.send_all(frame[:cut])
        await rest.wait()
        await stream.send_all(frame[cut:])
        await trio.sleep_forever()

    listeners = await nursery.start(trio.serve_tcp, handle, 0)
    port = listeners[0].socket.getsockname()[1]
    async with open_link(f"tcp://127.0.0.1:{port}") as link:
        with trio.CancelScope() as scope:
            nursery.start_soon(_cancel_when_blocked, scope)
            await link.receive()
        rest.set()
        assert await link.receive() == "text"
    nursery.cancel_scope.cancel()


async def _cancel_when_blocked(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()
