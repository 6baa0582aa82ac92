"""The operators' commands: what they ask of the API, and what people, machines and scripts are told."""

import base64
import hashlib
import io
import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Answer, Gateway, Outcome, refusal

Run = Callable[..., Outcome]

COUNTS = {
    "total": 2,
    "to_be_pushed": 1,
    "pushed": 0,
    "to_be_upgraded": 0,
    "upgrading": 1,
    "to_be_retried": 0,
    "succeeded": 0,
    "failed": 0,
}
BATCH: dict[str, Any] = {
    "id": "b1",
    "firmware": {"id": "f1", "name": "fw", "version": "2.0", "md5": "0" * 32},
    "product": {"key": "lamp", "name": "Lamp"},
    "created_at": "2026-01-01T00:00:00.000Z",
    "ended_at": None,
    "status": "in_progress",
    "counts": COUNTS,
}
UPGRADE = {
    "identifier": "d0",
    "name": "Kitchen",
    "connection": "online",
    "state": "failed",
    "retries": {"current": 1, "maximum": 3},
    "remark": "other",
    "detail": "battery",
    "stage": None,
    "progress": 0,
    "version": "1.0",
    "completed_at": None,
    "waiting_for": None,
}


def ended(succeeded: int, failed: int) -> dict[str, Any]:
    counts = COUNTS | {"to_be_pushed": 0, "upgrading": 0, "succeeded": succeeded, "failed": failed}
    return BATCH | {"status": "completed", "counts": counts}


def pages(*pages_: list[Any]) -> list[Any]:
    last = len(pages_) - 1
    return [
        {"items": items, "next": None if index == last else f"cursor-{index}"}
        for index, items in enumerate(pages_)
    ]


