"""What the operators' read verbs look up: functions of one snapshot, as in reads."""

from collections.abc import Iterator

from otagate.store import audit, records, tables
from otagate.store.changes_operators import AUDIT_NUMBERS
from otagate.store.operators import (
    AuditCheck,
    AuditEntry,
    AuditPage,
    Delivery,
    KeptAnswer,
    Token,
    Webhook,
)
from otagate.store.reads import Budget
from otagate.store.snapshot import Snapshot
from otagate.store.tables import View, pair_key, u64_key


def tokens(snapshot: Snapshot) -> list[Token]:
    return [records.unpack_token(value) for _, value in tables.scan(snapshot.view, tables.TOKENS, b"")]


def kept_answer(snapshot: Snapshot, key: bytes) -> KeptAnswer | None:
    value = snapshot.view.get(tables.ANSWERS, key)
    return None if value is None else records.unpack_answer(value)


def list_audit(
    snapshot: Snapshot, budget: Budget, before: int, limit: int, actor: str | None, action: str | None
) -> AuditPage:
    found: list[AuditEntry] = []
    number = before
    for key, value in tables.scan_back(snapshot.view, tables.AUDIT, _below(before)):
        if len(found) == limit or not budget.spend():
            return AuditPage(found, number)
        entry = audit.unpack(value)
        if actor in (None, entry.actor) and action in (None, entry.action):
            found.append(entry)
        (number,) = u64_key.unpack(key)
    return AuditPage(found, None)


def _below(before: int) -> bytes:
    return u64_key.pack(before or tables.NUMBER_MAX)


def scan_audit(snapshot: Snapshot, budget: Budget, after: int, limit: int) -> AuditPage:
    found: list[AuditEntry] = []
    for _, value in tables.scan(snapshot.view, tables.AUDIT, u64_key.pack(after + 1)):
        if len(found) == limit or not budget.spend():
            return AuditPage(found, found[-1].number if found else after)
        found.append(audit.unpack(value))
    return AuditPage(found, None)


def check_audit(snapshot: Snapshot, budget: Budget, after: int, hash: str) -> AuditCheck:
    """Also that the last entry is the one that meta names: a chain whose end is cut off is not intact."""
    previous = hash or audit.FIRST_PREVIOUS
    number, looked_at = after, 0
    for key, value in tables.scan(snapshot.view, tables.AUDIT, u64_key.pack(after + 1)):
        if not budget.spend():
            return AuditCheck(looked_at, previous, None, number)
        number += 1
        looked_at += 1
        if u64_key.unpack(key)[0] != number or not audit.is_intact(number, value, previous):
            return AuditCheck(looked_at, previous, number, None)
        previous = audit.hash_of(value)
    is_whole = (number, previous) == _end_of_chain(snapshot.view)
    return AuditCheck(looked_at, previous, None if is_whole else number + 1, None)


def _end_of_chain(view: View) -> tuple[int, str]:
    """Number and hash of the last entry, as meta has them."""
    last, head = view.get(tables.META, AUDIT_NUMBERS), view.get(tables.META, tables.AUDIT_HEAD_KEY)
    if last is None or head is None:
        return 0, audit.FIRST_PREVIOUS
    return u64_key.unpack(last)[0], head.hex()


def webhooks(snapshot: Snapshot) -> list[Webhook]:
    return [records.unpack_webhook(value) for _, value in tables.scan(snapshot.view, tables.WEBHOOKS, b"")]


def deliveries(snapshot: Snapshot, webhook: int, after: int, limit: int) -> list[Delivery]:
    return list(_deliveries(snapshot.view, webhook, after, limit))


def _deliveries(view: View, webhook: int, after: int, limit: int) -> Iterator[Delivery]:
    start, prefix = pair_key.pack(webhook, after + 1), u64_key.pack(webhook)
    for number, (_, value) in enumerate(tables.scan(view, tables.OUTBOX, start, prefix)):
        if number == limit:
            return
        yield records.unpack_delivery(value)
