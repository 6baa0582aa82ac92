"""A batch in progress, as memory keeps it: its record, its rules, its members."""

from otagate.gateway.tables import Roster
from otagate.store.interface import Batch
from otagate.upgrade import states
from otagate.upgrade.model import BatchStatus, Cause, Row, Rules

NO_RULES = Rules(target_version="", retries=0, retry_interval_ms=0, timeout_ms=0, expires_at_ms=0)


def rules_of(batch: Batch) -> Rules:
    """What a step needs to know of a batch."""
    return Rules(
        target_version=batch.firmware_version,
        retries=batch.retries,
        retry_interval_ms=(batch.retry_interval_minutes or 0) * 60_000,
        timeout_ms=batch.timeout_minutes * 60_000,
        expires_at_ms=batch.expires_at_ms,
    )


class BatchInProgress:
    """One batch in memory: its record, its rules, its members.

    `offers`: its upgrade messages as bytes, by attempt: they are the same for every device.
    """

    __slots__ = ("offers", "record", "roster", "rules")

    def __init__(self, record: Batch, roster: Roster) -> None:
        self.record = record
        self.rules = rules_of(record)
        self.roster = roster
        self.offers: dict[int, bytes] = {}

    @property
    def ended(self) -> bool:
        """An abort or an expiry is committed, or on its way."""
        return self.record.status != BatchStatus.IN_PROGRESS

    def view(self, row: Row) -> Row:
        """The row as it counts."""
        if self.record.status == BatchStatus.IN_PROGRESS:
            return row
        cause = Cause.EXPIRED if self.record.ended_by == "expired" else Cause.ABORTED
        return states.effective(row, self.record.status, self.record.ended_at_ms or 0, cause)
