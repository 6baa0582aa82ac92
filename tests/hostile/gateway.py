"""`otagate` on a disk that is slow, with little room for logins that wait for it: so few are too many."""

import sys
import time
from typing import Any

from otagate import cli, limits
from otagate.store.lmdb import LmdbStore

COMMIT_S = 0.4
LOGINS_UNDER_WAY_MAX = 100

write = LmdbStore._write


def write_slowly(store: LmdbStore, job: Any) -> Any:
    """A commit, on the thread that makes them."""
    time.sleep(COMMIT_S)
    return write(store, job)


if __name__ == "__main__":
    limits.logins_under_way_max = LOGINS_UNDER_WAY_MAX
    LmdbStore._write = write_slowly  # type: ignore[method-assign]
    sys.exit(cli.main(sys.argv[1:]))
