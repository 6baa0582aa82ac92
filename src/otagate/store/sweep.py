"""A cursor that only goes forward: merges ascending look-ups with the order of a table.

Theory. Creating a batch asks for a million devices and the newest row of each, in the order of their
numbers, which is the order of the keys. A seek costs ten times what a step costs, so a sweep steps a few
items towards what is asked, and seeks only when that is further away: dense look-ups cost a step each,
sparse ones a seek, and nobody has to say which they are.
"""

from otagate.store.tables import Cursor, View

Item = tuple[bytes, bytes]

STEPS_MAX = 6  # a seek costs about ten steps


class Sweep:
    """After `advance(key)`: `item` is the first one not below `key`, `before` the last one below it.

    Keys of successive calls ascend; nobody may write to the table meanwhile.
    """

    __slots__ = ("_cursor", "_items", "before", "item")

    def __init__(self, view: View, table: str, start: bytes) -> None:
        self._cursor: Cursor = view.cursor(table)
        self.item: Item | None = None
        self.before: Item | None = None
        self._seek(start)

    def advance(self, key: bytes) -> None:
        """Go on to `key`."""
        item = self.item
        for _ in range(STEPS_MAX):
            if item is None or item[0] >= key:
                return
            self.before = item
            self.item = item = next(self._items, None)
        if item is not None and item[0] < key:
            self._seek(key)

    def get(self, key: bytes) -> bytes | None:
        """The value of exactly that key."""
        self.advance(key)
        item = self.item
        return item[1] if item is not None and item[0] == key else None

    def _seek(self, key: bytes) -> None:
        cursor = self._cursor
        if cursor.prev() if cursor.set_range(key) else cursor.last():
            self._items = cursor.iternext()
            self.before = next(self._items)
        else:
            self.before = None
            cursor.set_range(key)
            self._items = cursor.iternext()
        self.item = next(self._items, None)
