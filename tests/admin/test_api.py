"""Every operation: its happy path, and each way to be refused, with the error body."""

import base64
import hashlib
import logging
from typing import Any

import pytest

from otagate import limits
from otagate.admin.routes import OPERATIONS

from .conftest import IMAGE, Client
from .fake import SECRET, TOKEN, FakeService

V1 = "/api/v1"
DEVICES = f"{V1}/products/lamp/devices"
NDJSON = {"content-type": "application/x-ndjson"}
UPLOAD = f"{V1}/firmware?product=lamp&name=n&version=2.0&file_name=a.bin"
BATCH = {
    "firmware": "f1",
    "range": "all",
    "validity_days": 7,
    "policy": "standard",
    "timeout_minutes": 60,
    "retries": 0,
}

HOOK = {"url": "http://127.0.0.1:1/", "events": ["device_failed"]}

HAPPY: list[tuple[str, str, Any, int, dict[str, Any]]] = [
    ("POST", f"{V1}/products", {"key": "lock", "name": "Lock"}, 201, {"key": "lock", "auth": "secret"}),
    ("GET", f"{V1}/products", None, 200, {"next": None}),
    ("GET", f"{V1}/products/lamp", None, 200, {"key": "lamp", "name": "Lamp"}),
    ("PATCH", f"{V1}/products/lamp", {"require_signature": True}, 200, {"require_signature": True}),
    ("GET", f"{V1}/products/lamp/signing-keys", None, 200, {"next": None}),
    ("POST", f"{V1}/products/lamp/signing-keys", {"public_key": "pem"}, 201, {"public_key": "pem"}),
    ("POST", DEVICES, {"identifier": "d2"}, 201, {"identifier": "d2", "name": "d2", "secret": SECRET}),
    ("GET", DEVICES, None, 200, {"next": None}),
    ("GET", f"{DEVICES}/d1", None, 200, {"identifier": "d1", "active": False}),
    ("PATCH", f"{DEVICES}/d1", {"name": "Hall"}, 200, {"identifier": "d1", "name": "Hall"}),
    ("POST", f"{DEVICES}/d1/secret", None, 200, {"identifier": "d1", "secret": SECRET}),
    ("POST", UPLOAD, b"abc", 201, {"size": 3, "md5": hashlib.md5(b"abc").hexdigest()}),
    ("GET", f"{V1}/firmware", None, 200, {"next": None}),
    ("GET", f"{V1}/firmware/f1", None, 200, {"id": "f1", "size": len(IMAGE)}),
    ("POST", f"{V1}/batches", BATCH, 201, {"id": "b2", "status": "in_progress"}),
    ("GET", f"{V1}/batches", None, 200, {"next": None}),
    ("GET", f"{V1}/batches/b1", None, 200, {"id": "b1"}),
    ("POST", f"{V1}/batches/b1/abort", None, 200, {"id": "b1", "status": "aborted"}),
    ("GET", f"{V1}/batches/b1/devices", None, 200, {"items": [], "next": None}),
    ("GET", f"{V1}/batches/b1/devices/d1", None, 200, {"identifier": "d1", "state": "pushed"}),
    ("POST", f"{V1}/session", {"token": TOKEN}, 200, {"name": "admin", "role": "admin"}),
    ("POST", f"{V1}/tokens", {"name": "ci", "role": "viewer"}, 201, {"id": "t2", "token": SECRET}),
    ("GET", f"{V1}/tokens", None, 200, {"next": None}),
    ("GET", f"{V1}/webhooks", None, 200, {"next": None}),
    ("POST", f"{V1}/webhooks", HOOK, 201, {"id": "w2", "secret": SECRET}),
    ("POST", f"{V1}/webhooks/w1/test", None, 200, {"delivered": True, "status": 204, "error": None}),
    ("GET", f"{V1}/audit", None, 200, {"next": None}),
    ("GET", f"{V1}/audit/verify", None, 200, {"entries": 1, "intact": True, "first_broken": None}),
    ("GET", f"{V1}/overview", None, 200, {"devices_online": 1}),
    ("GET", "/livez", None, 200, {"status": "live"}),
    ("GET", "/readyz", None, 200, {"status": "ready"}),
]


def sent(body: Any) -> dict[str, Any]:
    """How httpx is told to send it."""
    return {} if body is None else {"content": body} if isinstance(body, bytes) else {"json": body}


