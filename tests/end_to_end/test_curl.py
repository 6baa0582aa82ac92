"""The admin API through curl: images in and out, bulk registration, and what the process takes for it."""

import base64
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from otagate.store.check import main as check_store
from tests.end_to_end.process import GatewayProcess, Operator, running

IMAGE_BYTES_MAX = 104_857_600
MIB = 2**20


class Answer(NamedTuple):
    """What curl said."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    data = tmp_path_factory.mktemp("curl") / "data"
    with running(data) as process:
        with Operator(process) as operator:
            operator.create_product()
        yield process
    assert check_store([str(data)]) == 0


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 MB, the largest there may be; no two MiB alike."""
    path = tmp_path_factory.mktemp("image") / "large.bin"
    piece = os.urandom(MIB)
    with path.open("wb") as file:
        for number in range(100):
            file.write(number.to_bytes(4, "big") + piece[4:])
    assert path.stat().st_size == IMAGE_BYTES_MAX
    return path


def curl(gateway: GatewayProcess, path: str, *arguments: str, folder: Path, stdin: bytes = b"") -> Answer:
    """Run curl on a path of the API."""
    head, body = folder / "head", folder / "body"
    url = f"http://{gateway.admin[0]}:{gateway.admin[1]}/api/v1{path}"
    if "-C" not in arguments:
        body.unlink(missing_ok=True)
    always = ["-sS", "--globoff", "-m", "60", "-H", f"Authorization: Bearer {gateway.token}"]
    command = ["curl", *always, "-D", head, "-o", body, *arguments, url]
    done = subprocess.run(command, input=stdin, capture_output=True)
    assert done.returncode == 0, done.stderr
    lines = head.read_text().strip().split("\n\n")[-1].split("\n")  # after any 100 Continue
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return Answer(int(lines[0].split()[1]), headers, body.read_bytes() if body.exists() else b"")


def firmware_path(version: str) -> str:
    return f"/firmware?product=lamp&name=fw-{version}&version={version}&file_name=large.bin"


