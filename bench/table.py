"""`otagate-bench table`: every figure that the project has set itself, beside its peers; and `short`, for CI.

Repeats alternate: gateway, every peer, gateway, every peer …, so that a machine that gets slower meanwhile
gets slower for all. Medians are told, with the spread; what counts are the ratios.
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from . import machine, options
from .measure import Bench, Result, merge
from .peers import PEERS
from .processes import BenchError
from .report import Report, markdown_table, number, with_spread
from .rows import FULL, PARTS, SMALL, Row, Scale

console = Console(stderr=True)
ONCE = {"big", "mixed"}  # parts that take long: not repeated


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Arguments of `table` and `short`."""
    words = "every figure of the README beside its peers"
    parser = commands.add_parser("table", help=words, description=words)
    parser.add_argument("--only", type=options.words, default=tuple(PARTS), help=f"({','.join(PARTS)})")
    parser.add_argument("--peers", type=options.peer_names, default=tuple(PEERS), help="names, by `;` (all)")
    parser.add_argument("--small", action="store_true", help="a tenth of everything: to try it")
    parser.add_argument("--table", type=Path, metavar="FILE", help="the table as Markdown")
    parser.add_argument("--into", type=Path, metavar="FILE", help="a page that has a place for the table")
    options.add_common(parser)
    parser.set_defaults(run=run, repeat=None)
    words = "ratios with wide margins, in under two minutes"
    parser = commands.add_parser("short", help=words, description=words)
    options.add_common(parser)
    parser.set_defaults(run=run_short)


def run(arguments: argparse.Namespace) -> int:
    """The table. 0: every target that was measured is met; 1: not."""
    scale = SMALL if arguments.small else FULL
    repeats = arguments.repeat or scale.repeats
    started = time.time()
    rows: list[Row] = []
    with options.bench_of(arguments) as bench:
        facts = machine.facts(bench.folder)
        for name in arguments.only:
            part = PARTS[name](scale)
            measure(bench, part, arguments.peers, 1 if name in ONCE else repeats)
            for row in part:
                console.print(f"{row.name}: {told(row)} (target {row.target}): {verdict(row)}", markup=False)
            rows += part
    report = Report(facts, bench, results_of(rows), time.time() - started)
    text = "\n".join(table_markdown(report, rows, arguments.peers)) + "\n"
    print(text)
    if arguments.table:
        arguments.table.write_text(text)
    if arguments.into:
        arguments.into.write_text(replaced(arguments.into.read_text(), text))
    if arguments.json:
        arguments.json.write_text(machine.as_json({**report.as_dict(), "rows": rows_as_dicts(rows)}))
    if arguments.report:
        arguments.report.write_text(text + "\n" + report.markdown())
    if arguments.plots:
        from . import plots

        plots.draw_table(rows, report, arguments.plots)
    return 0 if all(verdict(row) in ("met", "-") for row in rows) else 1


# -- measuring ---------------------------------------------------------------------------------------------


def measure(bench: Bench, rows: Sequence[Row], peers: Sequence[str], repeats: int) -> None:
    """Fills the rows of one part. Rows with the same `gateway` share its runs."""
    ours: dict[int, list[Result]] = {id(row.gateway): [] for row in rows}
    theirs: dict[tuple[int, str], list[Result]] = {}
    for repeat in range(repeats):
        for row in {id(row.gateway): row for row in rows}.values():
            bench.say(f"{row.name}: gateway, {repeat + 1} of {repeats}")
            attempt(row, "gateway", lambda row=row: ours[id(row.gateway)].extend(row.gateway(bench)))  # type: ignore[misc]
        for row in rows:
            for name in row.peers:
                if name in peers and name not in row.failures:
                    _measure_peer(bench, row, name, theirs.setdefault((id(row), name), []))
    for row in rows:
        picked = [result for result in ours[id(row.gateway)] if row.pick(result)]
        if picked:
            row.results["gateway"] = merge(picked)
        for name in row.peers:
            if found := theirs.get((id(row), name)):
                row.results[name] = merge(found)


def _measure_peer(bench: Bench, row: Row, name: str, found: list[Result]) -> None:
    peer = PEERS[name]
    if lacks := peer.missing():
        row.failures[name] = f"missing: {lacks}"
        return
    assert row.peer is not None
    bench.say(f"{row.name}: {name}")
    work = row.peer
    attempt(row, name, lambda: found.append(work(bench, peer)))


def attempt(row: Row, subject: str, action: Callable[[], Any]) -> None:
    """What fails is told in the table, and does not end the run."""
    try:
        action()
    except BenchError as error:
        row.failures[subject] = str(error)
        console.print(f"{row.name}: {subject}: {error}", style="yellow", markup=False)


