"""The contract of products, devices, firmware and settings, for every engine."""

from typing import Any

import pytest
from builders import IMAGE, SECRET, T0, begin, firmware, fleet, one, open_batch, product, register
from msgspec.structs import replace

from otagate import limits
from otagate.errors import Conflict, Invalid, NotFound, RequestError
from otagate.store import reads, records, tables
from otagate.store.engine import Engine
from otagate.store.interface import (
    Change,
    DeleteDevice,
    DeletedFirmware,
    DeleteFirmware,
    DeleteProduct,
    Device,
    EndBatch,
    NewDevice,
    Product,
    PutSetting,
    RegisterDevices,
    RenameDevice,
    ReportVersion,
    RotateSecret,
    TouchDevices,
)
from otagate.store.snapshot import Snapshot
from otagate.store.tables import View
from otagate.upgrade.eligibility import Reason

# -- refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "field"),
    [
        (product(), Conflict, "key"),
        (DeleteProduct("none"), NotFound, "product"),
        (DeleteProduct("lamp"), Conflict, None),
        (register("d9", product="none"), NotFound, "product"),
        (RenameDevice("lamp", "none", "n"), NotFound, None),
        (RenameDevice("none", "d1", "n"), NotFound, None),
        (RotateSecret("lamp", "none", SECRET), NotFound, None),
        (DeleteDevice("lamp", "none"), NotFound, None),
        (DeleteDevice("lamp", "d1"), Conflict, None),
        (ReportVersion(99, "1.0", T0), NotFound, None),
        (firmware("autumn", "3.0", product="none"), NotFound, "product"),
        (firmware("spring", "3.0"), Conflict, "name"),
        (firmware("autumn", "2.0"), Conflict, "version"),
        (DeleteFirmware("f9"), NotFound, None),
        (DeleteFirmware("f0"), NotFound, None),
        (DeleteFirmware("f01"), NotFound, None),
        (DeleteFirmware("f"), NotFound, None),
        (DeleteFirmware("f" + "9" * 30), NotFound, None),
        (DeleteFirmware("b1"), NotFound, None),
        (DeleteFirmware("f1"), Conflict, None),
        (begin("f9"), NotFound, "firmware"),
    ],
)
async def test_a_refused_change_changes_nothing(
    store: Engine, change: Change, error: type[RequestError], field: str | None
) -> None:
    await fleet(store)
    await open_batch(store, [1, 2])

    async def everything() -> object:
        return [
            await store.list_products(),
            await store.scan_devices("lamp", limit=100),
            await store.list_firmware(limit=100),
            await store.scan_upgrades(1, limit=100),
            await store.images(),
        ]

    before = await everything()
    outcome = await one(store, change)
    assert type(outcome) is error
    assert outcome.field == field
    assert await everything() == before


async def test_a_refused_change_harms_nobody_else_in_its_group(store: Engine) -> None:
    outcomes = await store.commit(
        [product("a"), product("a"), product("b"), DeleteProduct("none"), product("c")]
    )
    assert [type(outcome) for outcome in outcomes] == [Product, Conflict, Product, NotFound, Product]
    assert [found.key for found in await store.list_products()] == ["a", "b", "c"]


async def test_an_empty_group_is_nothing(store: Engine) -> None:
    assert await store.commit([]) == []


# -- products ------------------------------------------------------------------------------------------


async def test_products(store: Engine) -> None:
    created = await one(store, product("lamp", name="灯", auth="both"))
    assert created == Product(1, "lamp", "灯", "both", T0)
    assert await store.get_product("lamp") == created
    assert await store.get_product("none") is None
    assert await one(store, DeleteProduct("lamp")) is None
    assert await store.get_product("lamp") is None
    assert (await one(store, product("lamp"))).number == 2


async def test_a_product_with_firmware_is_not_deleted(store: Engine) -> None:
    await store.commit([product(), firmware()])
    assert type(await one(store, DeleteProduct("lamp"))) is Conflict
    await one(store, DeleteFirmware("f1"))
    assert await one(store, DeleteProduct("lamp")) is None