@pytest.mark.parametrize(("method", "path", "body", "status", "part"), HAPPY)
async def test_happy(
    client: Client, method: str, path: str, body: Any, status: int, part: dict[str, Any]
) -> None:
    response = await client.request(method, path, **sent(body))
    assert response.status_code == status, response.text
    answer = response.json()
    assert answer | part == answer


@pytest.mark.parametrize(
    ("path", "then"),
    [
        (f"{DEVICES}/d1", 404),
        (f"{V1}/products/lock", 404),
        (f"{V1}/firmware/f2", 404),
        (f"{V1}/tokens/t1", 405),
        (f"{V1}/products/lamp/signing-keys/{0:016}", 405),
    ],
)
async def test_delete(client: Client, path: str, then: int) -> None:
    await client.post(f"{V1}/products", json={"key": "lock", "name": "Lock"})
    await client.post(UPLOAD, content=b"abc")
    await client.post(f"{V1}/products/lamp/signing-keys", json={"public_key": "pem"})
    response = await client.delete(path)
    assert (response.status_code, response.content) == (204, b"")
    assert "content-type" not in response.headers
    assert (await client.get(path)).status_code == then


def concrete(path: str) -> str:
    """A path of the table with things that exist."""
    folder = path.removeprefix(f"{V1}/").partition("/")[0]
    id = {"batches": "b1", "tokens": "t1", "webhooks": "w1"}.get(folder, "f1")
    return path.replace("{key}", "lamp").replace("{identifier}", "d1").replace("{id}", id)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: f"{o.method} {o.path}")
@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer wrong", "Basic a-token-for-tests", "a-token-for-tests"]
)
async def test_token(client: Client, operation: Any, header: str | None) -> None:
    client.headers.pop("authorization")
    headers = {} if header is None else {"authorization": header}
    response = await client.request(operation.method, concrete(operation.path), headers=headers)
    if operation.public:
        assert response.status_code == (400 if operation.body else 200)
    else:
        assert response.status_code == 401
        assert response.json()["error"]["code"] == "unauthorized"
        assert response.headers["www-authenticate"].startswith("Bearer")


async def test_token_scheme_is_case_insensitive(client: Client) -> None:
    headers = {"authorization": "bearer  a-token-for-tests"}
    assert (await client.get(f"{V1}/products", headers=headers)).status_code == 200


