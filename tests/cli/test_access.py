"""`otagate token`, `otagate audit`, `otagate webhook`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from otagate.store import audit

from .conftest import Answer, Gateway, Outcome

Run = Callable[..., Outcome]


@pytest.mark.parametrize(
    ("command", "request_line", "body"),
    [
        ("token add ci --role viewer", "POST /api/v1/tokens", {"name": "ci", "role": "viewer"}),
        (
            "token add ci --role admin --expires-in-days 9",
            "POST /api/v1/tokens",
            {"name": "ci", "role": "admin", "expires_in_days": 9},
        ),
        ("token revoke t/1", "DELETE /api/v1/tokens/t%2F1", None),
        (
            "webhook add http://h/ --event batch_ended --event device_failed",
            "POST /api/v1/webhooks",
            {"url": "http://h/", "events": ["batch_ended", "device_failed"]},
        ),
        ("webhook delete w1", "DELETE /api/v1/webhooks/w1", None),
    ],
)
def test_requests(
    gateway: Gateway, otagate: Run, command: str, request_line: str, body: dict[str, Any] | None
) -> None:
    gateway.answers[request_line] = Answer(204) if body is None else {"id": "x"}
    outcome = otagate(*command.split(), "--json")
    assert outcome == (0, "" if body is None else '{"id":"x"}\n', "")
    (request,) = gateway.requests
    assert f"{request.method} {request.path}" == request_line
    assert (json.loads(request.body) if request.body else None) == body


@pytest.mark.parametrize(
    ("command", "path", "query"),
    [
        ("token list", "/api/v1/tokens", {}),
        ("webhook list", "/api/v1/webhooks", {}),
        (
            "audit list --actor a --action batch.create",
            "/api/v1/audit",
            {"actor": "a", "action": "batch.create"},
        ),
    ],
)
def test_lists(gateway: Gateway, otagate: Run, command: str, path: str, query: dict[str, str]) -> None:
    gateway.answers[f"GET {path}"] = [
        {"items": [{"id": 1}], "next": "c"},
        {"items": [{"id": 2}], "next": None},
    ]
    assert otagate(*command.split(), "--json") == (0, '{"id":1}\n{"id":2}\n', "")
    assert [request.query for request in gateway.requests] == [
        query | {"limit": "1000"},
        query | {"limit": "1000", "cursor": "c"},
    ]


def test_tables(gateway: Gateway, otagate: Run) -> None:
    webhook = {"id": "w1", "url": "http://h/", "events": ["a", "b"], "pending": 3, "dropped": 0}
    gateway.answers["GET /api/v1/webhooks"] = {"items": [webhook], "next": None}
    assert "http://h/  a, b" in otagate("webhook", "list").out
    entry = {"number": 7, "actor": "ann", "action": "batch.create", "details": {"devices": 3, "x": None}}
    gateway.answers["GET /api/v1/audit"] = {"items": [entry], "next": None}
    assert "devices=3 x=None" in otagate("audit", "list").out


@pytest.mark.parametrize(
    ("result", "code", "out", "err"),
    [
        ({"delivered": True, "status": 204, "error": None}, 0, "delivered: answered 204\n", ""),
        ({"delivered": False, "status": 500, "error": None}, 1, "", "not delivered: answered 500\n"),
        ({"delivered": False, "status": None, "error": "no"}, 1, "", "not delivered: no\n"),
    ],
)
def test_a_trial(
    gateway: Gateway, otagate: Run, result: dict[str, Any], code: int, out: str, err: str
) -> None:
    gateway.answers["POST /api/v1/webhooks/w1/test"] = result
    assert otagate("webhook", "test", "w1") == (code, out, err)
    assert otagate("webhook", "test", "w1", "--json").code == code


@pytest.mark.parametrize(
    ("intact", "code", "out", "err"),
    [(True, 0, "5 entries, intact\n", ""), (False, 1, "", "broken at entry 3\n")],
)
def test_verify(gateway: Gateway, otagate: Run, intact: bool, code: int, out: str, err: str) -> None:
    first_broken = None if intact else 3
    found = {"entries": 5, "intact": intact, "first_broken": first_broken}
    gateway.answers["GET /api/v1/audit/verify"] = found
    assert otagate("audit", "verify") == (code, out, err)


def export_of(count: int) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    previous = audit.FIRST_PREVIOUS
    for number in range(1, count + 1):
        fields = {"number": number, "actor": "ä\n", "details": {"b": 1, "a": 2}, "previous": previous}
        previous = audit.hash_of(audit.pack(fields))
        entries.append(fields | {"hash": previous})
    return entries


def test_an_export_is_verified_without_a_gateway(gateway: Gateway, otagate: Run, tmp_path: Path) -> None:
    path = tmp_path / "audit.ndjson"
    entries = export_of(4)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert otagate("audit", "verify", str(path)) == (0, "4 entries, intact\n", "")
    for place, damaged in (
        (2, [*entries[:1], entries[1] | {"actor": "b"}, *entries[2:]]),
        (2, [entries[0], *entries[2:]]),
        (1, entries[1:]),
        (3, [entries[0], entries[1], entries[1], *entries[2:]]),
        (4, [*entries[:3], entries[3] | {"hash": "0"}]),
    ):
        path.write_text("".join(json.dumps(entry) + "\n" for entry in damaged))
        assert otagate("audit", "verify", str(path)) == (1, "", f"broken at entry {place}\n")
    for text in ("nonsense\n", "[]\n", '{"hash": 1}\n'):
        path.write_text(text)
        assert otagate("audit", "verify", str(path)).code in (1, 2)
    assert otagate("audit", "verify", str(tmp_path / "none")).code == 2
    assert gateway.requests == []


def test_export(gateway: Gateway, otagate: Run, tmp_path: Path) -> None:
    gateway.answers["GET /api/v1/audit"] = Answer(200, b'{"number":1}\n')
    assert otagate("audit", "export").out == '{"number":1}\n'
    path = tmp_path / "audit.ndjson"
    assert otagate("audit", "export", "-o", str(path)) == (0, "", "")
    assert path.read_text() == '{"number":1}\n'
    assert {request.headers["accept"] for request in gateway.requests} == {"application/x-ndjson"}
    assert otagate("audit", "export", "-o", str(tmp_path)).code == 1
