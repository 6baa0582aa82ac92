"""The board of changes: what operators look at has changed, told to whoever watches, level by level.

Theory. Nothing is queued for a watcher. The board has a version, which goes up when something changed, and
remembers of each batch at which version it last did; a watcher remembers the version up to which it has been
told, asks what changed since, and reads the state as it is by then. So a slow watcher skips what is out of
date, costs no memory, and holds nothing up; and whoever comes back with a version is told what it missed.

Only so many batches are remembered, and so many devices of a batch that is watched: the oldest falls out, and
a watcher that was told less than it is told that there is more than is known.

Invariant: for each change there is a `publish` after its `mark`; the state that a watcher reads after having
seen the version of a `publish` is at least as new as all that was marked before it.

A mark costs 0.1 µs when nobody watches: it stands in the way of each transition.
"""

import secrets
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import trio

from otagate import limits
from otagate.errors import Busy


class Recent:
    """Keys by the version at which they last changed; of more than `most` the oldest are forgotten."""

    __slots__ = ("_most", "_versions", "forgotten")

    def __init__(self, most: int, forgotten: int = 0) -> None:
        self._most = most
        self._versions: OrderedDict[int, int] = OrderedDict()
        self.forgotten = forgotten  # no key that changed after this version is missing

    def touch(self, key: int, version: int) -> None:
        """The key changed. Versions never go back."""
        versions = self._versions
        versions[key] = version
        versions.move_to_end(key)
        if len(versions) > self._most:
            self.forgotten = versions.popitem(last=False)[1]

    def since(self, version: int) -> list[int]:
        """The keys that changed after a version, those that changed first in front."""
        found = []
        for key in reversed(self._versions):
            if self._versions[key] <= version:
                break
            found.append(key)
        found.reverse()
        return found

    def changed_since(self, key: int, version: int) -> bool:
        """Whether the key changed after a version, as far as is known."""
        return self._versions.get(key, self.forgotten) > version

    def changes_since(self, version: int) -> bool:
        """Whether any key changed after a version, as far as is known."""
        newest = next(reversed(self._versions.values()), 0)
        return max(newest, self.forgotten) > version

    def knows_since(self, version: int) -> bool:
        """Whether `since` lists all that changed after the version."""
        return version >= self.forgotten


class Board:
    """See the module. Batches and devices are numbers."""

    def __init__(self) -> None:
        self.name = secrets.token_hex(4)  # versions of another process mean nothing here
        self.version = 0
        self.subscribers = 0
        self._subscribers_by_token: Counter[int] = Counter()  # number of a token → its streams
        self.closed = False
        self.batches = Recent(limits.events_batches_max)
        self._marked: set[int] = set()
        self._rows_marked = False
        self._watched: dict[int, _Watched] = {}
        self._changed = trio.Event()

    def mark(self, batch: int, device: int) -> None:
        """An upgrade of a batch is in another state."""
        self._marked.add(batch)
        if batch in self._watched:
            self._watched[batch].devices.touch(device, self.version + 1)

    def mark_row(self, batch: int, device: int) -> None:
        """A row of a batch looks different, though its counts are the same: a percentage."""
        if batch in self._watched:
            self._watched[batch].devices.touch(device, self.version + 1)
            self._rows_marked = True

    def mark_batch(self, batch: int) -> None:
        """A batch has begun or ended: perhaps all its rows look different."""
        self._marked.add(batch)
        if batch in self._watched:
            self._watched[batch].devices.forgotten = self.version + 1

    def watched(self) -> Collection[int]:
        """The batches whose rows somebody looks at."""
        return self._watched.keys()

    def publish(self) -> None:
        """What was marked may be read now."""
        if self._marked or self._rows_marked:
            self.version += 1
            for batch in self._marked:
                self.batches.touch(batch, self.version)
            self._marked.clear()
            self._rows_marked = False
            if self.subscribers:
                self._wake()

    def close(self) -> None:
        """The gateway stops: nobody waits any more."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def wait_beyond(self, version: int) -> None:
        """Wait until something changed after the version, or the board is closed."""
        while self.version <= version and not self.closed:
            await self._changed.wait()

    @contextmanager
    def subscribe(self, batch: int | None, token: int = 0) -> Iterator[Recent | None]:
        """Take a place, and watch the rows of a batch: its devices, by when they changed. Busy."""
        if self.subscribers >= limits.events_subscribers_max:
            raise Busy(f"{self.subscribers} streams of events are open; close one, or try again later")
        own = self._subscribers_by_token[token]
        if own >= limits.events_subscribers_per_token_max:
            raise Busy(f"{own} streams of events are open with this token; close one")
        self.subscribers += 1
        self._subscribers_by_token[token] += 1
        try:
            if batch is None:
                yield None
                return
            watched = self._watched.setdefault(batch, _Watched(self.version))
            watched.subscribers += 1
            try:
                yield watched.devices
            finally:
                watched.subscribers -= 1
                if not watched.subscribers:
                    del self._watched[batch]
        finally:
            self.subscribers -= 1
            self._subscribers_by_token[token] -= 1
            if not self._subscribers_by_token[token]:
                del self._subscribers_by_token[token]

    # -- cursors ---------------------------------------------------------------------------------

    def cursor(self, version: int | None) -> str:
        """A version as clients keep it; None: of one who has seen nothing yet."""
        return f"{self.name}-{'' if version is None else version}"

    def version_of(self, cursor: str) -> int | None:
        """The version of a cursor; None if it is of another process, or no cursor at all."""
        name, _, digits = cursor.partition("-")
        if name != self.name or not (digits.isascii() and digits.isdigit()) or len(digits) > 15:
            return None
        version = int(digits)
        return version if version <= self.version else None


class _Watched:
    """The devices of a batch whose rows somebody looks at."""

    __slots__ = ("devices", "subscribers")

    def __init__(self, version: int) -> None:
        self.devices = Recent(limits.events_devices_max, version)
        self.subscribers = 0
