"""A commit being written: a snapshot of its own writes, with what is put once at its end.

Counts of a batch, the numbers last given, the newest time and what waits for a webhook change with nearly
every change of a group; they are kept here and put by `flush`, once for the group.
"""

from functools import cached_property

from otagate.store import records, tables
from otagate.store.interface import Batch
from otagate.store.operators import Webhook
from otagate.store.records import ProductRecord
from otagate.store.snapshot import Snapshot
from otagate.store.tables import Transaction, u64_key
from otagate.upgrade.counts import Counts


class Draft(Snapshot):
    """Look-ups and writes of one commit. Call `flush` before the engine commits."""

    def __init__(self, transaction: Transaction) -> None:
        super().__init__(transaction)
        self.transaction = transaction
        self._changed_counts: set[int] = set()
        self._last_numbers: dict[bytes, int] = {}
        self._newest_time_ms = 0
        self._changed_webhooks: set[int] = set()

    @cached_property
    def webhooks(self) -> dict[int, Webhook]:
        """All subscriptions by number: looked up in a commit that has something to tell, and in no other."""
        found = tables.scan(self.view, tables.WEBHOOKS, b"")
        return {int(u64_key.unpack(key)[0]): records.unpack_webhook(value) for key, value in found}

    def change_webhook(self, webhook: Webhook) -> None:
        """Write a webhook, new or not."""
        self.webhooks[webhook.number] = webhook
        self._changed_webhooks.add(webhook.number)

    def delete_webhook(self, webhook: Webhook) -> None:
        """Delete a webhook."""
        del self.webhooks[webhook.number]
        self._changed_webhooks.discard(webhook.number)
        self.transaction.delete(tables.WEBHOOKS, u64_key.pack(webhook.number))

    def number(self, kind: bytes) -> int:
        """A number of that kind (a key of the table meta) that was never given before."""
        last = self._last_numbers.get(kind)
        if last is None:
            value = self.view.get(tables.META, kind)
            last = 0 if value is None else int(u64_key.unpack(value)[0])
        self._last_numbers[kind] = last + 1
        return last + 1

    def saw_time(self, at_ms: int) -> None:
        """Remember a time of this commit: a later clock never starts before it."""
        if at_ms > self._newest_time_ms:
            self._newest_time_ms = at_ms

    def changing_counts(self, batch: int) -> Counts:
        """The counters of a batch, to be changed."""
        self._changed_counts.add(batch)
        return self.counts(batch)

    def put_product(self, record: ProductRecord) -> None:
        """Write a product."""
        self._products[record.key] = record
        self.transaction.put(tables.PRODUCTS, record.key.encode(), records.pack_product(record))

    def delete_product(self, record: ProductRecord) -> None:
        """Delete a product."""
        self._products[record.key] = None
        self.transaction.delete(tables.PRODUCTS, record.key.encode())

    def put_batch(self, batch: Batch) -> None:
        """Write a batch."""
        self._batches[batch.number] = batch
        self.transaction.put(tables.BATCHES, u64_key.pack(batch.number), records.pack_batch(batch))

    def delete_batch(self, number: int) -> None:
        """Delete a batch and its counters."""
        self._batches[number] = None
        self._counts.pop(number, None)
        self._changed_counts.discard(number)
        self.transaction.delete(tables.BATCHES, u64_key.pack(number))
        self.transaction.delete(tables.COUNTS, u64_key.pack(number))

    def put_progress(self, batch: int, slices: int, rewritten: int) -> None:
        """Write how far an unfinished batch is."""
        value = tables.progress_value.pack(slices, rewritten)
        self.transaction.put(tables.UNFINISHED, u64_key.pack(batch), value)

    def flush(self) -> None:
        """Put what was kept back; the engine commits next."""
        put = self.transaction.put
        for batch in self._changed_counts:
            put(tables.COUNTS, u64_key.pack(batch), tables.counts_value.pack(*self._counts[batch].numbers))
        for number in self._changed_webhooks:
            put(tables.WEBHOOKS, u64_key.pack(number), records.pack_webhook(self.webhooks[number]))
        for kind, last in self._last_numbers.items():
            put(tables.META, kind, u64_key.pack(last))
        if self._newest_time_ms:
            value = self.view.get(tables.META, tables.NEWEST_TIME_KEY)
            if value is None or u64_key.unpack(value)[0] < self._newest_time_ms:
                put(tables.META, tables.NEWEST_TIME_KEY, u64_key.pack(self._newest_time_ms))
