"""Commands on their way to the plane: gathered over a turn of the loop, handed over in one list.

The plane makes at most one send per connection of a list, so replies that fall together travel together.
A connection that has gone meanwhile is no error: the plane passes stale numbers over.
"""

from typing import Protocol

from otagate import plane
from otagate.wire.messages import GatewayMessage, encode


class CommandSink(Protocol):
    """The part of a plane that takes commands."""

    def apply(self, commands: list[tuple[object, ...]]) -> None:
        """Perform the commands in order."""
        ...


class Outbox:
    """Gathers commands until `flush`. Whoever adds outside the pump or the journal flushes itself."""

    def __init__(self, sink: CommandSink) -> None:
        self._sink = sink
        self._commands: list[tuple[object, ...]] = []

    def send(self, conn: int, message: GatewayMessage) -> None:
        """A text message to one connection."""
        self._commands.append((plane.SEND, conn, encode(message)))

    def send_encoded(self, conn: int, payload: bytes) -> None:
        """A text message that is encoded already."""
        self._commands.append((plane.SEND, conn, payload))

    def admit(self, conn: int, device: int) -> None:
        """The connection is the session of this device now."""
        self._commands.append((plane.ADMIT, conn, device))

    def retry_hello(self, conn: int) -> None:
        """Its hello was refused; it may send another."""
        self._commands.append((plane.RETRY_HELLO, conn))

    def close(self, conn: int, code: int, reason: bytes = b"") -> None:
        """Close after what is queued; code 0: without a close frame."""
        self._commands.append((plane.CLOSE, conn, code, reason))

    def command(self, *command: object) -> None:
        """Any other command of the plane (images and transfers)."""
        self._commands.append(command)

    def flush(self) -> None:
        """Hand everything to the plane."""
        if self._commands:
            commands, self._commands = self._commands, []
            self._sink.apply(commands)
