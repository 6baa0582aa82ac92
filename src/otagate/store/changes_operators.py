"""How the operators' changes are applied: tokens, audit entries, kept answers, webhooks and their outbox.

Rules as in changes_fleet: checked first, written after.
"""

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from msgspec.structs import replace

from otagate import limits
from otagate.errors import Conflict, Invalid, NotFound, RequestError
from otagate.store import audit, records, tables, telling
from otagate.store.draft import Draft
from otagate.store.operators import (
    ADMIN,
    AddToken,
    AddWebhook,
    Audited,
    AuditNote,
    ClearOutbox,
    DeleteWebhook,
    FinishDeliveries,
    Keep,
    KeptAnswer,
    RevokeToken,
    SweepAnswers,
    TellStalled,
    Token,
    TouchTokens,
    Webhook,
)
from otagate.store.tables import pair_key, u64_key
from otagate.times import rfc3339
from otagate.upgrade.model import BatchStatus

TOKEN_NUMBERS = b"token"
AUDIT_NUMBERS = b"audit"
WEBHOOK_NUMBERS = b"webhook"

Apply = Mapping[type[Any], Callable[[Draft, Any], Any]]


# -- tokens ---------------------------------------------------------------------------------------------


def _put_token(draft: Draft, token: Token) -> Token:
    draft.transaction.put(tables.TOKENS, u64_key.pack(token.number), records.pack_token(token))
    return token


def _tokens(draft: Draft) -> list[Token]:
    return [records.unpack_token(value) for _, value in tables.scan(draft.view, tables.TOKENS, b"")]


def add_token(draft: Draft, change: AddToken) -> Token | RequestError:
    tokens = _tokens(draft)
    good = [token for token in tokens if token.is_good(change.at_ms)]
    if any(token.name == change.name for token in good):
        return Conflict(f"there is a token named {change.name} already", field="name")
    if len(good) >= limits.tokens_max:
        return Invalid(f"there are {len(good)} tokens already, which is the most")
    if len(tokens) >= limits.tokens_max:
        over = next(token for token in tokens if not token.is_good(change.at_ms))
        draft.transaction.delete(tables.TOKENS, u64_key.pack(over.number))
    draft.saw_time(change.at_ms)
    number = draft.number(TOKEN_NUMBERS)
    return _put_token(
        draft, Token(number, change.name, change.role, change.sha256, change.at_ms, change.expires_at_ms)
    )


def revoke_token(draft: Draft, change: RevokeToken) -> Token | RequestError:
    number = tables.number_of_id("t", change.id)
    tokens = {token.number: token for token in _tokens(draft)}
    token = None if number is None else tokens.get(number)
    if token is None:
        return NotFound(f"there is no token {change.id}")
    if token.revoked_at_ms is not None:
        return Conflict(f"the token {change.id} is revoked already")
    others = (other for other in tokens.values() if other.number != number)
    if token.role == ADMIN and not any(o.role == ADMIN and o.is_good(change.at_ms) for o in others):
        return Conflict(f"{change.id} is the last token of role admin: make another one first")
    draft.saw_time(change.at_ms)
    return _put_token(draft, replace(token, revoked_at_ms=change.at_ms))


def touch_tokens(draft: Draft, change: TouchTokens) -> None:
    for number, used_ms in change.used:
        value = draft.view.get(tables.TOKENS, u64_key.pack(number))
        token = None if value is None else records.unpack_token(value)
        if token is not None and used_ms > (token.last_used_at_ms or 0):
            _put_token(draft, replace(token, last_used_at_ms=used_ms))


# -- the audit log, and answers that are kept ---------------------------------------------------------------


def audited(draft: Draft, change: Audited, apply: Apply) -> Any:
    keep = change.keep
    if keep is not None and _kept(draft, keep.key, change.at_ms) is not None:
        return Conflict("a request with this Idempotency-Key has just been carried out; send it once more")
    outcome = apply[type(change.change)](draft, change.change)
    if isinstance(outcome, RequestError):
        return outcome
    note = change.note(outcome)
    if note is not None:
        _append(draft, change, note)
    if keep is not None and _is_done(outcome):
        _keep(draft, keep, change.at_ms, keep.seal(outcome))
    return outcome


def _is_done(outcome: Any) -> bool:
    """A registration of one device is refused inside its outcome."""
    return not (isinstance(outcome, list) and any(isinstance(item, RequestError) for item in outcome))


def _append(draft: Draft, change: Audited, note: AuditNote) -> None:
    draft.saw_time(change.at_ms)
    head = draft.view.get(tables.META, tables.AUDIT_HEAD_KEY)
    number = draft.number(AUDIT_NUMBERS)
    value = audit.pack(
        {
            "number": number,
            "at": rfc3339(change.at_ms),
            "actor": change.actor,
            "role": change.role,
            "address": change.address,
            "action": change.action,
            "target": note.target,
            "details": note.details,
            "previous": audit.FIRST_PREVIOUS if head is None else head.hex(),
        }
    )
    draft.transaction.put(tables.AUDIT, u64_key.pack(number), value)
    draft.transaction.put(tables.META, tables.AUDIT_HEAD_KEY, value[: audit.HASH_BYTES])