# -- requests: one row a command -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "request_line", "query", "body"),
    [
        ("product add lamp Lamp", "POST /api/v1/products", {}, {"key": "lamp", "name": "Lamp"}),
        (
            "product add lamp Lamp --auth both",
            "POST /api/v1/products",
            {},
            {"key": "lamp", "name": "Lamp", "auth": "both"},
        ),
        ("product show a/b", "GET /api/v1/products/a%2Fb", {}, None),
        ("product delete lamp", "DELETE /api/v1/products/lamp", {}, None),
        ("device add lamp d0", "POST /api/v1/products/lamp/devices", {}, {"identifier": "d0"}),
        (
            "device add lamp d0 --name N --secret S",
            "POST /api/v1/products/lamp/devices",
            {},
            {"identifier": "d0", "name": "N", "secret": "S"},
        ),
        ("device show lamp d@0", "GET /api/v1/products/lamp/devices/d%400", {}, None),
        ("device rename lamp d0 N", "PATCH /api/v1/products/lamp/devices/d0", {}, {"name": "N"}),
        ("device delete lamp d0", "DELETE /api/v1/products/lamp/devices/d0", {}, None),
        ("device rotate-secret lamp d0", "POST /api/v1/products/lamp/devices/d0/secret", {}, None),
        ("firmware show f1", "GET /api/v1/firmware/f1", {}, None),
        ("firmware delete f1", "DELETE /api/v1/firmware/f1", {}, None),
        (
            "batch create f1",
            "POST /api/v1/batches",
            {},
            {
                "firmware": "f1",
                "range": "all",
                "validity_days": 7,
                "policy": "standard",
                "timeout_minutes": 60,
                "retries": 0,
            },
        ),
        (
            "batch create f1 --device d0 --device d1 --validity-days 1 --policy silent --timeout-minutes 5 "
            "--retries 2 --retry-interval-minutes 9",
            "POST /api/v1/batches",
            {},
            {
                "firmware": "f1",
                "range": "directed",
                "devices": ["d0", "d1"],
                "validity_days": 1,
                "policy": "silent",
                "timeout_minutes": 5,
                "retries": 2,
                "retry_interval_minutes": 9,
            },
        ),
        ("batch show b1", "GET /api/v1/batches/b1", {}, None),
        ("batch abort b1", "POST /api/v1/batches/b1/abort", {}, None),
    ],
)
def test_requests(
    gateway: Gateway,
    otagate: Run,
    command: str,
    request_line: str,
    query: dict[str, str],
    body: dict[str, Any] | None,
) -> None:
    answer = {"id": "x", "name": "y"}
    gateway.answers[request_line] = Answer(204) if "delete" in command else answer
    outcome = otagate(*command.split(), "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == ("" if "delete" in command else '{"id":"x","name":"y"}\n')
    (request,) = gateway.requests
    assert f"{request.method} {request.path}" == request_line
    assert request.query == query
    assert request.headers["authorization"] == "Bearer token-of-the-environment"
    assert (json.loads(request.body) if request.body else None) == body


@pytest.mark.parametrize(
    ("command", "path", "query"),
    [
        ("product list", "/api/v1/products", {}),
        (
            "device list lamp --search x --version 1 --active false --connection online --eligible-for f1",
            "/api/v1/products/lamp/devices",
            {"q": "x", "version": "1", "active": "false", "connection": "online", "eligible_for": "f1"},
        ),
        (
            "device list lamp --eligible-for f1 --allow-rollback",
            "/api/v1/products/lamp/devices",
            {"eligible_for": "f1", "allow_rollback": "true"},
        ),
        ("firmware list --product lamp --search x", "/api/v1/firmware", {"product": "lamp", "q": "x"}),
        (
            "batch list --firmware f1 --product lamp --status completed",
            "/api/v1/batches",
            {"firmware": "f1", "product": "lamp", "status": "completed"},
        ),
        (
            "batch devices b1 --state failed --search x",
            "/api/v1/batches/b1/devices",
            {"state": "failed", "q": "x"},
        ),
    ],
)
def test_lists_are_read_page_by_page(
    gateway: Gateway, otagate: Run, command: str, path: str, query: dict[str, str]
) -> None:
    gateway.answers[f"GET {path}"] = pages([{"key": 1}], [], [{"key": 2}, {"key": 3}])
    outcome = otagate(*command.split(), "--json")
    assert outcome == (0, '{"key":1}\n{"key":2}\n{"key":3}\n', "")
    assert [request.query for request in gateway.requests] == [
        {**query, "limit": "1000"},
        {**query, "limit": "1000", "cursor": "cursor-0"},
        {**query, "limit": "1000", "cursor": "cursor-1"},
    ]


def test_a_limit_ends_a_list(gateway: Gateway, otagate: Run) -> None:
    gateway.answers["GET /api/v1/products/lamp/devices"] = pages([{"key": 1}], [{"key": 2}], [{"key": 3}])
    assert otagate("device", "list", "lamp", "--limit", "2", "--json").out == '{"key":1}\n{"key":2}\n'
    assert [request.query["limit"] for request in gateway.requests] == ["2", "1"]


# -- what people see -------------------------------------------------------------------------------------


def test_a_table(gateway: Gateway, otagate: Run) -> None:
    row = UPGRADE | {"name": "evil [bold]\x1b[31m\x07", "completed_at": "2026-01-31T12:00:01.234Z"}
    gateway.answers["GET /api/v1/batches/b1/devices"] = pages([row])
    outcome = otagate("batch", "devices", "b1")
    heading, line = outcome.out.splitlines()
    assert heading.split("  ")[0] == "name"
    assert "evil [bold]�[31m�" in line
    assert "1/3" in line
    assert "other: battery" in line
    assert "2026-01-31 12:00:01  " in line
    assert outcome.err == "1 in all\n"


def test_a_record(gateway: Gateway, otagate: Run) -> None:
    gateway.answers["GET /api/v1/batches/b1"] = BATCH
    lines = dict(line.split(maxsplit=1) for line in otagate("batch", "show", "b1").out.splitlines())
    assert lines["firmware.name"] == "fw"
    assert lines["counts.upgrading"] == "1"
    assert lines["ended_at"] == "–"


def test_a_timeline(gateway: Gateway, otagate: Run) -> None:
    entry = {"at": "2026", "state": "pushed", "cause": "turn", "attempt": 1, "remark": None}
    gateway.answers["GET /api/v1/batches/b1/devices/d0"] = UPGRADE | {"timeline": [entry]}
    outcome = otagate("batch", "device", "b1", "d0")
    assert outcome.out.splitlines()[-1].split() == ["2026", "pushed", "turn", "1", "–"]


def test_csv_passes_through(gateway: Gateway, otagate: Run) -> None:
    gateway.answers["GET /api/v1/batches/b1/devices"] = Answer(200, b"identifier,name\r\nd0,x\r\n")
    assert otagate("batch", "devices", "b1", "--csv").out == "identifier,name\r\nd0,x\r\n"
    assert gateway.requests[0].headers["accept"] == "text/csv"


@pytest.mark.parametrize(("succeeded", "failed", "code"), [(2, 0, 0), (1, 1, 1)])
def test_watch(gateway: Gateway, otagate: Run, succeeded: int, failed: int, code: int) -> None:
    gateway.answers["GET /api/v1/batches/b1"] = [BATCH, BATCH, ended(succeeded, failed)]
    outcome = otagate("batch", "watch", "b1", "--interval", "0", "--json")
    assert outcome.code == code
    assert json.loads(outcome.out)["status"] == "completed"
    lines = outcome.err.splitlines()
    assert lines[0] == "b1 in_progress: 0/2 ended; 1 to_be_pushed, 1 upgrading"
    assert lines[-1].startswith("b1 completed: 2/2 ended; ")


# -- errors: one line and a code ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "code", "line"),
    [
        (refusal(404, "not_found", "no product x"), 4, "not_found: no product x"),
        (refusal(422, "invalid", "too long", field="name"), 4, "invalid: too long (name)"),
        (refusal(401, "unauthorized", "no token"), 4, "unauthorized: no token"),
        (refusal(507, "no_room", "disk full"), 4, "no_room: disk full"),
        (refusal(500, "internal", "a bug"), 5, "internal: a bug"),
        (Answer(502, b"<html>"), 5, "the gateway answered 502: <html>"),
        (Answer(404, b"No\r\nway.\n"), 4, "the gateway answered 404: No way.\n"),
        (Answer(200, b"<html>"), 5, "the answer is not JSON"),
        (Answer(200, b"[]"), 5, "the answer is no JSON object"),
        (refusal(404, "not_found", "no \x1b[2J\x9b1mproduct"), 4, "not_found: no �[2J�1mproduct"),
        (
            refusal(422, "invalid", "2 ineligible", details=[{"identifier": "d0", "message": "why"}, "d1"]),
            4,
            "invalid: 2 ineligible\n  d0: why\n  d1",
        ),
        (
            refusal(422, "invalid", "many", details={"devices": [{"identifier": "d", "reason": "r"}] * 12}),
            4,
            "invalid: many\n" + "  d: r\n" * 10 + "  … and 2 more",
        ),
    ],
)
def test_refusals(gateway: Gateway, otagate: Run, answer: Answer, code: int, line: str) -> None:
    gateway.answers["GET /api/v1/products/x"] = answer
    outcome = otagate("product", "show", "x")
    assert outcome.code == code
    assert outcome.out == ""
    assert outcome.err.startswith(f"otagate: {line}")


