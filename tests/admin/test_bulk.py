"""Bulk registration: each line has its result, each bound refuses the whole before anything is registered."""

import errno
import json
import os
from collections.abc import AsyncIterator
from typing import Any, BinaryIO

import httpx
import pytest

from otagate import limits
from otagate.admin import bulk
from otagate.errors import NoRoom

from .conftest import Client
from .fake import SECRET, FakeService

DEVICES = "/api/v1/products/lamp/devices"
GIVEN = "0123456789abcdef"


async def post(client: Client, body: Any, media: str = "application/x-ndjson") -> httpx.Response:
    return await client.post(DEVICES, content=body, headers={"content-type": media})


def results(response: httpx.Response) -> list[tuple[int, str | None, str]]:
    """(line, identifier, secret or the error's code and field) of each result."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    found = []
    for text in response.content.splitlines():
        line = json.loads(text)
        error = line.get("error", {})
        outcome = line.get("secret") or " ".join(filter(None, (error["code"], error.get("field"))))
        found.append((line["line"], line["identifier"], outcome))
    return found


@pytest.mark.parametrize(
    ("media", "body", "expected"),
    [
        ("ndjson", b"", []),
        ("ndjson", b'{"identifier":"a"}', [(1, "a", SECRET)]),
        ("ndjson", b'{"identifier":"a"}\n', [(1, "a", SECRET)]),
        (
            "ndjson",
            b'\xef\xbb\xbf{"identifier":"a","name":"\xe7\x81\xaf"}\r\n{"identifier":"b","secret":"%s"}\r\n'
            % GIVEN.encode(),
            [(1, "a", SECRET), (2, "b", GIVEN)],
        ),
        (  # a bad line is its own error; a blank one has no result but counts
            "ndjson",
            b'{"identifier":"a"}\n\n{\n{"identifier":1}\n{"identifier":"b","x":1}\n{"identifier":"\xff"}\n'
            b'[]\n{"name":"n"}\n{"identifier":"d1"}\n{"identifier":"a b"}\n{"identifier":"c"}\n\n',
            [
                (1, "a", SECRET),
                (3, None, "malformed"),
                (4, None, "invalid identifier"),
                (5, None, "invalid x"),
                (6, None, "malformed"),
                (7, None, "invalid"),
                (8, None, "invalid identifier"),
                (9, "d1", "conflict identifier"),
                (10, "a b", "invalid identifier"),
                (11, "c", SECRET),
            ],
        ),
        ("csv", b"identifier\na\nb", [(2, "a", SECRET), (3, "b", SECRET)]),
        ("csv", b"identifier\n", []),
        (
            "csv",
            b"\xef\xbb\xbfsecret,identifier,name\r\n%s,a,A\r\n,b,\r\n" % GIVEN.encode(),
            [(2, "a", GIVEN), (3, "b", SECRET)],
        ),
        ("csv", b'"identifier","name"\n"a","x, ""y"""\nb,z\n', [(2, "a", SECRET), (3, "b", SECRET)]),
        (
            "csv",
            b'identifier,name\na\n"b,n\nc"c,n\n"d"d,n\n\xff,n\n\ne,n,x\nf,n\n',
            [
                (2, None, "malformed"),
                (3, None, "malformed"),
                (4, 'c"c', SECRET),
                (5, None, "malformed"),
                (6, None, "malformed"),
                (8, None, "malformed"),
                (9, "f", SECRET),
            ],
        ),
    ],
)
async def test_results(client: Client, media: str, body: bytes, expected: Any) -> None:
    response = await post(client, body, "text/csv" if media == "csv" else "application/x-ndjson")
    assert results(response) == expected


async def test_names_arrive(client: Client) -> None:
    await post(client, 'identifier,name\na,"x, ""y"""\nb,灯\nc,\n'.encode(), "text/csv; charset=utf-8")
    names = [(await client.get(f"{DEVICES}/{identifier}")).json()["name"] for identifier in "abc"]
    assert names == ['x, "y"', "灯", "c"]


@pytest.mark.parametrize(
    ("header", "field"),
    [
        (b"", "identifier"),
        (b"name,secret\n", "identifier"),
        (b"identifier,colour\n", "colour"),
        (b"identifier,identifier\n", "identifier"),
        (b"Identifier\n", "identifier"),
    ],
)
async def test_header(client: Client, header: bytes, field: str) -> None:
    error = (await post(client, header, "text/csv")).json()["error"]
    assert (error["code"], error["field"]) == ("invalid", field)