REFUSED: list[tuple[str, str, Any, int, str, str | None]] = [
    # not found
    ("GET", f"{V1}/products/none", None, 404, "not_found", "key"),
    ("DELETE", f"{V1}/products/none", None, 404, "not_found", "key"),
    ("GET", f"{V1}/products/none/devices", None, 404, "not_found", "key"),
    ("POST", f"{V1}/products/none/devices", {"identifier": "d"}, 404, "not_found", "key"),
    ("GET", f"{DEVICES}/none", None, 404, "not_found", "identifier"),
    ("PATCH", f"{DEVICES}/none", {"name": "n"}, 404, "not_found", "identifier"),
    ("DELETE", f"{DEVICES}/none", None, 404, "not_found", "identifier"),
    ("POST", f"{DEVICES}/none/secret", None, 404, "not_found", "identifier"),
    ("GET", f"{V1}/firmware/none", None, 404, "not_found", "id"),
    ("GET", f"{V1}/firmware/none/content", None, 404, "not_found", "id"),
    ("DELETE", f"{V1}/firmware/none", None, 404, "not_found", "id"),
    ("POST", UPLOAD.replace("lamp", "none"), b"abc", 404, "not_found", "key"),
    ("POST", f"{V1}/batches", BATCH | {"firmware": "none"}, 404, "not_found", "id"),
    ("GET", f"{V1}/batches/none", None, 404, "not_found", "id"),
    ("POST", f"{V1}/batches/none/abort", None, 404, "not_found", "id"),
    ("GET", f"{V1}/batches/none/devices", None, 404, "not_found", "id"),
    ("GET", f"{V1}/batches/b1/devices/none", None, 404, "not_found", "identifier"),
    ("GET", "/nowhere", None, 404, "not_found", None),
    ("POST", "/nowhere", {"a": 1}, 404, "not_found", None),
    ("GET", f"{V1}/products/", None, 404, "not_found", None),
    ("GET", f"{V1}/products/lamp/devices/a%2Fb", None, 404, "not_found", None),
    # wrong method
    ("PUT", f"{V1}/products", {"key": "k"}, 405, "method_not_allowed", None),
    ("POST", f"{V1}/batches/b1", None, 405, "method_not_allowed", None),
    # conflicts
    ("POST", f"{V1}/products", {"key": "lamp", "name": "n"}, 409, "conflict", "key"),
    ("DELETE", f"{V1}/products/lamp", None, 409, "conflict", None),
    ("POST", DEVICES, {"identifier": "d1"}, 409, "conflict", "identifier"),
    ("DELETE", f"{DEVICES}/busy", None, 409, "conflict", None),
    ("POST", UPLOAD.replace("2.0", "1.0"), b"abc", 409, "conflict", "version"),
    ("DELETE", f"{V1}/firmware/f1", None, 409, "conflict", None),
    # bodies that break a rule
    ("POST", f"{V1}/products", {"key": "k", "name": "n", "kye": 1}, 422, "invalid", "kye"),
    ("POST", f"{V1}/products", {"key": 1, "name": "n"}, 422, "invalid", "key"),
    ("POST", f"{V1}/products", {"key": "k"}, 422, "invalid", "name"),
    ("POST", f"{V1}/products", {"key": "", "name": "n"}, 422, "invalid", "key"),
    ("POST", f"{V1}/products", [], 422, "invalid", None),
    ("POST", DEVICES, {"identifier": None}, 422, "invalid", "identifier"),
    ("POST", DEVICES, {"identifier": "d", "key": 1}, 422, "invalid", "key"),
    ("POST", DEVICES, {"identifier": "a b"}, 422, "invalid", "identifier"),
    ("PATCH", f"{DEVICES}/d1", {"name": 1}, 422, "invalid", "name"),
    ("PATCH", f"{DEVICES}/d1", {"name": "n", "secret": "s"}, 422, "invalid", "secret"),
    ("POST", f"{V1}/batches", BATCH | {"devices": ["a", 1]}, 422, "invalid", "devices[1]"),
    ("POST", f"{V1}/batches", BATCH | {"retries": "0"}, 422, "invalid", "retries"),
    ("POST", f"{V1}/batches", BATCH | {"validity_days": 10**30}, 422, "invalid", "validity_days"),
    ("POST", f"{V1}/batches", BATCH | {"now": True}, 422, "invalid", "now"),
    ("POST", f"{V1}/batches", BATCH | {"validity_days": 8}, 422, "invalid", "validity_days"),
    # bodies that cannot be read
    ("POST", f"{V1}/products", b"{", 400, "malformed", None),
    ("POST", f"{V1}/products", b"", 400, "malformed", None),
    ("POST", f"{V1}/products", b"{'key': 1}", 400, "malformed", None),
    ("POST", f"{V1}/products", b'{"key":"\xff"}', 400, "malformed", None),
    ("POST", f"{V1}/products", b'{"key":"\\ud800"}', 400, "malformed", None),
    ("POST", f"{V1}/products", b'{"key":"k","name":"n"}x', 400, "malformed", None),
    # queries
    ("GET", f"{V1}/products?limit=x", None, 400, "malformed", "limit"),
    ("GET", f"{V1}/products?limit=0", None, 422, "invalid", "limit"),
    ("GET", f"{V1}/products?limit=1001", None, 422, "invalid", "limit"),
    ("GET", f"{V1}/products?limit={'9' * 400}", None, 422, "invalid", "limit"),
    ("GET", f"{V1}/products?limit=1&limit=2", None, 400, "malformed", "limit"),
    ("GET", f"{V1}/products?cursor=bad", None, 400, "malformed", "cursor"),
    ("GET", f"{V1}/products?lmit=1", None, 422, "invalid", "lmit"),
    ("GET", f"{V1}/products?force", None, 422, "invalid", "force"),
    ("GET", f"{V1}/products/lamp?q=a", None, 422, "invalid", "q"),
    ("POST", f"{V1}/batches/b1/abort?really=yes", None, 422, "invalid", "really"),
    ("GET", f"{DEVICES}?active=perhaps", None, 400, "malformed", "active"),
    ("GET", f"{DEVICES}?connection=away", None, 422, "invalid", "connection"),
    ("GET", f"{DEVICES}?q=%ff", None, 400, "malformed", None),
    ("GET", f"{DEVICES}?q={'a' * 201}", None, 422, "invalid", "q"),
    ("GET", f"{DEVICES}?{'q&' * 51}", None, 400, "malformed", None),
    ("GET", f"{V1}/batches?status=done", None, 422, "invalid", "status"),
    ("GET", f"{V1}/batches/b1/devices?state=ended", None, 422, "invalid", "state"),
    # uploads
    ("POST", f"{V1}/firmware?product=lamp", b"abc", 422, "invalid", "name"),
    ("POST", UPLOAD + "&size=3", b"abc", 422, "invalid", "size"),
    ("POST", UPLOAD.replace("a.bin", "a.exe"), b"abc", 422, "invalid", "file_name"),
    ("POST", UPLOAD, b"", 422, "invalid", None),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "code", "field"), REFUSED)
