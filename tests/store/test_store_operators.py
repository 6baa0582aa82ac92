"""Tokens, the audit log, kept answers, webhooks and the outbox: the contract, on both engines."""

import hashlib
import json
from typing import Any

import pytest
from builders import T0, firmware, fleet, move, one, open_batch, product, register, row

from otagate import limits
from otagate.errors import Conflict, Invalid, NotFound, RequestError
from otagate.store.engine import Engine
from otagate.store.interface import Change, EndBatch, PutSetting
from otagate.store.operators import (
    AddToken,
    AddWebhook,
    Audited,
    AuditNote,
    ClearOutbox,
    DeleteWebhook,
    FinishDeliveries,
    Keep,
    RevokeToken,
    SweepAnswers,
    TellStalled,
    Token,
    TouchTokens,
)
from otagate.upgrade.model import Remark, State

KEY = b"k" * 32
PRINT = b"p" * 32


def token(name: str = "a", role: str = "admin", **more: Any) -> AddToken:
    return AddToken(name, role, hashlib.sha256(name.encode()).digest(), T0, **more)


def audited(change: Change, target: str = "x", keep: Keep | None = None, **more: Any) -> Audited:
    return Audited(
        change,
        more.pop("at_ms", T0),
        "ann",
        "admin",
        "192.0.2.1",
        more.pop("action", "product.create"),
        more.pop("note", lambda outcome: AuditNote(target, {"n": 1})),
        keep,
    )


def keep(key: bytes = KEY, body: bytes = b"answer") -> Keep:
    return Keep(key, PRINT, 201, lambda outcome: body)


# -- tokens ---------------------------------------------------------------------------------------------


async def test_tokens(store: Engine) -> None:
    first = await one(store, token())
    assert first == Token(1, "a", "admin", hashlib.sha256(b"a").digest(), T0)
    assert isinstance(await one(store, token()), Conflict)
    second = await one(store, token("b", "viewer", expires_at_ms=T0 + 5))
    assert await store.tokens() == [first, second]
    assert isinstance(await one(store, RevokeToken("t1", T0)), Conflict)  # the last admin
    assert isinstance(await one(store, RevokeToken("t9", T0)), NotFound)
    assert isinstance(await one(store, RevokeToken("b1", T0)), NotFound)
    revoked = await one(store, RevokeToken("t2", T0 + 1))
    assert revoked.revoked_at_ms == T0 + 1
    assert not revoked.is_good(T0 + 1)
    assert isinstance(await one(store, RevokeToken("t2", T0 + 2)), Conflict)
    await one(store, TouchTokens([(1, T0 + 7), (1, T0 + 3), (9, T0)]))
    assert [found.last_used_at_ms for found in await store.tokens()] == [T0 + 7, None]


async def test_an_admin_that_has_expired_is_none(store: Engine) -> None:
    await store.commit([token("a", expires_at_ms=T0 + 10), token("b")])
    assert isinstance(await one(store, RevokeToken("t2", T0 + 10)), Conflict)
    assert isinstance(await one(store, RevokeToken("t2", T0 + 9)), Token)


# -- the audit log --------------------------------------------------------------------------------------


async def entries(store: Engine) -> list[Any]:
    return (await store.scan_audit(limit=100)).entries


async def test_an_action_and_its_entry_are_one(store: Engine) -> None:
    made = await one(store, audited(product("lamp"), "lamp"))
    assert made.key == "lamp"
    (entry,) = await entries(store)
    assert (entry.number, entry.actor, entry.role, entry.address) == (1, "ann", "admin", "192.0.2.1")
    assert (entry.action, entry.target, entry.details) == ("product.create", "lamp", {"n": 1})
    assert entry.at == "2023-11-14T22:13:20.000Z"
    assert entry.previous == "0" * 64


async def test_what_is_refused_leaves_nothing(store: Engine) -> None:
    group = [audited(product("lamp")), audited(product("lamp"), keep=keep()), audited(product("fan"))]
    outcomes = await store.commit(group)
    assert [isinstance(outcome, RequestError) for outcome in outcomes] == [False, True, False]
    assert [entry.number for entry in await entries(store)] == [1, 2]
    assert await store.kept_answer(KEY) is None


async def test_no_note_no_entry(store: Engine) -> None:
    await one(store, audited(product("lamp"), note=lambda outcome: None))
    assert await entries(store) == []


async def test_a_note_is_of_the_outcome(store: Engine) -> None:
    await one(store, product())
    await one(store, audited(firmware(), note=lambda made: AuditNote(made.id)))
    assert [entry.target for entry in await entries(store)] == ["f1"]


async def test_the_chain_can_be_computed_from_an_export(store: Engine) -> None:
    await store.commit([audited(product(f"p{n}"), f'"ü\n/\u2028\x7f{n}') for n in range(3)])
    previous = "0" * 64
    for entry in await entries(store):
        fields = {name: getattr(entry, name) for name in entry.__struct_fields__ if name != "hash"}
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert fields["previous"] == previous
        assert hashlib.sha256(text.encode()).hexdigest() == entry.hash
        previous = entry.hash
    check = await store.check_audit()
    assert (check.entries, check.hash, check.first_broken, check.next) == (3, previous, None, None)