def results_of(rows: Sequence[Row]) -> list[Result]:
    """Each once."""
    return list({id(result): result for row in rows for result in row.results.values()}.values())


# -- showing -----------------------------------------------------------------------------------------------


def told(row: Row, subject: str = "gateway") -> str:
    """The figure with its spread, or why there is none."""
    figure = row.of(subject)
    if figure is None:
        return row.failures.get(subject, "not measured")
    per_cpu = row.of(subject, f"{row.figure}_per_cpu_s")
    beside = f"; {number(per_cpu.value)} {per_cpu.unit}" if per_cpu is not None else ""
    return with_spread(figure) + beside


def verdict(row: Row) -> str:
    """Whether the target is met; "-" without a target."""
    if row.target == "-":
        return "-"
    if row.of("gateway") is None:
        return "not measured"
    return "met" if row.met(row) else "missed"


def table_markdown(report: Report, rows: Sequence[Row], peers: Sequence[str]) -> list[str]:
    """Machine, the table, and what could not be measured."""
    lines = [*report.machine_markdown(), ""]
    cells = []
    for row in rows:
        beside = [f"{name} {told_short(row, name)}" for name in row.peers if name in row.results]
        cells.append((row.name, row.target, told(row), verdict(row), " · ".join(beside)))
    lines += markdown_table(("what", "target", "gateway", "", "peers, and gateway : peer"), cells)
    failed = [f"- {row.name}: {name}: {why}" for row in rows for name, why in row.failures.items()]
    if failed:
        lines += ["", "Not measured:", "", *failed]
    return lines


def told_short(row: Row, name: str) -> str:
    """A peer's figure and the ratio, above 1 where the gateway is better; also that of processor times, which
    others on the machine disturb least."""
    figure = row.of(name)
    if figure is None:
        return "-"
    per_cpu = row.ratio(name, f"{row.figure}_per_cpu_s")
    beside = "" if math.isnan(per_cpu) else f", per CPU-second {per_cpu:.2g} ×"
    return f"{number(figure.value)} ({row.ratio(name):.2g} ×{beside})"


def rows_as_dicts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For JSON."""
    return [
        {
            "what": row.name,
            "target": row.target,
            "verdict": verdict(row),
            "gateway": row.value(),
            "peers": {name: {"value": row.value(name), "ratio": row.ratio(name)} for name in row.results},
            "failures": row.failures,
        }
        for row in rows
    ]


PLACE_START, PLACE_END = "<!-- table: written by tools/bench table -->", "<!-- end of table -->"


def replaced(page: str, table: str) -> str:
    """The page with the table in its place. BenchError if it has no place for one."""
    before, start, rest = page.partition(PLACE_START)
    _, end, after = rest.partition(PLACE_END)
    if not start or not end:
        raise BenchError(f"the page has no {PLACE_START}")
    return f"{before}{start}\n\n{table}\n{end}{after}"


# -- short -------------------------------------------------------------------------------------------------

# What must hold on any machine, however busy: row, figure, and the least ratio to websockets.trio.
SHORT_PEER = "websockets.trio"
SHORT_FLOORS = [
    ("private memory of an idle device, websocket", "bytes_per_device", 10.0),
    ("logins per CPU-second", "logins_per_cpu_s", 2.0),
    ("progress reports, 1 in flight, websocket", "reports_per_cpu_s", 2.0),
    ("progress reports, 16 in flight, websocket", "reports_per_cpu_s", 4.0),
]
SHORT_SCALE = Scale((300, 1_300), (200, 700), 1_500, 700, 300, 1.0, 1_000, 1_500, 400, 5_000, 2_000, 1)


def run_short(arguments: argparse.Namespace) -> int:
    """A small run of each scenario but the large ones; 1 if one fails or a ratio is under its floor."""
    failed = 0
    with options.bench_of(arguments) as bench:
        rows: list[Row] = []
        for name in ("idle", "login", "report", "durable", "upgrades"):
            part = PARTS[name](SHORT_SCALE)
            measure(bench, part, (SHORT_PEER,), 1)
            rows += part
    for row in rows:
        failed += row.of("gateway") is None
        console.print(f"{row.name}: {told(row)}", markup=False)
        for name, figure, floor in SHORT_FLOORS:
            if row.name.startswith(name) and row.of(SHORT_PEER) is not None:
                ratio = row.ratio(SHORT_PEER, figure)
                failed += ratio < floor
                style = "red" if ratio < floor else "green"
                console.print(f"  {ratio:.1f} × {SHORT_PEER}, floor {floor:g}", style=style, markup=False)
    return 1 if failed else 0