def _kept(draft: Draft, key: bytes, now_ms: int) -> KeptAnswer | None:
    value = draft.view.get(tables.ANSWERS, key)
    answer = None if value is None else records.unpack_answer(value)
    return answer if answer is not None and now_ms < answer.at_ms + limits.kept_answer_ms else None


def _count_answers(draft: Draft, step: int) -> int:
    value = draft.view.get(tables.META, tables.KEPT_ANSWERS_KEY)
    count = (0 if value is None else int(u64_key.unpack(value)[0])) + step
    draft.transaction.put(tables.META, tables.KEPT_ANSWERS_KEY, u64_key.pack(count))
    return count


def _keep(draft: Draft, keep: Keep, at_ms: int, sealed: bytes) -> None:
    _forget(draft, keep.key)  # one that is too old and not swept yet
    answer = KeptAnswer(keep.fingerprint, at_ms, keep.status, sealed)
    draft.transaction.put(tables.ANSWERS, keep.key, records.pack_answer(answer))
    draft.transaction.put(tables.ANSWER_TIMES, u64_key.pack(at_ms) + keep.key, b"")
    if _count_answers(draft, 1) > limits.kept_answers_max:
        oldest, _ = next(tables.scan(draft.view, tables.ANSWER_TIMES, b""))
        _forget(draft, oldest[u64_key.size :])


def _forget(draft: Draft, key: bytes) -> None:
    value = draft.view.get(tables.ANSWERS, key)
    if value is not None:
        at_ms = records.unpack_answer(value).at_ms
        draft.transaction.delete(tables.ANSWERS, key)
        draft.transaction.delete(tables.ANSWER_TIMES, u64_key.pack(at_ms) + key)
        _count_answers(draft, -1)


def sweep_answers(draft: Draft, change: SweepAnswers) -> bool:
    oldest = [
        key for key, _ in islice(tables.scan(draft.view, tables.ANSWER_TIMES, b""), limits.slice_devices)
    ]
    over = [key for key in oldest if u64_key.unpack(key[: u64_key.size])[0] < change.before_ms]
    for key in over:
        _forget(draft, key[u64_key.size :])
    return len(over) == limits.slice_devices


# -- webhooks -------------------------------------------------------------------------------------------


def add_webhook(draft: Draft, change: AddWebhook) -> Webhook | RequestError:
    if len(draft.webhooks) >= limits.webhooks_max:
        return Invalid(f"there are {len(draft.webhooks)} webhooks already, which is the most")
    draft.saw_time(change.at_ms)
    number = draft.number(WEBHOOK_NUMBERS)
    webhook = Webhook(number, change.url, change.events, change.sealed, change.at_ms)
    draft.change_webhook(webhook)
    return webhook


def delete_webhook(draft: Draft, change: DeleteWebhook) -> Webhook | RequestError:
    number = tables.number_of_id("w", change.id)
    webhook = None if number is None else draft.webhooks.get(number)
    if webhook is None:
        return NotFound(f"there is no webhook {change.id}")
    draft.delete_webhook(webhook)
    return webhook


def clear_outbox(draft: Draft, change: ClearOutbox) -> bool:
    """Skips over the entries of webhooks that are there: a seek each."""
    gone: list[bytes] = []
    start = b""
    cursor = draft.view.cursor(tables.OUTBOX)
    while len(gone) < limits.slice_devices and cursor.set_range(start):
        number, _ = pair_key.unpack(cursor.key())
        if number not in draft.webhooks:
            prefix = u64_key.pack(number)
            room = limits.slice_devices - len(gone)
            gone += [key for key, _ in islice(tables.scan(draft.view, tables.OUTBOX, prefix, prefix), room)]
        start = u64_key.pack(number + 1)
    for key in gone:
        draft.transaction.delete(tables.OUTBOX, key)
    return len(gone) == limits.slice_devices


def finish_deliveries(draft: Draft, change: FinishDeliveries) -> None:
    for webhook, number in change.done:
        key = pair_key.pack(webhook, number)
        record = draft.webhooks.get(webhook)
        if draft.view.get(tables.OUTBOX, key) is not None:
            draft.transaction.delete(tables.OUTBOX, key)
            if record is not None:
                draft.change_webhook(replace(record, pending=record.pending - 1))


def tell_stalled(draft: Draft, change: TellStalled) -> None:
    batch = draft.batch(change.batch)
    if batch is not None and batch.status == BatchStatus.IN_PROGRESS:
        draft.saw_time(change.at_ms)
        telling.batch_stalled(draft, batch, change.quiet_ms, change.online, change.at_ms)
