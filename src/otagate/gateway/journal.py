"""The journal: every durable change goes through here, in order, many to one fdatasync.

Theory. An *entry* is what must happen together: changes of the store, and what follows once they are on
the disk (`settle`: acknowledge a device, answer an operator, send an upgrade message). Entries are gathered
for a few milliseconds, and while a commit is under way the next group gathers behind it; so under load the
group grows by itself and the rate of fdatasync stays what the disk can do.

Invariants:

1. `settle` runs after the commit of the entry's changes, never before, in the order of submission.
2. A failed commit ends the process (CommitFailed leaves `run`): no entry of its group or behind it is
   settled, so nothing was acknowledged that is not on the disk.
3. A submitted entry is committed even when whoever waits for it is cancelled.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import trio

from otagate import limits
from otagate.errors import RequestError
from otagate.store.interface import Change, ClaimDevices, Outcome, RegisterDevices, Store, TouchDevices
from otagate.store.operators import Audited

Observe = Callable[[Sequence[Change], Sequence[Outcome], float], None]


class Entry:
    """Changes that are committed together, and what follows. Subclasses say what `settle` does.

    `changes` is read when the group is made; `taken` says that it was. `settle` gets one outcome for each
    change; it must not raise.
    """

    __slots__ = ("changes", "taken")

    def __init__(self, changes: Sequence[Change] = ()) -> None:
        self.changes = changes
        self.taken = False

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """The changes are durable (or refused, each by its outcome)."""


class Callback(Entry):
    """An entry whose settling is one call without arguments."""

    __slots__ = ("_call",)

    def __init__(self, changes: Sequence[Change], call: Callable[[], object]) -> None:
        super().__init__(changes)
        self._call = call

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """See Entry."""
        self._call()


class Write(Entry):
    """An operator's entry: somebody waits for the outcome of its one change."""

    __slots__ = ("_done", "_outcome", "_settled")

    def __init__(self, change: Change, settled: Callable[[Any], object] | None = None) -> None:
        super().__init__((change,))
        self._settled = settled
        self._done = trio.Event()
        self._outcome: Outcome = None

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """See Entry."""
        self._outcome = outcomes[0]
        if self._settled is not None and not isinstance(self._outcome, RequestError):
            self._settled(self._outcome)
        self._done.set()

    async def wait(self) -> Any:
        """The outcome, after the commit; raises the RequestError that refuses the change."""
        await self._done.wait()
        if isinstance(self._outcome, RequestError):
            raise self._outcome
        return self._outcome


def weight(changes: Sequence[Change]) -> int:
    """Rows that the changes write, about: what bounds a group, so that no commit grows long."""
    total = 1
    for change in changes:
        if isinstance(change, Audited):
            change = change.change
        if isinstance(change, ClaimDevices | RegisterDevices):
            total += len(change.devices)
        elif isinstance(change, TouchDevices):
            total += len(change.seen)
    return total


class Journal:
    """Gathers entries and commits them through `store`, the only caller of its `commit`.

    `after_group` runs once after the entries of a group were settled: it lets everything that they sent
    leave together. `observe` is told what was committed, with the seconds that it took, before that.
    """

    def __init__(
        self, store: Store, after_group: Callable[[], None] = lambda: None, observe: Observe | None = None
    ) -> None:
        self._store = store
        self._after_group = after_group
        self._observe = observe
        self._began_s: float | None = None  # the commit that is under way
        self._queue: deque[Entry] = deque()
        self._wake = trio.Event()
        self._idle = trio.Event()
        self._idle.set()
        self._room = trio.Event()
        self._room.set()
        self.commits = 0
        self.entries = 0

    def submit(self, entry: Entry) -> None:
        """Queue an entry; returns at once. It will be settled after its commit."""
        self._queue.append(entry)
        if len(self._queue) == 1:
            self._wake.set()
            if self._idle.is_set():
                self._idle = trio.Event()
        if len(self._queue) >= limits.journal_entries_max and self._room.is_set():
            self._room = trio.Event()

    async def write(self, change: Change, settled: Callable[[Any], object] | None = None) -> Any:
        """Commit one change and return its outcome; raises the RequestError that refuses it.

        `settled(outcome)` is called as soon as it is durable, also when whoever waits is gone by then: what
        memory keeps of the store is brought up to date there.
        """
        entry = Write(change, settled)
        self.submit(entry)
        return await entry.wait()

    def begin(self, change: Change) -> Write:
        """Submit one change; whoever wants its outcome waits for it later."""
        entry = Write(change)
        self.submit(entry)
        return entry

    def withdraw(self, wanted: Callable[[Entry], bool]) -> list[Entry]:
        """Take the queued entries that `wanted` picks back out, in order (to decide them again)."""
        taken = [entry for entry in self._queue if wanted(entry)]
        if taken:
            self._queue = deque(entry for entry in self._queue if not wanted(entry))
        return taken

    @property
    def queued(self) -> int:
        """Entries that wait for a commit."""
        return len(self._queue)

    @property
    def commit_under_way_s(self) -> float:
        """For how long the commit has been under way; 0 when there is none."""
        return 0.0 if self._began_s is None else trio.current_time() - self._began_s

    async def wait_room(self) -> None:
        """Wait while so much is queued that reading more from devices would only lengthen the queue.

        No checkpoint if there is room: the pump has one in each turn, and another would be a fifth of it.
        """
        if not self._room.is_set():
            await self._room.wait()

    async def wait_idle(self) -> None:
        """Wait until everything that was submitted has been settled."""
        await self._idle.wait()

    async def run(self) -> None:
        """Commit groups for ever. Raises CommitFailed."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            await trio.sleep(limits.commit_gather_ms / 1000)
            while self._queue:
                await self._commit_group()
            if not self._wake.is_set():
                self._idle.set()

    async def _commit_group(self) -> None:
        group: list[Entry] = []
        changes: list[Change] = []
        rows = 0
        while self._queue and rows < limits.commit_entries_max:
            entry = self._queue.popleft()
            entry.taken = True
            group.append(entry)
            changes.extend(entry.changes)
            rows += weight(entry.changes)
        if len(self._queue) < limits.journal_entries_max and not self._room.is_set():
            self._room.set()
        self._began_s = trio.current_time()
        with trio.CancelScope(shield=True):
            outcomes = await self._store.commit(changes) if changes else []
        took_s, self._began_s = trio.current_time() - self._began_s, None
        if changes and self._observe is not None:
            self._observe(changes, outcomes, took_s)
        self.commits += 1
        self.entries += len(group)
        at = 0
        for entry in group:
            count = len(entry.changes)
            entry.settle(outcomes[at : at + count])
            at += count
        self._after_group()
