"""The engine of tests and simulation: sorted tables in memory; every verb finishes without yielding."""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence

from otagate import limits
from otagate.store import changes as rules
from otagate.store import tables
from otagate.store.engine import Engine
from otagate.store.interface import Change, Outcome, Sizes
from otagate.store.sealing import KEY_BYTES, Sealer
from otagate.store.tables import View


class _Table:
    """A dict, and its keys in order."""

    def __init__(self) -> None:
        self.items: dict[bytes, bytes] = {}
        self.keys: list[bytes] = []

    def put(self, key: bytes, value: bytes) -> None:
        if key not in self.items:
            insort(self.keys, key)
        self.items[key] = value

    def delete(self, key: bytes) -> None:
        if self.items.pop(key, None) is not None:
            del self.keys[bisect_left(self.keys, key)]


class _Cursor:
    """A place between the keys of a table that nobody changes meanwhile."""

    def __init__(self, table: _Table) -> None:
        self._table = table
        self._place = -1

    def _stand(self, place: int) -> bool:
        self._place = place
        return 0 <= place < len(self._table.keys)

    def set_range(self, key: bytes, /) -> bool:
        return self._stand(bisect_left(self._table.keys, key))

    def next(self) -> bool:
        return self._stand(self._place + 1)

    def prev(self) -> bool:
        return self._stand(self._place - 1)

    def last(self) -> bool:
        return self._stand(len(self._table.keys) - 1)

    def key(self) -> bytes:
        return self._table.keys[self._place]

    def value(self) -> bytes:
        return self._table.items[self.key()]

    def iternext(self, keys: bool = True, values: bool = True) -> Iterator[tuple[bytes, bytes]]:
        for place in range(self._place, len(self._table.keys)):
            key = self._table.keys[place]
            yield key, self._table.items[key]

    def iterprev(self, keys: bool = True, values: bool = True) -> Iterator[tuple[bytes, bytes]]:
        for place in range(self._place, -1, -1):
            key = self._table.keys[place]
            yield key, self._table.items[key]


class _Transaction:
    """Writes at once: changes check before they write, so nothing is ever rolled back."""

    def __init__(self) -> None:
        self._tables = {name: _Table() for name in tables.TABLES}

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._tables[table].items.get(key)

    def cursor(self, table: str) -> _Cursor:
        return _Cursor(self._tables[table])

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self._tables[table].put(key, value)

    def put_many(self, table: str, items: Sequence[tuple[bytes, bytes]]) -> None:
        for key, value in items:
            self._tables[table].put(key, value)

    def delete(self, table: str, key: bytes) -> None:
        self._tables[table].delete(key)


class MemoryStore(Engine):
    """A store that forgets everything when it goes."""

    timed_scans = False

    def __init__(self) -> None:
        self._transaction = _Transaction()
        self.sealer = Sealer(bytes(KEY_BYTES))  # nothing of this store is ever at rest

    async def commit(self, changes: Sequence[Change]) -> list[Outcome]:
        """Apply a group at once (interface.Store.commit)."""
        return rules.apply(self._transaction, changes)

    def view(self) -> "_Open":
        """The only transaction there is."""
        return _Open(self._transaction)

    def sizes(self) -> Sizes:
        """Memory has no bound of ours."""
        return Sizes(limits.map_bytes, 0)

    async def close(self) -> None:
        """Nothing to do."""


class _Open:
    def __init__(self, transaction: _Transaction) -> None:
        self._transaction = transaction

    def __enter__(self) -> View:
        return self._transaction

    def __exit__(self, *exc: object) -> None:
        pass
