"""What webhooks are told: entries of the outbox, written by the change that makes them true.

    device_failed   a device upgrade has finally failed, by itself (not because its batch was ended)
    batch_ended     completed, aborted or expired
    batch_stalled   in progress, and nothing of it has moved for a while although devices are online

A body is JSON: {id, event, at, data}; `id` is the delivery's. A full outbox takes nothing more: what is new
is counted as dropped.
"""

from typing import Any, Final

import msgspec
from msgspec.structs import replace

from otagate import limits
from otagate.store import records, tables
from otagate.store.draft import Draft
from otagate.store.interface import Batch
from otagate.store.operators import Delivery
from otagate.store.tables import pair_key
from otagate.times import rfc3339
from otagate.upgrade.model import Row

DEVICE_FAILED: Final = "device_failed"
BATCH_ENDED: Final = "batch_ended"
BATCH_STALLED: Final = "batch_stalled"
EVENTS: Final = (BATCH_ENDED, DEVICE_FAILED, BATCH_STALLED)

DELIVERY_NUMBERS: Final = b"delivery"


def body_of(id: str, event: str, at_ms: int, data: dict[str, Any]) -> bytes:
    """The body of a delivery."""
    return msgspec.json.encode({"id": id, "event": event, "at": rfc3339(at_ms), "data": data})


def device_failed(draft: Draft, batch: Batch, device: int, row: Row) -> None:
    """A transition has just made this row."""
    if not _is_wanted(draft, DEVICE_FAILED):
        return
    record = draft.device_even_deleted(device)
    data = _of_batch(batch) | {
        "identifier": record.identifier,
        "name": record.name,
        "attempt": row.attempt,
        "remark": row.remark.label or None,
        "detail": row.detail or None,
        "version": row.version or None,
    }
    _tell(draft, DEVICE_FAILED, row.completed_at_ms, data)


def batch_ended(draft: Draft, batch: Batch) -> None:
    """A batch has just ended; its counts are those of the draft."""
    if not _is_wanted(draft, BATCH_ENDED):
        return
    data = _of_batch(batch) | {
        "status": batch.status.label,
        "ended_by": batch.ended_by,
        "counts": draft.counts(batch.number).as_dict(),
    }
    _tell(draft, BATCH_ENDED, batch.ended_at_ms or 0, data)


def batch_stalled(draft: Draft, batch: Batch, quiet_ms: int, online: int, at_ms: int) -> None:
    """Nothing of a batch has moved for `quiet_ms`; `online` of its open devices are there."""
    data = _of_batch(batch) | {
        "quiet_s": quiet_ms // 1000,
        "devices_online": online,
        "counts": draft.counts(batch.number).as_dict(),
    }
    _tell(draft, BATCH_STALLED, at_ms, data)


def _of_batch(batch: Batch) -> dict[str, Any]:
    return {
        "batch": batch.id,
        "product": batch.product,
        "firmware": {
            "id": batch.firmware_id,
            "name": batch.firmware_name,
            "version": batch.firmware_version,
        },
    }


def _is_wanted(draft: Draft, event: str) -> bool:
    return any(event in webhook.events for webhook in draft.webhooks.values())


def _tell(draft: Draft, event: str, at_ms: int, data: dict[str, Any]) -> None:
    for webhook in list(draft.webhooks.values()):
        if event not in webhook.events:
            continue
        if webhook.pending >= limits.outbox_deliveries_max:
            draft.change_webhook(replace(webhook, dropped=webhook.dropped + 1))
            continue
        number = draft.number(DELIVERY_NUMBERS)
        body = body_of(f"d{number}", event, at_ms, data)
        delivery = Delivery(webhook.number, number, event, at_ms, body)
        key = pair_key.pack(webhook.number, number)
        draft.transaction.put(tables.OUTBOX, key, records.pack_delivery(delivery))
        draft.change_webhook(replace(webhook, pending=webhook.pending + 1))
