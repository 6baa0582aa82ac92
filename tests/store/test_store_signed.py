"""Signing keys, signatures and rollback, as the store keeps to them inside its commits."""

from typing import Any

import msgspec
import pytest
from builders import T0, begin, firmware, fleet, one, product
from msgspec.structs import replace

from otagate import limits
from otagate.errors import Conflict, Invalid, NotFound
from otagate.store import records
from otagate.store.engine import Engine
from otagate.store.interface import (
    AddSigningKey,
    ClaimDevices,
    DeleteFirmware,
    FirmwareSignature,
    OpenBatch,
    RequireSignature,
    RevokeSigningKey,
    SigningKey,
)
from otagate.store.records import ProductRecord
from otagate.upgrade.eligibility import Reason

KEY = "0123456789abcdef"
SIGNATURE = FirmwareSignature(KEY, "A" * 86 + "==", T0 // 1000 + 100, ())


def add_key(id: str = KEY, **fields: Any) -> AddSigningKey:
    return AddSigningKey(
        **({"product": "lamp", "id": id, "name": "", "raw": b"k" * 32, "at_ms": T0} | fields)
    )


async def test_keys_are_added_and_revoked(store: Engine) -> None:
    assert isinstance(await one(store, add_key()), NotFound)
    await one(store, product())
    added = await one(store, add_key(name="release"))
    assert added.keys == (SigningKey(KEY, "release", b"k" * 32, T0),)
    assert isinstance(await one(store, add_key()), Conflict)
    assert isinstance(await one(store, RevokeSigningKey("lamp", "f" * 16, T0)), NotFound)
    assert isinstance(await one(store, RevokeSigningKey("fan", KEY, T0)), NotFound)
    revoked = await one(store, RevokeSigningKey("lamp", KEY, T0 + 5))
    assert revoked.keys[0].revoked_at_ms == T0 + 5
    assert isinstance(await one(store, RevokeSigningKey("lamp", KEY, T0)), Conflict)
    assert isinstance(await one(store, add_key()), Conflict)  # once revoked, never good again
    found = await store.get_product("lamp")
    assert found is not None
    assert found.keys == revoked.keys


async def test_a_revoked_key_makes_room(store: Engine) -> None:
    await one(store, product())
    ids = [f"{number:016x}" for number in range(limits.signing_keys_per_product_max + 1)]
    for id in ids[:-1]:
        await one(store, add_key(id))
    assert isinstance(await one(store, add_key(ids[-1])), Invalid)
    await one(store, RevokeSigningKey("lamp", ids[3], T0))
    added = await one(store, add_key(ids[-1]))
    assert [key.id for key in added.keys] == ids[:3] + ids[4:]


async def test_signatures_are_required_only_where_there_is_a_key(store: Engine) -> None:
    assert isinstance(await one(store, RequireSignature("lamp", True)), NotFound)
    await one(store, product())
    refused = await one(store, RequireSignature("lamp", True))
    assert isinstance(refused, Invalid)
    assert refused.field == "require_signature"
    await one(store, add_key())
    assert (await one(store, RequireSignature("lamp", True))).require_signature
    assert not (await one(store, RequireSignature("lamp", False))).require_signature


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"signature": None}, "requires signed firmware"),
        ({"signature": replace(SIGNATURE, key="f" * 16)}, "no good key"),
        ({"at_ms": T0 + 100_000}, "has expired"),
        ({"wall_step_ms": 100_000}, "has expired"),
    ],
)
async def test_firmware_is_refused_in_the_commit(store: Engine, change: dict[str, Any], words: str) -> None:
    for each in (product(), add_key(), RequireSignature("lamp", True)):
        await one(store, each)
    refused = await one(store, firmware(**{"signature": SIGNATURE} | change))
    assert isinstance(refused, Invalid)
    assert words in refused.message
    assert refused.field == "signature"
    added = await one(store, firmware(signature=SIGNATURE))
    assert added.signature == SIGNATURE
    assert await store.get_firmware("f1") == added


