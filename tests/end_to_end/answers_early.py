"""A gateway that lies: its commits can be read at once, and reach the disk a moment after they were answered.

Everything else is `otagate`, and while nothing crashes nobody sees the difference. The durability test must.
"""

import sys
import time
from typing import Any

from otagate import cli
from otagate.store import lmdb

open_honestly = lmdb.lmdb.open
finish = lmdb._Job.finish
environments: list[Any] = []


def open_without_sync(*arguments: Any, **options: Any) -> Any:
    """lmdb.open, whose commits do not wait for the disk."""
    environments.append(open_honestly(*arguments, **options | {"sync": False}))
    return environments[-1]


def finish_then_sync(job: lmdb._Job, result: Any) -> None:
    """On the writer's thread: answer, and only then wait for the disk."""
    finish(job, result)
    time.sleep(0.01)  # the loop has all the time to say so
    environments[-1].sync(True)


if __name__ == "__main__":
    lmdb.lmdb.open = open_without_sync
    lmdb._Job.finish = finish_then_sync  # type: ignore[method-assign]
    sys.exit(cli.main(sys.argv[1:]))