# -- devices -------------------------------------------------------------------------------------------


async def test_registration(store: Engine) -> None:
    await one(store, product())
    first, second = await one(store, register("d1", "d2"))
    assert first == Device(1, "lamp", "d1", "Name of d1", SECRET, None, False, None, T0)
    assert second.number == 2
    outcomes = await one(store, register("d3", "d1", "d4", "d3"))
    assert [type(outcome) for outcome in outcomes] == [Device, Conflict, Device, Conflict]
    assert outcomes[1].field == "identifier"
    assert [outcomes[0].number, outcomes[2].number] == [3, 4]
    assert await store.count_devices("lamp") == 4
    assert await store.count_devices("none") == 0


async def test_identifiers_are_unique_within_a_product_only(store: Engine) -> None:
    await store.commit([product("lamp"), product("fan"), register("d1"), register("d1", product="fan")])
    found = await store.lookup_devices([("fan", "d1"), ("lamp", "d1"), ("lamp", "d2"), ("none", "d1")])
    assert [device and (device.product, device.number) for device in found] == [
        ("fan", 2),
        ("lamp", 1),
        None,
        None,
    ]
    assert found[:2] == await store.devices_by_number([2, 1])
    assert await store.devices_by_number([3, 0]) == [None, None]


async def test_rename_and_rotate(store: Engine) -> None:
    (device, *_) = await fleet(store)
    renamed = await one(store, RenameDevice("lamp", "d1", "kitchen"))
    assert renamed == replace(device, name="kitchen")
    rotated = await one(store, RotateSecret("lamp", "d1", b"t" * 32))
    assert rotated == replace(renamed, sealed=b"t" * 32)
    assert await store.devices_by_number([1]) == [rotated]


async def test_a_report_makes_a_device_active_and_seen(store: Engine) -> None:
    await store.commit([product(), register("d1")])
    device = await one(store, ReportVersion(1, "1.0", T0 + 5))
    assert (device.version, device.active, device.last_seen_ms) == ("1.0", True, T0 + 5)
    assert await store.lookup_devices([("lamp", "d1")]) == [device]


async def test_last_seen_never_goes_back(store: Engine) -> None:
    await fleet(store)
    assert await one(store, TouchDevices([(1, T0 + 9), (2, T0 - 9), (99, T0 + 50)])) is None
    assert (await one(store, ReportVersion(1, "1.1", T0 + 3))).last_seen_ms == T0 + 9
    found = await store.devices_by_number([1, 2])
    assert [device and device.last_seen_ms for device in found] == [T0 + 9, T0]


async def test_a_deleted_device_frees_its_identifier_but_not_its_number(store: Engine) -> None:
    (device, *_) = await fleet(store)
    assert await one(store, DeleteDevice("lamp", "d1")) == device
    assert await store.devices_by_number([1]) == [None]
    assert await store.count_devices("lamp") == 3
    assert type(await one(store, ReportVersion(1, "1.0", T0))) is NotFound
    (again,) = await one(store, register("d1"))
    assert again.number == 5


async def test_a_deleted_device_stays_in_ended_batches_by_name(store: Engine) -> None:
    (device, *_) = await fleet(store)
    await open_batch(store, [1, 2])
    await one(store, EndBatch(1, "aborted", T0))
    assert await one(store, DeleteDevice("lamp", "d1")) == device
    page = await store.scan_upgrades(1, limit=10)
    assert [found.device for found in page.upgrades][:1] == [replace(device, sealed=b"")]
    await one(store, register("d1"))
    page = await store.scan_upgrades(1, limit=10, query="Name of d1")
    assert [found.upgrade.device for found in page.upgrades] == [1]


# -- pages of devices ------------------------------------------------------------------------------------


