"""A test aid: the real plane, echoing every message on both links.

    python -m otagate.plane.echo HOST:PORT

Any path, no login, no challenge, no deadline for the first message; WebSocket messages to 16 MiB, TCP
frames to 2**24 - 1 bytes. Prints the address it is bound to (port 0: the kernel's choice). Ends at SIGINT
or SIGTERM.

`pump` is also the shortest whole example of how a Trio task drives a plane.
"""

import contextlib
import signal
import socket
import sys
from typing import Any

import trio

from otagate import limits
from otagate.plane import BINARY, MESSAGE, SEND, SEND_BINARY, Plane

BACKLOG = 1024


async def pump(plane: Plane) -> None:
    """Answers every message with itself, for ever."""
    while True:
        if plane.pending:
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.wait_readable(plane.fileno())
        commands: list[tuple[Any, ...]] = []
        for event in plane.drain():
            if event[0] == MESSAGE:
                commands.append((SEND, event[1], event[3]))
            elif event[0] == BINARY:
                commands.append((SEND_BINARY, event[1], event[3]))
        plane.apply(commands)


async def serve(host: str, port: int) -> None:
    """Echoes until the first SIGINT or SIGTERM. Raises OSError if the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    plane = Plane(
        connections_max=limits.connections_max,
        transfers_max=limits.transfers_max,
        heartbeat_timeout_ms=0,
        echo=True,
    )
    with (
        contextlib.closing(plane),
        socket.create_server((host, port), family=family, backlog=BACKLOG) as listener,
        trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals,
    ):
        plane.listen(listener.fileno())
        bound_host, bound_port = listener.getsockname()[:2]
        print(f"{bound_host}:{bound_port}", flush=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump, plane)
            async for _ in signals:
                nursery.cancel_scope.cancel()


def main() -> int:
    """Returns the exit code: 2 for arguments that cannot be read."""
    host, separator, port = sys.argv[1].rpartition(":") if len(sys.argv) == 2 else ("", "", "")
    if not separator or not port.isdecimal():
        print("usage: python -m otagate.plane.echo HOST:PORT", file=sys.stderr)
        return 2
    trio.run(serve, host.strip("[]"), int(port))
    return 0


if __name__ == "__main__":
    sys.exit(main())
