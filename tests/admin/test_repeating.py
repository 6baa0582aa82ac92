"""Idempotency-Key: the same request again has the same answer, also after a crash, and no other effect."""

import hashlib
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from otagate import limits
from otagate.gateway.service import Service
from otagate.store import tables
from otagate.store.blobs import Blobs
from tests.gateway.harness import Harness

from .operators import V1, Surface, error_of, surface
from .test_audit import BATCH, LAMP, prepare

KEY = {"idempotency-key": "k-1"}
UPLOAD = f"{V1}/firmware?product=lamp&name=n&version=9.0&file_name=a.bin"

CREATIONS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (f"{V1}/products", {"key": "fan", "name": "Fan"}, {"key": "fan2", "name": "Fan"}),
    (f"{LAMP}/devices", {"identifier": "d9"}, {"identifier": "d8"}),
    (f"{V1}/batches", BATCH, BATCH | {"retries": 1, "retry_interval_minutes": 1}),
    (f"{V1}/tokens", {"name": "ci", "role": "viewer"}, {"name": "ci", "role": "operator"}),
    (
        f"{V1}/webhooks",
        {"url": "http://192.0.2.9/", "events": ["batch_ended"]},
        {"url": "http://192.0.2.9/", "events": ["device_failed"]},
    ),
]


def everything(gateway: Surface) -> dict[str, list[tuple[bytes, bytes]]]:
    """All that the store holds."""
    with gateway.harness.store.view() as view:
        return {name: list(tables.scan(view, name, b"")) for name in tables.TABLES}


@pytest.mark.parametrize(("path", "body", "other"), CREATIONS, ids=[path for path, _, _ in CREATIONS])
async def test_the_same_again(
    autojump_clock: object, path: str, body: dict[str, Any], other: dict[str, Any]
) -> None:
    async with surface() as gateway:
        await prepare(gateway)
        admin = gateway.of("admin")
        first = await admin.post(path, json=body, headers=KEY)
        assert first.status_code == 201, first.text
        assert "idempotent-replayed" not in first.headers
        await gateway.harness.rest()
        before = everything(gateway)
        for _ in range(2):
            again = await admin.post(path, json=body, headers=KEY)
            assert (again.status_code, again.content) == (201, first.content)
            assert again.headers["idempotent-replayed"] == "true"
            assert again.headers["content-type"] == "application/json"
        for url, sent in ((path, other), (path + "?", other), (f"{V1}/products", {"key": "x", "name": "X"})):
            refused = await admin.post(url, json=sent, headers=KEY)
            assert error_of(refused) == (422, "idempotency_key_reused")
        assert everything(gateway) == before
        store, tokens = gateway.harness.store, gateway.tokens
    async with surface(store) as gateway:  # the process died, the store did not
        gateway.tokens = tokens
        again = await gateway.of("admin").post(path, json=body, headers=KEY)
        assert (again.status_code, again.content) == (201, first.content)
        assert again.headers["idempotent-replayed"] == "true"


async def test_without_a_key_nothing_is_kept(autojump_clock: object) -> None:
    async with surface() as gateway:
        for status in (201, 409):
            response = await gateway.of("admin").post(f"{V1}/products", json={"key": "fan", "name": "Fan"})
            assert response.status_code == status
        assert everything(gateway)[tables.ANSWERS] == []


async def test_keys_are_of_a_token(autojump_clock: object) -> None:
    async with surface() as gateway:
        await prepare(gateway)
        body = {"identifier": "d9"}
        assert (await gateway.of("admin").post(f"{LAMP}/devices", json=body, headers=KEY)).status_code == 201
        other = await gateway.of("operator").post(f"{LAMP}/devices", json=body, headers=KEY)
        assert error_of(other) == (409, "conflict")
        browser = gateway.client()
        session = (await browser.post(f"{V1}/session", json={"token": gateway.tokens["admin"]})).json()
        headers = KEY | {"x-csrf-token": session["csrf"]}
        replayed = await browser.post(f"{LAMP}/devices", json=body, headers=headers)
        assert replayed.headers["idempotent-replayed"] == "true"
        assert len(replayed.json()["secret"]) == 32


async def test_an_answer_is_sealed(autojump_clock: object) -> None:
    async with surface() as gateway:
        made = await gateway.of("admin").post(
            f"{V1}/tokens", json={"name": "ci", "role": "viewer"}, headers=KEY
        )
        text = made.json()["token"].encode()
        for items in everything(gateway).values():
            assert not any(text in key + value for key, value in items)


async def test_a_refusal_is_not_kept(autojump_clock: object) -> None:
    async with surface() as gateway:
        await prepare(gateway)
        admin = gateway.of("admin")
        lamp = {"key": "lamp", "name": "Lamp"}
        assert error_of(await admin.post(f"{V1}/products", json=lamp, headers=KEY)) == (409, "conflict")
        fan = await admin.post(f"{V1}/products", json={"key": "fan", "name": "Fan"}, headers=KEY)
        assert fan.status_code == 201


