"""Exports: their form, what a spreadsheet must not run, constant memory, a client that takes its time."""

import csv
import io
import json
import tracemalloc
from typing import Any

import httpx
import pytest
import trio
from msgspec import Struct

from otagate.admin import build
from otagate.admin.exports import CsvWriter, cell, wanted_media
from otagate.gateway import views
from otagate.gateway.access import Access

from .conftest import AUTHORIZED, Client, Server
from .fake import NOW, NOW_MS, TOKEN, FakeService
from .test_server import read_all

CSV, NDJSON = "text/csv", "application/x-ndjson"
ROWS = 100_000


def upgrade(number: int, **fields: Any) -> views.UpgradeView:
    """A row of a batch."""
    values = {
        "batch": "b1",
        "identifier": f"d{number}",
        "name": f"lamp {number}",
        "connection": "online",
        "state": "failed",
        "attempt": 2,
        "retries": views.RetriesView(1, 2),
        "remark": "burn_failed",
        "detail": None,
        "stage": None,
        "progress": 40,
        "version": "1.0",
        "completed_at": NOW,
        "waiting_for": None,
    }
    return views.UpgradeView(**values | fields)


class Lists(FakeService):
    """Lists of as many rows as wanted, made while they are asked for."""

    rows = 450
    asked = 0
    detail: str | None = None
    same: list[views.UpgradeView] | None = None  # every page

    async def list_upgrades(self, batch: str, **filters: Any) -> views.Page[views.UpgradeView]:
        await self.get_batch(batch)
        self.calls.append(("list_upgrades", filters))
        start = int(filters["cursor"] or 0)
        stop = min(start + filters["limit"], self.rows)
        self.asked = max(self.asked, filters["limit"])
        page = self.same or [upgrade(number, detail=self.detail) for number in range(start, stop)]
        return views.Page(page, str(stop) if stop < self.rows else None)


@pytest.fixture
async def service(service: FakeService) -> Lists:
    lists = Lists(service.folder)
    lists.__dict__.update(service.__dict__)
    return lists


def records(response: httpx.Response) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(response.text, newline="")))


# -- negotiation -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        (None, None),
        ("*/*", None),
        ("application/json", None),
        ("text/csv", CSV),
        ("Text/CSV; charset=utf-8", CSV),
        ("application/x-ndjson", NDJSON),
        ("application/json, text/csv", None),
        ("application/json;q=0.5, text/csv", CSV),
        ("text/csv;q=0.1, application/x-ndjson;q=0.9", NDJSON),
        ("text/csv;q=0", None),
        ("text/csv;q=nonsense", None),
        ("text/html,application/xhtml+xml,*/*;q=0.8", None),
        ("", None),
        (",;,", None),
    ],
)
def test_what_is_wanted(accept: str | None, media: str | None) -> None:
    assert wanted_media(accept) == media


# -- form --------------------------------------------------------------------------------------------


async def test_csv(client: Client, service: Lists) -> None:
    response = await client.get("/api/v1/batches/b1/devices?state=failed", headers={"accept": CSV})
    assert response.headers["content-type"] == CSV
    assert response.headers["content-disposition"].startswith('attachment; filename="b1-devices.csv"')
    header = response.text.split("\r\n")[0]
    assert header == (
        "batch,identifier,name,connection,state,attempt,retries.current,retries.maximum,remark,detail,stage,"
        "progress,version,completed_at,waiting_for"
    )
    rows = records(response)
    assert [row["identifier"] for row in rows] == [f"d{number}" for number in range(450)]
    assert rows[7] | {"name": "", "identifier": ""} == {
        "batch": "b1",
        "identifier": "",
        "name": "",
        "connection": "online",
        "state": "failed",
        "attempt": "2",
        "retries.current": "1",
        "retries.maximum": "2",
        "remark": "burn_failed",
        "detail": "",
        "stage": "",
        "progress": "40",
        "version": "1.0",
        "completed_at": NOW,
        "waiting_for": "",
    }
    assert all(filters["state"] == "failed" for _, filters in service.calls if "state" in filters)


async def test_ndjson(client: Client) -> None:
    page = (await client.get("/api/v1/batches/b1/devices")).json()
    response = await client.get("/api/v1/batches/b1/devices", headers={"accept": NDJSON})
    assert response.headers["content-type"] == NDJSON
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert len(lines) == 450
    assert lines[: len(page["items"])] == page["items"], "a line is an item of the list, field for field"


async def test_devices_of_a_product(client: Client) -> None:
    response = await client.get("/api/v1/products/lamp/devices", headers={"accept": CSV})
    rows = records(response)
    assert [row["identifier"] for row in rows] == ["d1", "busy"]
    assert {row["active"] for row in rows} == {"false"}
    assert list(rows[0]) == list(views.DeviceView.__struct_fields__)
    assert "secret" not in response.text


