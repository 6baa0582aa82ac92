"""The work of protocol.md on websockets.trio: `python websockets_trio.py PORT`."""

import sys

import trio
import websockets
from websockets.trio.server import ServerConnection, serve

PUSH = '{"type":"upgrade","batch":"b1"' + " " * 369 + "}"
connections: set[ServerConnection] = set()


async def tell(connection: ServerConnection) -> None:
    """One of everyone."""
    await connection.send(PUSH)


async def handler(connection: ServerConnection) -> None:
    """A connection's life."""
    connections.add(connection)
    try:
        async for message in connection:
            assert isinstance(message, str)
            if message.startswith("S "):
                chunk, size = map(int, message.split()[1:])
                data = bytes(chunk)
                for start in range(0, size, chunk):
                    await connection.send(data[: min(chunk, size - start)])
            elif message == "P":
                async with trio.open_nursery() as nursery:
                    for other in connections:
                        nursery.start_soon(tell, other)
            else:
                await connection.send(message)
    except websockets.ConnectionClosed:
        pass
    finally:
        connections.discard(connection)


async def main() -> None:
    """Serve until killed."""
    await serve(
        handler, int(sys.argv[1]), host="127.0.0.1", compression=None, ping_interval=None, backlog=4096
    )


trio.run(main)