async def test_pages_of_devices(store: Engine) -> None:
    await store.commit([product("lamp"), product("fan")])
    for place in range(1, 6):
        await store.commit([register(f"d{place}"), register(f"d{place}", product="fan")])
    page = await store.scan_devices("lamp", limit=2)
    assert ([device.identifier for device in page.devices], page.next) == (["d1", "d2"], 3)
    page = await store.scan_devices("lamp", after=3, limit=3)
    assert ([device.identifier for device in page.devices], page.next) == (["d3", "d4", "d5"], None)
    page = await store.scan_devices("lamp", limit=9, query="NAME OF D4")
    assert ([device.identifier for device in page.devices], page.next) == (["d4"], None)
    page = await store.scan_devices("none", limit=9)
    assert (page.devices, page.next) == ([], None)


async def test_a_search_in_another_form_of_the_same_characters(store: Engine) -> None:
    """As a Macintosh gives the names of files: a letter, then its accent."""
    composed, apart = "caf\u00e9", "CAFE\u0301"
    await store.commit([product(), RegisterDevices("lamp", [NewDevice("d1", composed, SECRET)], T0)])
    assert len((await store.scan_devices("lamp", limit=9, query=apart)).devices) == 1


async def test_a_scan_stops_at_its_own_bound_and_says_where(
    store: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "scan_rows_max", 3)
    await fleet(store, 7)
    page = await store.scan_devices("lamp", limit=10, query="d7")
    assert (page.devices, page.next) == ([], 3)
    found = []
    after: int | None = 0
    while after is not None:
        numbers, after = await store.eligible_numbers("f1", after=after)
        found += numbers
    assert found == [1, 2, 3, 4, 5, 6, 7]


# -- firmware --------------------------------------------------------------------------------------------


async def test_firmware(store: Engine) -> None:
    await store.commit([product("lamp"), product("fan")])
    first = await one(store, firmware("spring", "2.0", description="新"))
    assert (first.id, first.product, first.description, first.created_at_ms) == ("f1", "lamp", "新", T0)
    assert (await one(store, firmware("autumn", "2.0", product="fan"))).id == "f2"
    assert await store.get_firmware("f1") == first
    assert await store.get_firmware("f9") is None
    assert await store.get_firmware("spring") is None


async def test_deleted_firmware_frees_its_name_and_version_but_not_its_id(store: Engine) -> None:
    await store.commit([product(), firmware()])
    deleted = await one(store, DeleteFirmware("f1"))
    assert type(deleted) is DeletedFirmware
    assert deleted.image_unused
    assert await store.get_firmware("f1") is None
    assert (await one(store, firmware())).id == "f2"


async def test_an_image_is_in_use_until_its_last_record_goes(store: Engine) -> None:
    await store.commit(
        [product(), firmware("a", "1"), firmware("b", "2"), firmware("c", "3", sha256="cd" * 32)]
    )
    assert await store.images() == {IMAGE, "cd" * 32}
    assert not (await one(store, DeleteFirmware("f1"))).image_unused
    assert await store.image_used(IMAGE)
    assert (await one(store, DeleteFirmware("f2"))).image_unused
    assert not await store.image_used(IMAGE)
    assert await store.images() == {"cd" * 32}


async def test_a_product_has_so_much_firmware_and_no_more(
    store: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "firmware_per_product_max", 2)
    await store.commit([product(), firmware("a", "1"), firmware("b", "2")])
    refused = await one(store, firmware("c", "3"))
    assert type(refused) is Invalid
    await one(store, DeleteFirmware("f1"))
    assert (await one(store, firmware("c", "3"))).id == "f3"


