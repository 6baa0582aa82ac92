"""Server-sent events on the wire: their form, who leaves, who stalls, and how they end."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from msgspec import Struct

from otagate import limits
from otagate.admin import events
from otagate.gateway import views
from otagate.gateway.access import Access

from .conftest import Client, Server
from .fake import NOW, NOW_MS, TOKEN, FakeService

OVERVIEW = views.OverviewEvent(NOW, 1, 2, 3, 4, 5, 6, 7)


class Notice(Struct):
    """As gateway.events has them."""

    event: str
    cursor: str
    data: Any


class Stream:
    """Reads events as a browser does."""

    def __init__(self, connection: trio.SocketStream) -> None:
        self.connection = connection
        self.head = b""
        self._data = b""

    async def _until(self, mark: bytes) -> bytes:
        with trio.fail_after(20):
            while mark not in self._data:
                more = await self.connection.receive_some()
                if not more:
                    raise EOFError(self._data)
                self._data += more
        found, _, self._data = self._data.partition(mark)
        return found

    async def read_head(self) -> None:
        self.head = await self._until(b"\r\n\r\n")

    async def block(self) -> bytes:
        """One chunk of the answer, which is one block of events; b"" is the end."""
        size = int(await self._until(b"\r\n"), 16)
        with trio.fail_after(20):
            while len(self._data) < size + 2:
                self._data += await self.connection.receive_some()
        block, self._data = self._data[:size], self._data[size + 2 :]
        return block


@asynccontextmanager
async def follow(server: Server, query: str = "", *headers: str) -> AsyncIterator[Stream]:
    """A stream whose head was read."""
    async with await server.connect() as connection:
        lines = [f"GET /api/v1/events{query} HTTP/1.1", "Host: x", f"Authorization: Bearer {TOKEN}", *headers]
        await connection.send_all("\r\n".join([*lines, "", ""]).encode())
        stream = Stream(connection)
        await stream.read_head()
        yield stream


async def read_on(stream: Stream) -> None:
    """To the end."""
    while await stream.block():
        pass


async def test_the_form(server: Server) -> None:
    async with follow(server) as stream:
        assert b"200" in stream.head
        assert b"content-type: text/event-stream\r\n" in stream.head + b"\r\n"
        assert await stream.block() == b"retry: 2000\n\n"
        server.service.events.put.send_nowait(Notice("overview", "abc-1", OVERVIEW))
        head, _, data = (await stream.block()).partition(b"\ndata: ")
        assert head == b"id: abc-1\nevent: overview"
        assert json.loads(data)["commits_total"] == 7
        assert data.endswith(b"}\n\n")
        assert data.count(b"\n") == 2


async def test_filters_and_the_last_event_reach_the_service(server: Server) -> None:
    async with follow(server, "?batch=b1&product=lamp", "Last-Event-ID: abc-5"):
        expected = {"batch": "b1", "product": "lamp", "cursor": "abc-5"}
        assert ("subscribe", expected) in server.service.calls


async def test_a_comment_in_silence(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "COMMENT_S", 0.001)
    async with follow(server) as stream:
        await stream.block()
        assert await stream.block() == b":\n\n"


async def test_a_revoked_token_ends_it(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(events, "COMMENT_S", 0.001)
    async with follow(server) as stream:
        await stream.block()
        monkeypatch.setattr(server.service, "access", Access(lambda: NOW_MS))
        with pytest.raises(EOFError):
            await read_on(stream)
    assert {record.message for record in caplog.records} <= {"token_refused"}, "no fault of ours"


async def test_who_leaves_is_forgotten(server: Server, no_log: Any) -> None:
    async with follow(server) as stream:
        await stream.block()
    with trio.fail_after(20):
        await server.service.events.left.wait()


async def test_the_end_of_the_gateway_ends_it(server: Server, no_log: Any) -> None:
    async with follow(server) as stream:
        await stream.block()
        server.service.events.put.send_nowait(None)
        assert await stream.block() == b""


async def test_a_client_that_reads_nothing_holds_up_nobody(server: Server, no_log: Any) -> None:
    """Its notices stay where they are: none is made before the one before it was taken."""
    big = Notice("batch", "abc-1", "x" * 200_000)
    async with follow(server) as stream:
        for _ in range(100):
            server.service.events.put.send_nowait(big)
        assert b'"status"' in await server.curl(f"{server.url}/livez")
        waiting = server.service.events.put.statistics().current_buffer_used
        assert waiting > 20, "20 MB do not fit into the buffers of two sockets"
        assert stream.head
    with trio.fail_after(20):
        await server.service.events.left.wait()


async def test_a_shutdown_does_not_wait_for_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "admin_graceful_timeout_ms", 10)
    async with follow(server) as stream:
        await stream.block()
        server.shutdown.set()
        with trio.fail_after(20):
            await server.ended.wait()


async def test_refusals(client: Client, service: FakeService) -> None:
    assert (await client.get("/api/v1/events?batch=b9")).status_code == 404
    assert (await client.get("/api/v1/events?nonsense=1")).status_code == 422
    service.busy = True
    refused = await client.get("/api/v1/events")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "busy")


async def test_a_head_is_a_head(client: Client) -> None:
    response = await client.head("/api/v1/events")
    assert response.headers["content-type"] == "text/event-stream"


async def test_overview(client: Client) -> None:
    overview = (await client.get("/api/v1/overview")).json()
    assert overview["devices_total"] == 2
    assert overview["history"] == {
        "interval_s": 5,
        "at": NOW,
        "devices_online": [1, 2],
        "logins": [3, 4],
        "pushes": [0, 1],
    }