async def test_after_a_day_the_key_is_free(autojump_clock: object) -> None:
    async with surface() as gateway:
        admin = gateway.of("admin")
        await admin.post(f"{V1}/products", json={"key": "fan", "name": "Fan"}, headers=KEY)
        await gateway.harness.jump(limits.kept_answer_ms / 1000 - 60)
        replayed = await admin.post(f"{V1}/products", json={"key": "fan", "name": "Fan"}, headers=KEY)
        assert replayed.status_code == 201
        await gateway.harness.jump(3600)
        assert everything(gateway)[tables.ANSWERS] == []  # swept
        late = await admin.post(f"{V1}/products", json={"key": "fan", "name": "Fan"}, headers=KEY)
        assert error_of(late) == (409, "conflict")


async def test_two_at_once(autojump_clock: object) -> None:
    async with surface() as gateway:
        await prepare(gateway)
        answers: list[httpx.Response] = []
        gateway.harness.store.hold()

        async def post() -> None:
            answers.append(await gateway.of("admin").post(f"{V1}/batches", json=BATCH, headers=KEY))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(post)
            await gateway.harness.rest()
            await post()
            assert error_of(answers[0]) == (409, "conflict")
            gateway.harness.store.release()
        assert answers[1].status_code == 201
        await post()
        assert answers[2].headers["idempotent-replayed"] == "true"


async def test_who_gave_up_and_comes_again_too_early_does_nothing_twice(autojump_clock: object) -> None:
    """The first request is gone, its commit is not: the second is told so by the commit itself."""
    async with surface() as gateway:
        store = gateway.harness.store
        admin = gateway.of("admin")
        body = {"name": "ci", "role": "viewer"}
        store.hold()
        with trio.move_on_after(1):
            await admin.post(f"{V1}/tokens", json=body, headers=KEY)
        answers = []

        async def again() -> None:
            answers.append(await admin.post(f"{V1}/tokens", json=body, headers=KEY))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(again)
            await gateway.harness.rest()
            store.release()
        assert error_of(answers[0]) == (409, "conflict")
        assert len(await store.tokens()) == 4
        replayed = await admin.post(f"{V1}/tokens", json=body, headers=KEY)
        assert (replayed.status_code, replayed.json()["id"]) == (201, "t4")


async def test_a_batch_cut_short_by_a_crash_can_be_sent_again(autojump_clock: object) -> None:
    async with surface() as gateway:
        await prepare(gateway)
        store, tokens = gateway.harness.store, gateway.tokens
        await gateway.harness.gateway.journal.write(_begin())
    async with surface(store) as gateway:
        gateway.tokens = tokens
        await gateway.harness.rest()
        response = await gateway.of("operator").post(f"{V1}/batches", json=BATCH, headers=KEY)
        assert (response.status_code, response.json()["counts"]["total"]) == (201, 2)
        assert "idempotent-replayed" not in response.headers


def _begin() -> Any:
    from otagate.store.interface import BeginBatch
    from otagate.upgrade.model import Policy

    return BeginBatch("f1", "all", Policy.STANDARD, 1, 10, 0, None, 1)


@pytest.mark.parametrize("key", ["", "k" * 256, "k\u00e9", "a\tb"])
async def test_bad_keys(autojump_clock: object, key: str) -> None:
    async with surface() as gateway:
        headers = {"idempotency-key": key.encode("latin-1")}
        body = {"key": "fan", "name": "Fan"}
        response = await gateway.of("admin").post(f"{V1}/products", json=body, headers=headers)
        assert error_of(response) == (422, "invalid")
        assert response.json()["error"]["field"] == "Idempotency-Key"


async def test_many_at_once_take_no_key(autojump_clock: object) -> None:
    async with surface() as gateway:
        await prepare(gateway)
        headers = KEY | {"content-type": "text/csv"}
        response = await gateway.of("admin").post(f"{LAMP}/devices", content=b"identifier\n", headers=headers)
        assert error_of(response) == (422, "invalid")


@asynccontextmanager
async def uploading(harness: Harness, folder: Path) -> Any:
    """A gateway that takes images."""
    blobs = Blobs(folder, 0, harness.store.image_used)
    await blobs.open()
    harness.service = Service(harness.gateway, blobs)
    yield


async def test_an_upload_again(tmp_path: Path) -> None:
    async with surface() as gateway, uploading(gateway.harness, tmp_path):
        await prepare(gateway)
        gateway.rebuild()
        operator = gateway.of("operator")
        first = await operator.post(UPLOAD, content=b"image", headers=KEY)
        assert (first.status_code, first.json()["sha256"]) == (201, hashlib.sha256(b"image").hexdigest())
        again = await operator.post(UPLOAD, content=b"image", headers=KEY)
        assert (again.status_code, again.content) == (201, first.content)
        assert again.headers["idempotent-replayed"] == "true"
        for path, content in ((UPLOAD, b"other"), (UPLOAD + "&description=x", b"image")):
            response = await operator.post(path, content=content, headers=KEY)
            assert error_of(response) == (422, "idempotency_key_reused")
        assert error_of(await operator.post(UPLOAD, content=b"image")) == (409, "conflict")
        told = await gateway.audit(action="firmware.add")
        assert [entry["target"] for entry in told] == [first.json()["id"]]