async def test_a_batch_is_refused_in_the_commit(store: Engine) -> None:
    await fleet(store)  # f1, unsigned
    await one(store, add_key())
    await one(store, firmware("summer", "3.0", signature=SIGNATURE))
    await one(store, RequireSignature("lamp", True))
    refused = await one(store, begin("f1"))
    assert isinstance(refused, Invalid)
    assert (refused.field, "requires signed firmware" in refused.message) == ("firmware", True)
    batch = await one(store, begin("f2"))
    assert batch.signature == SIGNATURE
    for late in ({"at_ms": T0 + 100_000}, {"wall_step_ms": 100_000}):
        refused = await one(store, begin("f2", **late))
        assert isinstance(refused, Invalid)
        assert "has expired" in refused.message
    await one(store, RequireSignature("lamp", False))
    await one(store, RevokeSigningKey("lamp", KEY, T0))
    assert isinstance(await one(store, begin("f2")), Invalid)  # signed by nobody who is trusted
    assert (await one(store, begin("f1"))).signature is None
    assert isinstance(await one(store, DeleteFirmware("f2")), Conflict)


async def test_a_rollback_is_for_a_batch_that_allows_it(store: Engine) -> None:
    await fleet(store)  # all run 1.0
    await one(store, add_key())
    signature = replace(SIGNATURE, not_before=("0.8", "0.9"))
    await one(store, firmware("summer", "0.95", signature=signature))
    assert await store.eligible_numbers("f2") == ([], None)
    assert await store.eligible_numbers("f2", allow_rollback=True) == ([1, 2, 3, 4], None)
    assert (await store.scan_eligible("f2", limit=9)).devices == []
    assert len((await store.scan_eligible("f2", limit=9, allow_rollback=True)).devices) == 4
    assert await store.ineligible_reasons("f2", ["d1"]) == [(1, Reason.ROLLBACK)]
    assert await store.ineligible_reasons("f2", ["d1"], allow_rollback=True) == [(1, None)]
    batch = await one(store, begin("f2"))
    assert await one(store, ClaimDevices(batch.number, [1, 2], T0)) == []
    batch = await one(store, begin("f2", allow_rollback=True))
    assert await one(store, ClaimDevices(batch.number, [1, 2], T0)) == [1, 2]
    view = await one(store, OpenBatch(batch.number, T0))
    assert view.batch.allow_rollback
    await one(store, firmware("winter", "1.1", signature=replace(SIGNATURE, not_before=("1.0",))))
    assert await store.eligible_numbers("f3") == ([3, 4], None)


def test_records_of_a_former_otagate_lack_the_last_fields() -> None:
    """As schema 2 wrote them: shorter arrays."""

    def former(value: Any, fields: int) -> bytes:
        return b"\x01" + msgspec.msgpack.encode(msgspec.structs.astuple(value)[:fields])

    lamp = ProductRecord(3, "lamp", "灯", "both", 5, 1_000_000, 50)
    assert records.unpack_product(former(lamp, 7)) == lamp
    signed = replace(lamp, require_signature=True, keys=(SigningKey(KEY, "", b"k" * 32, 5, 9),))
    assert records.unpack_product(records.pack_product(signed)) == signed
    with pytest.raises(msgspec.ValidationError):
        records.unpack_product(b"\x01" + msgspec.msgpack.encode([*range(9)]))
    with pytest.raises(TypeError):
        records.unpack_product(former(lamp, 4))


async def test_former_firmware_and_batches_are_unsigned(store: Engine) -> None:
    await fleet(store)
    found = await store.get_firmware("f1")
    batch = await one(store, begin("f1"))
    assert found is not None
    values = msgspec.structs.astuple(found)
    assert records.unpack_firmware(b"\x01" + msgspec.msgpack.encode(values[:10])) == found
    values = msgspec.structs.astuple(batch)
    assert records.unpack_batch(b"\x01" + msgspec.msgpack.encode(values[:-2])) == batch