async def test_an_empty_list_has_its_header(client: Client, service: Lists) -> None:
    service.rows = 0
    response = await client.get("/api/v1/batches/b1/devices", headers={"accept": CSV})
    assert response.text.startswith("batch,identifier")
    assert response.text.count("\r\n") == 1
    assert (await client.get("/api/v1/batches/b1/devices", headers={"accept": NDJSON})).content == b""


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r"])
async def test_no_cell_is_a_formula(client: Client, service: Lists, begin: str) -> None:
    service.rows = 1
    service.detail = text = f'{begin}cmd|" /C calc"!A0,\n'
    response = await client.get("/api/v1/batches/b1/devices", headers={"accept": CSV})
    assert records(response)[0]["detail"] == f"'{text}"


def test_cells() -> None:
    assert [cell(value) for value in (None, True, -1, 2, "", "a-b", "灯")] == [
        *("", "true", "-1", "2", "", "a-b", "灯")
    ]


def test_structs_within_structs() -> None:
    class Inner(Struct):
        one: int
        two: str

    class Outer(Struct):
        zero: bool
        inner: Inner

    writer = CsvWriter(Outer)
    assert writer.lines([Outer(True, Inner(1, 'a "b"'))]) == (
        b'zero,inner.one,inner.two\r\ntrue,1,"a ""b"""\r\n'
    )
    assert writer.lines([Outer(False, Inner(2, "c"))]) == b"false,2,c\r\n", "one header"


# -- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status", "field"),
    [
        ("/api/v1/batches/b9/devices", 404, "id"),
        ("/api/v1/batches/b1/devices?cursor=5", 422, "cursor"),
        ("/api/v1/batches/b1/devices?limit=5", 422, "limit"),
        ("/api/v1/batches/b1/devices?state=asleep", 422, "state"),
        ("/api/v1/products/fan/devices", 404, "key"),
    ],
)
async def test_refusals(client: Client, path: str, status: int, field: str | None) -> None:
    response = await client.get(path, headers={"accept": CSV})
    assert response.status_code == status
    assert response.json()["error"].get("field") == field


async def test_head(client: Client) -> None:
    response = await client.head("/api/v1/batches/b1/devices", headers={"accept": CSV})
    assert response.headers["content-type"] == CSV


async def test_a_token_that_is_revoked_meanwhile_gets_no_more(
    server: Server, service: Lists, caplog: pytest.LogCaptureFixture
) -> None:
    """What it has been sent it has; the answer breaks off."""

    async def list_upgrades(batch: str, **filters: Any) -> views.Page[views.UpgradeView]:
        service.access = Access(lambda: NOW_MS)
        return await Lists.list_upgrades(service, batch, **filters)

    service.list_upgrades = list_upgrades  # type: ignore[method-assign]
    async with await server.connect() as connection:
        request = f"GET /api/v1/batches/b1/devices HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        await connection.send_all(f"{request}Accept: {CSV}\r\n\r\n".encode())
        answer = await read_all(connection)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"burn_failed") == 200
    assert not answer.endswith(b"0\r\n\r\n")
    assert {record.message for record in caplog.records} <= {"token_refused"}, "no fault of ours"


# -- bounds ------------------------------------------------------------------------------------------


async def test_memory_is_flat(service: Lists) -> None:
    """100,000 rows, 12 MB of CSV: what is held of them at a time is a page."""
    service.rows = ROWS
    received = 0
    app = build(service)

    async def receive() -> dict[str, Any]:
        await trio.sleep_forever()
        raise AssertionError

    async def send(message: Any) -> None:
        nonlocal received
        received += len(message.get("body", b""))

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/api/v1/batches/b1/devices",
        "query_string": b"",
        "headers": [(b"accept", CSV.encode())]
        + [(name.encode(), value.encode()) for name, value in AUTHORIZED.items()],
    }
    service.calls = Forgetful()
    service.same = [upgrade(number) for number in range(200)]
    tracemalloc.start()
    try:
        await app(scope, receive, send)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert received > 8_000_000
    assert peak < 1_000_000
    assert service.asked == 200


class Forgetful(list[Any]):
    """Calls that nobody asks about."""

    def append(self, call: Any) -> None:
        pass


async def test_a_client_that_does_not_read_is_waited_for(server: Server, service: Lists) -> None:
    service.rows = ROWS
    async with await server.connect() as connection:
        request = f"GET /api/v1/batches/b1/devices HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        await connection.send_all(f"{request}Accept: {CSV}\r\n\r\n".encode())
        await connection.receive_some(100)
        calls = -1
        with trio.fail_after(20):
            while len(service.calls) != calls:  # until nothing moves any more
                calls = len(service.calls)
                assert b"live" in await server.curl(f"{server.url}/livez")
        assert calls < ROWS / 200, "the rest was not even asked for"
