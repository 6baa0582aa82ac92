"""Was the file of a store cut short? Asked without its map: LMDB dies by SIGBUS of a page that is not there.

Theory. The length of the file does not say: pages that a transaction took at the end and gave back were never
written, so a whole file may be shorter than its number of pages. What counts is whether a page that the
newest commit reaches lies beyond the end, even in part: the map shows zeros where the rest of it should be.
So a file that is shorter is walked here, with reads, down from its newest meta page. Of most tables the
branch pages suffice, for they name the leaves; leaves are read where they name more: the tables themselves,
and values that have pages of their own.

The layout is that of LMDB 0.9 (data version 1) on a 64-bit machine; LMDB itself has refused all others.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

META = struct.Struct("=40x48s48sQQ")  # the trees of free pages and of tables, the last page, the commit
TREE = struct.Struct("=6xH16xQ8xQ")  # depth, overflow pages, root
PAGE_SIZE = struct.Struct("=I")  # where other trees have padding, the first has this
HEADER_BYTES = 16  # of any page; then, in one of nodes, where each node begins
NODES_END = struct.Struct("=12xH")  # where that list ends
NODE = struct.Struct("=HHHH")  # size of the data (low, high), flags, size of the key
PAGE_NUMBER = struct.Struct("=Q")
MAGIC = struct.pack("=I", 0xBEEFC0DE)
IN_OWN_PAGES = 0x01  # flags of a node
IS_TREE = 0x02


class _BeyondError(Exception):
    """A page is not in the file."""


def is_cut(file: Path) -> bool:
    """Does the newest commit in a data.mdb need what the file lacks? Also of one too short for any commit.

    Beside a writer, call it in a read transaction: LMDB overwrites nothing then that is reached from this
    moment on.
    """
    with file.open("rb", buffering=0) as source:
        descriptor = source.fileno()
        first = os.pread(descriptor, META.size, 0)
        if not first or not MAGIC.startswith(first[16:20]):
            return False  # empty, or no store at all: others tell
        if len(first) < META.size:
            return True
        (page_bytes,) = PAGE_SIZE.unpack_from(first, 40)
        second = os.pread(descriptor, META.size, page_bytes)
        # The length after the meta pages: beside a writer the file grows, and pages come before their meta.
        pages = os.fstat(descriptor).st_size // max(page_bytes, 1)
        if pages < 2 or len(second) < META.size:
            return True
        free, tables, last_page, _ = max(META.unpack(first), META.unpack(second), key=lambda meta: meta[-1])
        if last_page < pages:
            return False
        walk = _Walk(descriptor, page_bytes, pages)
        try:
            walk.check_tree(free)
            walk.check_tree(tables, of_trees=True)
        except (_BeyondError, struct.error):  # the latter: a page holds what no page can
            return True
        return False


class _Walk(NamedTuple):
    """Through all that is reached, as far as it names pages."""

    descriptor: int
    page_bytes: int
    pages: int

    def check_tree(self, tree: bytes, *, of_trees: bool = False) -> None:
        """_BeyondError if the file lacks a page of a tree. `of_trees`: its values may be trees."""
        depth, overflow_pages, root = TREE.unpack(tree)
        for leaf in self._leaves(root, depth):
            if leaf >= self.pages:
                raise _BeyondError
            if of_trees or overflow_pages:
                self._check_values(leaf)

    def _leaves(self, number: int, depth: int) -> Iterator[int]:
        """Numbers of the leaves under a page: of the page itself at a depth of 1, none of an empty tree."""
        if depth == 1:
            yield number
        elif depth > 1:
            for _, low, high, highest, _ in _nodes(self._read(number)):
                yield from self._leaves(low | high << 16 | highest << 32, depth - 1)

    def _check_values(self, leaf: int) -> None:
        page = self._read(leaf)
        for place, low, high, flags, key_bytes in _nodes(page):
            value = place + NODE.size + key_bytes
            if flags & IN_OWN_PAGES:
                (first,) = PAGE_NUMBER.unpack_from(page, value)
                if first * self.page_bytes + HEADER_BYTES + (low | high << 16) > self.pages * self.page_bytes:
                    raise _BeyondError
            elif flags & IS_TREE:
                self.check_tree(page[value : value + TREE.size])

    def _read(self, number: int) -> bytes:
        if number >= self.pages:
            raise _BeyondError
        return os.pread(self.descriptor, self.page_bytes, number * self.page_bytes)


def _nodes(page: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Where each node of a page begins, and its head."""
    (end,) = NODES_END.unpack_from(page)
    for (place,) in struct.iter_unpack("=H", page[HEADER_BYTES:end]):
        yield place, *NODE.unpack_from(page, place)