def memory_of(pid: int) -> dict[str, int]:
    """Bytes: what is private and anonymous now, and the most that was resident since `forget_peak`."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    status = Path(f"/proc/{pid}/status").read_text()
    found = {}
    for name, text in (("Anonymous", rollup), ("VmHWM", status), ("VmRSS", status)):
        line = next(line for line in text.splitlines() if line.startswith(f"{name}:"))
        found[name] = int(line.split()[1]) * 1024
    return found


def forget_peak(pid: int) -> None:
    """Begin a new high-water mark (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


@pytest.mark.parametrize("how", ["content_length", "chunked", "expect_100"])
def test_a_large_upload_takes_little_memory(
    gateway: GatewayProcess, image: Path, tmp_path: Path, how: str
) -> None:
    idle = memory_of(gateway.pid)
    forget_peak(gateway.pid)
    arguments = {
        "content_length": ["-H", "Expect:"],
        "chunked": ["-H", "Transfer-Encoding: chunked", "-H", "Expect:"],
        "expect_100": ["-H", "Expect: 100-continue"],
    }[how]
    answer = curl(gateway, firmware_path(how), *arguments, "-T", str(image), "-X", "POST", folder=tmp_path)
    peak = memory_of(gateway.pid)
    assert answer.status == 201, answer
    with image.open("rb") as file:
        assert answer.json["md5"] == hashlib.file_digest(file, "md5").hexdigest()
    with image.open("rb") as file:
        assert answer.json["sha256"] == hashlib.file_digest(file, "sha256").hexdigest()
    assert answer.json["size"] == IMAGE_BYTES_MAX
    grown = peak["VmHWM"] - idle["VmRSS"]
    print(f"{how}: peak {grown / MIB:.1f} MiB above idle")
    assert grown < 16 * MIB
    assert peak["Anonymous"] - idle["Anonymous"] < 16 * MIB


def test_one_byte_too_many(gateway: GatewayProcess, image: Path, tmp_path: Path) -> None:
    large = tmp_path / "larger.bin"
    large.write_bytes(image.read_bytes() + b"x")
    for arguments in ((), ("-H", "Transfer-Encoding: chunked", "-H", "Expect:")):
        answer = curl(
            gateway, firmware_path("9"), *arguments, "-T", str(large), "-X", "POST", folder=tmp_path
        )
        assert (answer.status, answer.json["error"]["code"]) == (413, "too_large")
    empty = tmp_path / "empty.bin"
    empty.touch()
    answer = curl(gateway, firmware_path("9"), "--data-binary", f"@{empty}", folder=tmp_path)
    assert answer.status == 422
    assert not list((gateway.data / "incoming").iterdir())


def test_digests_are_checked(gateway: GatewayProcess, tmp_path: Path) -> None:
    data = os.urandom(70_000)
    right_md5 = base64.b64encode(hashlib.md5(data).digest()).decode()
    right_sha256 = hashlib.sha256(data).hexdigest()
    upload = ("--data-binary", "@-", "-H", "Content-Type: application/octet-stream")
    for header, status in (
        (f"Content-MD5: {base64.b64encode(bytes(16)).decode()}", 422),
        (f"Content-MD5: {'0' * 32}", 422),
        ("Content-MD5: nonsense", 422),
        (f"X-Checksum-Sha256: {'0' * 64}", 422),
        ("X-Checksum-Sha256: 1", 422),
        (f"Content-MD5: {right_md5}", 201),
    ):
        answer = curl(gateway, firmware_path("3.0"), *upload, "-H", header, folder=tmp_path, stdin=data)
        assert answer.status == status, (header, answer)
    answer = curl(
        gateway,
        firmware_path("3.1"),
        *upload,
        "-H",
        f"X-Checksum-Sha256: {right_sha256}",
        folder=tmp_path,
        stdin=data,
    )
    assert answer.status == 201
    assert not list((gateway.data / "incoming").iterdir())


def test_download_with_ranges(gateway: GatewayProcess, tmp_path: Path) -> None:
    data = os.urandom(600_000)
    answer = curl(gateway, firmware_path("4.0"), "--data-binary", "@-", folder=tmp_path, stdin=data)
    path = f"/firmware/{answer.json['id']}/content"
    whole = curl(gateway, path, folder=tmp_path)
    assert (whole.status, whole.body) == (200, data)
    assert whole.headers["etag"] == f'"{hashlib.sha256(data).hexdigest()}"'
    for text, start, end in (("0-0", 0, 1), ("10-99999", 10, 100_000), ("599999-", 599_999, 600_000)):
        part = curl(gateway, path, "-r", text, folder=tmp_path)
        assert (part.status, part.body) == (206, data[start:end])
        assert part.headers["content-range"] == f"bytes {start}-{end - 1}/600000"
    assert curl(gateway, path, "-r", "-5", folder=tmp_path).body == data[-5:]
    assert curl(gateway, path, "-r", "600000-", folder=tmp_path).status == 416
    again = curl(gateway, path, "-H", f"If-None-Match: {whole.headers['etag']}", folder=tmp_path)
    assert (again.status, again.body) == (304, b"")
    stale = curl(gateway, path, "-r", "0-9", "-H", 'If-Range: "other"', folder=tmp_path)
    assert (stale.status, stale.body) == (200, data)
    # an interrupted download goes on where it stopped
    (tmp_path / "body").write_bytes(data[:1234])
    resumed = curl(gateway, path, "-C", "-", folder=tmp_path)
    assert (resumed.status, resumed.body) == (206, data)


@pytest.mark.parametrize("kind", ["application/x-ndjson", "text/csv"])
def test_bulk_registration(gateway: GatewayProcess, tmp_path: Path, kind: str) -> None:
    count = 2_000
    prefix = kind[-3:]
    if kind == "text/csv":
        lines = ["identifier,name,secret"]
        lines += [f'{prefix}-{number},"Lampe, 灯 {number}",' for number in range(count)]
        lines[1 + 7] = "white space,,"
        lines[1 + 8] = f"{prefix}-1,,"
        lines[1 + 9] = "too,many,fields,here"
    else:
        lines = [json.dumps({"identifier": f"{prefix}-{number}", "name": "灯"}) for number in range(count)]
        lines[7] = json.dumps({"identifier": "white space"})
        lines[8] = json.dumps({"identifier": f"{prefix}-1"})
        lines[9] = "{"
    body = "\n".join(lines).encode()
    answer = curl(
        gateway,
        "/products/lamp/devices",
        *("-H", f"Content-Type: {kind}", "-H", "Transfer-Encoding: chunked", "--data-binary", "@-"),
        folder=tmp_path,
        stdin=body,
    )
    assert answer.status == 200
    results = [json.loads(line) for line in answer.body.splitlines()]
    assert len(results) == count
    refused = {number: result["error"]["code"] for number, result in enumerate(results) if "error" in result}
    assert refused == {7: "invalid", 8: "conflict", 9: "malformed"}
    assert all("secret" in result for number, result in enumerate(results) if number not in refused)
    with Operator(gateway) as operator:
        found = []
        cursor = None
        while True:
            query = {"q": f"{prefix}-", "limit": 1000} | ({"cursor": cursor} if cursor else {})
            page = operator.call("GET", "/products/lamp/devices", params=query)
            found += page["items"]
            cursor = page["next"]
            if cursor is None:
                break
        assert len(found) == count - 3
        assert len({device["identifier"] for device in found}) == count - 3


# What is wrong, and what the API says: (method, path, body, status, code, field).
F, B = "FIRMWARE", "BATCH"
BATCH: dict[str, Any] = {
    "firmware": F,
    "range": "all",
    "validity_days": 1,
    "policy": "standard",
    "timeout_minutes": 10,
    "retries": 0,
}
RANGE = {"range": "directed", "devices": ["d1"]}
ERRORS: list[tuple[str, str, Any, int, str, str | None]] = [
    ("GET", "/nothing", None, 404, "not_found", None),
    ("PUT", "/products", {}, 405, "method_not_allowed", None),
    ("POST", "/products", b"{", 400, "malformed", None),
    ("POST", "/products", [], 422, "invalid", None),
    ("POST", "/products", {"key": "x"}, 422, "invalid", "name"),
    ("POST", "/products", {"key": "x y", "name": "x"}, 422, "invalid", "key"),
    ("POST", "/products", {"key": "k" * 65, "name": "x"}, 422, "invalid", "key"),
    ("POST", "/products", {"key": "x", "name": "x", "auth": "none"}, 422, "invalid", "auth"),
    ("POST", "/products", {"key": "x", "name": "x", "colour": 1}, 422, "invalid", "colour"),
    ("POST", "/products", {"key": "lamp", "name": "x"}, 409, "conflict", "key"),
    ("GET", "/products/none", None, 404, "not_found", None),
    ("DELETE", "/products/none", None, 404, "not_found", None),
    ("DELETE", "/products/lamp", None, 409, "conflict", None),
    ("GET", "/products/lamp/devices?colour=red", None, 422, "invalid", "colour"),
    ("GET", "/products/lamp/devices?limit=0", None, 422, "invalid", "limit"),
    ("GET", "/products/lamp/devices?limit=x", None, 400, "malformed", "limit"),
    ("GET", "/products/lamp/devices?cursor=x", None, 400, "malformed", "cursor"),
    ("GET", "/products/lamp/devices?connection=on", None, 422, "invalid", "connection"),
    ("GET", "/products/lamp/devices?eligible_for=f99", None, 404, "not_found", None),
    ("POST", "/products/none/devices", {"identifier": "x"}, 404, "not_found", None),
    ("POST", "/products/lamp/devices", {"identifier": "-x"}, 422, "invalid", "identifier"),
    ("POST", "/products/lamp/devices", {"identifier": "x" * 129}, 422, "invalid", "identifier"),
    ("POST", "/products/lamp/devices", {"identifier": "x", "secret": "short"}, 422, "invalid", "secret"),
    ("POST", "/products/lamp/devices", {"identifier": "d1"}, 409, "conflict", "identifier"),
    ("GET", "/products/lamp/devices/none", None, 404, "not_found", None),
    ("PATCH", "/products/lamp/devices/d1", {"name": "x" * 101}, 422, "invalid", "name"),
    ("PATCH", "/products/lamp/devices/none", {"name": "x"}, 404, "not_found", None),
    ("DELETE", "/products/lamp/devices/none", None, 404, "not_found", None),
    ("DELETE", "/products/lamp/devices/d1", None, 409, "conflict", None),
    ("POST", "/products/lamp/devices/none/secret", None, 404, "not_found", None),
    ("POST", "/firmware?product=none&name=n&version=1&file_name=a.bin", b"x", 404, "not_found", None),
    ("POST", "/firmware?product=lamp&version=1&file_name=a.bin", b"x", 422, "invalid", "name"),
    ("POST", "/firmware?product=lamp&name=_n&version=1&file_name=a.bin", b"x", 422, "invalid", "name"),
    ("POST", "/firmware?product=lamp&name=n&version=1+1&file_name=a.bin", b"x", 422, "invalid", "version"),
    ("POST", "/firmware?product=lamp&name=n&version=1&file_name=a.exe", b"x", 422, "invalid", "file_name"),
    ("POST", "/firmware?product=lamp&name=n&version=1&file_name=.bin", b"x", 422, "invalid", "file_name"),
    (
        "POST",
        f"/firmware?product=lamp&name=n&version=1&file_name=a.bin&description={'d' * 101}",
        b"x",
        422,
        "invalid",
        "description",
    ),
    ("POST", "/firmware?product=lamp&name=used&version=8&file_name=a.bin", b"x", 409, "conflict", "name"),
    ("POST", "/firmware?product=lamp&name=n&version=2.0&file_name=a.bin", b"x", 409, "conflict", "version"),
    ("GET", "/firmware/f99", None, 404, "not_found", None),
    ("GET", "/firmware/f99/content", None, 404, "not_found", None),
    ("DELETE", "/firmware/f99", None, 404, "not_found", None),
    ("DELETE", f"/firmware/{F}", None, 409, "conflict", None),
    ("POST", "/batches", BATCH | {"firmware": "f99"}, 422, "invalid", "firmware"),
    ("POST", "/batches", BATCH | {"range": "some"}, 422, "invalid", "range"),
    ("POST", "/batches", BATCH | {"range": "directed"}, 422, "invalid", "devices"),
    ("POST", "/batches", BATCH | {"range": "directed", "devices": []}, 422, "invalid", "devices"),
    ("POST", "/batches", BATCH | {"devices": ["d1"]}, 422, "invalid", "devices"),
    ("POST", "/batches", BATCH | RANGE, 422, "invalid", "devices"),
    ("POST", "/batches", BATCH | {"validity_days": 0}, 422, "invalid", "validity_days"),
    ("POST", "/batches", BATCH | {"validity_days": 8}, 422, "invalid", "validity_days"),
    ("POST", "/batches", BATCH | {"policy": "loud"}, 422, "invalid", "policy"),
    ("POST", "/batches", BATCH | {"timeout_minutes": 0}, 422, "invalid", "timeout_minutes"),
    ("POST", "/batches", BATCH | {"timeout_minutes": 1441}, 422, "invalid", "timeout_minutes"),
    ("POST", "/batches", BATCH | {"timeout_minutes": "x"}, 422, "invalid", "timeout_minutes"),
    ("POST", "/batches", BATCH | {"retries": 6}, 422, "invalid", "retries"),
    ("POST", "/batches", BATCH | {"retries": 1}, 422, "invalid", "retry_interval_minutes"),
    (
        "POST",
        "/batches",
        BATCH | {"retries": 1, "retry_interval_minutes": 4321},
        422,
        "invalid",
        "retry_interval_minutes",
    ),
    ("POST", "/batches", BATCH, 422, "invalid", "range"),  # nobody is eligible
    ("GET", "/batches?status=open", None, 422, "invalid", "status"),
    ("GET", "/batches/b99", None, 404, "not_found", None),
    ("POST", "/batches/b99/abort", None, 404, "not_found", None),
    ("POST", "/batches/b990/abort", None, 404, "not_found", None),
    ("GET", "/batches/b99/devices", None, 404, "not_found", None),
    ("GET", f"/batches/{B}/devices?state=lost", None, 422, "invalid", "state"),
    ("GET", f"/batches/{B}/devices/none", None, 404, "not_found", None),
]


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Operator, str, str]]:
    """A gateway with a firmware in use: d1 is in a batch in progress, nobody else is there."""
    from tests.end_to_end.clients import Conversation, PlainSocket

    with running(tmp_path_factory.mktemp("busy") / "data") as process, Operator(process) as operator:
        operator.create_product()
        operator.register("d1")
        connection = PlainSocket(process.devices)
        Conversation(connection, "d1").log_in("1.0")
        connection.close()
        metadata = {"product": "lamp", "name": "used", "version": "2.0", "file_name": "a.bin"}
        firmware = operator.call("POST", "/firmware", 201, params=metadata, content=b"image")["id"]
        yield operator, firmware, operator.create_batch(firmware)


