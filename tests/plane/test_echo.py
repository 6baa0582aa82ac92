"""The echo server as a process, and clients that others wrote: websockets, trio-websocket; and plain TCP."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
import trio
import trio_websocket
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK
from websockets.sync.client import connect

from .rig import BINARY, CLOSE, CONTINUATION, PING, PONG, PREFACE, TEXT, frame, parse_frame

MIB = 1 << 20


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    with subprocess.Popen(
        [sys.executable, "-m", "otagate.plane.echo", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        host, port = server.stdout.readline().strip().split(":")
        yield host, int(port)
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0


@pytest.fixture
def url(address: tuple[str, int]) -> str:
    return f"ws://{address[0]}:{address[1]}/any/path?at=all"


def test_websockets(url: str) -> None:
    with connect(url, max_size=None) as client:
        for message in ("", "text", "Grüße 👋", b"", bytes(range(256)), "x" * 65_535, b"y" * 65_536):
            client.send(message)
            assert client.recv() == message
        client.send(["frag", "men", "ted"])
        assert client.recv() == "fragmented"
        assert client.ping(b"hello").wait(20)
        client.close(4321, "done")
    assert client.close_code == 4321


def test_the_largest_message(url: str) -> None:
    message = os.urandom(16 * MIB)
    with connect(url, max_size=None) as client:
        client.send(message)
        assert client.recv() == message


def test_more_than_the_largest(url: str) -> None:
    with connect(url, max_size=None) as client:
        with contextlib.suppress(ConnectionClosedError):  # it may be told before it has sent all
            client.send(b"x" * (16 * MIB + 1))
        with pytest.raises(ConnectionClosedError) as raised:
            client.recv()
    assert raised.value.rcvd is not None
    assert raised.value.rcvd.code == 1009


def test_subprotocol(url: str) -> None:
    with connect(url, subprotocols=["otagate.v1"]) as client:  # type: ignore[list-item]
        assert client.subprotocol == "otagate.v1"


def test_invalid_utf8_fails_fast(address: tuple[str, int], url: str) -> None:
    with connect(url) as client:
        client.socket.sendall(frame("websocket", TEXT, b"\xf4\x90", fin=False))  # and no more of it
        with pytest.raises(ConnectionClosedError) as raised:
            client.recv(20)
    assert raised.value.rcvd is not None
    assert raised.value.rcvd.code == 1007


async def test_trio_websocket(url: str) -> None:
    async with trio_websocket.open_websocket_url(url, max_message_size=2 * MIB) as client:
        for message in ("text", b"binary", "ü" * 100_000, b"z" * MIB):
            await client.send_message(message)
            assert await client.get_message() == message
        await client.ping(b"payload")
        await client.aclose(1001)
    assert client.closed is not None
    assert client.closed.code == 1001


async def test_many_clients_at_once(url: str) -> None:
    async def talk(number: int) -> None:
        async with trio_websocket.open_websocket_url(url) as client:
            for i in range(10):
                await client.send_message(f"{number} {i}")
                assert await client.get_message() == f"{number} {i}"

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(talk, number)


def receive_frame(peer: socket.socket) -> tuple[int, bytes]:
    data = b""
    while (parsed := parse_frame("tcp", data)) is None:
        received = peer.recv(MIB)
        assert received
        data += received
    found, size = parsed
    assert len(data) == size
    return found


def test_tcp(address: tuple[str, int]) -> None:
    with socket.create_connection(address, 20) as peer:
        peer.sendall(PREFACE)
        for message in ((TEXT, b"text"), (BINARY, b""), (BINARY, bytes(range(256)) * 300)):
            peer.sendall(frame("tcp", *message))
            assert receive_frame(peer) == message
        peer.sendall(frame("tcp", PING, b"?"))
        assert receive_frame(peer) == (PONG, b"?")
        peer.sendall(frame("tcp", CONTINUATION, b""))
        assert receive_frame(peer) == (CLOSE, b"\x03\xea" + b"broken frame header")
        assert peer.recv(1) == b""


def test_the_largest_tcp_message(address: tuple[str, int]) -> None:
    message = os.urandom(2**24 - 1)
    with socket.create_connection(address, 20) as peer:
        peer.sendall(PREFACE + frame("tcp", BINARY, message))
        assert receive_frame(peer) == (BINARY, message)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_cleanly(end: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "otagate.plane.echo", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        host, port = server.stdout.readline().strip().split(":")
        with connect(f"ws://{host}:{port}/") as client:
            client.send("here")
            assert client.recv() == "here"
            server.send_signal(end)
            assert server.wait(20) == 0
            with pytest.raises((ConnectionClosedError, ConnectionClosedOK)):
                client.recv(20)
        assert server.stderr is not None
        assert server.stderr.read() == ""


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["127.0.0.1:port"]])
def test_usage(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "otagate.plane.echo", *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "HOST:PORT" in done.stderr
