"""The work of protocol.md on picows over uvloop: `python picows_uvloop.py PORT`."""

import asyncio
import sys

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

PUSH = b'{"type":"upgrade","batch":"b1"' + b" " * 369 + b"}"
transports: set[WSTransport] = set()


class Connection(WSListener):
    """A connection's life."""

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        self.paused = False
        self.left = 0
        self.data = b""
        transports.add(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type != WSMsgType.TEXT:
            if frame.msg_type == WSMsgType.CLOSE:
                transport.disconnect()
            return
        message = frame.get_payload_as_bytes()
        if message.startswith(b"S "):
            chunk, self.left = map(int, message.split()[1:])
            if len(self.data) != chunk:
                self.data = bytes(chunk)
            self.stream()
        elif message == b"P":
            for other in transports:
                other.send(WSMsgType.TEXT, PUSH)
        else:
            transport.send(WSMsgType.TEXT, message)

    def stream(self) -> None:
        """As much as the transport takes; `resume_writing` goes on."""
        while self.left and not self.paused:
            size = min(self.left, len(self.data))
            self.left -= size
            self.transport.send(WSMsgType.BINARY, self.data if size == len(self.data) else self.data[:size])

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.stream()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        transports.discard(transport)


def accept(request: WSUpgradeRequest) -> WSListener:
    """Every path is welcome."""
    return Connection()


async def main() -> None:
    """Serve until killed."""
    server = await ws_create_server(accept, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    await server.serve_forever()


asyncio.run(main(), loop_factory=uvloop.new_event_loop) if sys.version_info >= (3, 12) else uvloop.run(main())