async def test_pages_of_firmware(store: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    await store.commit([product("lamp"), product("fan")])
    for place in range(1, 6):
        await one(store, firmware(f"n{place}", f"{place}.0", product="fan" if place == 3 else "lamp"))
    page = await store.list_firmware(limit=2)
    assert ([found.id for found in page.firmware], page.next) == (["f5", "f4"], 4)
    page = await store.list_firmware(limit=9, before=4)
    assert ([found.id for found in page.firmware], page.next) == (["f3", "f2", "f1"], None)
    page = await store.list_firmware(limit=9, product="fan")
    assert [found.id for found in page.firmware] == ["f3"]
    page = await store.list_firmware(limit=9, query="N2")
    assert [found.id for found in page.firmware] == ["f2"]
    # a list is whole however little one transaction may read
    monkeypatch.setattr(limits, "scan_rows_max", 1)
    page = await store.list_firmware(limit=9, product="lamp")
    assert ([found.id for found in page.firmware], page.next) == (["f5", "f4", "f2", "f1"], None)


# -- who is eligible ---------------------------------------------------------------------------------------


async def test_who_is_eligible(store: Engine) -> None:
    await fleet(store, 6)
    await store.commit([product("fan"), register("d9", product="fan"), ReportVersion(7, "1.0", T0)])
    await store.commit([register("d0"), ReportVersion(2, "2.0", T0), DeleteDevice("lamp", "d3")])
    await open_batch(store, [4])
    assert await store.eligible_numbers("f1") == ([1, 5, 6], None)
    assert await store.eligible_numbers("f1", after=1) == ([5, 6], None)
    page = await store.scan_eligible("f1", limit=1, query="d6")
    assert [device.identifier for device in page.devices] == ["d6"]
    assert page.next is not None  # d0 is behind it
    assert (await store.scan_eligible("f1", after=6, limit=1)).next is None
    assert await store.eligible_numbers("f9") == ([], None)
    names = ["d1", "d2", "d3", "d4", "d9", "d0"]
    assert await store.ineligible_reasons("f1", names) == [
        (1, None),
        (2, Reason.SAME_VERSION),
        (0, Reason.UNKNOWN_DEVICE),
        (4, Reason.UPGRADE_NOT_ENDED),
        (0, Reason.UNKNOWN_DEVICE),
        (8, Reason.NEVER_LOGGED_IN),
    ]


# -- settings, time, numbers ---------------------------------------------------------------------------------


async def test_settings(store: Engine) -> None:
    assert await store.get_setting("token") is None
    assert await one(store, PutSetting("token", b"\x00hash")) is None
    assert await store.get_setting("token") == b"\x00hash"
    await one(store, PutSetting("token", b""))
    assert await store.get_setting("token") == b""


async def test_the_newest_time_is_remembered(store: Engine) -> None:
    assert await store.newest_time_ms() == 0
    await one(store, product(at_ms=T0 + 7))
    await store.commit(
        [register("d1", at_ms=T0 + 3), RegisterDevices("lamp", [NewDevice("d2", "n", SECRET)], T0)]
    )
    assert await store.newest_time_ms() == T0 + 7
    await one(store, TouchDevices([(1, T0 + 20)]))
    assert await store.newest_time_ms() == T0 + 20
    await one(store, product(at_ms=T0 + 99))  # refused: nothing was written at that time
    assert await store.newest_time_ms() == T0 + 20


class CountedView:
    """Counts what is read."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.cursor = view.cursor
        self.tables: list[str] = []

    def get(self, table: str, key: bytes) -> bytes | None:
        self.tables.append(table)
        return self._view.get(table, key)


@pytest.mark.parametrize("name", [("lamp", "d1"), ("lamp", "none"), ("none", "d1")])
async def test_a_stranger_learns_nothing_by_a_clock(
    store: Engine, monkeypatch: pytest.MonkeyPatch, name: tuple[str, str]
) -> None:
    """The look-up of a login reads and unpacks as much for a device that there is as for one that is not."""
    await fleet(store)
    unpacked: list[str] = []
    for kind in ("product", "device"):
        unpack = getattr(records, f"unpack_{kind}")

        def counted(value: bytes, kind: str = kind, unpack: Any = unpack) -> Any:
            unpacked.append(kind)
            return unpack(value)

        monkeypatch.setattr(records, f"unpack_{kind}", counted)
    with store.view() as view:
        counting = CountedView(view)
        (found,) = reads.lookup_devices(Snapshot(counting), [name])
    assert (found is not None) == (name == ("lamp", "d1"))
    assert counting.tables == [tables.PRODUCTS, tables.NAMES, tables.DEVICES]
    assert unpacked == ["product", "device"]
