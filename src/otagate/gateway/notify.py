"""What a service manager and a service tell each other: sd_notify(3) and sd_listen_fds(3), without a library.

Out: a datagram to the socket that NOTIFY_SOCKET names: READY=1 when both listeners accept, WATCHDOG=1 from
the pump of devices while it turns, at most every third of the time that WATCHDOG_USEC allows, STOPPING=1 when
draining begins. Nobody waits for an answer: a manager that does not listen changes nothing.

In: listening sockets that the manager has opened (socket activation), by the names of FileDescriptorName=:
`devices` (one or several) and `admin`. While the gateway is down the manager keeps them open, so that devices
wait in the backlog and no connection is refused.

Variables meant for us are taken out of the environment: what we start must not take them for its own.
"""

import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress

from otagate import logs
from otagate.errors import ConfigurationError

log = logs.get("notify")

FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START
DEVICES, ADMIN = "devices", "admin"


class Notifier:
    """Tells the service manager, if there is one."""

    def __init__(self, address: str | None = None, watchdog_s: float = 0) -> None:
        self._socket: socket.socket | None = None
        self._interval_s = watchdog_s / 3
        self._next_s = 0.0
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
            with suppress(OSError):
                self._socket.connect(b"\0" + address[1:].encode() if address[0] == "@" else address)

    def tell(self, *assignments: str) -> None:
        """Send these; nothing happens when nobody hears them."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.send("\n".join(assignments).encode())

    def alive(self, now_s: float) -> None:
        """The work goes on; told as often as the watchdog wants it."""
        if self._interval_s and now_s >= self._next_s:
            self._next_s = now_s + self._interval_s
            self.tell("WATCHDOG=1")

    def close(self) -> None:
        """Let go of the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def take_notifier(environ: MutableMapping[str, str]) -> Notifier:
    """A notifier for the manager that the environment names, if any."""
    address = environ.pop("NOTIFY_SOCKET", None)
    interval, owner = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    watchdog_s = 0.0
    if interval.isdigit() and owner in ("", str(os.getpid())):
        watchdog_s = int(interval) / 1_000_000
    return Notifier(address, watchdog_s)


def take_listeners(environ: MutableMapping[str, str]) -> dict[str, list[socket.socket]]:
    """The listening sockets that a manager hands over, by name. ConfigurationError when they are not ours."""
    owner, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if owner != str(os.getpid()) or not count.isdigit():
        return {}
    found: dict[str, list[socket.socket]] = {DEVICES: [], ADMIN: []}
    for descriptor in range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count)):
        place = descriptor - FIRST_DESCRIPTOR
        name = names[place] if place < len(names) else ""
        if name not in found:
            raise ConfigurationError(
                f"the service manager hands over a socket named {name!r}; "
                f"FileDescriptorName= must be {DEVICES} or {ADMIN}"
            )
        found[name].append(_listener(descriptor, name))
    if len(found[ADMIN]) > 1:
        raise ConfigurationError(f"the service manager hands over several sockets named {ADMIN}; one is used")
    return {name: sockets for name, sockets in found.items() if sockets}


def _listener(descriptor: int, name: str) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        found = socket.socket(fileno=descriptor)
        listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ConfigurationError(
            f"the service manager's descriptor {descriptor} ({name}) is no socket: {error.strerror}"
        ) from error
    if not listens or found.type != socket.SOCK_STREAM or found.family == socket.AF_UNIX:
        raise ConfigurationError(
            f"the service manager's socket {name} must be a listening TCP socket (ListenStream=PORT)"
        )
    found.setblocking(False)
    return found
