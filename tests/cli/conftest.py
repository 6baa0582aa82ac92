"""A small HTTP server that says what a test tells it to, and remembers what it was asked."""

import contextlib
import json
import logging
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import pytest

from otagate import cli


class Request(NamedTuple):
    """What arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


class Answer(NamedTuple):
    """What is said."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


class Gateway:
    """`answers` maps "METHOD /path" to an Answer, to anything for JSON, or to a list of them in turn."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.requests: list[Request] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle(handler) -> None:  # noqa: N805
                with contextlib.suppress(ConnectionError):
                    super().handle()

            def respond(handler) -> None:  # noqa: N805
                self._respond(handler)

            do_GET = do_POST = do_DELETE = do_PATCH = respond  # noqa: N815

            def log_message(handler, format: str, *arguments: Any) -> None:  # noqa: N805
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _respond(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        headers = {name.lower(): value for name, value in handler.headers.items()}
        body = _read_body(handler, headers)
        self.requests.append(
            Request(handler.command, parts.path, dict(parse_qsl(parts.query)), headers, body)
        )
        answer = self.answers.get(f"{handler.command} {parts.path}", Answer(404, b"?"))
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if not isinstance(answer, Answer):
            answer = Answer(200, json.dumps(answer).encode())
        handler.send_response(answer.status)
        for name, value in answer.headers:
            handler.send_header(name, value)
        handler.send_header("content-length", str(len(answer.body)))
        handler.end_headers()
        handler.wfile.write(answer.body)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _read_body(handler: BaseHTTPRequestHandler, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return handler.rfile.read(int(headers.get("content-length", 0)))
    body = b""
    while size := int(handler.rfile.readline(), 16):
        body += handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()
    return body


def refusal(status: int, code: str, message: str, **more: Any) -> Answer:
    """An error as the API shows it."""
    return Answer(status, json.dumps({"error": {"code": code, "message": message, **more}}).encode())


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """Commands set the process's logging up; the next test is to find it as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    server = Gateway()
    monkeypatch.setenv("OTAGATE_URL", server.url)
    monkeypatch.setenv("OTAGATE_TOKEN", "token-of-the-environment")
    yield server
    server.close()


class Outcome(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def otagate(capfdbinary: pytest.CaptureFixture[bytes]) -> Callable[..., Outcome]:
    """Runs a command line in this process."""

    def run(*arguments: str) -> Outcome:
        code = cli.main(list(arguments))
        captured = capfdbinary.readouterr()
        return Outcome(code, captured.out.decode(), captured.err.decode())

    return run
