"""The surface in process, and behind a real listener on 127.0.0.1."""

import json
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from otagate.admin import build, serve
from otagate.admin.metrics import Requests, make_operation
from otagate.admin.routes import OPERATIONS
from otagate.gateway import views
from otagate.gateway.views_operators import CreateTokenRequest, CreateWebhookRequest

from .fake import TOKEN, FakeService

AUTHORIZED = {"authorization": f"Bearer {TOKEN}"}


def documented(method: str, path: str) -> set[int]:
    """The statuses that the table promises for this request; for an unknown path or method 404 and 405."""
    parts = path.partition("?")[0].split("/")
    at_path = [
        operation
        for operation in (*OPERATIONS, make_operation(Requests()))
        if len(own := operation.path.split("/")) == len(parts)
        and all(a == b or (a.startswith("{") and b) for a, b in zip(own, parts, strict=True))
    ]
    wanted = "GET" if method == "HEAD" else method
    for operation in at_path:
        if operation.method == wanted:
            return {reply.status for reply in operation.replies} | set(operation.error_statuses)
    return {405} if at_path else {404, 200, 421}  # the latter two: /openapi.json, which is not in the table


def check(response: httpx.Response) -> None:
    """What holds for every answer: documented, with the standard headers, an error as every error is."""
    request = response.request
    path = request.url.raw_path.decode()
    assert response.status_code in documented(request.method, path), (request.method, path, response.text)
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] in ("no-store", "private, no-cache")
    assert "server" not in response.headers
    if request.method == "HEAD":
        assert response.content == b""
    elif response.status_code >= 400:
        assert response.headers["content-type"] == "application/json"
        error = json.loads(response.content)["error"]
        assert error.keys() <= {"code", "message", "field", "details"}
        assert error["code"]
        assert error["message"]


def drained(app: Any) -> Any:
    """The application on a server that, as ours, takes what the application leaves of a body."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        more = True

        async def tracked() -> Any:
            nonlocal more
            message = await receive()
            more = message.get("more_body", False)
            return message

        await app(scope, tracked, send)
        while more:
            await tracked()

    return wrapped


class Client(httpx.AsyncClient):
    """A client whose every answer is checked."""

    async def request(self, *args: Any, **kwargs: Any) -> httpx.Response:
        response = await super().request(*args, **kwargs)
        check(response)
        return response


@pytest.fixture
async def service(tmp_path: Path) -> FakeService:
    """One product, two devices, a firmware of 1,000 bytes and a batch of it."""
    service = FakeService(tmp_path)
    await service.create_product(views.CreateProductRequest("lamp", "Lamp"))
    for identifier in ("d1", "busy"):
        await service.register_device("lamp", views.RegisterDeviceRequest(identifier))
    async with service.upload_firmware(views.FirmwareMetadata("lamp", "灯", "1.0", "灯 1.bin")) as upload:
        await upload.write(IMAGE)
        await upload.finish(None, None)
    await service.create_batch(views.CreateBatchRequest("f1", "all", 7, "standard", 10, 0))
    await service.create_token(CreateTokenRequest("console", "operator"))
    await service.create_webhook(CreateWebhookRequest("http://127.0.0.1/", ["batch_ended"]))
    service.largest_write = 0
    service.first_write, service.upload_ended = trio.Event(), trio.Event()
    return service


IMAGE = bytes(range(250)) * 4


@pytest.fixture
async def client(service: FakeService) -> AsyncIterator[Client]:
    """A client with the token, in process."""
    transport = httpx.ASGITransport(drained(build(service)))
    async with Client(transport=transport, base_url="http://test", headers=AUTHORIZED) as client:
        yield client


@pytest.fixture
async def undrained(service: FakeService) -> AsyncIterator[Client]:
    """The same, for a body that nobody may read."""
    transport = httpx.ASGITransport(build(service))
    async with Client(transport=transport, base_url="http://test", headers=AUTHORIZED) as client:
        yield client


class Server:
    """A running surface: where, and how to end it."""

    def __init__(self, service: FakeService, port: int, scheme: str = "http") -> None:
        self.service = service
        self.port = port
        self.url = f"{scheme}://127.0.0.1:{port}"
        self.shutdown = trio.Event()
        self.ended = trio.Event()

    async def connect(self) -> trio.SocketStream:
        """A raw connection to it."""
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def curl(self, *arguments: str, input: bytes = b"") -> bytes:
        """What curl prints for these arguments, with the token."""
        command = ["curl", "-sS", "--max-time", "60", "-H", f"Authorization: Bearer {TOKEN}", *arguments]
        return (await trio.run_process(command, stdin=input, capture_stdout=True)).stdout


@asynccontextmanager
async def serving(
    service: FakeService, tls: Callable[[], ssl.SSLContext | None] | None = None
) -> AsyncIterator[Server]:
    """A real listener on a port of the kernel's choice, shut down at the end."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(service, listener.getsockname()[1], "https" if tls else "http")
    options = {"tls": tls} if tls else {}

    async def run(task_status: trio.TaskStatus[None]) -> None:
        trigger = server.shutdown.wait
        await serve(service, listener.detach(), shutdown_trigger=trigger, task_status=task_status, **options)
        server.ended.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(partial(run))
        yield server
        server.shutdown.set()
        await server.ended.wait()


@pytest.fixture
async def server(service: FakeService) -> AsyncIterator[Server]:
    async with serving(service) as server:
        yield server


@pytest.fixture
def no_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Nothing that a client does is worth a line of warning or a traceback."""
    caplog.set_level(logging.WARNING)
    yield caplog
    assert caplog.records == []