async def test_pages_of_the_log(store: Engine) -> None:
    await store.commit([audited(product(f"p{n}"), action="odd" if n % 2 else "even") for n in range(1, 8)])
    page = await store.list_audit(limit=3)
    assert ([entry.number for entry in page.entries], page.next) == ([7, 6, 5], 5)
    page = await store.list_audit(limit=10, before=5)
    assert ([entry.number for entry in page.entries], page.next) == ([4, 3, 2, 1], None)
    page = await store.list_audit(limit=10, action="odd", actor="ann")
    assert [entry.number for entry in page.entries] == [7, 5, 3, 1]
    assert (await store.list_audit(limit=10, actor="bob")).entries == []
    page = await store.scan_audit(after=2, limit=2)
    assert ([entry.number for entry in page.entries], page.next) == ([3, 4], 4)
    page = await store.scan_audit(after=6, limit=2)
    assert ([entry.number for entry in page.entries], page.next) == ([7], None)


async def test_a_long_log_is_read_in_pieces(store: Engine) -> None:
    count = limits.scan_rows_max + 10
    await store.commit(
        [audited(PutSetting("s", b""), action="last" if n == 0 else "other") for n in range(count)]
    )
    page = await store.list_audit(limit=10, action="last")
    assert page.entries == []
    assert page.next is not None
    page = await store.list_audit(limit=10, action="last", before=page.next)
    assert [entry.number for entry in page.entries] == [1]
    piece = await store.check_audit()
    assert piece.next is not None
    rest = await store.check_audit(after=piece.next, hash=piece.hash)
    assert (piece.entries + rest.entries, rest.first_broken, rest.next) == (count, None, None)


# -- answers that are kept ------------------------------------------------------------------------------


async def test_an_answer_is_kept_with_its_action(store: Engine) -> None:
    await one(store, audited(product("lamp"), keep=Keep(KEY, PRINT, 201, lambda made: made.key.encode())))
    kept = await store.kept_answer(KEY)
    assert kept is not None
    assert (kept.fingerprint, kept.at_ms, kept.status, kept.sealed) == (PRINT, T0, 201, b"lamp")
    assert await store.kept_answer(b"o" * 32) is None


async def test_who_comes_second_with_a_key_does_nothing(store: Engine) -> None:
    group = [audited(product("lamp"), keep=keep()), audited(product("fan"), keep=keep(body=b"other"))]
    _, second = await store.commit(group)
    assert isinstance(second, Conflict)
    assert await store.get_product("fan") is None
    assert len(await entries(store)) == 1


async def test_a_refusal_inside_an_outcome_keeps_nothing(store: Engine) -> None:
    await store.commit([product(), register("d1")])
    (outcome,) = await one(store, audited(register("d1"), keep=keep(), note=lambda outcome: None))
    assert isinstance(outcome, Conflict)
    assert await store.kept_answer(KEY) is None


async def test_after_a_day_a_key_is_free_and_swept(store: Engine) -> None:
    await one(store, audited(product("lamp"), keep=keep()))
    early, late = T0 + limits.kept_answer_ms - 1, T0 + limits.kept_answer_ms
    assert isinstance(await one(store, audited(product("fan"), keep=keep(), at_ms=early)), Conflict)
    made = await one(store, audited(product("fan"), keep=keep(body=b"2"), at_ms=late))
    assert made.key == "fan"
    kept = await store.kept_answer(KEY)
    assert kept is not None
    assert kept.sealed == b"2"
    assert await one(store, SweepAnswers(late)) is False
    assert await store.kept_answer(KEY) == kept
    assert await one(store, SweepAnswers(late + 1)) is False
    assert await store.kept_answer(KEY) is None


async def test_answers_are_swept_in_slices_and_bounded(
    store: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "slice_devices", 3)
    monkeypatch.setattr(limits, "kept_answers_max", 7)
    keys = [bytes([n]) * 32 for n in range(8)]
    for n, key in enumerate(keys):
        await one(store, audited(PutSetting("s", b""), keep=keep(key), at_ms=T0 + n))
    assert [await store.kept_answer(key) is None for key in keys] == [True] + [False] * 7
    assert [await one(store, SweepAnswers(T0 + 100)) for _ in range(3)] == [True, True, False]
    assert [await store.kept_answer(key) for key in keys] == [None] * 8


# -- webhooks -------------------------------------------------------------------------------------------

ALL = ("batch_ended", "device_failed", "batch_stalled")


def webhook(*events: str) -> AddWebhook:
    return AddWebhook("http://127.0.0.1/", events or ALL, b"secret", T0)


async def bodies(store: Engine, number: int = 1) -> list[dict[str, Any]]:
    return [json.loads(found.body) for found in await store.deliveries(number, limit=100)]


