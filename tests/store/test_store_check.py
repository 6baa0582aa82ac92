"""The checker finds what is wrong: each kind of damage, done by hand to a sound store."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from builders import T0, begin, firmware, fleet, move, open_batch, row

from otagate import limits
from otagate.store import records, tables
from otagate.store.check import check, check_progress, main
from otagate.store.interface import ClaimDevices, DeleteFirmware, EndBatch, PutSetting
from otagate.store.lmdb import open_store
from otagate.store.memory import MemoryStore
from otagate.store.operators import AddToken, AddWebhook, Audited, AuditNote, Keep, TellStalled
from otagate.store.tables import Transaction, device_key, pair_key, slice_key, u32_key, u64_key
from otagate.store.telling import EVENTS
from otagate.upgrade.model import State

U64 = u64_key.pack


async def sound() -> MemoryStore:
    """Devices 1-6; batch 1 ended, 2 in progress with devices 1 and 2, 3 in creation with 3; operators."""
    store = MemoryStore()
    await fleet(store, 6)
    await open_batch(store, [1, 2], [3])
    await store.commit([move(1, row(State.FAILED)), EndBatch(1, "aborted", T0)])
    await open_batch(store, [1, 2])
    await store.commit([begin(), ClaimDevices(3, [3], T0)])
    await store.commit([AddToken("a", "admin", b"h" * 32, T0), AddWebhook("http://h/", EVENTS, b"s", T0)])
    await store.commit([audited(1), audited(2), audited(3), TellStalled(2, 1000, 1, T0)])
    return store


def audited(number: int) -> Audited:
    """Something that is written down, with an answer."""
    keep = Keep(bytes([number]) * 32, b"", 200, lambda outcome: b"")
    note = AuditNote(str(number))
    return Audited(PutSetting("s", b""), T0, "ann", "admin", "", "act", lambda outcome: note, keep)


def forge(transaction: Transaction) -> None:
    """Change what an entry says, and its own hash with it."""
    value = transaction.get(tables.AUDIT, U64(2))
    assert value is not None
    json = value[32:].replace(b'"ann"', b'"bob"')
    transaction.put(tables.AUDIT, U64(2), hashlib.sha256(json).digest() + json)


def scribble(transaction: Transaction) -> None:
    """Change what an entry says."""
    value = transaction.get(tables.AUDIT, U64(2))
    assert value is not None
    transaction.put(tables.AUDIT, U64(2), value.replace(b'"ann"', b'"bob"'))


async def test_a_sound_store_has_nothing() -> None:
    assert check((await sound())._transaction) == []


def recount(transaction: Transaction) -> None:
    transaction.put(tables.COUNTS, U64(2), tables.counts_value.pack(1, 1, 0, 0, 0, 0, 0))


def claim_twice(transaction: Transaction) -> None:
    transaction.put(tables.UPGRADES, pair_key.pack(1, 3), records.FRESH_ROW)


DAMAGES: list[tuple[str, Callable[[Transaction], None]]] = [
    ("counts of b2 are", recount),
    ("device 1 has 2 open upgrades", claim_twice),
    ("batch 3 counts 1 rows and has 2", claim_twice),
    ("has no row", lambda t: t.delete(tables.UPGRADES, pair_key.pack(2, 2))),
    ("which there is not", lambda t: t.put(tables.UPGRADES, pair_key.pack(2, 9), records.FRESH_ROW)),
    (
        "members of b2 do not ascend",
        lambda t: t.put(tables.MEMBERS, slice_key.pack(2, 0), records.pack_numbers([2, 1])),
    ),
    ("slice 0 of b1 is missing", lambda t: t.delete(tables.MEMBERS, slice_key.pack(1, 0))),
    ("b2 is not unfinished", lambda t: t.delete(tables.UNFINISHED, U64(2))),
    ("b1 is not unfinished, with 2 rows", lambda t: t.delete(tables.UNFINISHED, U64(1))),
    (
        "is unfinished with 7 slices",
        lambda t: t.put(tables.UNFINISHED, U64(2), tables.progress_value.pack(7, 0)),
    ),
    ("the uses of firmware differ", lambda t: t.delete(tables.FIRMWARE_USES, pair_key.pack(1, 2))),
    ("the batches of firmware differ", lambda t: t.delete(tables.FIRMWARE_BATCHES, pair_key.pack(1, 1))),
    ("the names of firmware differ", lambda t: t.delete(tables.FIRMWARE_NAMES, b"spring")),
    (
        "the versions of firmware differ",
        lambda t: t.delete(tables.FIRMWARE_VERSIONS, u32_key.pack(1) + b"2.0"),
    ),
    ("the counts of images differ", lambda t: t.delete(tables.IMAGES, bytes.fromhex("ab" * 32))),
    ("firmware 1 is gone", lambda t: t.delete(tables.FIRMWARE, U64(1))),
    ("is not found by its identifier d4", lambda t: t.delete(tables.NAMES, u32_key.pack(1) + b"d4")),
    ("device 4 of product 1 is not among the owners", lambda t: t.delete(tables.OWNERS, U64(4))),
    ("identifiers", lambda t: t.delete(tables.DEVICES, device_key.pack(1, 4))),
    ("counts 6 devices and has 5", lambda t: t.delete(tables.DEVICES, device_key.pack(1, 4))),
    ("device 6 exists and the last number given is 5", lambda t: t.put(tables.META, b"device", U64(5))),
    ("the audit log is broken at entry 2", scribble),
    ("the audit log is broken at entry 3", forge),
    ("the audit log is broken at entry 2", lambda t: t.delete(tables.AUDIT, U64(2))),
    ("the audit log is broken at entry 3", lambda t: t.delete(tables.AUDIT, U64(3))),
    ("the audit log is broken at entry 1", lambda t: t.delete(tables.AUDIT, U64(1))),
    ("the audit log is broken at entry 4", lambda t: t.delete(tables.META, tables.AUDIT_HEAD_KEY)),
    ("audit 3 exists and the last number", lambda t: t.put(tables.META, b"audit", U64(2))),
    ("token 1 exists and the last number", lambda t: t.delete(tables.META, b"token")),
    ("the times of kept answers differ", lambda t: t.delete(tables.ANSWERS, b"\1" * 32)),
    ("4 kept answers are counted", lambda t: t.put(tables.META, tables.KEPT_ANSWERS_KEY, U64(4))),
    ("w1 counts 1 deliveries and has 0", lambda t: t.delete(tables.OUTBOX, pair_key.pack(1, 1))),
    ("there are devices without a product", lambda t: t.delete(tables.PRODUCTS, b"lamp")),
]


@pytest.mark.parametrize(("finding", "damage"), DAMAGES, ids=[finding for finding, _ in DAMAGES])
async def test_damage_is_found(finding: str, damage: Callable[[Transaction], None]) -> None:
    store = await sound()
    damage(store._transaction)
    found = check(store._transaction)
    assert any(finding in sentence for sentence in found), found


def test_nothing_goes_back() -> None:
    before = {
        (1, 1): (State.PUSHED, 2),
        (2, 1): (State.FAILED, 1),
        (3, 1): (State.PUSHED, 1),
        (4, 1): (State.TO_BE_PUSHED, 0),
    }
    assert check_progress(before, before) == []
    after = {(1, 1): (State.PUSHED, 1), (2, 1): (State.SUCCEEDED, 1)}
    assert check_progress(before, after) == [
        "device 1 in batch 1 went back to attempt 1 from 2",
        "device 2 in batch 1 had ended failed, is succeeded",
        "the upgrade of device 3 in batch 1 is gone",
    ]


async def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(tmp_path, map_bytes=16 * limits.MIB, reserve_bytes=4096)
    await fleet(store)
    await store.commit([firmware("autumn", "3.0"), DeleteFirmware("f2")])
    beside = [sys.executable, "-m", "otagate.store.check", str(tmp_path)]
    result = await trio.run_process(beside, capture_stdout=True, capture_stderr=True)
    assert (result.stdout, result.stderr) == (b"", b"")
    with store._environment.begin(write=True) as txn:
        txn.delete(b"spring", db=store._tables[tables.FIRMWARE_NAMES])
    await store.close()
    assert main([str(tmp_path)]) == 1
    assert "the names of firmware differ" in capsys.readouterr().out
    assert main([]) == 2
    assert main([str(tmp_path / "none")]) == 2
    assert "cannot open the store" in capsys.readouterr().err
