"""Webhooks on their way out: what the outbox holds is sent until it is taken, or a day is over.

Theory. The outbox is durable and written with what it tells (store/telling.py); this room only empties it.
Each webhook has a task of its own with a few attempts under way at a time, so one that is slow or down keeps
no other waiting, and nothing else of the gateway at all. An attempt that fails is made again after a time
that doubles, each with its own jitter; how often it failed is remembered in memory alone, so a restart tries
all at once. A delivery leaves the outbox by a commit after it was taken: a crash in between sends it twice,
with the same id (`X-Otagate-Delivery`), by which the receiver tells.

While nobody has subscribed there is no task, and nothing asks anything.
"""

import heapq
import random
from collections.abc import Callable

import trio

from otagate import limits, logs
from otagate.gateway.journal import Entry, Journal
from otagate.gateway.posting import Poster
from otagate.store.interface import Store
from otagate.store.operators import ClearOutbox, Delivery, FinishDeliveries, Webhook

log = logs.get("webhooks")


class Webhooks:
    """All subscriptions at work. `poster` makes attempts."""

    def __init__(self, store: Store, journal: Journal, poster: Poster, now_ms: Callable[[], int]) -> None:
        self.store = store
        self.journal = journal
        self.poster = poster
        self.now_ms = now_ms
        self._workers: dict[int, Worker] = {}
        self._nursery: trio.Nursery | None = None

    def __bool__(self) -> bool:
        """Whether anybody has subscribed."""
        return bool(self._workers)

    def wants(self, event: str) -> bool:
        """Whether anybody has subscribed to this."""
        return any(event in worker.webhook.events for worker in self._workers.values())

    async def run(self) -> None:
        """Work until cancelled, beginning with what waits."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for webhook in await self.store.webhooks():
                self.keep(webhook)
            await self._clear()
            await trio.sleep_forever()

    def keep(self, webhook: Webhook) -> None:
        """A subscription is in the store."""
        if self._nursery is None or webhook.number in self._workers:
            return  # `run` finds it there, or has found it
        worker = Worker(webhook, self)
        self._workers[webhook.number] = worker
        self._nursery.start_soon(worker.run)

    def drop(self, webhook: Webhook) -> None:
        """A subscription is gone, and with it what waits for it."""
        worker = self._workers.pop(webhook.number, None)
        if worker is not None:
            worker.scope.cancel()
        if self._nursery is not None:
            self._nursery.start_soon(self._clear)

    def look(self) -> None:
        """Something was committed: there may be news."""
        for worker in self._workers.values():
            worker.wake()

    async def _clear(self) -> None:
        while await self.journal.write(ClearOutbox()):
            pass


class Worker:
    """Empties the outbox of one webhook."""

    def __init__(self, webhook: Webhook, all_of_them: Webhooks) -> None:
        self.webhook = webhook
        self.scope = trio.CancelScope()
        self._all = all_of_them
        self._store = all_of_them.store
        self._now_ms = all_of_them.now_ms
        self._waiting: list[tuple[int, int, int]] = []  # a heap of (due ms, number, failures)
        self._read_up_to = 0
        self._running = 0
        self._dropped = webhook.dropped
        self._woken = trio.Event()

    def wake(self) -> None:
        """Look at the outbox and the clock again."""
        self._woken.set()

    async def run(self) -> None:
        """Work until `scope` is cancelled."""
        with self.scope:
            async with trio.open_nursery() as nursery:
                while True:
                    self._woken = trio.Event()
                    await self._read()
                    self._start_due(nursery)
                    with trio.move_on_after(self._wait_s()):
                        await self._woken.wait()

    async def _read(self) -> None:
        """Learn what has come into the outbox."""
        more = True
        while more:
            found = await self._store.deliveries(
                self.webhook.number, after=self._read_up_to, limit=limits.webhook_load_deliveries
            )
            now_ms = self._now_ms()
            for delivery in found:
                heapq.heappush(self._waiting, (now_ms, delivery.number, 0))
                self._read_up_to = delivery.number
            more = len(found) == limits.webhook_load_deliveries
            await trio.lowlevel.checkpoint()
        if len(self._waiting) >= limits.outbox_deliveries_max // 2:
            await self._tell_dropped()

    async def _tell_dropped(self) -> None:
        for webhook in await self._store.webhooks():
            if webhook.number == self.webhook.number and webhook.dropped > self._dropped:
                count, self._dropped = webhook.dropped - self._dropped, webhook.dropped
                log.limited("webhook_outbox_full", webhook=webhook.id, dropped=count)

    def _start_due(self, nursery: trio.Nursery) -> None:
        now_ms = self._now_ms()
        while (
            self._waiting
            and self._waiting[0][0] <= now_ms
            and self._running < limits.webhook_attempts_running_max
        ):
            _, number, failures = heapq.heappop(self._waiting)
            self._running += 1
            nursery.start_soon(self._attempt, number, failures)

    def _wait_s(self) -> float:
        if not self._waiting or self._running >= limits.webhook_attempts_running_max:
            return float("inf")  # an attempt that ends wakes
        return max(self._waiting[0][0] - self._now_ms(), 0) / 1000

    async def _attempt(self, number: int, failures: int) -> None:
        try:
            found = await self._store.deliveries(self.webhook.number, after=number - 1, limit=1)
            if found and found[0].number == number:
                await self._send(found[0], failures)
        finally:
            self._running -= 1
            self.wake()

    async def _send(self, delivery: Delivery, failures: int) -> None:
        result = await self._all.poster.post(self.webhook, delivery.id, delivery.event, delivery.body)
        now_ms = self._now_ms()
        if result.delivered:
            self._finish(delivery)
            return
        due_ms = now_ms + backoff_ms(failures)
        if due_ms >= delivery.at_ms + limits.webhook_give_up_ms:
            log.limited(
                "webhook_given_up", webhook=self.webhook.id, delivery=delivery.id, because=result.reason
            )
            self._finish(delivery)
            return
        again_in_s = (due_ms - now_ms) // 1000
        log.limited(
            "webhook_failed",
            webhook=self.webhook.id,
            delivery=delivery.id,
            because=result.reason,
            again_in_s=again_in_s,
        )
        heapq.heappush(self._waiting, (due_ms, delivery.number, failures + 1))

    def _finish(self, delivery: Delivery) -> None:
        self._all.journal.submit(Entry([FinishDeliveries([(delivery.webhook, delivery.number)])]))


def backoff_ms(failures: int) -> int:
    """How long to wait after one more failure: doubled by each, half of it at random."""
    longest: int = min(limits.webhook_backoff_ms_min * 2 ** min(failures, 30), limits.webhook_backoff_ms_max)
    return round(longest * random.uniform(0.5, 1))