async def test_refused(
    client: Client, method: str, path: str, body: Any, status: int, code: str, field: str | None
) -> None:
    response = await client.request(method, path, **sent(body))
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert (error["code"], error.get("field")) == (code, field)


def test_every_operation_is_tried() -> None:
    def template(path: str) -> str:
        for operation in OPERATIONS:
            if concrete(operation.path) == path.partition("?")[0]:
                return operation.path
        return path

    tried = {(method, template(path)) for method, path, *_ in HAPPY}
    tried |= {("DELETE", path) for path in (f"{V1}/products/{{key}}", f"{V1}/firmware/{{id}}")}
    tried |= {("DELETE", f"{V1}/products/{{key}}/devices/{{identifier}}")}
    tried |= {("DELETE", f"{V1}/tokens/{{id}}"), ("DELETE", f"{V1}/webhooks/{{id}}")}
    tried |= {("DELETE", f"{V1}/products/{{key}}/signing-keys/{{id}}")}
    tried |= {("DELETE", f"{V1}/session"), ("GET", f"{V1}/session")}
    tried |= {("GET", "/"), ("GET", f"{V1}/firmware/{{id}}/content")}  # test_front_page, test_images
    tried |= {("GET", f"{V1}/events")}  # test_events
    assert {(operation.method, operation.path) for operation in OPERATIONS} <= tried


async def test_allow(client: Client) -> None:
    response = await client.put(f"{V1}/products")
    assert response.headers["allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize("path", ["/", "/livez", f"{V1}/products", f"{V1}/firmware/f1/content"])
async def test_head(client: Client, path: str) -> None:
    got, head = await client.get(path), await client.head(path)
    assert head.status_code == got.status_code == 200
    assert head.headers == got.headers
    assert head.content == b""


async def test_front_page(client: Client) -> None:
    response = await client.get("/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert 'src="console/' in response.text


async def test_not_ready(client: Client, service: FakeService) -> None:
    service.reasons = ["the device listener is not open"]
    response = await client.get("/readyz")
    assert response.status_code == 503
    assert [check["message"] for check in response.json()["error"]["details"]] == service.reasons


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 201),
        ("application/json; charset=utf-8", 201),
        ("Application/JSON", 201),
        (None, 201),
        ("application/x-www-form-urlencoded", 415),
        ("application/jsonp", 415),
        ("text/csv", 415),
    ],
)
async def test_content_type(client: Client, content_type: str | None, status: int) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    response = await client.post(f"{V1}/products", content=b'{"key":"k","name":"n"}', headers=headers)
    assert response.status_code == status
    if status == 415:
        assert response.json()["error"]["code"] == "unsupported_media_type"


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"", 200, None),
        (b"{}", 200, None),
        (b'{"secret": "0123456789abcdef"}', 422, "secret"),  # it makes one of its own
        (b"secret=0123456789abcdef", 400, None),
        (b" " * (limits.json_body_bytes_max + 1), 413, None),
    ],
)
async def test_where_no_body_belongs(client: Client, body: bytes, status: int, field: str | None) -> None:
    response = await client.post(f"{DEVICES}/d1/secret", content=body)
    assert response.status_code == status
    if status != 200:
        assert response.json()["error"].get("field") == field


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        (f"{V1}/products", "application/json"),
        (f"{V1}/products/lamp/devices", "application/x-ndjson"),
        (UPLOAD, "application/octet-stream"),
    ],
)
@pytest.mark.parametrize(
    ("coding", "status"), [("gzip", 415), ("identity, br", 415), ("Identity", 0), ("", 0)]
)
async def test_packed_bodies(client: Client, path: str, content_type: str, coding: str, status: int) -> None:
    """A device would get the packing for its firmware."""
    headers = {"content-encoding": coding, "content-type": content_type}
    response = await client.post(path, content=b'{"key":"k","name":"n"}', headers=headers)
    if not status:
        assert response.is_success, response.text
        return
    assert response.status_code == status
    assert response.json()["error"]["field"] == "Content-Encoding"


