"""tools/simulation: many seeds, or one with its trace.

`--resume FILE` writes what became of each seed to FILE, as it ends, and asks no seed twice that stands there
already: so ten thousand may be run in several sittings (tests/record.py).
"""

import argparse
import hashlib
import multiprocessing
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tests.record import Record, code
from tests.simulation.run import Outcome, run_seed

REPORT_S = 10.0
CHUNK_SEEDS = 5


def main(arguments: list[str]) -> int:
    """Exit code 1 if an invariant was broken."""
    parser = argparse.ArgumentParser("tools/simulation", description="The gateway on virtual time.")
    parser.add_argument("--seeds", type=int, default=200, metavar="N", help="how many (200)")
    parser.add_argument("--from", type=int, default=0, dest="first", metavar="N", help="the first (0)")
    parser.add_argument("--seed", type=int, metavar="N", help="this one alone")
    parser.add_argument("--trace", action="store_true", help="with --seed: all that happens")
    parser.add_argument("--large", action="store_true", help="300 to 1,500 devices instead of 5 to 24")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (1)")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="keep outcomes there, and go on from it")
    chosen = parser.parse_args(arguments)
    if chosen.seed is not None:
        write = (lambda line: sys.stdout.write(line + "\n")) if chosen.trace else None
        outcome = run_seed(chosen.seed, large=chosen.large, write=write)
        sys.stdout.write(f"trace {outcome.digest}, {outcome.statistics}\n{outcome.violation or 'all well'}\n")
        return 1 if outcome.violation else 0
    seeds = range(chosen.first, chosen.first + chosen.seeds)
    record = Record(chosen.resume, {"code": code("tests/simulation"), "large": chosen.large})
    return _run_many(seeds, record, chosen.jobs, chosen.large)


def _run_many(seeds: range, record: Record, jobs: int, large: bool) -> int:
    began_s = told_s = time.monotonic()
    known = [Outcome(**line) for line in record.lines if line["seed"] in seeds]
    outcomes = {outcome.seed: outcome for outcome in known}
    for outcome in _outcomes([seed for seed in seeds if seed not in outcomes], jobs, large):
        outcomes[outcome.seed] = outcome
        record.keep(asdict(outcome))
        if outcome.violation is not None:
            sys.stdout.write(f"seed {outcome.seed}: {outcome.violation}\n")
        if time.monotonic() > told_s + REPORT_S:
            told_s = time.monotonic()
            per_s = (len(outcomes) - len(known)) / (told_s - began_s)
            sys.stdout.write(f"{len(outcomes):,} of {len(seeds):,} seeds, {per_s:.1f}/s\n")
            sys.stdout.flush()
    return _sum_up([outcomes[seed] for seed in sorted(outcomes)], len(known), time.monotonic() - began_s)


def _sum_up(outcomes: list[Outcome], known: int, taken_s: float) -> int:
    totals: Counter[str] = Counter()
    for outcome in outcomes:
        totals.update(outcome.statistics)
    days = sum(outcome.virtual_ms for outcome in outcomes) / 86_400_000
    traces = hashlib.sha256("".join(outcome.digest for outcome in outcomes).encode()).hexdigest()[:16]
    broken = [outcome.seed for outcome in outcomes if outcome.violation is not None]
    before = f" ({known:,} of them before)" if known else ""
    sys.stdout.write(f"{len(outcomes):,} seeds{before} in {taken_s:.0f} s, {days:,.0f} virtual days; ")
    sys.stdout.write(", ".join(f"{number:,} {name}" for name, number in totals.items()) + "\n")
    sys.stdout.write(f"digest of all traces {traces}; {len(broken)} with a broken invariant: {broken}\n")
    return 1 if broken else 0


def _outcomes(seeds: list[int], jobs: int, large: bool) -> Iterator[Outcome]:
    run = partial(run_seed, large=large)
    if jobs == 1:
        yield from map(run, seeds)
        return
    with multiprocessing.get_context("fork").Pool(jobs, _begin) as pool:
        found: Iterable[Outcome] = pool.imap_unordered(run, seeds, CHUNK_SEEDS)
        yield from found


def _begin() -> None:
    """A worker goes without a word."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    sys.exit(main(sys.argv[1:]))
