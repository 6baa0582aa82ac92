"""tools/crash_loop: kill -9, check, start, repeat; several loops side by side, each on a folder of its own.

A loop waits much: for a moment, for a start, for devices. So several of them (`--jobs`) share the cycles that
are to be done. With `--resume FILE` each cycle is written down when it is over, and a later call does what is
missing, with new fleets. SIGTERM and SIGINT let the loops finish their cycles.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.crash.loop import FLOORS, BrokenPromise, CrashLoop
from tests.record import Record, code


class Cycles:
    """Numbers of cycles, each given out once, to whichever loop asks."""

    def __init__(self, numbers: range) -> None:
        self._numbers = iter(numbers)
        self._lock = threading.Lock()
        self.ended = False

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        with self._lock:
            if self.ended:
                raise StopIteration
            return next(self._numbers)

    def end(self, *_: object) -> None:
        """No more of them."""
        self.ended = True


class Many:
    """Loops that share cycles; `totals` are those of all of them, and of what was done before."""

    def __init__(self, cycles: int, record: Record) -> None:
        self.totals: Counter[str] = Counter()
        for line in record.lines:
            self.totals.update(line)
        self.before = self.totals["cycles"]
        self.cycles = Cycles(range(self.before + 1, cycles + 1))
        self._record = record
        self._lock = threading.Lock()

    def run_one(self, folder: Path, devices: int, seed: int) -> str | None:
        """A loop, to the last cycle; what was broken."""
        counted: Counter[str] = Counter()

        def keep(line: str) -> None:
            nonlocal counted
            with self._lock:
                news, counted = loop.totals - counted, loop.totals.copy()
                self.totals.update(news)
                self._record.keep(dict(news))
                if line:
                    print(line, flush=True)

        loop = CrashLoop(folder, devices, seed, keep)
        try:
            loop.run(self.cycles)
        except (BrokenPromise, AssertionError, httpx.TransportError) as error:
            self.cycles.end()
            return f"BROKEN, seed {seed}, see {folder}: {type(error).__name__} {error}"
        keep("")
        return None


def run(many: Many, folder: Path, *, jobs: int, devices: int, seed: int) -> list[str]:
    """All that was broken."""
    folders = [folder / str(job) for job in range(jobs)]
    with ThreadPoolExecutor(jobs) as pool:
        for one in folders:
            one.mkdir()
        found = list(pool.map(lambda job: many.run_one(folders[job], devices, seed + job), range(jobs)))
    return [text for text in found if text is not None]


def main() -> int:
    """Exit code 1: something was broken; 3: it was ended before all cycles were done."""
    parser = argparse.ArgumentParser(prog="tools/crash_loop", description="Kill -9, check, start, repeat.")
    parser.add_argument("--cycles", type=int, default=50, metavar="N", help="in all (50)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="loops side by side (1)")
    parser.add_argument("--devices", type=int, default=100, metavar="N", help="of each loop (100)")
    parser.add_argument("--seed", type=int, metavar="N", help="which moments, and which devices fail")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="keep what was done, and go on from it")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"seed {seed}, {arguments.devices} devices", flush=True)
    about = {"code": code("tests/crash"), "devices": arguments.devices}
    many = Many(arguments.cycles, Record(arguments.resume, about))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, many.cycles.end)
    folder = Path(tempfile.mkdtemp(prefix="otagate-crash-"))
    broken = run(many, folder, jobs=arguments.jobs, devices=arguments.devices, seed=seed)
    for text in broken:
        print(text)
    if broken:
        return 1  # the folder stays, to look at
    shutil.rmtree(folder)
    sum_up(many, print)
    return 0 if many.totals["cycles"] >= arguments.cycles else 3


def sum_up(many: Many, say: Callable[[str], None]) -> None:
    """One sentence."""
    totals = many.totals
    cycles = totals["cycles"]
    before = f" ({many.before} of them before)" if many.before else ""
    say(
        f"{cycles} cycles{before}, nothing lost: {totals['promises']} promises to devices "
        f"({', '.join(f'{totals[kind]} {kind}' for kind in FLOORS)}) and {totals['operators']} to operators "
        f"kept, {totals['resumed']} downloads resumed, {totals['succeeded_upgrades']} upgrades succeeded in "
        f"{totals['batches']} batches, ready after {totals['restart_ms'] // max(1, cycles)} ms on average"
    )


if __name__ == "__main__":
    sys.exit(main())
