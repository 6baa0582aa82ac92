"""Downloads: ranges and validators, table by table."""

from pathlib import Path
from typing import Any

import pytest

from otagate import limits
from otagate.admin.faults import RangeNotSatisfiable
from otagate.admin.images import attachment, requested_range

from .conftest import IMAGE, Client
from .fake import FakeService

CONTENT = "/api/v1/firmware/f1/content"
SIZE = len(IMAGE)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-0", (0, 1)),
        ("bytes=0-", (0, SIZE)),
        ("bytes=10-19", (10, 20)),
        ("Bytes=10-19", (10, 20)),
        ("bytes=990-2000", (990, SIZE)),
        ("bytes=-1", (SIZE - 1, SIZE)),
        ("bytes=-5000", (0, SIZE)),
        (f"bytes={SIZE - 1}-", (SIZE - 1, SIZE)),
        # ignored: none, several, another unit, backwards, not numbers
        ("bytes=-", None),
        ("bytes=0-1,5-6", None),
        ("items=0-1", None),
        ("bytes=5-4", None),
        ("bytes=a-b", None),
        ("bytes=+1-2", None),
        (f"bytes=0-{'9' * 50}", None),
        ("bytes", None),
        # past the end
        (f"bytes={SIZE}-", "416"),
        (f"bytes={SIZE}-{SIZE + 1}", "416"),
        ("bytes=-0", "416"),
    ],
)
def test_requested_range(header: str | None, expected: Any) -> None:
    if expected == "416":
        with pytest.raises(RangeNotSatisfiable):
            requested_range(header, SIZE)
    else:
        assert requested_range(header, SIZE) == expected


async def test_whole(client: Client, service: FakeService) -> None:
    response = await client.get(CONTENT)
    assert (response.status_code, response.content) == (200, IMAGE)
    assert response.headers["etag"] == f'"{service.firmware["f1"].sha256}"'
    assert response.headers["content-length"] == str(SIZE)
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["content-disposition"].endswith("filename*=UTF-8''%E7%81%AF%201.bin")


async def test_range(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "content_piece_bytes", 7)
    response = await client.get(CONTENT, headers={"range": "bytes=100-399"})
    assert (response.status_code, response.content) == (206, IMAGE[100:400])
    assert response.headers["content-range"] == f"bytes 100-399/{SIZE}"
    assert response.headers["content-length"] == "300"


async def test_range_past_the_end(client: Client) -> None:
    response = await client.get(CONTENT, headers={"range": f"bytes={SIZE}-"})
    assert response.status_code == 416
    assert response.headers["content-range"] == f"bytes */{SIZE}"
    assert response.json()["error"]["code"] == "range_not_satisfiable"


async def test_head_ignores_range(client: Client) -> None:
    response = await client.head(CONTENT, headers={"range": "bytes=0-0"})
    assert (response.status_code, response.headers["content-length"]) == (200, str(SIZE))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"if-none-match": "{etag}"}, 304),
        ({"if-none-match": "W/{etag}"}, 304),
        ({"if-none-match": '"x", {etag}'}, 304),
        ({"if-none-match": "*"}, 304),
        ({"if-none-match": '"x"'}, 200),
        ({"if-none-match": "{etag}", "range": "bytes=0-0"}, 304),
        ({"if-range": "{etag}", "range": "bytes=0-0"}, 206),
        ({"if-range": "W/{etag}", "range": "bytes=0-0"}, 200),
        ({"if-range": '"x"', "range": f"bytes={SIZE}-"}, 200),
        ({"if-range": "Mon, 23 Nov 2026 18:30:37 GMT", "range": "bytes=0-0"}, 200),
    ],
)
async def test_conditions(client: Client, service: FakeService, headers: dict[str, str], status: int) -> None:
    etag = f'"{service.firmware["f1"].sha256}"'
    filled = {name: value.replace("{etag}", etag) for name, value in headers.items()}
    response = await client.get(CONTENT, headers=filled)
    assert response.status_code == status
    assert response.headers["etag"] == etag
    assert response.content == {304: b"", 206: IMAGE[:1], 200: IMAGE}[status]


async def test_deleted_a_moment_ago(client: Client, tmp_path: Path) -> None:
    (tmp_path / "f1").unlink()
    response = await client.get(CONTENT)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.bin", "attachment; filename=\"a.bin\"; filename*=UTF-8''a.bin"),
        ('a"\\\r\n;.bin', "attachment; filename=\"a____;.bin\"; filename*=UTF-8''a%22%5C%0D%0A%3B.bin"),
        ("固件.bin", "attachment; filename=\"__.bin\"; filename*=UTF-8''%E5%9B%BA%E4%BB%B6.bin"),
    ],
)
def test_attachment(name: str, expected: str) -> None:
    assert attachment(name) == expected