async def test_filters_reach_the_service(client: Client, service: FakeService) -> None:
    query = "q=a%20b&version=1&active=true&connection=online&eligible_for=f1&allow_rollback=true"
    query += "&limit=7&cursor=c1"
    assert (await client.get(f"{DEVICES}?{query}")).status_code == 200
    assert service.calls[-1] == (
        "list_devices",
        {
            "q": "a b",
            "version": "1",
            "active": True,
            "connection": "online",
            "eligible_for": "f1",
            "allow_rollback": True,
            "cursor": "c1",
            "limit": 7,
        },
    )
    assert (await client.get(f"{DEVICES}?q=&version=&cursor=&limit=")).status_code == 200
    assert service.calls[-1] == (
        "list_devices",
        {
            "q": "",
            "version": None,
            "active": None,
            "connection": None,
            "eligible_for": None,
            "allow_rollback": False,
            "cursor": None,
            "limit": limits.page_items_default,
        },
    )


async def test_pages(client: Client) -> None:
    first = (await client.get(f"{DEVICES}?limit=1")).json()
    assert [item["identifier"] for item in first["items"]] == ["d1"]
    second = (await client.get(f"{DEVICES}?limit=1&cursor={first['next']}")).json()
    assert [item["identifier"] for item in second["items"]] == ["busy"]
    assert second["next"] is None


async def test_ineligible_devices_are_told(client: Client) -> None:
    response = await client.post(f"{V1}/batches", json=BATCH | {"range": "directed", "devices": ["d1", "dx"]})
    error = response.json()["error"]
    assert (response.status_code, error["field"]) == (422, "devices")
    assert error["details"] == [{"identifier": "dx", "reason": "not_found", "message": "No such device."}]


async def test_no_room(client: Client, service: FakeService) -> None:
    service.disk_full = True
    for response in (await client.post(UPLOAD, content=b"a"), await client.post(f"{V1}/batches", json=BATCH)):
        assert (response.status_code, response.json()["error"]["code"]) == (507, "no_room")


async def test_body_too_large(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "json_body_bytes_max", 22)

    async def chunks() -> Any:
        yield b'{"key":"k",'
        yield b'"name":"n"}'

    assert (await client.post(f"{V1}/products", content=chunks())).status_code == 201

    async def more_chunks() -> Any:
        yield b'{"key":"k2",'
        yield b'"name":"n"}'

    for content in (more_chunks(), b'{"key":"k2","name":"n"}'):
        response = await client.post(f"{V1}/products", content=content)
        assert (response.status_code, response.json()["error"]["code"]) == (413, "too_large")


async def test_our_faults_say_nothing_and_are_logged_once(
    client: Client, service: FakeService, caplog: pytest.LogCaptureFixture
) -> None:
    service.broken = True
    for request in (client.get(f"{V1}/products"), client.post(UPLOAD, content=b"abc")):
        caplog.clear()
        response = await request
        assert response.status_code == 500
        assert response.json()["error"]["code"] == "internal"
        assert "broken on purpose" not in response.text
        assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_digests_of_an_upload(client: Client, service: FakeService) -> None:
    md5, sha256 = hashlib.md5(b"abc"), hashlib.sha256(b"abc").hexdigest()
    in_base64 = base64.b64encode(md5.digest()).decode()
    version = 2
    for headers, field in [
        ({"content-md5": in_base64}, None),
        ({"content-md5": md5.hexdigest()}, None),
        ({"content-md5": md5.hexdigest().upper(), "x-checksum-sha256": sha256.upper()}, None),
        ({"content-md5": hashlib.md5(b"x").hexdigest()}, "Content-MD5"),
        ({"content-md5": in_base64[:-4]}, "Content-MD5"),
        ({"content-md5": "é"}, "Content-MD5"),
        ({"content-md5": in_base64 + "\u00b2"}, "Content-MD5"),
        ({"x-checksum-sha256": sha256[:-1]}, "X-Checksum-Sha256"),
        ({"x-checksum-sha256": hashlib.sha256(b"x").hexdigest()}, "X-Checksum-Sha256"),
    ]:
        version += 1
        path = UPLOAD.replace("2.0", str(version))
        encoded = {name: value.encode() for name, value in headers.items()}
        response = await client.post(path, content=b"abc", headers=encoded)
        assert response.status_code == (422 if field else 201), headers
        if field:
            assert response.json()["error"]["field"] == field
    assert not service.partial.exists()
