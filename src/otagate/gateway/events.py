"""What one subscriber of the events is told, and when: the pace, and reading the newest state.

Rounds. A round asks the board what changed since the one before, and gives each of it once; rounds are at
least `limits.events_interval_ms` apart, so each batch is told at most that often. What a round gives is read
at the moment it is given, and only when it is asked for: a client that takes long simply has longer rounds.

A notice's cursor says that everything up to it was given: it goes up with the last notice of a round, so a
round that broke off is given again.
"""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio
from msgspec import Struct

from otagate import limits
from otagate.gateway.board import Board, Recent
from otagate.gateway.views import BatchView, ChangedUpgrades, OverviewEvent
from otagate.store import interface as records
from otagate.store.interface import Store

INTERVAL_S = limits.events_interval_ms / 1000
OVERVIEW_S = limits.events_overview_ms / 1000


class Notice(Struct, frozen=True):
    """One event: its name, what it says, and the cursor to go on from."""

    event: str
    cursor: str
    data: BatchView | OverviewEvent | ChangedUpgrades


class Subscription:
    """What changes of one batch (`batch`, with its rows), or of all (of `product`), with the overview.

    `since` is the version that the subscriber has seen; None: it is to be told the state of everything.
    """

    def __init__(
        self,
        board: Board,
        store: Store,
        show: Callable[[records.BatchView], BatchView],
        overview: Callable[[], OverviewEvent],
        *,
        batch: records.Batch | None,
        product: str | None,
        since: int | None,
        devices: Recent | None,
    ) -> None:
        self._board = board
        self._store = store
        self._show = show
        self._overview = overview
        self._batch = batch
        self._product = product
        self._devices = devices
        self._seen = since or 0
        self._all = since is None or not board.batches.knows_since(self._seen)
        self._cursor = board.cursor(since)
        self._rows_seen = board.version if since is None else since
        self._round_version = 0
        self._due: deque[tuple[Callable[[int], Awaitable[Notice | None]], int]] = deque()
        self._next_round_s = trio.current_time()
        self._next_overview_s = self._next_round_s if batch is None else float("inf")

    async def next(self) -> Notice | None:
        """The next notice, as soon as there is one and its time has come; None when the gateway stops.

        A cancelled call loses nothing.
        """
        while True:
            while not self._due:
                await self._wait_round()
                if self._board.closed:
                    return None
                await self._begin_round()
            make, number = self._due[0]
            notice = await make(number)
            self._due.popleft()
            if not self._due:
                self._end_round()
            if notice is not None:
                return Notice(notice.event, self._cursor, notice.data)

    async def _wait_round(self) -> None:
        with trio.move_on_at(self._next_overview_s):
            await trio.sleep_until(self._next_round_s)
            if not self._all:
                await self._board.wait_beyond(self._seen)

    async def _begin_round(self) -> None:
        now_s = trio.current_time()
        self._round_version = self._seen
        if now_s >= self._next_overview_s:
            self._next_overview_s = now_s + OVERVIEW_S
            self._due.append((self._tell_overview, 0))
        if now_s >= self._next_round_s:
            self._next_round_s = now_s + INTERVAL_S
            self._round_version = self._board.version
            self._due.extend((self._tell_batch, number) for number in await self._changed())
            if self._devices is not None and self._devices.changes_since(self._rows_seen):
                self._due.append((self._tell_rows, self._rows_seen))
            self._rows_seen = self._round_version
            self._all = False
        if not self._due:
            self._end_round()

    def _end_round(self) -> None:
        self._seen = self._round_version
        if not self._all:
            self._cursor = self._board.cursor(self._seen)

    async def _changed(self) -> list[int]:
        """Numbers of the batches to tell of: those that changed, or all that somebody may be looking at."""
        batches = self._board.batches
        if self._batch is not None:
            number = self._batch.number
            return [number] if self._all or batches.changed_since(number, self._seen) else []
        if not self._all:
            return batches.since(self._seen)
        newest = await self._store.list_batches(product=self._product, limit=limits.page_items_default)
        numbers = {view.batch.number for view in newest.batches}
        numbers |= {view.batch.number for view in await self._store.unfinished_batches()}
        return sorted(numbers)

    async def _tell_batch(self, number: int) -> Notice | None:
        view = await self._store.get_batch(f"b{number}")
        if view is None or self._product not in (None, view.batch.product):
            return None
        return Notice("batch", "", self._show(view))

    async def _tell_rows(self, since: int) -> Notice:
        assert self._devices is not None
        found = await self._store.devices_by_number(self._devices.since(since))
        more = not self._devices.knows_since(since)
        return Notice(
            "upgrades", "", ChangedUpgrades([device.identifier for device in found if device], more)
        )

    async def _tell_overview(self, _: int) -> Notice:
        return Notice("overview", "", self._overview())


@asynccontextmanager
async def subscribe(
    board: Board,
    store: Store,
    show: Callable[[records.BatchView], BatchView],
    overview: Callable[[], OverviewEvent],
    *,
    batch: records.Batch | None,
    product: str | None,
    cursor: str | None,
    token: int,
) -> AsyncIterator[Subscription]:
    """A subscription for as long as it is entered. Busy when there are too many, in all or of this token."""
    since = None if cursor is None else board.version_of(cursor)
    with board.subscribe(None if batch is None else batch.number, token) as devices:
        yield Subscription(
            board,
            store,
            show,
            overview,
            batch=batch,
            product=product,
            since=since,
            devices=devices,
        )
