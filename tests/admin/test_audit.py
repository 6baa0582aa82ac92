"""What each action leaves in the audit log, and the log as a list, an export and a chain."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import trio

from otagate.admin.routes import OPERATIONS
from otagate.gateway.access import Role
from otagate.store import tables
from otagate.store.operators import Audited
from otagate.store.tables import u64_key
from tests.gateway.harness import SECRET

from .operators import V1, Surface, error_of, surface

VECTOR = json.loads((Path(__file__).parents[1] / "vectors" / "signing.json").read_text("utf-8"))
LAMP = f"{V1}/products/lamp"
BATCH = {
    "firmware": "f1",
    "range": "all",
    "validity_days": 1,
    "policy": "standard",
    "timeout_minutes": 10,
    "retries": 0,
}

#: Handler → how it is asked, the action and target of its entry, and details that it tells.
ACTIONS: dict[str, tuple[str, str, Any, str, str, dict[str, Any]]] = {
    "create_product": (
        "POST",
        f"{V1}/products",
        {"key": "fan", "name": "Fan"},
        "product.create",
        "fan",
        {"name": "Fan", "auth": "secret"},
    ),
    "delete_product": ("DELETE", f"{V1}/products/empty", None, "product.delete", "empty", {}),
    "update_product": (
        "PATCH",
        LAMP,
        {"require_signature": False},
        "product.update",
        "lamp",
        {"require_signature": False},
    ),
    "add_signing_key": (
        "POST",
        f"{LAMP}/signing-keys",
        {"public_key": VECTOR["public_key"], "name": "release"},
        "signing_key.add",
        "lamp",
        {"key": VECTOR["key"], "name": "release"},
    ),
    "register": (
        "POST",
        f"{LAMP}/devices",
        {"identifier": "d9", "name": "Hall"},
        "device.register",
        "lamp/d9",
        {"name": "Hall"},
    ),
    "rename_device": (
        "PATCH",
        f"{LAMP}/devices/d1",
        {"name": "Stairs"},
        "device.rename",
        "lamp/d1",
        {"name": "Stairs"},
    ),
    "delete_device": ("DELETE", f"{LAMP}/devices/d2", None, "device.delete", "lamp/d2", {}),
    "rotate_secret": ("POST", f"{LAMP}/devices/d1/secret", None, "device.rotate_secret", "lamp/d1", {}),
    "delete_firmware": (
        "DELETE",
        f"{V1}/firmware/f2",
        None,
        "firmware.delete",
        "f2",
        {"product": "lamp", "name": "fw-3.0", "version": "3.0", "sha256": "0" * 64},
    ),
    "create_batch": (
        "POST",
        f"{V1}/batches",
        BATCH,
        "batch.create",
        "b1",
        {"product": "lamp", "firmware": "f1", "devices": 2},
    ),
    "create_token": (
        "POST",
        f"{V1}/tokens",
        {"name": "ci", "role": "viewer"},
        "token.create",
        "t4",
        {"name": "ci", "role": "viewer", "expires_at": None},
    ),
    "revoke_token": (
        "DELETE",
        f"{V1}/tokens/t1",
        None,
        "token.revoke",
        "t1",
        {"name": "viewer", "role": "viewer", "expires_at": None},
    ),
    "create_webhook": (
        "POST",
        f"{V1}/webhooks",
        {"url": "http://192.0.2.9/hook?key=hush", "events": ["batch_ended"]},
        "webhook.create",
        "w1",
        {"host": "192.0.2.9", "events": ["batch_ended"]},
    ),
}
#: Tested one by one below, or of no effect.
OTHERS = {"revoke_signing_key", "upload", "abort_batch", "delete_webhook", "test_webhook", "log_out"}


def test_every_operation_that_changes_something_is_here() -> None:
    changing = {o.handler.__name__ for o in OPERATIONS if o.method != "GET" and not o.public}
    assert changing - set(ACTIONS) - OTHERS == set()
    assert all(o.role >= Role.OPERATOR for o in OPERATIONS if o.handler.__name__ in ACTIONS)


async def prepare(gateway: Surface) -> None:
    await gateway.harness.set_up("d1", "d2")
    await gateway.harness.add_firmware("3.0")
    response = await gateway.of("admin").post(f"{V1}/products", json={"key": "empty", "name": "Empty"})
    assert response.status_code == 201


@pytest.mark.parametrize("handler", ACTIONS)
async def test_an_action_is_told(autojump_clock: object, handler: str) -> None:
    method, path, body, action, target, details = ACTIONS[handler]
    async with surface() as gateway:
        await prepare(gateway)
        if handler == "delete_device":
            pass
        before = len(await gateway.audit(limit=1000))
        response = await gateway.of("admin", address="198.51.100.7").request(method, path, json=body)
        assert response.status_code < 300, response.text
        entries = await gateway.audit(limit=1000)
        assert len(entries) == before + 1
        entry = entries[0]
        assert (entry["actor"], entry["role"], entry["address"]) == ("admin", "admin", "198.51.100.7")
        assert (entry["action"], entry["target"], entry["details"]) == (action, target, details)
        log = json.dumps(entries)
        for secret in (*gateway.tokens.values(), SECRET, "hush"):
            assert secret not in log
        made = response.json() if response.content else {}
        for name in ("secret", "token"):
            assert made.get(name, "none") not in log
        again = await gateway.of("admin").request(method, path, json=body)
        if again.status_code >= 400:  # refused now: nothing more is told
            assert len(await gateway.audit(limit=1000)) == before + 1


async def test_an_abort_is_told(autojump_clock: object) -> None:
    async with surface() as gateway:
        await prepare(gateway)
        operator = gateway.of("operator")
        await operator.post(f"{V1}/batches", json=BATCH)
        assert (await operator.post(f"{V1}/batches/b1/abort")).status_code == 200
        assert error_of(await operator.post(f"{V1}/batches/b1/abort")) == (409, "conflict")
        actions = [(entry["action"], entry["target"], entry["actor"]) for entry in await gateway.audit()]
        assert actions[:2] == [("batch.abort", "b1", "operator"), ("batch.create", "b1", "operator")]


async def test_a_batch_that_is_undone_is_not_told(autojump_clock: object) -> None:
    async with surface() as gateway:
        await gateway.harness.set_up()
        response = await gateway.of("operator").post(f"{V1}/batches", json=BATCH)
        assert error_of(response) == (422, "invalid")
        assert "batch.create" not in [entry["action"] for entry in await gateway.audit()]


async def test_many_devices_are_one_entry(autojump_clock: object) -> None:
    async with surface() as gateway:
        await prepare(gateway)
        lines = b"".join(b'{"identifier": "n%d"}\n' % n for n in range(10)) + b'{"identifier": "d1"}\n'
        headers = {"content-type": "application/x-ndjson"}
        for _ in range(2):
            await gateway.of("operator").post(f"{LAMP}/devices", content=lines, headers=headers)
        told = await gateway.audit(action="device.register_many")
        assert [(entry["target"], entry["details"]) for entry in told] == [
            ("lamp", {"registered": 10, "refused": 1})
        ]


async def test_a_session_acts_under_the_name_of_its_token(autojump_clock: object) -> None:
    async with surface() as gateway:
        await prepare(gateway)
        browser = gateway.client(address="203.0.113.5")
        session = (await browser.post(f"{V1}/session", json={"token": gateway.tokens["operator"]})).json()
        headers = {"x-csrf-token": session["csrf"], "x-forwarded-for": "1.2.3.4"}
        await browser.patch(f"{LAMP}/devices/d1", json={"name": "N"}, headers=headers)
        entry = (await gateway.audit())[0]
        assert (entry["actor"], entry["address"]) == ("operator", "203.0.113.5")


async def test_pages_and_filters(autojump_clock: object) -> None:
    async with surface() as gateway:
        await prepare(gateway)
        admin = gateway.of("admin")
        seen: list[int] = []
        cursor = ""
        while cursor is not None:
            page = (await admin.get(f"{V1}/audit", params={"limit": 2, "cursor": cursor})).json()
            seen += [entry["number"] for entry in page["items"]]
            cursor = page["next"]
        assert seen == list(range(len(seen), 0, -1))
        assert {entry["action"] for entry in await gateway.audit(actor="admin")} == {"product.create"}
        assert [entry["target"] for entry in await gateway.audit(action="token.create")] == ["t3", "t2", "t1"]
        assert error_of(await admin.get(f"{V1}/audit?cursor=x")) == (400, "malformed")


async def test_an_export_proves_itself(autojump_clock: object) -> None:
    async with surface() as gateway:
        await prepare(gateway)
        accept = {"accept": "application/x-ndjson"}
        response = await gateway.of("admin").get(f"{V1}/audit", headers=accept)
        assert response.headers["content-type"] == "application/x-ndjson"
        lines = [json.loads(line) for line in response.content.splitlines()]
        assert [line["number"] for line in lines] == list(range(1, len(lines) + 1))
        previous = "0" * 64
        for line in lines:
            hash = line.pop("hash")
            assert line["previous"] == previous
            text = json.dumps(line, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            previous = hashlib.sha256(text.encode()).hexdigest()
            assert previous == hash
        verified = (await gateway.of("admin").get(f"{V1}/audit/verify")).json()
        assert verified == {"entries": len(lines), "intact": True, "first_broken": None}
        head = await gateway.of("admin").head(f"{V1}/audit", headers=accept)
        assert (head.status_code, head.content) == (200, b"")


async def test_tampering_is_told(autojump_clock: object) -> None:
    async with surface() as gateway:
        transaction = gateway.harness.store._transaction
        value = transaction.get(tables.AUDIT, u64_key.pack(2))
        assert value is not None
        transaction.put(tables.AUDIT, u64_key.pack(2), value.replace(b"operator", b"admin"))
        verified = (await gateway.of("admin").get(f"{V1}/audit/verify")).json()
        assert (verified["intact"], verified["first_broken"]) == (False, 2)
        transaction.put(tables.AUDIT, u64_key.pack(2), value)


async def test_an_entry_is_as_durable_as_its_action(autojump_clock: object) -> None:
    """Neither is there before the commit, both are after it: they are one group of changes."""
    async with surface() as gateway:
        store = gateway.harness.store
        store.hold()
        async with trio.open_nursery() as nursery:
            body = {"key": "fan", "name": "Fan"}
            nursery.start_soon(lambda: gateway.of("admin").post(f"{V1}/products", json=body))
            await gateway.harness.rest()
            assert await store.get_product("fan") is None
            assert "fan" not in [entry["target"] for entry in await gateway.audit()]
            store.release()
        assert await store.get_product("fan") is not None
        assert (await gateway.audit())[0]["target"] == "fan"
        changes = [change for group in store.groups for change in group if "fan" in repr(change)]
        assert [type(change) for change in changes] == [Audited]
