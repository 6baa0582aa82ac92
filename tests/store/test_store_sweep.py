"""A sweep finds what a search of the whole table finds, however dense the keys and the questions are."""

from hypothesis import given
from hypothesis import strategies as st

from otagate.store import tables
from otagate.store.memory import MemoryStore
from otagate.store.sweep import STEPS_MAX, Sweep

keys = st.lists(st.integers(0, 200), unique=True, max_size=80).map(sorted)


def packed(number: int) -> bytes:
    return tables.u64_key.pack(number)


@given(keys, keys)
def test_a_sweep_agrees_with_a_search(present: list[int], asked: list[int]) -> None:
    with MemoryStore().view() as view:
        for number in present:
            view.put(tables.SETTINGS, packed(number), b"%d" % number)  # type: ignore[attr-defined]
        sweep = Sweep(view, tables.SETTINGS, packed(asked[0] if asked else 0))
        for number in asked:
            assert sweep.get(packed(number)) == (b"%d" % number if number in present else None)
            above = [key for key in present if key >= number]
            below = [key for key in present if key < number]
            assert (sweep.item and sweep.item[0]) == (packed(above[0]) if above else None)
            assert (sweep.before and sweep.before[0]) == (packed(below[-1]) if below else None)


def test_a_far_key_is_sought_and_a_near_one_stepped_to() -> None:
    with MemoryStore().view() as view:
        for number in range(100):
            view.put(tables.SETTINGS, packed(number), b"")  # type: ignore[attr-defined]
        sweep = Sweep(view, tables.SETTINGS, packed(0))
        seeks: list[bytes] = []
        cursor = sweep._cursor

        class Noting:
            def set_range(self, key: bytes) -> bool:
                seeks.append(key)
                return cursor.set_range(key)

            def __getattr__(self, name: str) -> object:
                return getattr(cursor, name)

        sweep._cursor = Noting()  # type: ignore[assignment]
        for number in (1, 2, 2 + STEPS_MAX, 90, 91):
            assert sweep.get(packed(number)) == b""
        assert seeks == [packed(90)]