async def test_nobody_has_subscribed_nothing_is_written(store: Engine) -> None:
    await fleet(store)
    await open_batch(store, [1, 2])
    await store.commit([move(1, row(State.FAILED)), EndBatch(1, "aborted", T0 + 1)])
    assert await store.deliveries(1, limit=100) == []


async def test_what_a_webhook_is_told(store: Engine) -> None:
    await fleet(store)
    await one(store, webhook())
    await open_batch(store, [1, 2])
    failed = row(State.FAILED, at_ms=T0 + 5, remark=Remark.OTHER, detail="battery", version="1.0")
    await store.commit([move(1, failed), move(2, row(State.SUCCEEDED, at_ms=T0 + 6))])
    device, batch = await bodies(store)
    assert device == {
        "id": "d1",
        "event": "device_failed",
        "at": "2023-11-14T22:13:20.005Z",
        "data": {
            "batch": "b1",
            "product": "lamp",
            "firmware": {"id": "f1", "name": "spring", "version": "2.0"},
            "identifier": "d1",
            "name": "Name of d1",
            "attempt": 1,
            "remark": "other",
            "detail": "battery",
            "version": "1.0",
        },
    }
    assert (batch["id"], batch["event"]) == ("d2", "batch_ended")
    assert (batch["data"]["status"], batch["data"]["ended_by"]) == ("completed", "completed")
    assert (batch["data"]["counts"]["failed"], batch["data"]["counts"]["succeeded"]) == (1, 1)
    (found,) = await store.webhooks()
    assert (found.pending, found.dropped) == (2, 0)
    assert [d.id for d in await store.deliveries(1, after=1, limit=10)] == ["d2"]


async def test_an_abort_is_told_of_the_batch_and_not_of_each_device(store: Engine) -> None:
    await fleet(store)
    await one(store, webhook())
    await open_batch(store, [1, 2])
    await one(store, EndBatch(1, "aborted", T0 + 5))
    (told,) = await bodies(store)
    assert (told["event"], told["data"]["status"], told["data"]["counts"]["failed"]) == (
        "batch_ended",
        "aborted",
        2,
    )


async def test_a_webhook_is_told_what_it_asked_for(store: Engine) -> None:
    await fleet(store)
    await store.commit([webhook("batch_ended"), webhook("device_failed")])
    await open_batch(store, [1, 2])
    await store.commit([move(1, row(State.FAILED)), move(2, row(State.FAILED))])
    assert [told["event"] for told in await bodies(store, 1)] == ["batch_ended"]
    assert [told["event"] for told in await bodies(store, 2)] == ["device_failed"] * 2


async def test_a_stall_is_told_while_the_batch_is_in_progress(store: Engine) -> None:
    await fleet(store)
    await one(store, webhook())
    await open_batch(store, [1])
    await one(store, TellStalled(1, 1_800_000, 1, T0 + 9))
    await one(store, EndBatch(1, "aborted", T0 + 10))
    await one(store, TellStalled(1, 1_800_000, 1, T0 + 11))
    stalled, ended = await bodies(store)
    assert (stalled["event"], ended["event"]) == ("batch_stalled", "batch_ended")
    assert (stalled["data"]["quiet_s"], stalled["data"]["devices_online"]) == (1800, 1)


async def test_a_full_outbox_drops_what_is_new(store: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "outbox_deliveries_max", 2)
    await fleet(store)
    await one(store, webhook("device_failed"))
    await open_batch(store, [1, 2, 3, 4])
    await store.commit([move(device, row(State.FAILED)) for device in (1, 2, 3)])
    (found,) = await store.webhooks()
    assert (found.pending, found.dropped) == (2, 1)
    await one(store, FinishDeliveries([(1, 1), (1, 1), (1, 9), (7, 1)]))
    await one(store, move(4, row(State.FAILED)))
    (found,) = await store.webhooks()
    assert (found.pending, found.dropped) == (2, 1)
    assert [told["data"]["identifier"] for told in await bodies(store)] == ["d2", "d4"]


async def test_a_webhook_that_goes_takes_its_deliveries_in_slices(
    store: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "slice_devices", 2)
    await fleet(store)
    await store.commit([webhook("device_failed")] * 3)
    await open_batch(store, [1, 2, 3])
    await store.commit([move(device, row(State.FAILED)) for device in (1, 2, 3)])
    assert isinstance(await one(store, DeleteWebhook("w9")), NotFound)
    await store.commit([DeleteWebhook("w1"), DeleteWebhook("w3")])
    assert [found.id for found in await store.webhooks()] == ["w2"]
    more = [await one(store, ClearOutbox()) for _ in range(4)]
    assert more == [True, True, True, False]
    assert [len(await store.deliveries(n, limit=10)) for n in (1, 2, 3)] == [0, 3, 0]
    await one(store, FinishDeliveries([(1, 1)]))  # came too late


async def test_webhooks_are_bounded(store: Engine) -> None:
    outcomes = await store.commit([webhook()] * (limits.webhooks_max + 1))
    assert isinstance(outcomes[-1], Invalid)
    assert len(await store.webhooks()) == limits.webhooks_max
