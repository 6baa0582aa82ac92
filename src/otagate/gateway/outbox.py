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
        self.commands: list[tuple[object, ...]] = []  # since the last flush

    def send(self, conn: int, message: GatewayMessage) -> None:
        """A text message to one connection."""
        self.commands.append((plane.SEND, conn, encode(message)))

    def send_encoded(self, conn: int, payload: bytes) -> None:
        """A text message that is encoded already."""
        self.commands.append((plane.SEND, conn, payload))

    def admit(self, conn: int, device: int) -> None:
        """The connection is the session of this device now."""
        self.commands.append((plane.ADMIT, conn, device))

    def retry_hello(self, conn: int) -> None:
        """Its hello was refused; it may send another."""
        self.commands.append((plane.RETRY_HELLO, conn))

    def close(self, conn: int, code: int, reason: bytes = b"") -> None:
        """Close after what is queued; code 0: without a close frame."""
        self.commands.append((plane.CLOSE, conn, code, reason))

    def command(self, *command: object) -> None:
        """Any other command of the plane (images and transfers)."""
        self.commands.append(command)

    def flush(self) -> None:
        """Hand everything to the plane."""
        if self.commands:
            commands, self.commands = self.commands, []
            self._sink.apply(commands)
