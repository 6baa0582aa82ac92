"""The checker's part about operators: tokens, the chain of the audit log, kept answers, the outbox."""

from collections import Counter
from collections.abc import Iterator

from otagate.store import reads_operators, records, tables
from otagate.store.changes_operators import AUDIT_NUMBERS, TOKEN_NUMBERS, WEBHOOK_NUMBERS
from otagate.store.reads import Budget
from otagate.store.snapshot import Snapshot
from otagate.store.tables import View, pair_key, u64_key
from otagate.store.telling import DELIVERY_NUMBERS


def check(snapshot: Snapshot) -> list[str]:
    """What is wrong in one transaction, one sentence each."""
    view = snapshot.view
    return [*_check_tokens(view), *_check_audit(snapshot), *_check_answers(view), *_check_outbox(view)]


def given_numbers(view: View) -> dict[bytes, list[int]]:
    """Every number in use, by its kind."""
    deliveries = [pair_key.unpack(key)[1] for key, _ in tables.scan(view, tables.OUTBOX, b"")]
    return {
        TOKEN_NUMBERS: _numbers(view, tables.TOKENS),
        AUDIT_NUMBERS: _numbers(view, tables.AUDIT),
        WEBHOOK_NUMBERS: _numbers(view, tables.WEBHOOKS),
        DELIVERY_NUMBERS: deliveries,
    }


def _numbers(view: View, table: str) -> list[int]:
    return [u64_key.unpack(key)[0] for key, _ in tables.scan(view, table, b"")]


def _check_tokens(view: View) -> Iterator[str]:
    for key, value in tables.scan(view, tables.TOKENS, b""):
        token = records.unpack_token(value)
        if u64_key.pack(token.number) != key:
            yield f"token {u64_key.unpack(key)[0]} says that it is number {token.number}"


def _check_audit(snapshot: Snapshot) -> Iterator[str]:
    after, hash = 0, ""
    while True:
        piece = reads_operators.check_audit(snapshot, Budget(timed=False), after, hash)
        if piece.first_broken is not None:
            yield f"the audit log is broken at entry {piece.first_broken}"
        if piece.next is None:
            return
        after, hash = piece.next, piece.hash


def _check_answers(view: View) -> Iterator[str]:
    by_time = {
        u64_key.pack(records.unpack_answer(value).at_ms) + key
        for key, value in tables.scan(view, tables.ANSWERS, b"")
    }
    if by_time != {key for key, _ in tables.scan(view, tables.ANSWER_TIMES, b"")}:
        yield "the times of kept answers differ from the answers"
    value = view.get(tables.META, tables.KEPT_ANSWERS_KEY)
    counted = 0 if value is None else u64_key.unpack(value)[0]
    if counted != len(by_time):
        yield f"{counted} kept answers are counted and there are {len(by_time)}"


def _check_outbox(view: View) -> Iterator[str]:
    """Entries of webhooks that are gone are no fault: they are cleared slice by slice."""
    waiting: Counter[int] = Counter()
    for key, value in tables.scan(view, tables.OUTBOX, b""):
        delivery = records.unpack_delivery(value)
        if pair_key.pack(delivery.webhook, delivery.number) != key:
            yield f"delivery {pair_key.unpack(key)} says that it is {delivery.webhook, delivery.number}"
        waiting[delivery.webhook] += 1
    for _, value in tables.scan(view, tables.WEBHOOKS, b""):
        webhook = records.unpack_webhook(value)
        if webhook.pending != waiting[webhook.number]:
            yield f"{webhook.id} counts {webhook.pending} deliveries and has {waiting[webhook.number]}"
