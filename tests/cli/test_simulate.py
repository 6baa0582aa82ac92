"""Whom `otagate simulate` simulates, and how it ends."""

import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from otagate.cli.exits import CommandError
from otagate.cli.fleet import Identity, read_fleet

from .conftest import Outcome

Run = Callable[..., Outcome]
DEFAULTS: dict[str, str | None] = {"product": "lamp", "version": "1.0", "url": "tcp://h:1"}


def identity(identifier: str, secret: str, **changes: Any) -> Identity:
    return Identity(**{**DEFAULTS, "identifier": identifier, "secret": secret, **changes})


@pytest.mark.parametrize(
    ("name", "text", "fleet"),
    [
        (
            "f.ndjson",
            '{"line":1,"identifier":"d0","secret":"s0"}\n\n'
            '{"line":2,"identifier":"d1","error":{"code":"conflict","message":"m"}}\n'
            '{"identifier":"d2","secret":"s2","version":"9","url":"ws://h"}\n',
            [identity("d0", "s0"), identity("d2", "s2", version="9", url="ws://h")],
        ),
        (
            "f.csv",
            "identifier,secret,version,name\nd0,s0,,x\nd1,s1,7,y\n",
            [identity("d0", "s0"), identity("d1", "s1", version="7")],
        ),
        ("f.ndjson", "", []),
    ],
)
def test_fleet_files(tmp_path: Path, name: str, text: str, fleet: list[Identity]) -> None:
    (tmp_path / name).write_text(text)
    assert list(read_fleet(tmp_path / name, DEFAULTS)) == fleet


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "line 1"),
        (b'{"identifier":"d0","secret":"s"}\n[]', "line 2"),
        (b'{"identifier":"d0"}', "device 1: .*secret"),
        (b'{"identifier":1,"secret":"s"}', "device 1"),
        (b"\xff", "UTF-8"),
    ],
)
def test_fleet_files_that_are_wrong(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "f").write_bytes(text)
    with pytest.raises(CommandError, match=message):
        list(read_fleet(tmp_path / "f", DEFAULTS))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("", "missing --url, --product, --device, --secret"),
        ("--cert c --product p --device d", "missing --url"),
        ("--cert c --product p --device d --mutual", "missing --url, --secret"),
        ("--url http://h --product p --device d --secret s", "'http://h' is none of ws://"),
        ("--url tcp://h:1 --product p --device d --secret s --drop-every often", "--drop-every often"),
        ("--url tls://h:1 --product p --device d --secret s --ca /missing", "cannot read --ca /missing"),
    ],
)
def test_usage(otagate: Run, arguments: str, line: str) -> None:
    outcome = otagate("simulate", *arguments.split())
    assert outcome.code == 2
    assert outcome.err.startswith(f"otagate: {line}")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_ends_on_a_signal(otagate: Run, number: signal.Signals, code: int) -> None:
    """Ten devices call in at a listener that never answers; when all did, the signal comes."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        port = listener.getsockname()[1]

        def signal_after_ten() -> None:
            connections = [listener.accept()[0] for _ in range(10)]
            assert connections[0].recv(4) == b"OTG\x01"
            os.kill(os.getpid(), number)
            for connection in connections:
                connection.close()

        thread = threading.Thread(target=signal_after_ten)
        thread.start()
        who = f"--url tcp://127.0.0.1:{port} --product p --device d --secret s --count 10"
        outcome = otagate("simulate", *who.split())
        thread.join()
    assert outcome.code == code


def test_a_device_that_is_refused(otagate: Run) -> None:
    from otagate.wire import codec, messages

    def refuse(listener: socket.socket) -> None:
        connection = listener.accept()[0]
        challenge = messages.encode(messages.Challenge(nonce="0" * 32, protocol=[1]))
        error = messages.encode(
            messages.Error(code=messages.ErrorCode.UNAUTHORIZED, message="unknown device or wrong mac")
        )
        connection.sendall(codec.encode_tcp_frame(1, challenge))
        while b'"hello"' not in connection.recv(4096):
            pass
        connection.sendall(codec.encode_tcp_frame(1, error))
        connection.recv(4096)
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refuse, args=(listener,))
        thread.start()
        url = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        outcome = otagate(
            "simulate", "--url", url, "--product", "p", "--device", "d", "--secret", "wrong" * 4
        )
        thread.join()
    assert outcome.code == 4
    assert 'refused message="unauthorized: unknown device or wrong mac"' in outcome.err
