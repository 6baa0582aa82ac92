"""ETag, If-None-Match and If-Match on single things."""

import pytest
import trio

from otagate.admin.routes import OPERATIONS

from .operators import V1, Surface, error_of, surface
from .test_audit import BATCH, LAMP, prepare

SINGLE = [
    LAMP,
    f"{LAMP}/devices/d1",
    f"{V1}/firmware/f1",
    f"{V1}/batches/b1",
    f"{V1}/batches/b1/devices/d1",
]


async def begun(gateway: Surface) -> None:
    await prepare(gateway)
    assert (await gateway.of("operator").post(f"{V1}/batches", json=BATCH)).status_code == 201


def test_these_are_all() -> None:
    assert len([operation for operation in OPERATIONS if operation.is_single]) == len(SINGLE)


@pytest.mark.parametrize("path", SINGLE)
async def test_a_client_that_has_it_is_told_so(autojump_clock: object, path: str) -> None:
    async with surface() as gateway:
        await begun(gateway)
        viewer = gateway.of("viewer")
        first = await viewer.get(path)
        etag = first.headers["etag"]
        assert etag.startswith('"')
        for header in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            response = await viewer.get(path, headers={"if-none-match": header})
            assert (response.status_code, response.content) == (304, b"")
            assert response.headers["etag"] == etag
        head = await viewer.head(path, headers={"if-none-match": etag})
        assert head.status_code == 304
        response = await viewer.get(path, headers={"if-none-match": '"other"'})
        assert (response.status_code, response.content) == (200, first.content)


async def test_the_tag_follows_the_thing(autojump_clock: object) -> None:
    async with surface() as gateway:
        await begun(gateway)
        operator = gateway.of("operator")
        etag = (await operator.get(f"{V1}/batches/b1")).headers["etag"]
        await operator.post(f"{V1}/batches/b1/abort")
        response = await operator.get(f"{V1}/batches/b1", headers={"if-none-match": etag})
        assert response.status_code == 200
        assert response.headers["etag"] != etag


async def test_a_change_of_what_it_was(autojump_clock: object) -> None:
    async with surface() as gateway:
        await prepare(gateway)
        operator, path = gateway.of("operator"), f"{LAMP}/devices/d1"
        etag = (await operator.get(path)).headers["etag"]
        changed = await operator.patch(path, json={"name": "A"}, headers={"if-match": etag})
        assert changed.status_code == 200
        entries = len(await gateway.audit(limit=1000))
        for request in (
            operator.patch(path, json={"name": "B"}, headers={"if-match": etag}),
            operator.delete(path, headers={"if-match": etag}),
            operator.delete(path, headers={"if-match": f"W/{etag}"}),
        ):
            response = await request
            assert error_of(response) == (412, "precondition_failed")
            assert response.json()["error"]["field"] == "If-Match"
        assert (await operator.get(path)).json()["name"] == "A"
        assert len(await gateway.audit(limit=1000)) == entries
        fresh = (await operator.get(path)).headers["etag"]
        response = await operator.delete(path, headers={"if-match": f'"x", {fresh}'})
        assert response.status_code == 204
        assert error_of(await operator.delete(path, headers={"if-match": "*"})) == (404, "not_found")


@pytest.mark.parametrize(
    ("path", "role"), [(f"{V1}/products/empty", "admin"), (f"{V1}/firmware/f2", "operator")]
)
async def test_a_deletion_of_what_it_was(autojump_clock: object, path: str, role: str) -> None:
    async with surface() as gateway:
        await prepare(gateway)
        client = gateway.of(role)
        wrong = await client.delete(path, headers={"if-match": '"x"'})
        assert error_of(wrong) == (412, "precondition_failed")
        etag = (await client.get(path)).headers["etag"]
        assert (await client.delete(path, headers={"if-match": etag})).status_code == 204


async def test_of_two_at_once_one_has_its_way(autojump_clock: object) -> None:
    async with surface() as gateway:
        await prepare(gateway)
        operator, path = gateway.of("operator"), f"{LAMP}/devices/d1"
        etag = (await operator.get(path)).headers["etag"]
        statuses: list[int] = []

        async def rename(name: str) -> None:
            response = await operator.patch(path, json={"name": name}, headers={"if-match": etag})
            statuses.append(response.status_code)

        gateway.harness.store.hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rename, "A")
            nursery.start_soon(rename, "B")
            await gateway.harness.rest()
            gateway.harness.store.release()
        assert sorted(statuses) == [200, 412]
