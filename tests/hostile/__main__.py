"""The command tools/hostile: each attack in turn against a real gateway, and what honest devices notice of
it.
"""

import argparse
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.report import markdown_table

from bench import machine, page
from tests.hostile.catalogue import ATTACKS, KIB, NOBODY, Attack
from tests.hostile.measure import Row, Scene, Waits

HEADINGS = (
    *("attack", "peers", "s", "login ms p50 / p99 / max", "report ms p50 / p99", "cut off s"),
    *("bound", "counted", "memory MiB", "gateway busy", "holds"),
)


def main() -> int:
    """1 if a row does not hold."""
    arguments = parse()
    machine.allow_descriptors()
    cores = sorted(os.sched_getaffinity(0))
    core = cores[0] if len(cores) > 1 else None
    if core is not None:
        os.sched_setaffinity(0, cores[1:2])
    folder = Path(tempfile.mkdtemp(prefix="hostile-", dir=arguments.data))
    rows: list[Row] = []
    began_s = time.time()
    try:
        for row in measure(arguments, folder, core):
            rows.append(row)
            if len(rows) == 1:
                print(line(HEADINGS), line(["---"] * len(HEADINGS)), sep="\n", flush=True)
            print(line(cells(row)), flush=True)
            for miss in row.misses:
                print(f"  missed: {miss}", flush=True)
        if arguments.into:
            page.fill(arguments.into, "hostile", section(rows, folder, began_s), "tools/hostile")
    finally:
        if arguments.json:
            told = {"machine": machine.facts(folder), "rows": [row.as_dict() for row in rows]}
            arguments.json.write_text(machine.as_json(told))
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    return 1 if any(row.misses for row in rows) else 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tools/hostile", description=__doc__)
    parser.add_argument(
        "--peers", type=int, default=5_000, help="of the slow attacks; others take a share (5000)"
    )
    parser.add_argument("--seconds", type=float, default=6.0, help="of each attack, at least (6)")
    names = ", ".join(attack.name for attack in ATTACKS)
    parser.add_argument(
        "--only", action="append", metavar="NAME", help=f"attacks whose names contain it: {names}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything that was measured")
    parser.add_argument(
        "--into", type=Path, metavar="PAGE", help="write the table into this page, which has a place for it"
    )
    parser.add_argument(
        "--data", type=Path, help="folder for the store and logs (the system's temporary one)"
    )
    parser.add_argument("--keep", action="store_true", help="do not remove them")
    arguments = parser.parse_args()
    if arguments.into and arguments.only:
        parser.error("--into takes every attack, so not --only: a page does not keep rows of former runs")
    return arguments


def measure(arguments: argparse.Namespace, folder: Path, core: int | None) -> Iterator[Row]:
    """Each row as soon as it is there; of each gateway the one without attack first."""
    wanted = [
        attack
        for attack in ATTACKS
        if not arguments.only or any(part in attack.name for part in arguments.only)
    ]
    for slow_disk in (False, True):
        chosen = [attack for attack in wanted if attack.slow_disk is slow_disk]
        if chosen:
            with Scene(folder, arguments.peers, core=core, slow_disk=slow_disk) as scene:
                for attack in (NOBODY, *chosen):
                    say(attack)
                    yield scene.measure(attack, arguments.seconds)


def say(attack: Attack) -> None:
    """What begins now; it is not part of the table."""
    if sys.stderr.isatty():
        print(f"… {attack.name}", file=sys.stderr, flush=True)


def line(texts: Sequence[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(texts)} |"


def section(rows: Sequence[Row], folder: Path, began_s: float) -> list[str]:
    """The table, what was missed, and on what it was measured, in Markdown."""
    facts = machine.facts(folder)
    misses = [f"- missed, {row.attack}: {miss}" for row in rows for miss in row.misses]
    day = time.strftime("%Y-%m-%d", time.gmtime(began_s))
    return [
        *markdown_table(HEADINGS, [cells(row) for row in rows]),
        *([""] if misses else []),
        *misses,
        "",
        f"{facts['processor']}, one of them for the gateway; Linux {facts['kernel']}, "
        f"Python {facts['python']}; {day}, {time.time() - began_s:.0f} s.",
    ]


def cells(row: Row) -> list[str]:
    """What is shown of it."""
    login, report = row.login_ms, row.report_ms
    return [
        row.attack,
        f"{row.peers:,}",
        f"{row.seconds:.0f}",
        f"{ms(login, 'p50')} / {ms(login, 'p99')} / {ms(login, 'most')}",
        f"{ms(report, 'p50')} / {ms(report, 'p99')}",
        "" if row.longest_s is None else f"{row.longest_s:.1f}",
        f"`{row.bounds}`" if row.bounds else "",
        f"{row.counted:,.0f}" if row.peers else "",
        f"{row.memory_bytes / KIB / KIB:.1f}",
        f"{row.busy:.0%}",
        "no" if row.misses else "yes",
    ]


def ms(waits: Waits, which: str) -> str:
    """Milliseconds, with a digit where it tells something."""
    value: float = getattr(waits, which)
    return "-" if math.isnan(value) else f"{value:.0f}" if value >= 10 else f"{value:.1f}"


if __name__ == "__main__":
    sys.exit(main())
