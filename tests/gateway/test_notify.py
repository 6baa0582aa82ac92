"""The service manager's protocol, against a socket that listens as systemd does."""

import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import pytest

from otagate.gateway.notify import Notifier, take_listeners, take_notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """NOTIFY_SOCKET, and its other end."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@otagate-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0") if name[0] == "@" else name)
        listener.settimeout(10)
        yield name, listener


def heard(listener: socket.socket) -> list[str]:
    """All datagrams so far."""
    found = []
    listener.setblocking(False)
    try:
        while True:
            found.append(listener.recv(4096).decode())
    except BlockingIOError:
        return found


def test_telling(manager: tuple[str, socket.socket]) -> None:
    name, listener = manager
    environ = {"NOTIFY_SOCKET": name, "PATH": "/bin"}
    notifier = take_notifier(environ)
    assert environ == {"PATH": "/bin"}, "what we start is not told"
    notifier.tell("READY=1", "STATUS=serving")
    notifier.alive(100)
    assert heard(listener) == ["READY=1\nSTATUS=serving"], "no watchdog was asked for"
    notifier.close()
    notifier.tell("STOPPING=1")
    assert heard(listener) == []


def test_the_watchdog_is_fed_thrice_in_its_time(manager: tuple[str, socket.socket]) -> None:
    name, listener = manager
    notifier = take_notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "30000000"})
    for tenths in range(600):
        notifier.alive(tenths / 10)
    assert heard(listener) == ["WATCHDOG=1"] * 6
    notifier.close()


@pytest.mark.parametrize(
    "environ", [{"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}, {}]
)
def test_a_watchdog_that_is_not_ours(manager: tuple[str, socket.socket], environ: dict[str, str]) -> None:
    name, listener = manager
    notifier = take_notifier({"NOTIFY_SOCKET": name, **environ})
    notifier.alive(100)
    assert heard(listener) == []
    notifier.close()


@pytest.mark.parametrize("address", [None, "", "/nowhere/at/all", "@nobody-listens-here"])
def test_nobody_listens(address: str | None) -> None:
    notifier = Notifier(address, 10)
    notifier.tell("READY=1")
    notifier.alive(1)
    notifier.close()


def test_a_manager_that_does_not_read_holds_nothing_up(manager: tuple[str, socket.socket]) -> None:
    notifier = Notifier(manager[0])
    for _ in range(10_000):
        notifier.tell("STATUS=" + "x" * 1000)
    notifier.close()


Given = socket.socket | BinaryIO

# -- sockets handed over -----------------------------------------------------------------------------

TAKE = """
import json, os, socket
from otagate.errors import ConfigurationError
from otagate.gateway.notify import take_listeners
os.environ["LISTEN_PID"] = os.environ["LISTEN_PID"].replace("own", str(os.getpid()))
try:
    given = take_listeners(os.environ)
except ConfigurationError as error:
    print(json.dumps(str(error)))
else:
    names = {name: [found.getsockname()[1] for found in sockets] for name, sockets in given.items()}
    closed = all(not found.get_inheritable() for sockets in given.values() for found in sockets)
    left = [name for name in os.environ if name.startswith("LISTEN")]
    print(json.dumps([names, closed, left]))
"""


def take(given: Sequence[Given], names: str | None, pid: str = "own") -> object:
    """What a process makes of these as descriptors 3 and following."""
    environ = os.environ | {"LISTEN_PID": pid, "LISTEN_FDS": str(len(given))}
    if names is not None:
        environ["LISTEN_FDNAMES"] = names
    moves = " ".join(f"{at}<&{own.fileno()}" for at, own in enumerate(given, 3))
    command = ["bash", "-c", f'exec "$0" -c "$1" {moves}', sys.executable, TAKE]
    descriptors = [own.fileno() for own in given]
    result = subprocess.run(
        command, env=environ, pass_fds=descriptors, capture_output=True, text=True, check=True
    )
    return json.loads(result.stdout)


def high(own: Given) -> socket.socket:
    """The same with a high descriptor, so that moving one does not overwrite another."""
    return socket.socket(fileno=fcntl.fcntl(own.fileno(), fcntl.F_DUPFD, 50))


@pytest.fixture
def listeners() -> Iterator[list[socket.socket]]:
    """Three that listen."""
    found = []
    for _ in range(3):
        with socket.create_server(("127.0.0.1", 0)) as own:
            found.append(high(own))
    yield found
    for own in found:
        own.close()


def port(own: socket.socket) -> int:
    return int(own.getsockname()[1])


def test_by_name(listeners: list[socket.socket]) -> None:
    one, two, three = map(port, listeners)
    expected = {"devices": [one, three], "admin": [two]}
    assert take(listeners, "devices:admin:devices") == [expected, True, []]
    assert take(listeners[:1], "devices") == [{"devices": [one]}, True, []]


def test_none_for_us(listeners: list[socket.socket]) -> None:
    assert take(listeners, "devices:admin:devices", pid="1") == [{}, True, []]
    assert take([], "") == [{}, True, []]
    assert take_listeners({}) == {}


@pytest.mark.parametrize("names", ["otagate.socket", None, "devices:admin:unknown", "devices:admin:admin"])
def test_names_that_say_nothing(listeners: list[socket.socket], names: str | None) -> None:
    refusal = take(listeners, names)
    assert isinstance(refusal, str)
    assert "FileDescriptorName" in refusal or "several sockets" in refusal


def test_what_does_not_listen() -> None:
    with socket.socket() as idle, high(idle) as moved:
        assert "must be a listening TCP socket" in str(take([moved], "devices"))
    with open("/dev/null", "rb") as file:
        assert "is no socket" in str(take([file], "devices"))