@pytest.mark.parametrize(
    "answer", [Answer(302), Answer(200, b"{}"), Answer(200, b'{"items": {}, "next": 1}')]
)
def test_something_else_is_there(gateway: Gateway, otagate: Run, answer: Answer) -> None:
    gateway.answers["GET /api/v1/products"] = answer
    line = f"otagate: what answers at {gateway.url} is no gateway: this is no list\n"
    assert otagate("product", "list") == (5, "", line)


def test_nobody_there(otagate: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    outcome = otagate("product", "list", "--url", f"http://127.0.0.1:{port}")
    assert outcome.code == 3
    assert outcome.err.startswith(f"otagate: cannot reach the gateway at http://127.0.0.1:{port}: ")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("url", ["nonsense", "ftp://x", "http://[::1", "http://xn--", "http://a..b"])
def test_no_url(otagate: Run, url: str) -> None:
    outcome = otagate("product", "list", "--url", url)
    assert outcome.code == 2
    assert outcome.err.startswith(f"otagate: '{url}' is no URL")


@pytest.mark.parametrize("url", ["http://me:secret@h", "http://h?x=secret", "http://h/#secret"])
def test_more_than_a_place(otagate: Run, url: str) -> None:
    """A user would be sent in the token's place."""
    line = "otagate: --url has a user, a query or a fragment: it names a place alone\n"
    assert otagate("product", "list", "--url", url) == (2, "", line)


@pytest.mark.parametrize("token", ["é" * 20, "two\nlines"])
def test_no_token(otagate: Run, token: str) -> None:
    outcome = otagate("product", "list", "--token", token)
    assert outcome.code == 2
    assert outcome.err == "otagate: the token is not one line of printable ASCII characters\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "otagate: error: the following arguments are required: COMMAND"),
        ("nonsense", "otagate: error: argument COMMAND: invalid choice: 'nonsense'"),
        ("product", "otagate product: error: the following arguments are required: ACTION"),
        ("product list lamp", "otagate product list: error: unrecognized arguments: lamp"),
        ("batch create", "otagate batch create: error: the following arguments are required: firmware"),
        ("batch create f1 --retries two", "argument --retries: 'two' is not a whole number"),
        ("batch watch b1 --interval nan", "argument --interval: 'nan' is not a number of seconds"),
        ("demo --devices 0", "argument --devices: '0' is not a whole number of at least 1"),
        ("demo --size 1GB", "argument --size: '1GB' is not a size as 64KiB or 1000000"),
    ],
)
def test_usage(otagate: Run, arguments: str, words: str) -> None:
    outcome = otagate(*arguments.split())
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    usage, _, complaint = outcome.err.rpartition("otagate")
    assert usage.startswith("usage: otagate")
    assert words in f"otagate{complaint}"


