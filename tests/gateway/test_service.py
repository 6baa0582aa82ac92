"""The operators' facade: every refusal with its field, lists and their cursors, creation under fire."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from otagate.errors import Conflict, Invalid, Malformed, NotFound, RequestError
from otagate.gateway.views import (
    CreateBatchRequest,
    CreateProductRequest,
    ErrorView,
    FirmwareMetadata,
    RegisterDeviceRequest,
    RenameDeviceRequest,
)
from otagate.wire import messages
from tests.gateway.harness import OPEN, Harness, gateway_harness, kinds, progress, reach

LISTED: dict[str, Any] = {"q": "", "version": None, "active": None, "connection": None, "eligible_for": None}
Do = Callable[[Harness], Awaitable[object]]


def product(key: str = "cup", name: str = "Cup", auth: str = "secret") -> Do:
    return lambda harness: harness.service.create_product(CreateProductRequest(key, name, auth))


def register(identifier: str, of: str = "lamp", **fields: Any) -> Do:
    return lambda harness: harness.service.register_device(of, RegisterDeviceRequest(identifier, **fields))


def upload(**fields: Any) -> Do:
    metadata = {"product": "lamp", "name": "new", "version": "9.0", "file_name": "a.bin"} | fields

    async def do(harness: Harness) -> None:
        async with harness.service.upload_firmware(FirmwareMetadata(**metadata)):
            raise AssertionError("no bytes should be taken")

    return do


def batch(firmware: str = "f1", **fields: Any) -> Do:
    defaults: dict[str, Any] = {
        "range": "all",
        "validity_days": 1,
        "policy": "standard",
        "timeout_minutes": 10,
        "retries": 0,
    }
    return lambda harness: harness.service.create_batch(
        CreateBatchRequest(firmware=firmware, **(defaults | fields))
    )


def listed(**fields: Any) -> Do:
    arguments = LISTED | {"cursor": None, "limit": 10} | fields
    of = arguments.pop("of", "lamp")
    return lambda harness: harness.service.list_devices(of, **arguments)


REFUSALS: list[tuple[str, Do, type[RequestError], str | None]] = [
    ("product: key", product("a b"), Invalid, "key"),
    ("product: long key", product("x" * 65), Invalid, "key"),
    ("product: name", product(name=""), Invalid, "name"),
    ("product: auth", product(auth="trust"), Invalid, "auth"),
    ("product: taken", product("lamp"), Conflict, "key"),
    ("product: unknown", lambda harness: harness.service.get_product("cup"), NotFound, None),
    ("product: delete unknown", lambda harness: harness.service.delete_product("cup"), NotFound, "product"),
    ("product: delete used", lambda harness: harness.service.delete_product("lamp"), Conflict, None),
    ("device: identifier", register("-d"), Invalid, "identifier"),
    ("device: secret", register("d9", secret="short"), Invalid, "secret"),
    ("device: name", register("d9", name="a\x00"), Invalid, "name"),
    ("device: taken", register("d1"), Conflict, "identifier"),
    ("device: product", register("d9", of="cup"), NotFound, "product"),
    ("device: unknown", lambda harness: harness.service.get_device("lamp", "d9"), NotFound, None),
    (
        "device: rename unknown",
        lambda harness: harness.service.rename_device("lamp", "d9", RenameDeviceRequest("x")),
        NotFound,
        None,
    ),
    (
        "device: rename",
        lambda harness: harness.service.rename_device("lamp", "d1", RenameDeviceRequest(" x")),
        Invalid,
        "name",
    ),
    ("device: delete unknown", lambda harness: harness.service.delete_device("lamp", "d9"), NotFound, None),
    ("device: rotate unknown", lambda harness: harness.service.rotate_secret("lamp", "d9"), NotFound, None),
    ("devices: product", listed(of="cup"), NotFound, None),
    ("devices: connection", listed(connection="maybe"), Invalid, "connection"),
    ("devices: cursor", listed(cursor="x"), Malformed, "cursor"),
    ("devices: cursor below", listed(cursor="-1"), Malformed, "cursor"),
    ("devices: cursor in other digits", listed(cursor="٣"), Malformed, "cursor"),
    ("devices: long cursor", listed(cursor="9" * 16), Malformed, "cursor"),
    ("devices: firmware", listed(eligible_for="f9"), NotFound, "eligible_for"),
    ("devices: other product's firmware", listed(of="lock", eligible_for="f1"), NotFound, "eligible_for"),
    ("firmware: name", upload(name="-a"), Invalid, "name"),
    ("firmware: version", upload(version="1 0"), Invalid, "version"),
    ("firmware: file name", upload(file_name="a.exe"), Invalid, "file_name"),
    ("firmware: description", upload(description="x" * 101), Invalid, "description"),
    ("firmware: product", upload(product="cup"), NotFound, None),
    ("firmware: taken name", upload(name="fw-2.0"), Conflict, "name"),
    ("firmware: taken version", upload(version="2.0"), Conflict, "version"),
    ("firmware: unknown", lambda harness: harness.service.get_firmware("f9"), NotFound, None),
    ("firmware: delete unknown", lambda harness: harness.service.delete_firmware("f9"), NotFound, None),
    ("batch: firmware", batch("f9"), Invalid, "firmware"),
    ("batch: range", batch(range="some"), Invalid, "range"),
    ("batch: devices of all", batch(devices=["d1"]), Invalid, "devices"),
    ("batch: no devices", batch(range="directed", devices=[]), Invalid, "devices"),
    ("batch: devices missing", batch(range="directed"), Invalid, "devices"),
    ("batch: bad identifier", batch(range="directed", devices=["d1", "-"]), Invalid, "devices[1]"),
    ("batch: validity", batch(validity_days=8), Invalid, "validity_days"),
    ("batch: policy", batch(policy="loud"), Invalid, "policy"),
    ("batch: time-out", batch(timeout_minutes=0), Invalid, "timeout_minutes"),
    ("batch: long time-out", batch(timeout_minutes=1441), Invalid, "timeout_minutes"),
    ("batch: retries", batch(retries=6, retry_interval_minutes=1), Invalid, "retries"),
    ("batch: interval missing", batch(retries=1), Invalid, "retry_interval_minutes"),
    ("batch: interval", batch(retries=1, retry_interval_minutes=4321), Invalid, "retry_interval_minutes"),
    ("batch: unknown", lambda harness: harness.service.get_batch("b9"), NotFound, None),
    ("batch: no id", lambda harness: harness.service.get_batch("'; --"), NotFound, None),
    ("batch: abort unknown", lambda harness: harness.service.abort_batch("b9"), NotFound, None),
    ("batch: abort no id", lambda harness: harness.service.abort_batch("b"), NotFound, None),
    (
        "batches: status",
        lambda harness: harness.service.list_batches(
            firmware=None, product=None, status="creating", cursor=None, limit=9
        ),
        Invalid,
        "status",
    ),
    (
        "batches: cursor",
        lambda harness: harness.service.list_batches(
            firmware=None, product=None, status=None, cursor="b1", limit=9
        ),
        Malformed,
        "cursor",
    ),
    (
        "upgrades: batch",
        lambda harness: harness.service.list_upgrades("b9", state=None, q="", cursor=None, limit=9),
        NotFound,
        None,
    ),
    ("upgrade: batch", lambda harness: harness.service.get_upgrade("b9", "d1"), NotFound, None),
]


@pytest.mark.parametrize(("do", "kind", "field"), [pytest.param(*case, id=name) for name, *case in REFUSALS])
async def test_refusal(autojump_clock: object, do: Do, kind: type[RequestError], field: str | None) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1")
        await product("lock", "Lock")(harness)
        groups = sum(len(group) for group in harness.store.groups)
        with pytest.raises(kind) as refusal:
            await do(harness)
        assert refusal.value.field == field
        assert refusal.value.message
        await harness.rest()
        later = [change for group in harness.store.groups for change in group][groups:]
        assert len(later) <= 1, "at most the change that was refused"
        assert (await harness.service.get_device("lamp", "d1")).identifier == "d1"


async def test_firmware_of_a_product_is_bounded(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up()
        for number in range(49):
            await harness.add_firmware(f"3.{number}")
        with pytest.raises(Invalid) as refusal:
            await upload()(harness)
        assert refusal.value.field == "product"


# -- batches of named devices --------------------------------------------------------------------------


async def test_a_directed_batch_is_refused_whole_with_each_reason(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("good", "busy", "same")
        await register("fresh")(harness)
        await product("lock", "Lock")(harness)
        await register("elsewhere", of="lock")(harness)
        await harness.create_batch(range="directed", devices=["busy"])
        await harness.log_in("same", "2.0")
        with pytest.raises(Invalid) as refusal:
            await harness.create_batch(
                range="directed", devices=["good", "nobody", "elsewhere", "fresh", "same", "busy"]
            )
        assert refusal.value.field == "devices"
        assert "5 of" in refusal.value.message
        assert {each["identifier"]: each["reason"] for each in refusal.value.details} == {
            "nobody": "unknown_device",
            "elsewhere": "unknown_device",
            "fresh": "never_logged_in",
            "same": "same_version",
            "busy": "upgrade_not_ended",
        }
        assert all(each["message"].endswith(".") for each in refusal.value.details)
        assert (await harness.create_batch(range="directed", devices=["good", "good"])) == "b2"
        assert (await harness.service.get_batch("b2")).counts.total == 1


async def test_a_batch_with_nobody_eligible_is_refused(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1")
        await harness.log_in("d1", "2.0")
        with pytest.raises(Invalid) as refusal:
            await harness.create_batch()
        assert refusal.value.field == "range"
        await harness.rest()
        assert await harness.store.unfinished_batches() == []
        await harness.service.delete_firmware("f1")


@pytest.mark.parametrize("ranges", [("directed", "directed"), ("all", "directed"), ("directed", "all")])
async def test_two_batches_want_the_same_devices_at_once(
    autojump_clock: object, ranges: tuple[str, str]
) -> None:
    """One gets them; the other is refused with reasons, undone, and holds nothing."""
    async with gateway_harness() as harness:
        names = ["d1", "d2", "d3"]
        await harness.set_up(*names)
        outcomes: list[object] = []

        async def create(range_: str, devices: list[str]) -> None:
            try:
                chosen = {"devices": devices} if range_ == "directed" else {}
                outcomes.append(await harness.create_batch(range=range_, **chosen))
            except Invalid as refusal:
                outcomes.append(refusal)

        harness.store.hold()
        for range_, devices in zip(ranges, (["d1", "d2"], ["d2", "d3"]), strict=True):
            harness.gateway.nursery.start_soon(create, range_, devices)
        await harness.rest()
        harness.store.release()
        await harness.jump(1)
        refused = [outcome for outcome in outcomes if isinstance(outcome, Invalid)]
        made = [outcome for outcome in outcomes if isinstance(outcome, str)]
        assert len(outcomes) == 2
        assert len(await harness.store.unfinished_batches()) == len(made)
        if ranges == ("directed", "directed"):
            assert len(refused) == 1
            assert refused[0].field == "devices"
            assert refused[0].details == [
                {
                    "identifier": "d2",
                    "reason": "upgrade_not_ended",
                    "message": "The device has an upgrade that has not ended.",
                }
            ]
        for batch_id in made:
            await harness.service.abort_batch(batch_id)
        await harness.jump(1)
        assert (await harness.service.get_batch(await harness.create_batch())).counts.total == 3


async def test_an_operator_who_leaves_does_not_leave_a_batch_half_made(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1", "d2")
        request = trio.CancelScope()

        async def create() -> None:
            with request:
                await harness.create_batch()

        harness.store.hold()
        harness.gateway.nursery.start_soon(create)
        await harness.rest()
        request.cancel()
        await harness.rest()
        harness.store.release()
        await harness.jump(1)
        unfinished = await harness.store.unfinished_batches()
        assert all(view.batch.status.label == "in_progress" for view in unfinished)
        assert len(unfinished) in (0, 1)


# -- lists ---------------------------------------------------------------------------------------------


async def pages(ask: Callable[[str | None], Awaitable[Any]]) -> list[list[Any]]:
    """All pages of a list, by its cursors."""
    found, cursor = [], None
    while True:
        page = await ask(cursor)
        found.append(page.items)
        cursor = page.next
        if cursor is None:
            return found


async def test_devices_by_page_and_filter(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("a1", "b1", "a2")
        await register("a3", name="Kitchen")(harness)
        online = await harness.log_in("b1", "1.5")

        async def names(limit: int = 10, **filters: Any) -> list[list[str]]:
            found = await pages(lambda cursor: listed(cursor=cursor, limit=limit, **filters)(harness))
            return [[device.identifier for device in page] for page in found]

        assert await names() == [["a1", "b1", "a2", "a3"]]
        assert await names(limit=3) == [["a1", "b1", "a2"], ["a3"]]
        assert await names(q="A") == [["a1", "a2", "a3"]]
        assert await names(q="kitch") == [["a3"]]
        assert await names(version="1.5") == [["b1"]]
        assert await names(active=False) == [["a3"]]
        assert await names(connection="online") == [["b1"]]
        assert await names(connection="offline") == [["a1", "a2", "a3"]]
        assert await names(eligible_for="f1") == [["a1", "b1", "a2"]]
        assert await names(eligible_for="f1", q="a2") == [["a2"]]
        await harness.create_batch(range="directed", devices=["a1"])
        assert await names(eligible_for="f1") == [["b1", "a2"]]
        assert online.closed is None


async def test_products_firmware_and_batches_by_page(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1", "d2", "d3")
        await product("cup", "Cup")(harness)
        await harness.add_firmware("3.0")
        for number in (1, 2, 3):
            await harness.create_batch(f"f{1 + number % 2}", range="directed", devices=[f"d{number}"])
        await harness.service.abort_batch("b2")
        service = harness.service
        found = await pages(lambda cursor: service.list_products(cursor=cursor, limit=1))
        assert sorted(item.key for page in found for item in page) == ["cup", "lamp"]
        found = await pages(lambda cursor: service.list_firmware(product=None, q="", cursor=cursor, limit=1))
        assert [item.id for page in found for item in page] == ["f2", "f1"]
        page = await service.list_firmware(product="lamp", q="3.0", cursor=None, limit=9)
        assert [item.id for item in page.items] == ["f2"]
        assert (await service.list_firmware(product="cup", q="", cursor=None, limit=9)).items == []

        async def batches(limit: int = 9, **filters: Any) -> list[str]:
            arguments = {"firmware": None, "product": None, "status": None} | filters
            found = await pages(lambda cursor: service.list_batches(cursor=cursor, limit=limit, **arguments))
            return [item.id for page in found for item in page]

        assert await batches() == await batches(limit=1) == ["b3", "b2", "b1"]
        assert await batches(firmware="f2") == ["b3", "b1"]
        assert await batches(status="aborted") == ["b2"]
        assert await batches(status="in_progress", firmware="f2", product="lamp") == ["b3", "b1"]
        assert await batches(product="cup") == await batches(firmware="f9") == []


async def test_upgrades_by_page_and_filter(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1", "d2", "d3")
        device = await harness.log_in("d2")
        made = await harness.create_batch()
        await device.receive(messages.Upgrade)
        device.send(progress(made, 40, id="m"))
        await device.receive(messages.Ack)

        async def names(limit: int = 10, state: str | None = None, q: str = "") -> list[list[str]]:
            found = await pages(
                lambda cursor: harness.service.list_upgrades(
                    made, state=state, q=q, cursor=cursor, limit=limit
                )
            )
            return [[item.identifier for item in page] for page in found]

        assert await names() == [["d1", "d2", "d3"]]
        assert [name for page in await names(limit=1) for name in page] == ["d1", "d2", "d3"]
        assert await names(state="upgrading") == [["d2"]]
        assert await names(state="to_be_pushed", q="3") == [["d3"]]
        assert await names(state="failed") == [[]]
        with pytest.raises(Invalid) as refusal:
            await names(state="asleep")
        assert refusal.value.field == "state"
        with pytest.raises(NotFound):
            await harness.service.get_upgrade(made, "d9")


# -- views ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", OPEN)
async def test_counts_and_details_of_a_batch(autojump_clock: object, state: str) -> None:
    async with gateway_harness() as harness:
        device, made = await reach(harness, state, timeout_minutes=30, validity_days=2, policy="silent")
        view = await harness.service.get_batch(made)
        expected = {"to_be_pushed": 1, state: 1} if state != "to_be_pushed" else {"to_be_pushed": 2}
        counts = {
            name: number
            for name in view.counts.__struct_fields__
            if (number := getattr(view.counts, name)) and name != "total"
        }
        assert counts == expected
        assert view.counts.total == 2
        assert (view.range, view.policy, view.timeout_minutes, view.validity_days) == ("all", "silent", 30, 2)
        assert (view.product.key, view.product.name, view.firmware.id) == ("lamp", "Lamp", "f1")
        assert view.expires_at == view.created_at.replace("-15T", "-17T")
        assert (view.ended_at, view.status) == (None, "in_progress")
        page = await harness.service.list_upgrades(made, state=None, q="", cursor=None, limit=9)
        details = await harness.details(made, "d1")
        assert all(
            getattr(details, name) == getattr(page.items[0], name) for name in page.items[0].__struct_fields__
        )
        assert device.identifier == "d1"


async def test_bulk_registration_line_by_line(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1")
        broken = ErrorView("malformed", "the line is not JSON")
        results = await harness.service.register_devices(
            "lamp",
            11,
            [
                RegisterDeviceRequest("d2"),
                broken,
                RegisterDeviceRequest("d1"),
                RegisterDeviceRequest("-"),
                RegisterDeviceRequest("d2"),
                RegisterDeviceRequest("d3", secret="t" * 20),
            ],
        )
        assert [result.line for result in results] == [11, 12, 13, 14, 15, 16]
        assert [result.error.code if result.error else None for result in results] == [
            None,
            "malformed",
            "conflict",
            "invalid",
            "conflict",
            None,
        ]
        assert results[5].secret == "t" * 20
        assert len(results[0].secret or "") == 32
        with pytest.raises(NotFound):
            await harness.service.register_devices("cup", 1, [RegisterDeviceRequest("d2")])


async def test_secrets_are_shown_once(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up()
        made = await harness.service.register_device("lamp", RegisterDeviceRequest("d1"))
        rotated = await harness.service.rotate_secret("lamp", "d1")
        assert len({made.secret, rotated.secret}) == 2
        assert not hasattr(await harness.service.get_device("lamp", "d1"), "secret")
        view = await harness.service.rename_device("lamp", "d1", RenameDeviceRequest("灯"))
        assert (view.name, view.identifier) == ("灯", "d1")


async def test_secrets_begin_with_a_letter_or_digit(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of them goes through spreadsheets and shells: none is a formula or an option there."""
    async with gateway_harness() as harness:
        await harness.set_up()
        drawn = iter(["-formula", "_x", "good1", "-option", "2good"])
        monkeypatch.setattr("secrets.token_urlsafe", lambda size: next(drawn))
        registered = await harness.service.register_device("lamp", RegisterDeviceRequest("d7"))
        rotated = await harness.service.rotate_secret("lamp", "d7")
        assert (registered.secret, rotated.secret) == ("good1", "2good")


async def test_a_deleted_device_may_be_registered_again(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, made = await reach(harness, "failed")
        await harness.service.delete_device("lamp", "d1")
        await harness.add_device("d1")
        again = await harness.log_in("d1")
        again.send(progress(made, 5, id="m"))
        found = await again.receive_all()
        assert kinds(found) == ["error"], "that batch was another device's"
        assert found[0].code == "not_found"
        assert device.closed == 4001


async def test_a_deleted_device_is_still_shown_in_its_ended_batch(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1", "d2")
        batch = await harness.create_batch()
        await harness.service.abort_batch(batch)
        await harness.service.delete_device("lamp", "d1")
        details = await harness.service.get_upgrade(batch, "d1")
        assert (details.identifier, details.state, details.remark) == ("d1", "failed", "task_aborted")
        with pytest.raises(NotFound):
            await harness.service.get_upgrade(batch, "d")
