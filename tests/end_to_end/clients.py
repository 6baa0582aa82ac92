"""Devices that speak through clients which are not ours: each offers `send`, `receive` and `close`, no more.

`upgrade` drives any of them through a whole upgrade, checking every byte with other libraries than ours.
"""

import hashlib
import json
import socket
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import websockets.sync.client
from websockets.exceptions import ConnectionClosed

from tests.end_to_end.device import SECRET, Chunk, encode, mac, tcp_frame

Address = tuple[str, int]
WITHIN_S = 30.0
NODE_PROGRAM = Path(__file__).parent / "npm" / "device.mjs"
NODE_MODULES = Path(__file__).parents[2] / "build" / "npm" / ".installed"  # tools/test puts them there


class Client(Protocol):
    """A connection of a device, for a test that blocks."""

    def send(self, text: bytes) -> None:
        """A text message."""

    def receive(self) -> str | bytes:
        """The next message: text, or a chunk. ConnectionError: it is over."""

    def close(self) -> None:
        """Go."""


class PlainSocket:
    """The raw link on nothing but a socket."""

    def __init__(self, address: Address) -> None:
        self._socket = socket.create_connection(address, WITHIN_S)
        self._socket.sendall(b"OTG\x01")
        self._file = self._socket.makefile("rb")

    def send(self, text: bytes) -> None:
        self._socket.sendall(tcp_frame(1, text))

    def receive(self) -> str | bytes:
        head = self._file.read(4)
        if len(head) < 4:
            raise ConnectionError("the gateway has ended the connection")
        payload = self._file.read(int.from_bytes(head[1:], "big"))
        if head[0] == 1:
            return payload.decode()
        assert head[0] == 2, head
        return payload

    def close(self) -> None:
        self._file.close()
        self._socket.close()


class Websockets:
    """`websockets`, its threaded client."""

    def __init__(self, address: Address) -> None:
        self._exits = ExitStack()
        self._connection = self._exits.enter_context(
            websockets.sync.client.connect(
                f"ws://{address[0]}:{address[1]}/device",
                subprotocols=[websockets.Subprotocol("otagate.v1")],
                max_size=2**20,
                compression="deflate",  # offered, and not taken
            )
        )
        assert self._connection.subprotocol == "otagate.v1"

    def send(self, text: bytes) -> None:
        self._connection.send(text.decode())

    def receive(self) -> str | bytes:
        try:
            return self._connection.recv(WITHIN_S)
        except ConnectionClosed as error:
            raise ConnectionError from error

    def close(self) -> None:
        self._exits.close()


class NodeWs:
    """`ws` of npm, in a process of node that passes messages on: see npm/device.mjs."""

    def __init__(self, address: Address) -> None:
        assert NODE_MODULES.exists(), "build/npm is missing: run tools/test"
        self._process = subprocess.Popen(
            ["node", str(NODE_PROGRAM), f"ws://{address[0]}:{address[1]}/device"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def send(self, text: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(tcp_frame(1, text))
        self._process.stdin.flush()

    def receive(self) -> str | bytes:
        assert self._process.stdout is not None
        head = self._process.stdout.read(4)
        if len(head) < 4:
            raise ConnectionError("the gateway has ended the connection")
        payload = self._process.stdout.read(int.from_bytes(head[1:], "big"))
        return payload.decode() if head[0] == 1 else payload

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(WITHIN_S) == 0


Dial = Callable[[Address], Client]


class Conversation:
    """A device's half of the protocol over any client."""

    def __init__(self, client: Client, identifier: str, product: str = "lamp") -> None:
        self.client = client
        self.identifier = identifier
        challenge = self.message("challenge")
        self._hello = {
            "product": product,
            "device": identifier,
            "mac": mac(SECRET, challenge["nonce"], product, identifier),
        }

    def log_in(self, version: str) -> None:
        """Say hello, and be welcome."""
        self.send("hello", version=version, **self._hello)
        self.message("welcome")

    def send(self, type: str, **fields: Any) -> None:
        """A message."""
        self.client.send(encode(type, **fields))

    def message(self, type: str) -> Any:
        """The next text message that is no chunk, of this type."""
        while isinstance(received := self.client.receive(), bytes):
            pass
        found = json.loads(received)
        assert found["type"] == type, found
        return found

    def ask(self, answer: str, type: str, **fields: Any) -> Any:
        """A message, and its answer."""
        self.send(type, id="q", **fields)
        found = self.message(answer)
        assert found["id"] == "q"
        return found

    def fetch(self, firmware: str, offset: int, end: int, chunk_size: int, transfer: int = 1) -> bytes:
        """Download [offset, end)."""
        self.send(
            "fetch",
            transfer=transfer,
            firmware=firmware,
            offset=offset,
            length=end - offset,
            chunk_size=chunk_size,
        )
        data = bytearray()
        while len(data) < end - offset:
            received = self.client.receive()
            assert isinstance(received, bytes), received
            chunk = Chunk.parse(received)
            if chunk.transfer == transfer:
                assert chunk.offset == offset + len(data)
                data += chunk.data
        return bytes(data)


def upgrade(
    dial: Dial, address: Address, identifier: str, *, product: str = "lamp", chunk_size: int = 65536
) -> None:
    """Log in with version 1.0, go through the upgrade that comes, and log in again with its version."""
    client = dial(address)
    device = Conversation(client, identifier, product)
    device.log_in("1.0")
    offer = device.message("upgrade")
    about = {"batch": offer["batch"], "attempt": offer["attempt"]}
    device.ask("ack", "received", **about)
    firmware = offer["firmware"]
    half = firmware["size"] // 2 + 1
    image = device.fetch(firmware["id"], 0, half, chunk_size)
    device.ask("ack", "progress", **about, stage="downloading", percent=50)
    # the connection is lost in the middle; the rest comes on another
    client.close()
    client = dial(address)
    device = Conversation(client, identifier, product)
    device.log_in("1.0")
    assert device.message("upgrade") == offer
    device.ask("ack", "received", **about)
    image += device.fetch(firmware["id"], half, firmware["size"], chunk_size, transfer=2)
    assert hashlib.md5(image).hexdigest() == firmware["md5"]
    assert hashlib.sha256(image).hexdigest() == firmware["sha256"]
    device.send("progress", **about, stage="verifying", percent=100)
    device.ask("ack", "progress", **about, stage="burning", percent=0)
    client.close()
    # burned; up again
    client = dial(address)
    device = Conversation(client, identifier, product)
    device.log_in(firmware["version"])
    device.ask("ack", "result", **about, outcome="succeeded", version=firmware["version"])
    assert device.message("cancel")["attempt"] == offer["attempt"]
    device.ask("ack", "check")
    client.close()