def test_the_token_beside(
    gateway: Gateway, otagate: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.answers["GET /api/v1/products/x"] = {"key": "x"}
    monkeypatch.delenv("OTAGATE_TOKEN")
    monkeypatch.chdir(tmp_path)
    otagate("product", "show", "x")
    (tmp_path / "otagate-data").mkdir()
    (tmp_path / "otagate-data/admin-token").write_text("beside\n")
    otagate("product", "show", "x")
    otagate("product", "show", "x", "--token", "given")
    assert [request.headers.get("authorization") for request in gateway.requests] == [
        None,
        "Bearer beside",
        "Bearer given",
    ]


# -- bodies that stream ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "media_type"),
    [("d.ndjson", "application/x-ndjson"), ("d.csv", "text/csv"), ("D.CSV", "text/csv")],
)
def test_bulk_registration(
    gateway: Gateway, otagate: Run, tmp_path: Path, name: str, media_type: str
) -> None:
    file = tmp_path / name
    file.write_bytes(b"x" * 200_000)
    results = b'{"line":1,"identifier":"d0","secret":"s"}\n{"line":2,"error":{"code":"c","message":"m"}}\n'
    gateway.answers["POST /api/v1/products/lamp/devices"] = Answer(200, results)
    outcome = otagate("device", "register", "lamp", str(file))
    assert outcome == (1, results.decode(), "1 registered, 1 refused\n")
    (request,) = gateway.requests
    assert request.body == file.read_bytes()
    assert request.headers["content-type"] == media_type


def test_bulk_registration_from_stdin(
    gateway: Gateway, otagate: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.answers["POST /api/v1/products/lamp/devices"] = Answer(200, b'{"line":1,"secret":"s"}\n')
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"identifier\nd0\n")))
    assert otagate("device", "register", "lamp", "-", "--format", "csv").code == 0
    assert gateway.requests[0].body == b"identifier\nd0\n"


def test_firmware_add(gateway: Gateway, otagate: Run, tmp_path: Path) -> None:
    file = tmp_path / "fw 1.bin"
    file.write_bytes(b"firmware" * 100_000)
    gateway.answers["POST /api/v1/firmware"] = {"id": "f1"}
    outcome = otagate(
        "firmware", "add", str(file), "--product", "lamp", "--name", "灯", "--version", "2.0", "--json"
    )
    assert outcome == (0, '{"id":"f1"}\n', "")
    (request,) = gateway.requests
    assert request.query == {"product": "lamp", "name": "灯", "version": "2.0", "file_name": "fw 1.bin"}
    assert request.body == file.read_bytes()
    assert request.headers["content-length"] == "800000"
    md5 = base64.b64decode(request.headers["content-md5"]).hex()
    assert md5 == hashlib.md5(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "command",
    [
        "firmware add /missing --product p --name n --version v",
        "device register lamp /missing",
        "batch create f1 --devices /missing",
        "simulate --devices /missing --url tcp://h:1 --product p",
    ],
)
def test_files_that_are_not_there(gateway: Gateway, otagate: Run, command: str) -> None:
    outcome = otagate(*command.split())
    assert outcome == (2, "", "otagate: cannot read /missing: No such file or directory\n")
    assert gateway.requests == []


@pytest.mark.parametrize("whole", [True, False])
def test_firmware_content(gateway: Gateway, otagate: Run, tmp_path: Path, whole: bool) -> None:
    image = b"firmware" * 100_000
    md5 = hashlib.md5(image).hexdigest()
    gateway.answers["GET /api/v1/firmware/f1"] = {"id": "f1", "size": len(image), "md5": md5}
    gateway.answers["GET /api/v1/firmware/f1/content"] = Answer(200, image if whole else image[:-1] + b"?")
    target = tmp_path / "out.bin"
    outcome = otagate("firmware", "content", "f1", "-o", str(target))
    assert [path.name for path in tmp_path.iterdir()] == (["out.bin"] if whole else [])
    assert outcome.code == (0 if whole else 1)
    if whole:
        assert target.read_bytes() == image
    else:
        assert outcome.err == f"otagate: what arrived does not match the MD5 {md5}\n"


def test_directed_from_a_file(gateway: Gateway, otagate: Run, tmp_path: Path) -> None:
    file = tmp_path / "devices.txt"
    file.write_bytes(b"\xef\xbb\xbfd1\r\n\r\n  d2 ")  # as spreadsheets write
    gateway.answers["POST /api/v1/batches"] = BATCH
    assert otagate("batch", "create", "f1", "--devices", str(file)).code == 0
    assert json.loads(gateway.requests[0].body)["devices"] == ["d1", "d2"]


def test_serve_where_no_folder_can_be(otagate: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    data = tmp_path / "file" / "data"
    outcome = otagate("serve", "--data", str(data))
    assert outcome.code == 1
    assert outcome.err == f"otagate: cannot make {data}: Not a directory\n"
