"""tools/simulation: many seeds, or one with its trace."""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice

from tests.simulation.run import Outcome, run_seed

REPORT_S = 10.0
CHUNK_SEEDS = 20


def main(arguments: list[str]) -> int:
    """Exit code 1 if an invariant was broken."""
    parser = argparse.ArgumentParser("tools/simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, metavar="N", help="how many (200)")
    parser.add_argument("--from", type=int, default=0, dest="first", metavar="N", help="the first (0)")
    parser.add_argument("--seed", type=int, metavar="N", help="this one alone")
    parser.add_argument("--trace", action="store_true", help="with --seed: all that happens")
    parser.add_argument("--large", action="store_true", help="300 to 1,500 devices instead of 5 to 24")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (1)")
    chosen = parser.parse_args(arguments)
    if chosen.seed is not None:
        write = (lambda line: sys.stdout.write(line + "\n")) if chosen.trace else None
        outcome = run_seed(chosen.seed, large=chosen.large, write=write)
        sys.stdout.write(f"trace {outcome.digest}, {outcome.statistics}\n{outcome.violation or 'all well'}\n")
        return 1 if outcome.violation else 0
    return _run_many(chosen.first, chosen.seeds, chosen.jobs, chosen.large)


def _run_many(first: int, count: int, jobs: int, large: bool) -> int:
    began_s = told_s = time.monotonic()
    totals: Counter[str] = Counter()
    virtual_ms = done = 0
    broken: list[Outcome] = []
    for outcome in _outcomes(range(first, first + count), jobs, large):
        done += 1
        virtual_ms += outcome.virtual_ms
        totals.update(outcome.statistics)
        if outcome.violation is not None:
            broken.append(outcome)
            sys.stdout.write(f"seed {outcome.seed}: {outcome.violation}\n")
        if time.monotonic() > told_s + REPORT_S:
            told_s = time.monotonic()
            sys.stdout.write(f"{done:,} of {count:,} seeds, {done / (told_s - began_s):.1f}/s\n")
            sys.stdout.flush()
    taken_s = time.monotonic() - began_s
    sys.stdout.write(f"{done:,} seeds in {taken_s:.0f} s, {virtual_ms / 86_400_000:,.0f} virtual days; ")
    sys.stdout.write(", ".join(f"{number:,} {name}" for name, number in totals.items()) + "\n")
    sys.stdout.write(f"{len(broken)} with a broken invariant: {[outcome.seed for outcome in broken]}\n")
    return 1 if broken else 0


def _outcomes(seeds: range, jobs: int, large: bool) -> Iterator[Outcome]:
    run = partial(run_seed, large=large)
    if jobs == 1:
        yield from map(run, seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        rest = iter(seeds)
        while part := list(islice(rest, CHUNK_SEEDS * jobs * 10)):
            yield from pool.map(run, part, chunksize=CHUNK_SEEDS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