async def test_slices(client: Client, service: FakeService) -> None:
    count = 2 * bulk.SLICE_LINES + 3
    lines = [b'{"identifier":"n%d"}' % number for number in range(count)]
    lines.insert(5, b"")
    found = results(await post(client, b"\n".join(lines)))
    assert [identifier for _, identifier, _ in found] == [f"n{number}" for number in range(count)]
    assert [line for line, *_ in found] == [n for n in range(1, count + 2) if n != 6]
    full = bulk.SLICE_LINES
    assert service.slices == [(1, 5), (7, full), (7 + full, count - 5 - full)]


async def test_unknown_product_is_told_before_the_body_is_read(undrained: Client) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    path = DEVICES.replace("lamp", "none")
    response = await undrained.post(path, content=never(), headers={"content-type": "text/csv"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("media", "body", "allowed"),
    [
        ("ndjson", b'{"identifier":"a"}\n' * 3, True),
        ("ndjson", b'{"identifier":"a"}\n' * 2 + b'{"identifier":"a"}', True),
        ("ndjson", b'{"identifier":"a"}\n' * 4, False),
        ("ndjson", b'{"identifier":"a"}\n' * 3 + b"{", False),
        ("csv", b"identifier\na\nb\nc\n", True),
        ("csv", b"identifier\na\nb\nc\nd", False),
        ("ndjson", b'{"identifier":"a","name":"%s"}' % (b"x" * 38), False),
        ("ndjson", b"\n" + b" " * 65, False),
        ("ndjson", b" " * 65 + b"\n", False),
        ("ndjson", b" " * 64 + b"\n" + b" " * 64, True),
    ],
)
@pytest.mark.parametrize("piece_bytes", [1, 7, 1000])
async def test_bounds(
    client: Client,
    service: FakeService,
    monkeypatch: pytest.MonkeyPatch,
    media: str,
    body: bytes,
    allowed: bool,
    piece_bytes: int,
) -> None:
    monkeypatch.setattr(limits, "bulk_devices_max", 3)
    monkeypatch.setattr(limits, "bulk_line_bytes_max", 64)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), piece_bytes):
            yield body[start : start + piece_bytes]

    response = await post(client, pieces(), "text/csv" if media == "csv" else "application/x-ndjson")
    assert response.status_code == (200 if allowed else 413)
    assert bool(service.slices) == allowed


async def test_body_bound(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "bulk_body_bytes_max", 10)
    assert (await post(client, b'{"identifier":"a"}')).status_code == 413


async def test_spooled_in_pieces(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "bulk_gather_bytes", 10)
    body = b"".join(b'{"identifier":"n%d"}\n' % number for number in range(50))

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 7):
            yield body[start : start + 7]

    assert len(results(await post(client, pieces()))) == 50


async def test_a_slice_refused_as_a_whole_is_told_line_by_line(client: Client, service: FakeService) -> None:
    service.disk_full = True
    response = await post(client, b'{"identifier":"a"}\n{\n')
    assert results(response) == [(1, "a", "no_room"), (2, None, "no_room")]


@pytest.mark.parametrize("asked", [1, 2])
async def test_a_disk_that_gets_full_is_left_alone(
    client: Client, service: FakeService, monkeypatch: pytest.MonkeyPatch, asked: int
) -> None:
    """The store may be on the same one: a commit must not fail for want of what a body takes."""

    def check_room() -> None:
        nonlocal asked
        asked -= 1
        if not asked:
            raise NoRoom("nearly full")

    monkeypatch.setattr(service, "check_room", check_room)
    monkeypatch.setattr(limits, "bulk_gather_bytes", 1)
    response = await post(client, b'{"identifier":"a"}\n')
    assert (response.status_code, response.json()["error"]["code"]) == (507, "no_room")
    assert service.slices == []


@pytest.mark.parametrize("fails", ["opened", "written", "closed"])
async def test_no_room_for_the_spool(
    client: Client, service: FakeService, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """The file cannot be made; takes no bytes; or takes none when its buffer is flushed, and at its close."""

    def full() -> BinaryIO:
        if fails == "opened":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return open("/dev/full", "w+b", buffering=0 if fails == "written" else -1)

    monkeypatch.setattr(bulk.tempfile, "TemporaryFile", full)
    monkeypatch.setattr(limits, "bulk_gather_bytes", 1)
    response = await post(client, b'{"identifier":"a"}\n')
    assert (response.status_code, response.json()["error"]["code"]) == (507, "no_room")
    assert service.slices == []
