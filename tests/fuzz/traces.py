"""What an input leaves behind: memory and descriptors."""

import ctypes
import gc
import os
from collections.abc import Callable


def _counter_of_memory() -> Callable[[], int] | None:
    try:
        found = ctypes.CDLL(None).__sanitizer_get_current_allocated_bytes
    except AttributeError:
        return None
    found.restype = ctypes.c_size_t
    return found  # type: ignore[no-any-return]


_allocated = _counter_of_memory()


def without_a_trace(act: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """Does it, and looks for what it left. Python keeps caches, so only growth that repeats is a leak.

    Descriptors are looked at first: who keeps one may keep an address with it, and could not do it again.
    """

    def watched(data: bytes) -> None:
        gc.freeze()  # what was there before is not searched for each input: late in a long run, seconds
        try:
            look(data)
        finally:
            gc.unfreeze()

    def look(data: bytes) -> None:
        descriptors = len(os.listdir("/proc/self/fd"))
        for _ in range(6):
            before = _allocated() if _allocated else 0
            act(data)
            assert len(os.listdir("/proc/self/fd")) == descriptors, "a descriptor was left open"
            if _allocated and _allocated() > before:
                gc.collect()
            if not _allocated or _allocated() <= before:
                break
        else:
            raise AssertionError("memory grows with each run of this input")

    return watched