@pytest.mark.parametrize(("method", "path", "body", "status", "code", "field"), ERRORS)
def test_what_is_wrong_is_said(
    busy: tuple[Operator, str, str],
    method: str,
    path: str,
    body: Any,
    status: int,
    code: str,
    field: str | None,
) -> None:
    operator, firmware, batch = busy
    path = path.replace(F, firmware).replace(B, batch)
    request: dict[str, Any] = {}
    if isinstance(body, bytes):
        request = {"content": body, "headers": {"content-type": "application/json"}}
    elif body is not None:
        request = {"json": json.loads(json.dumps(body).replace(F, firmware))}
    answer = operator.request(method, path, **request)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code), error
    if status != 404:  # what is not found may be named, and need not be
        assert error.get("field") == field, error
    assert error["message"]


@pytest.mark.parametrize("token", ["", "Bearer", "Bearer wrong", "Basic x", None])
def test_without_the_token(busy: tuple[Operator, str, str], token: str | None) -> None:
    operator, _, batch = busy
    headers = {} if token is None else {"authorization": token}
    request = operator.build_request("POST", f"/batches/{batch}/abort", headers=headers)
    if token is None:
        del request.headers["authorization"]
    answer = operator.send(request)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
    assert operator.call("GET", f"/batches/{batch}")["status"] == "in_progress"


def test_an_ineligible_device_is_named_with_the_reason(busy: tuple[Operator, str, str]) -> None:
    operator, firmware, _ = busy
    operator.register("never-seen")
    body = BATCH | {"firmware": firmware, "range": "directed", "devices": ["d1", "never-seen", "none"]}
    answer = operator.post("/batches", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["field"]) == (422, "devices")
    named = {found["identifier"]: found["reason"] for found in error["details"]}
    assert list(named) == ["d1", "never-seen", "none"]
    assert len(set(named.values())) == 3
    operator.call("DELETE", "/products/lamp/devices/never-seen", 204)


def test_abort_and_what_follows(busy: tuple[Operator, str, str]) -> None:
    operator, firmware, batch = busy
    view = operator.call("POST", f"/batches/{batch}/abort", 200)
    assert (view["status"], view["counts"]["failed"]) == ("aborted", 1)
    operator.call("POST", f"/batches/{batch}/abort", 409)
    operator.call("DELETE", f"/firmware/{firmware}", 204)
    view = operator.call("GET", f"/batches/{batch}")
    assert view["firmware"]["name"] == "used"
    operator.call("DELETE", "/products/lamp/devices/d1", 204)
    operator.call("DELETE", "/products/lamp", 204)
